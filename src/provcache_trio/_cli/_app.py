"""The command line: commands, their options, and what they end with."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, CycloptsError, Parameter

from provcache_trio import __version__
from provcache_trio._postgres_server import PostgresServerError, run_postgres_server

from ._demo import Demo
from ._ingest import Ingest, all_went_in, summarize_ingest
from ._input import Input
from ._progress import make_progress
from ._read import check_key, entry_as_json, facts_of
from ._report import summarize, went_well
from ._run import attempt, attempt_in_sight
from ._screen import make_screen
from ._text import counted, printable, say
from ._urls import MisuseError, postgres_target, target_of, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._run import Ending, Watcher
    from ._screen import Screen
    from ._stores import Target

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
app.register_install_completion_command(  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
    help="Set up completion in your shell's start-up file."
)


def run(arguments: Sequence[str]) -> int:
    """Run the command that ``arguments`` name and return its exit status."""
    try:
        status: int | None = app(arguments)
    except CycloptsError as error:
        _complain(f"{without_secrets(str(error))} (see provcache --help)")
        return _MISUSED
    except MisuseError as error:
        _complain(f"{error} (see provcache --help)")
        return _MISUSED
    except OSError as error:  # of --install-completion; commands tell of theirs themselves
        _complain(str(error))
        return _FAILED
    return status or 0


@app.command
async def demo(
    *,
    to: str = "sqlite:provcache-demo.db",
    paths: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    plain: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Check every installed file and write the verdicts behind, into a database.

    Each file of each installed Python distribution is held against its RECORD, by hash. Every
    verdict becomes an entry under its VeriKey. SIGINT (Ctrl-C) and SIGTERM write what was
    accepted, tell how much that was, and end with status 130 or 143.

    Args:
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It is made when
            it is not there; entries that it has stay. Or postgres: a server of the demo's own,
            which is gone with it.
        paths: Directories with installed distributions, such as site-packages; by default
            where this Python looks.
        plain: Print plain lines, on a terminal too.
    """
    places = _places(sys.path if paths is None else paths)
    for path in paths or ():
        if not path.is_dir():
            _complain(f"{path} is no directory")
            return _FAILED
    if to != "postgres":
        return await _demo_into(target_of(to), places, plain=plain)
    try:
        # Blocks for a second: nothing else has begun.
        with run_postgres_server() as server:
            major, minor = server.version
            target = postgres_target(server.dsn, f"a PostgreSQL {major}.{minor} of its own")
            return await _demo_into(target, places, plain=plain)
    except PostgresServerError as error:
        _complain(str(error))
        return _FAILED


async def _demo_into(target: Target, places: Sequence[Path], *, plain: bool) -> int:
    job = Demo(places, target)
    return await show(job, make_screen(job, sys.stdout, plain=plain))


@app.command
async def ingest(
    file: Annotated[str, Parameter(allow_leading_hyphen=True)],  # it may be a lone one
    /,
    *,
    to: str,
    strict: Annotated[bool, Parameter(negative="")] = False,
    all_errors: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Read entries, one in JSON per line, and write them behind, into a store.

    A line that is no entry is told on standard error, by its number and what is wrong with
    it, and skipped; so is one longer than 1 MiB. After twenty, they are only counted. Blank lines are skipped. The status is 0 if
    every line went in, else 1. SIGINT (Ctrl-C) and SIGTERM write what was accepted, tell how
    much that was, and end with status 130 or 143, also while the input is a silent pipe.

    Args:
        file: The file, or - for standard input.
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It is made when it is not there; an entry
            that it has is merged with the one that comes.
        strict: Read no further than the first bad line; what came before is written.
        all_errors: Tell every bad line, however many there are.
    """
    if file.startswith("-") and file != "-":
        raise MisuseError(f"Unknown option: {without_secrets(file)}")
    job = Ingest(Input(file), target_of(to), strict=strict, all_errors=all_errors)
    return await show_ingest(job, make_progress(job, sys.stderr))


@app.command
async def get(veri_key: str, /, *, from_: Annotated[str, Parameter(name="--from")]) -> int:
    """Print the entry of a VeriKey in one line of JSON.

    The status is 1 if there is none.

    Args:
        veri_key: The key: sha256: and 64 hex digits.
        from_: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It has to be there.
    """
    check_key(veri_key)
    target = target_of(from_)
    line: str | None = None

    async def work() -> None:
        nonlocal line
        line = await entry_as_json(target, veri_key)

    if status := _status(await attempt(work, _ignore), target):
        return status
    if line is None:
        _complain(f"{target.label}: no entry has this VeriKey")
        return _FAILED
    say(line, sys.stdout)
    return 0


@app.command
async def init(*, to: str) -> int:
    """Make a store; one that is there already stays as it is.

    Args:
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE.
    """
    target = target_of(to)

    async def work() -> None:
        async with target.open():
            say(f"{printable(target.label)} is ready", sys.stdout)

    return _status(await attempt(work, _ignore), target)


@app.command
async def stats(
    *,
    from_: Annotated[str, Parameter(name="--from")],
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Tell how many entries a store holds, its size, and the version of its schema.

    Args:
        from_: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It has to be there.
        as_json: Print one line of JSON.
    """
    target = target_of(from_)

    async def work() -> None:
        facts = await facts_of(target)
        if as_json:
            say(json.dumps(facts), sys.stdout)
            return
        for name, value in facts.items():
            say(f"{name:<7} {value:>15,}", sys.stdout)

    return _status(await attempt(work, _ignore), target)


def _places(paths: Iterable[Path | str]) -> list[Path]:
    # A dict keeps the order and drops what is named twice.
    return list(dict.fromkeys(path for path in map(Path, paths) if path.is_dir()))


async def show(job: Demo, screen: Screen) -> int:
    """Run the demo in sight of the user and return the exit status."""
    ending = await attempt_in_sight(job.run, screen, job.options.drain_timeout_seconds)
    screen.summary(summarize(job, ending.stopped_by))
    if status := _status(ending, job.target):
        return status
    if not job.distributions:
        _complain("no installed distribution has a RECORD there")
        return _FAILED
    return 0 if went_well(job) else _FAILED


async def show_ingest(job: Ingest, watcher: Watcher) -> int:
    """Run the job in sight of the user and return the exit status."""
    work = partial(job.run, watcher.notice)
    ending = await attempt_in_sight(work, watcher, job.options.drain_timeout_seconds)
    for line in summarize_ingest(job, ending.stopped_by):
        say(line, sys.stdout)
    if job.untold:
        _complain(f"{counted(job.untold, 'more bad line')}; --all-errors tells each")
    if job.trouble:
        _complain(job.trouble)
    if status := _status(ending, job.target):
        return status
    return 0 if all_went_in(job) else _FAILED


def _status(ending: Ending, target: Target) -> int:
    """Tell what failed and return the exit status, as far as the ending decides it."""
    if ending.failure:
        _complain(f"{target.label}: {ending.failure}")
        return _FAILED
    return 0 if ending.stopped_by is None else 128 + ending.stopped_by


def _ignore(_: object) -> None:
    """Tell nothing: what only reads, or makes a store, just ends."""


def _complain(text: str) -> None:
    say(f"provcache: {printable(text)}", sys.stderr)
