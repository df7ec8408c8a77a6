"""The command line: commands, their options, and what they end with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import trio
from cyclopts import App, CycloptsError, Parameter

from provcache_trio import DrainTimeoutError, ProvcacheError, __version__

from ._demo import Demo
from ._report import summarize, went_well
from ._screen import make_screen
from ._signals import cancel_on_signal
from ._stores import SqliteTarget
from ._text import printable

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Sequence

    from ._screen import Screen

_FAILED: Final = 1
_MISUSED: Final = 2

app = App(
    name="provcache",
    help="A write-behind queue for decisions about software artifacts.",
    version=__version__,
    backend="trio",
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
)


def run(arguments: Sequence[str]) -> int:
    """Run the command that ``arguments`` name and return its exit status."""
    try:
        status: int | None = app(arguments)
    except CycloptsError as error:
        _complain(f"{error} (see provcache --help)")
        return _MISUSED
    return status or 0


@app.command
async def demo(
    *,
    to: Path = Path("provcache-demo.db"),
    paths: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    plain: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Check every installed file and write the verdicts behind, into SQLite.

    Each file of each installed Python distribution is held against its RECORD, by hash. Every
    verdict becomes an entry under its VeriKey. SIGINT (Ctrl-C) and SIGTERM write what was
    accepted, tell how much that was, and end with status 130 or 143.

    Args:
        to: The SQLite file. It is made when it is not there; entries that it has stay.
        paths: Directories with installed distributions, such as site-packages; by default
            where this Python looks.
        plain: Print plain lines, on a terminal too.
    """
    places = _places(sys.path if paths is None else paths)
    for path in paths or ():
        if not path.is_dir():
            _complain(f"{path} is no directory")
            return _FAILED
    job = Demo(places, SqliteTarget(to))
    return await show(job, make_screen(job, sys.stdout, plain=plain))


def _places(paths: Iterable[Path | str]) -> list[Path]:
    # A dict keeps the order and drops what is named twice.
    return list(dict.fromkeys(path for path in map(Path, paths) if path.is_dir()))


async def show(job: Demo, screen: Screen) -> int:
    """Run the job in sight of the user and return the exit status."""
    failure = ""
    signals = 0
    limit = f"at most {job.options.drain_timeout_seconds:g} s"

    async def attempt() -> None:
        nonlocal failure
        try:
            await job.run()
        except DrainTimeoutError as error:
            failure = f"{len(error.undelivered):,} entries could not be written in time"
        except (ProvcacheError, OSError) as error:
            failure = str(error)

    def on_signal(received: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        again = "still " if signals > 1 else ""
        screen.notice(f"{received.name}: {again}writing what was accepted, {limit}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(screen.run)
        stopped_by = await cancel_on_signal(attempt, on_signal)
        nursery.cancel_scope.cancel()
    screen.summary(summarize(job, stopped_by))
    if failure:
        _complain(f"{job.target.label}: {failure}")
        return _FAILED
    if stopped_by is not None:
        return 128 + stopped_by
    if not job.distributions:
        _complain("no installed distribution has a RECORD there")
        return _FAILED
    return 0 if went_well(job) else _FAILED


def _complain(text: str) -> None:
    print(f"provcache: {printable(text)}", file=sys.stderr)  # noqa: T201
