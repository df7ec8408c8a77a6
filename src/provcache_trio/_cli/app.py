"""The command line: commands, their options, and their exit statuses."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path  # noqa: TC003  # cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter

from provcache_trio import __version__
from provcache_trio._pgserver.server import PostgresServerError, run_postgres_server

from .arguments import (
    address_of,
    as_paths,
    check_give_up_after,
    input_file,
    is_directory,
    making_of,
    read_moment,
    settle_hyphens,
)
from .dead_letters.commands import app as dead_letters
from .demo.job import Demo
from .entries import entries_of
from .expiring import Expire, check_expires
from .help import help_console
from .ingest.job import Ingest
from .input import Input
from .journal.commands import app as journal
from .misuse import MisuseError
from .output import OutputError, Stream, complain, put_line
from .reading import entry_as_json, store_facts
from .running import Status, attempt, carry_out
from .stores import wait_until_ready
from .text import printable
from .top.views import watch_queues
from .urls import check_is_no_url, postgres_target, stream_target, target_of

if TYPE_CHECKING:
    from collections.abc import Sequence

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
app.command(dead_letters)
app.command(journal)


def run(arguments: Sequence[str]) -> int:
    """Run the command that ``arguments`` name and return its exit status."""
    try:
        status: int | None = app(settle_hyphens(arguments), console=help_console())
    except (CycloptsError, MisuseError) as error:
        complain(f"{error} (see provcache --help)", quotes=isinstance(error, CycloptsError))
        return Status.MISUSED
    except (OutputError, OSError) as error:
        # OSError comes from --install-completion.
        complain(str(error))
        return Status.FAILED
    return status or Status.DONE


@app.command
async def demo(
    *,
    to: str = "sqlite:provcache-demo.db",
    paths: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
) -> int:
    """Check every installed file, and write the verdicts to a database by a write-behind queue.

    Each file of each installed Python distribution is compared with its RECORD, by hash. Every
    verdict becomes an entry under its VeriKey. On SIGINT (Ctrl-C), SIGTERM or SIGHUP it writes the
    accepted entries, reports their number, and ends with status 130, 143 or 129.

    Args:
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It is created if it
            does not exist, and keeps the entries that it has. Or postgres: a server that is started
            for the demo and removed afterwards.
        paths: Directories with installed distributions, such as site-packages; by default those of
            this Python.
    """
    places = as_paths(sys.path if paths is None else paths)
    for path in paths or ():
        check_is_no_url(str(path))
        if not is_directory(path):
            complain(f"{path} is no directory")
            return Status.FAILED
    if to != "postgres":
        return await carry_out(Demo(places, target_of(to)))
    try:
        # Blocks for a second, while nothing else runs.
        with run_postgres_server() as server:
            major, minor = server.version
            target = postgres_target(server.dsn, f"a PostgreSQL {major}.{minor} of its own")
            return await carry_out(Demo(places, target))
    except PostgresServerError as error:
        complain(str(error))
        return Status.FAILED


@app.command
async def ingest(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True, converter=input_file)],
    /,
    *,
    to: str,
    table: str | None = None,
    strict: Annotated[bool, Parameter(negative="")] = False,
    all_errors: Annotated[bool, Parameter(negative="")] = False,
    give_up_after: float = 600,
) -> int:
    """Read entries, one JSON object per line, and write them to a store.

    A bad line, such as one longer than 1 MiB, is skipped, and reported on standard error by its
    number and what is wrong with it; after twenty, bad lines are only counted. Blank lines are
    skipped. Input that is compressed, an array, or in UTF-16 is refused with a hint what to do.
    Times are kept to the microsecond. The status is 0 if every line was stored, 1 if some were bad
    or refused, and 3 if it had to stop. On SIGINT (Ctrl-C), SIGTERM or SIGHUP it writes the
    accepted entries, reports their number, and ends with status 130, 143 or 129, even while the
    input is a silent pipe.

    Args:
        file: The file, or - for standard input.
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It is created if it
            does not exist; an entry that it has is merged with the new one. Or a stream, which has
            to exist: nats://HOST,HOST,HOST/STREAM.
        table: The Table that declares the entries, as MODULE:NAME; by default ProvcacheEntry. It
            has to exist in the store.
        strict: Stop at the first bad line, after writing the entries before it. A line with an
            unknown field is bad, too.
        all_errors: Report every bad line, however many there are.
        give_up_after: Stop after the store has been away, or has needed a person, for this many
            seconds; inf waits for ever.
    """
    check_give_up_after(give_up_after)
    check_is_no_url(str(file))
    job = Ingest(
        Input(str(file)),
        target_of(to, entries_of(table)),
        strict=strict,
        all_errors=all_errors,
        give_up_after=give_up_after,
    )
    return await carry_out(job)


@app.command
async def get(
    *key: str, from_: Annotated[str, Parameter(name="--from")], table: str | None = None
) -> int:
    """Print the entry of a key in one line of JSON.

    The status is 1 if there is no such entry, and 3 if the store can't be read.

    Args:
        key: The VeriKey: sha256: and 64 hex digits. With --table the value of the key field, or the
            values of several key fields, as separate arguments or as one JSON array.
        from_: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It has to exist.
        table: The Table that declares the entries, as MODULE:NAME; by default ProvcacheEntry.
    """
    entries = entries_of(table)
    wanted = entries.read_key(key)
    target = target_of(from_, entries)
    status, line = await attempt(partial(entry_as_json, target, wanted), target.label)
    if status:
        return status
    if line is None:
        complain(entries.no_such_key, target.label)
        return Status.NOT_ALL
    put_line(line, sys.stdout)
    return Status.DONE


@app.command
async def init(
    *, to: str, table: str | None = None, max_bytes: str | None = None, replicas: int = 3
) -> int:
    """Create a store; an existing one is not changed.

    Args:
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE, or a stream:
            nats://HOST,HOST,HOST/STREAM.
        table: The Table that declares the entries, as MODULE:NAME; by default ProvcacheEntry.
        max_bytes: The size limit of a stream, such as 10GB; needed for a stream.
        replicas: The number of servers that keep a stream, 1 to 5.
    """
    target = target_of(to, entries_of(table))
    make = making_of(target, max_bytes, replicas)

    async def work() -> None:
        await make()
        async with target.open(create=True) as store:
            await wait_until_ready(store, complain)

    status, _ = await attempt(work, target.label)
    if status:
        return status
    results = Stream(sys.stdout)
    results.add(f"{printable(target.label)} is ready\n")
    await results.flush()
    results.check()
    return Status.DONE


@app.command
async def relay(
    *,
    from_: Annotated[str, Parameter(name="--from")],
    to: str | None = None,
    table: str | None = None,
    dead_letters: Path | None = None,
    status: str | None = None,
    skip: int | None = None,
    into: Path | None = None,
) -> int:
    """Move entries from a stream to a store until a signal comes.

    On SIGINT (Ctrl-C), SIGTERM or SIGHUP it writes the entries that it has taken, returns the rest
    to the stream at once, reports how much was written, and ends with status 130, 143 or 129. Any
    number of relays may share a stream. A message stops every relay that can't read it; --skip
    removes it.

    Args:
        from_: The stream, such as nats://HOST,HOST,HOST/STREAM.
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It is not created; as
            long as it does not exist or needs a person, the relay waits, and logs that as an error.
        table: The Table that declares the entries, as MODULE:NAME; by default ProvcacheEntry.
        dead_letters: A file for entries that the store refuses; without it, they are logged by key
            and lost.
        status: Serve the status page at HOST:PORT.
        skip: Do not relay, but move the message with this sequence number out of the stream...
        into: ...into this file, which must not exist yet.
    """
    entries = entries_of(table)
    source = stream_target(from_, entries)
    if skip is not None or into is not None:
        if skip is None or into is None or to is not None:
            raise MisuseError("--skip SEQUENCE --into FILE belong together, without --to")
        check_is_no_url(str(into))
        done, _ = await attempt(partial(source.take_out, skip, into), source.label)
        return done
    if to is None:
        raise MisuseError("--to is missing: the store")
    from .relay import RelayJob  # noqa: PLC0415  # needs an extra

    target = target_of(to, entries)
    if dead_letters is not None:
        check_is_no_url(str(dead_letters))
    return await carry_out(RelayJob(source, target, dead_letters, address_of(status)))


@app.command
async def stats(
    *,
    from_: Annotated[str, Parameter(name="--from")],
    table: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Print how many entries a store holds, its size, and the version of its schema.

    The size is that of the whole SQLite file, or of the PostgreSQL table with its indexes. Only
    ProvcacheEntry has a schema of its own. The status is 3 if the store can't be read.

    Args:
        from_: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It has to exist.
        table: The Table that declares the entries, as MODULE:NAME; by default ProvcacheEntry.
        as_json: Print one line of JSON.
    """
    target = target_of(from_, entries_of(table))
    status, facts = await attempt(partial(store_facts, target), target.label)
    if status or facts is None:
        return status
    if as_json:
        put_line(json.dumps(facts), sys.stdout)
        return Status.DONE
    for name, value in facts.items():
        put_line(f"{name:<7} {value:>15,}", sys.stdout)
    return Status.DONE


@app.command
async def expire(
    *,
    in_: Annotated[str, Parameter(name="--in")],
    table: str | None = None,
    limit: int = 1000,
    now: str | None = None,
) -> int:
    """Delete the entries that have expired, and print their number.

    It deletes in slices, so that others can write in between, until no expired entry is left. On
    SIGINT (Ctrl-C), SIGTERM or SIGHUP it ends after the current slice with status 130, 143 or 129.
    The status is 3 if the store can't be used.

    Args:
        in_: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It has to exist.
        table: The Table that declares the entries, as MODULE:NAME; by default ProvcacheEntry.
        limit: The most entries in one slice.
        now: Delete entries that had expired by this time: a time in UTC, or how long ago, such as
            1h.
    """
    entries = entries_of(table)
    check_expires(entries, limit)
    now_ = datetime.now(UTC)
    moment = now_ if now is None else read_moment("--now", now, now_)
    return await carry_out(Expire(target_of(in_, entries), moment, limit))


@app.command
async def top(
    *url: str,
    interval: float = 1.0,
    once: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show the write-behind queues of running programs, live from their status pages.

    With each queue it shows its cache and the stream behind it, if there are any. On a terminal it
    shows a table until SIGINT (Ctrl-C), SIGTERM or SIGHUP ends it with status 130, 143 or 129. In a
    pipe, or with NO_COLOR set, it keeps printing a line for each queue.

    Args:
        url: The page, such as http://127.0.0.1:9464 or https://USER:PASSWORD@HOST/PREFIX/; several
            for several programs.
        interval: Seconds between updates, 0.1 to 3600.
        once: Print a line for each queue and end. The status is 0 if each program has queues and all
            are ready, 1 if not, and 3 if a program does not answer.
        as_json: With --once, print the page's status.json.
    """
    return await watch_queues(url, sys.stdout, interval=interval, once=once, as_json=as_json)
