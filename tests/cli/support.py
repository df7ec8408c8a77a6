"""What several tests of the command line share."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO, cast

import msgspec
import trio

from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    ReplaySeed,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._cli.entries import PROVCACHE
from provcache_trio._cli.progress import Progress
from provcache_trio.journal import open_journal
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Generator, Iterable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from provcache_trio._cli.stores import Store

PROGRAM = (sys.executable, "-m", "provcache_trio")
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
BAD = 7  # with so many hits, a picky store refuses an entry


# Entries


def key_of(number: object) -> str:
    return f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"


def entry(
    number: object = 0,
    *,
    trust_score: int = 90,
    feed_ids: tuple[str, ...] = ("nvd",),
    **changes: Any,  # noqa: ANN401  # any field's
) -> ProvcacheEntry:
    plain: dict[str, Any] = {
        "veri_key": key_of(number),
        "decision": DecisionDigest(
            verdict_hash=key_of(f"verdict {number}"),
            proof_root=key_of(f"proof {number}"),
            replay_seed=ReplaySeed(feed_ids=feed_ids),
            trust_score=trust_score,
        ),
        "policy_hash": key_of(f"policy {number}"),
        "signer_set_hash": key_of(f"signers {number}"),
        "feed_epoch": "2026-W48",
        "created_at": NOW,
        "expires_at": NOW + timedelta(days=1),
    }
    return ProvcacheEntry(**plain | changes)


def line(number: int, *, trust_score: int = 1) -> bytes:
    return msgspec.json.encode(entry(number, trust_score=trust_score)) + b"\n"


def lines(numbers: Iterable[int]) -> bytes:
    return b"".join(map(line, numbers))


# Stores


def url(path: Path) -> str:
    return f"sqlite:{path}"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def stored(store: Path) -> int:
    """Return how many rows the file has, as another program sees it."""
    with closing(sqlite3.connect(store)) as connection:
        count: int = connection.execute("SELECT count(*) FROM provcache_entries").fetchone()[0]
    return count


def entries_in(store: Path) -> dict[str, ProvcacheEntry]:
    """Return the stored ones of the first thousand entries, by key."""

    async def work() -> dict[str, ProvcacheEntry]:
        async with open_sqlite_repository(store, create=False) as repository:
            return await repository.get_many(map(key_of, range(1000)))

    return trio.run(work)


def change(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)


def locked(store: Path) -> sqlite3.Connection:
    """Return a connection that keeps every other one from writing."""
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


class MemoryTarget:
    """A store in memory."""

    def __init__(self) -> None:
        self.label = "memory"
        self.entries = PROVCACHE
        self.repository: MemoryRepository[ProvcacheEntry] = MemoryRepository()

    def open(self, *, create: bool = False) -> AbstractAsyncContextManager[Store]:  # noqa: ARG002  # is there
        return nullcontext(cast("Store", self.repository))  # it is one of any key

    def open_existing(self) -> AbstractAsyncContextManager[Store]:
        return self.open()

    async def facts(self) -> dict[str, int]:
        raise AssertionError("unreachable")


# Journals


def leave(path: Path, *entries: Any, entry_type: type[Any] = ProvcacheEntry) -> None:  # noqa: ANN401  # of any type
    """Leave entries in a journal."""

    async def work() -> None:
        store = MemoryRepository[Any]()
        store.down()
        options = WriteBehindOptions(drain_timeout_seconds=0)
        async with (
            open_journal(path, entry_type=entry_type) as journal,
            open_write_behind_queue(store, options, journal=journal) as queue,
        ):
            await queue.enqueue_many(entries)

    trio.run(work)


# Whoever looks on


class Impatient(Progress):
    """Waits for something, does something, and so on; remembers what it is to show."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        super().__init__(str, sys.stderr)
        self._acts = acts
        self.notices: list[str] = []

    async def run(self) -> None:
        for act in self._acts:
            while not act():  # noqa: ASYNC110  # a job's attributes are plain
                await trio.sleep(0.005)

    def add_line(self, text: str) -> None:
        self.notices.append(text)


def send(number: signal.Signals) -> Callable[[], bool]:
    def act() -> bool:
        signal.raise_signal(number)
        return True

    return act


# Streams


@contextmanager
def standard_input(replace: Callable[[object, str, object], None]) -> Generator[tuple[int, int]]:
    """Make a pipe the standard input, by ``monkeypatch.setattr``, and yield both of its ends."""
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
        replace(sys, "stdin", file)
        try:
            yield reader, writer
        finally:
            with suppress(OSError):
                os.close(writer)


@contextmanager
def full_pipe() -> Generator[tuple[int, TextIO]]:
    """Yield both ends of a pipe that takes nothing more until it is read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    with open(writer, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
        try:
            yield reader, file
        finally:
            os.close(reader)  # which ends a thread that still writes


def drained(reader: int, until: bytes) -> bytes:
    """Read on to where ``until`` has come; return what is none of the filling."""
    seen = b""
    while until not in seen:
        seen += os.read(reader, 65536)
    return seen.lstrip(b".")


@contextmanager
def pseudo_terminal(columns: int = 60) -> Generator[tuple[int, io.TextIOWrapper]]:
    """Yield a terminal: the side that people see, and a file that is the other side."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with open(theirs, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
        try:
            yield ours, file
        finally:
            with suppress(OSError):
                os.close(ours)


def on_terminal(*arguments: str, columns: int = 60, **environment: str) -> tuple[int, str]:
    """Run the program on a terminal, and return its status and all that came there."""
    surroundings = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", **environment}
    with (
        pseudo_terminal(columns) as (ours, file),
        subprocess.Popen(
            [*PROGRAM, *arguments], stdin=file, stdout=file, stderr=file, env=surroundings
        ) as process,
    ):
        output = b""
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.05)[0]:
                output += os.read(ours, 65536)
    return process.returncode, output.decode()


def without_progress(errors: str) -> str:
    """Return what was written to standard error, but for where the job was on a slow machine."""
    # What a demo is at may be several words, such as "reading back".
    where = re.compile(r"provcache: ([\d,]+ lines?, |[\w ]+: [\d,]+ of [\d,]+ files)")
    return "".join(line for line in errors.splitlines(keepends=True) if not where.match(line))
