"""What writing behind into PostgreSQL costs, beside what people would use instead.

Every run begins with an emptied table and ends with a count of the rows that hold what they
should. The server is one of its own (extra ``postgres-server``).
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from provcache_trio._pgserver.binaries import PostgresNotFoundError, find_installations

from benchmarks.entries import Load
from benchmarks.figures import (
    Curve,
    Figure,
    Findings,
    absolute,
    interleaved,
    percentile,
    ratio,
)
from benchmarks.postgres import clients, queue_runs, tables
from benchmarks.postgres.bench import Bench, open_bench
from benchmarks.postgres.delay_line import delay_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

K = TypeVar("K")

PART: Final = "PostgreSQL"
BATCH: Final = 500
RATE: Final = "entries/s"

QUEUE: Final = "whole queue"
BEST: Final = "whole queue, best settings"
BY_HAND: Final = "loop written by hand"
PACKED: Final = "bare loop, our statement"
ONE_ROW: Final = "one upsert per entry"
FLUSHQ: Final = "flushq"
PSYCOPG: Final = "psycopg executemany"
SERVER: Final = "server only"
COPY: Final = "COPY into an empty table"

# Least ratio of the whole queue's rate to another's.
LEAST: Final = {BY_HAND: 1.0, PACKED: 0.95, ONE_ROW: 15, FLUSHQ: 1.3}
LEAST_BEST_TO_SERVER: Final = 0.85
# The same of a table of somebody's own, by how many columns it has.
LEAST_OF_TABLES: Final = {
    6: {"loop with unnest": 0.9, "executemany": 1.3, "psycopg executemany": 3},
    12: {"loop with unnest": 1.0, "executemany": 1.3, "psycopg executemany": 3},
}
MOST_TO_OPEN_MILLISECONDS: Final = 1
MOST_IDLE_TO_BARE: Final = 1.3
MOST_STEP_MILLISECONDS: Final = 5
MOST_STEP_P99_MILLISECONDS: Final = 2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything is done."""

    entries: int
    rounds: int
    curve_entries: int
    curve_rounds: int
    batch_sizes: tuple[int, ...]
    conflicts: tuple[int, ...]
    seed_kilobytes: tuple[float, ...]
    candidates: tuple[tuple[int, int], ...]
    best_entries: int
    candidate_rounds: int
    delays: tuple[int, ...]
    delay_entries: int
    writers: tuple[int, ...]
    round_trips: int
    paced_seconds: float
    step_runs: int


FULL: Final = Plan(
    entries=20_000,
    rounds=15,
    curve_entries=20_000,
    curve_rounds=2,
    batch_sizes=(50, 100, 200, 500, 1000, 2000, 5000),
    conflicts=(0, 25, 50, 75, 100),
    seed_kilobytes=(0.2, 1, 4, 16),
    candidates=tuple((size, writers) for size in (500, 1000, 2000, 5000) for writers in (2, 3)),
    best_entries=60_000,  # of large batches: the first and the last one, alone, weigh little
    candidate_rounds=5,
    delays=(0, 1, 5, 20, 50),
    delay_entries=8_000,
    writers=(1, 2, 4, 8),
    round_trips=300,
    paced_seconds=10,
    step_runs=10,
)
QUICK: Final = Plan(
    entries=6_000,
    rounds=1,
    curve_entries=1_000,
    curve_rounds=1,
    batch_sizes=(50, 500),
    conflicts=(0, 100),
    seed_kilobytes=(0.2, 4),
    candidates=((500, 1), (500, 2)),
    best_entries=3_000,
    candidate_rounds=1,
    delays=(0, 20),
    delay_entries=1_000,
    writers=(1, 4),
    round_trips=30,
    paced_seconds=0.5,
    step_runs=1,
)


def run(*, quick: bool) -> Findings:
    """Measure everything that concerns PostgreSQL."""
    plan = QUICK if quick else FULL
    try:
        find_installations()
    except PostgresNotFoundError as error:
        return Findings(absent=[f"{PART}: {error}"])
    with open_bench(PART) as bench:
        findings = Findings()
        _compare(bench, plan, findings)
        compare_tables(bench, findings, plan.entries, plan.rounds)
        open_tables(bench, findings, plan.round_trips // 10)
        _compare_best(bench, plan, findings)
        _draw_curves(bench, plan, findings)
        _draw_delays(bench, plan, findings)
        _time_one(bench, plan, findings)
        _time_steps(bench, plan, findings)
        findings.figures += bench.losses()
    return findings


def _compare(bench: Bench, plan: Plan, findings: Findings) -> None:
    load = Load(number=plan.entries)
    some = Load(number=plan.entries // 20)  # one by one takes its time
    cases: dict[str, Callable[[], float]] = {
        QUEUE: partial(bench.queue_rate, load, BATCH),
        BY_HAND: partial(bench.rate, BY_HAND, clients.loop, load, "by hand", BATCH),
        PACKED: partial(bench.rate, PACKED, clients.loop, load, "packed", BATCH),
        ONE_ROW: partial(bench.rate, ONE_ROW, clients.loop, some, "one row", 1),
        SERVER: partial(bench.rate, SERVER, clients.server_only, load, BATCH),
        COPY: partial(bench.rate, COPY, clients.copy, Load(number=plan.entries, conflicts=0)),
    }
    if _is_here("flushq", findings):
        cases[FLUSHQ] = partial(
            bench.rate, FLUSHQ, clients.flushq_seconds, load, BATCH, patient=True
        )
    if _is_here("psycopg", findings):
        cases[PSYCOPG] = partial(bench.rate, PSYCOPG, clients.psycopg_seconds, load, BATCH)
    rates = interleaved(cases, plan.rounds)
    for name in cases:
        findings.figures.append(absolute(PART, name, rates[name], RATE, better="more"))
    for name in cases:
        if name != QUEUE:
            bar = LEAST.get(name)
            findings.figures.append(ratio(PART, QUEUE, rates, QUEUE, name, bar=bar, better="more"))
    if FLUSHQ in cases:
        left, all_new = f"{FLUSHQ}, left while it works", Load(number=plan.entries, conflicts=0)
        for _ in range(plan.rounds):
            bench.rate(left, clients.flushq_seconds, all_new, BATCH, patient=False)


def _is_here(name: str, findings: Findings) -> bool:
    """Return whether a peer can be imported; if not, note why."""
    if find_spec(name) is not None:
        return True
    reason = "it is not installed"
    if name == "flushq" and sys.version_info < (3, 12):
        reason = "it needs Python 3.12"
    findings.absent.append(f"{name}: {reason}")
    return False


def compare_tables(bench: Bench, findings: Findings, number: int, rounds: int) -> None:
    """Measure the queue into tables of somebody's own, beside what people write by hand."""
    for columns, least in LEAST_OF_TABLES.items():
        queue = f"whole queue, {columns} columns"
        cases = {queue: partial(bench.table_rate, tables.whole_queue, columns, number, BATCH)}
        bars: dict[str, float] = {}
        for name, function in tables.BY_HAND.items():
            if name == PSYCOPG and find_spec("psycopg") is None:  # as was noted before
                continue
            bars[f"{name}, {columns} columns"] = least[name]
            cases[f"{name}, {columns} columns"] = partial(
                bench.table_rate, function, columns, number, BATCH
            )
        rates = interleaved(cases, rounds)
        findings.figures += [
            absolute(PART, name, rates[name], RATE, better="more") for name in cases
        ]
        findings.figures += [
            ratio(PART, queue, rates, queue, name, bar=bar, better="more")
            for name, bar in bars.items()
        ]


def open_tables(bench: Bench, findings: Findings, times: int) -> None:
    """Measure what it costs to read a table from the catalogue, on a connection that is new."""
    trips = bench.theirs(tables.round_trip, bench.dsn, times)
    for columns in LEAST_OF_TABLES:
        bench.theirs(tables.prepare, bench.dsn, columns)
        cpu, whole = bench.theirs(tables.opening, bench.dsn, columns, times)
        name = f"opening a table of {columns} columns"
        findings.figures += [
            Figure(
                part=PART,
                name=f"{name}, CPU time",
                value=cpu,
                unit="ms",
                bar=MOST_TO_OPEN_MILLISECONDS,
            ),
            Figure(part=PART, name=name, value=whole, unit="ms"),
        ]
    findings.figures.append(Figure(part=PART, name="SELECT 1, likewise", value=trips, unit="ms"))


def _compare_best(bench: Bench, plan: Plan, findings: Findings) -> None:
    # Chosen in rounds of their own: the luck of the choice is not part of what is then found.
    load = Load(number=plan.best_entries, beforehand=True)
    tried = _medians(
        {
            each: partial(bench.queue_rate, load, size, writers)
            for each in plan.candidates
            for size, writers in [each]
        },
        plan.candidate_rounds,
    )
    size, writers = max(tried, key=tried.__getitem__)
    server = f"{SERVER}, batches of {size}"
    rates = interleaved(
        {
            BEST: partial(bench.queue_rate, load, size, writers),
            server: partial(bench.rate, server, clients.server_only, load, size),
        },
        plan.rounds,
    )
    name = f"{BEST} (batch_size={size}, writers={writers})"
    findings.figures += [
        absolute(PART, name, rates[BEST], RATE, better="more"),
        absolute(PART, server, rates[server], RATE, better="more"),
        ratio(PART, name, rates, BEST, server, bar=LEAST_BEST_TO_SERVER, better="more"),
    ]


def _medians(cases: Mapping[K, Callable[[], float]], rounds: int) -> dict[K, float]:
    """Return the median over the rounds for each case; all is warm by now."""
    found: dict[K, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, measure in cases.items():
            found[case].append(measure())
    return {case: statistics.median(values) for case, values in found.items()}


def _draw_curves(bench: Bench, plan: Plan, findings: Findings) -> None:
    usual = Load(number=plan.curve_entries, beforehand=True)
    findings.curves += _both(
        bench,
        plan,
        {float(size): (usual, size) for size in plan.batch_sizes},
        plot="Rate over batch size",
        along="entries in a batch",
        logarithmic="x",
    )
    findings.curves += _both(
        bench,
        plan,
        {
            float(share): (msgspec.structs.replace(usual, conflicts=share), BATCH)
            for share in plan.conflicts
        },
        plot="Rate over conflicts",
        along="entries that are newer versions of rows, %",
    )
    findings.curves += _both(
        bench,
        plan,
        {
            kilobytes: (
                Load(
                    number=int(plan.curve_entries / max(1, kilobytes)),
                    beforehand=True,
                    seed_bytes=int(kilobytes * 1024),
                ),
                BATCH,
            )
            for kilobytes in plan.seed_kilobytes
        },
        plot="Rate over size",
        along="replay seed, KB",
        logarithmic="xy",
    )


def _both(
    bench: Bench,
    plan: Plan,
    points: Mapping[float, tuple[Load, int]],
    *,
    plot: str,
    along: str,
    logarithmic: str = "",
) -> Iterable[Curve]:
    """Return the curves of the queue and of the loop written by hand."""
    cases: dict[tuple[str, float], Callable[[], float]] = {}
    for at, (load, size) in points.items():
        cases[QUEUE, at] = partial(bench.queue_rate, load, size)
        cases[BY_HAND, at] = partial(bench.rate, BY_HAND, clients.loop, load, "by hand", size)
    rates = _medians(cases, plan.curve_rounds)
    for name in (QUEUE, BY_HAND):
        yield Curve(
            plot=plot,
            name=name,
            along=along,
            up=RATE,
            points=[(at, rates[name, at]) for at in points],
            logarithmic=logarithmic,
        )


def _draw_delays(bench: Bench, plan: Plan, findings: Findings) -> None:
    load = Load(number=plan.delay_entries, beforehand=True)
    with delay_lines(bench.dsn, [delay / 1000 for delay in plan.delays]) as dsns:
        cases = {
            (delay, writers): partial(bench.queue_rate, load, BATCH, writers, dsn)
            for delay, dsn in zip(plan.delays, dsns, strict=True)
            for writers in plan.writers
        }
        rates = _medians(cases, plan.curve_rounds)
    for writers in plan.writers:
        findings.curves.append(
            Curve(
                plot="Rate over delay to the server",
                name="1 writer" if writers == 1 else f"{writers} writers",
                along="added to a round trip, ms",
                up=RATE,
                points=[(float(delay), rates[delay, writers]) for delay in plan.delays],
            )
        )


def _time_one(bench: Bench, plan: Plan, findings: Findings) -> None:
    """Measure how long an entry takes until it is durable: alone, and among others."""
    idle, threaded, bare = (
        "persist, idle queue",
        "persist, idle queue, bridge=thread",
        "bare upsert",
    )
    # What of it is spent where: in the queue's own tasks, and between trio and asyncpg.
    free, crossing, crossing_threads = (
        "persist, idle queue, store that costs nothing",
        "empty call through the bridge",
        "empty call through the bridge, bridge=thread",
    )
    times = plan.round_trips

    def measure(run_in: Callable[..., Any], *arguments: object) -> float:
        bench.empty()
        seconds: float = run_in(*arguments)
        return seconds * 1000

    timings = interleaved(
        {
            idle: partial(measure, bench.ours, queue_runs.idle_persist, bench.dsn, times),
            threaded: partial(
                measure, bench.theirs, queue_runs.idle_persist, bench.dsn, times, "thread"
            ),
            bare: partial(measure, bench.theirs, clients.bare_round_trip, bench.dsn, times),
            free: partial(measure, bench.ours, queue_runs.idle_persist_for_nothing, times),
            crossing: partial(measure, bench.ours, queue_runs.empty_calls, times, "trio-asyncio"),
            crossing_threads: partial(
                measure, bench.theirs, queue_runs.empty_calls, times, "thread"
            ),
        },
        plan.rounds,
    )
    findings.figures += [absolute(PART, name, timings[name], "ms") for name in timings]
    findings.figures += [
        ratio(PART, name, timings, name, bare, bar=MOST_IDLE_TO_BARE if name == idle else None)
        for name in timings
        if name != bare
    ]
    bench.empty()
    tasks, pace = 20, 1000
    paced = bench.ours(queue_runs.paced_persist, bench.dsn, tasks, pace, plan.paced_seconds)
    findings.figures += [
        Figure(
            part=PART,
            name=f"due to durable, {pace} entries/s of {tasks} tasks, p{percent}",
            value=percentile(paced, percent),
            unit="ms",
        )
        for percent in (50, 99, 99.9)
    ]


def _time_steps(bench: Bench, plan: Plan, findings: Findings) -> None:
    load = Load(number=plan.entries)
    longest: list[float] = []
    for _ in range(plan.step_runs):
        bench.empty()
        longest += bench.ours(queue_runs.longest_steps, bench.dsn, load, BATCH)
    _add_steps(findings, f"longest step of a flush of {BATCH}, CPU time", longest)
    time_steps_of_tables(bench, findings, plan.entries, plan.step_runs)


def time_steps_of_tables(bench: Bench, findings: Findings, number: int, runs: int) -> None:
    """Measure how long the event loop stands still while entries of an own table are written."""
    for columns in LEAST_OF_TABLES:
        longest: list[float] = []
        for _ in range(runs):
            bench.theirs(tables.prepare, bench.dsn, columns)
            longest += bench.ours(tables.longest_steps, bench.dsn, columns, number, BATCH)
        what = f"longest step of a flush of {BATCH} of {columns} columns, CPU time"
        _add_steps(findings, what, longest)


def _add_steps(findings: Findings, name: str, longest: Sequence[float]) -> None:
    findings.figures += [
        Figure(
            part=PART,
            name=f"{name}, p99",
            value=percentile(longest, 99),
            unit="ms",
            bar=MOST_STEP_P99_MILLISECONDS,
        ),
        Figure(
            part=PART,
            name=f"{name}, worst",
            value=max(longest),
            unit="ms",
            bar=MOST_STEP_MILLISECONDS,
        ),
    ]
