"""Programs at both ends of a stream, to be killed, and what is checked when all is over.

    python -m tests.support.streaming produce URL STREAM FIRST    # says o NUMBER VERSION, a NUMBER VERSION
    python -m tests.support.streaming relay URL STREAM STORE LETTERS

What a producer says (offered; acknowledged) it writes with one system call a line, so that it is known
in what order. Half of its keys are written once: where each is written again and again, a relay that
lost entries would pass. SIGTERM ends both in good order.
"""

from __future__ import annotations

import atexit
import datetime as dt
import multiprocessing
import os
import signal
import sqlite3
import sys
from contextlib import closing
from itertools import count
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    QueueClosedError,
    ReplaySeed,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.nats import open_relay, open_stream_repository
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository

from tests.support.servers import query
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from provcache_trio import WriteBehindQueue

HASH: Final = "sha256:" + 64 * "0"
DECISION: Final = DecisionDigest(
    verdict_hash=HASH, proof_root=HASH, replay_seed=ReplaySeed(), trust_score=90
)
NOW: Final = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
HOT_KEYS: Final = 20
TASKS: Final = 10
BAD: Final = 25  # every so many-th key is refused where the store refuses any
OPTIONS: Final = WriteBehindOptions(batch_size=50, queue_capacity=200, retry_cap_seconds=0.5)


_numbers = count(1)


def key_of(number: int) -> str:
    return f"sha256:{number:064x}"


def entry(number: int, version: int) -> ProvcacheEntry:
    return ProvcacheEntry(
        veri_key=key_of(number),
        decision=DECISION,
        policy_hash=HASH,
        signer_set_hash=HASH,
        feed_epoch="2026-W48",
        created_at=NOW + dt.timedelta(seconds=version),
        expires_at=NOW + dt.timedelta(days=7, seconds=version),
        hit_count=version,
    )


def say(what: str, number: int, version: int) -> None:
    os.write(1, b"%s %d %d\n" % (what.encode(), number, version))


async def until_sigterm() -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            return


async def produce(url: str, stream: str, first: int) -> None:
    """Persist entries, and say so, until SIGTERM."""
    async with (
        open_stream_repository(url, stream) as repository,
        open_write_behind_queue(repository, OPTIONS) as queue,
        trio.open_nursery() as nursery,
    ):
        for task in range(TASKS):
            nursery.start_soon(_produce, queue, first, task)
        await until_sigterm()
        nursery.cancel_scope.cancel()


async def _produce(queue: WriteBehindQueue[ProvcacheEntry], first: int, task: int) -> None:
    step = 0
    while True:
        step += 1
        at = step * TASKS + task
        # A hot key is one task's, so its versions are offered in order.
        number, version = (first + at, 1) if step % 2 else (task % HOT_KEYS, first + at)
        say("o", number, version)
        try:
            await queue.persist(entry(number, version))
        except QueueClosedError:
            return
        say("a", number, version)
        await trio.sleep(0.005)


async def relay(url: str, stream: str, store: str, letters: str) -> None:
    """Take entries to a file, or to PostgreSQL, until SIGTERM."""
    to_postgres = store.startswith("postgresql:")
    async with (
        open_postgres_repository(store)
        if to_postgres
        else open_sqlite_repository(store) as repository,
        open_dead_letters(letters) as dead_letters,
        open_relay(url, stream, repository, OPTIONS, dead_letters=dead_letters),
    ):
        say("r", 0, 0)
        await until_sigterm()


# The processes, and the check

# Forked by a process that has imported it all: for that, each took longer than for its work.
WARM: Final = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["tests.support.streaming"])
# What they took is counted as ours once it has been waited for.
atexit.register(forkserver._forkserver._stop)  # type: ignore[attr-defined]  # it is not public


def _begin(command: list[str], said: Path, errors: Path) -> None:
    """Be the new process: do as ``command`` says."""
    for number, path in ((1, said), (2, errors)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    main(command)


class Program:
    """One of these programs, and what it said."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self._said = folder / f"said {next(_numbers)}"
        self._errors = self._said.with_suffix(".errors")
        self._said.touch()
        command = [str(argument) for argument in arguments]
        these = (command, self._said, self._errors)
        self._process = WARM.Process(target=_begin, args=these, daemon=True)
        self._process.start()

    def send(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal; by SIGTERM, it must end well."""
        self.send(number)
        self._process.join(HANG_SECONDS)
        expected = 0 if number is signal.SIGTERM else -number
        assert self._process.exitcode == expected, self._errors.read_text()

    def kill(self) -> None:
        """End it if it has not ended."""
        self._process.kill()
        self._process.join()

    def count(self, what: str) -> int:
        """Return how often it said something of one kind."""
        return (b"\n" + self._said.read_bytes()).count(b"\n" + what.encode() + b" ")

    def said(self, what: str) -> list[tuple[int, int]]:
        """Return what it said of one kind: numbers and versions."""
        lines = self._said.read_bytes().split(b"\n")[:-1]
        return [
            (int(number), int(version))
            for kind, number, version in map(bytes.split, lines)
            if kind == what.encode()
        ]

    def errors(self) -> str:
        return self._errors.read_text()


class Found(NamedTuple):
    """What is in the store and in the letters."""

    stored: Mapping[int, int]
    letters: set[int]


def read_store(store: Path) -> dict[int, int]:
    """Return the versions in a file, by number."""
    with closing(sqlite3.connect(store, timeout=HANG_SECONDS)) as connection:
        rows = connection.execute("SELECT veri_key, hit_count FROM provcache_entries").fetchall()
    return versions_in(rows)


def read_postgres(dsn: str) -> dict[int, int]:
    """Return the versions in PostgreSQL, by number."""
    return versions_in(trio.run(query, dsn, "SELECT veri_key, hit_count FROM provcache.entries"))


def versions_in(rows: Iterable[Sequence[Any]]) -> dict[int, int]:
    return {int.from_bytes(key[-8:], "big"): version for key, version in rows}


def read_letters(files: Iterable[Path]) -> set[int]:
    """Return the numbers of all letters in these files."""

    found: set[int] = set()
    for file in files:
        with closing(sqlite3.connect(file, timeout=HANG_SECONDS)) as connection:
            keys = connection.execute("SELECT key FROM provcache_dead_letters").fetchall()
        found |= {int(key[-16:].strip('"'), 16) for (key,) in keys}
    return found


def check(found: Found, offered: Iterable[tuple[int, int]], acknowledged: Iterable[tuple[int, int]]) -> int:  # fmt: skip
    """Check that nothing acknowledged is lost, and nothing is there that nobody sent.

    Returns:
        How many entries were acknowledged.
    """
    count = 0
    lost: list[tuple[int, int]] = []
    for number, version in acknowledged:
        count += 1
        if found.stored.get(number, 0) < version and number not in found.letters:
            lost.append((number, version))
    assert not lost, f"{len(lost)} of {count} are lost, such as {lost[:5]}"
    strange = set(found.stored.items()) - set(offered)
    assert not strange, f"nobody sent {sorted(strange)[:5]}"
    return count


def main(arguments: Sequence[str]) -> None:
    """Do as ``arguments`` say: those of a command line."""
    command, url, stream, *rest = arguments
    if command == "produce":
        trio.run(produce, url, stream, int(rest[0]))
    else:
        trio.run(relay, url, stream, rest[0], rest[1])


if __name__ == "__main__":
    main(sys.argv[1:])
