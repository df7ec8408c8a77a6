"""A program with a journal that says what it does, to be killed; and what is found afterwards.

    python -m tests.support.killed run DIRECTORY ENTRIES      # says o N (offered) and a N (accepted)
    python -m tests.support.killed many DIRECTORY KILLS SEED  # forks, kills and checks many of those

What it says it writes with one system call a line, so that it is known in what order.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    ReplaySeed,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.journal import open_journal
from provcache_trio.journal._disk import Disk
from provcache_trio.sqlite import open_sqlite_repository

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provcache_trio import WriteBehindQueue

PRODUCERS: Final = 5
HASH: Final = "sha256:" + 64 * "0"
DECISION: Final = DecisionDigest(
    verdict_hash=HASH, proof_root=HASH, replay_seed=ReplaySeed(), trust_score=90
)
NOW: Final = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
OPTIONS: Final = WriteBehindOptions(batch_size=7, flush_interval_seconds=0.002)


def key_of(number: int) -> str:
    return f"sha256:{number:064x}"


def entry(number: int) -> ProvcacheEntry:
    return ProvcacheEntry(
        veri_key=key_of(number),
        decision=DECISION,
        policy_hash=HASH,
        signer_set_hash=HASH,
        feed_epoch="2026-W48",
        created_at=NOW,
        expires_at=NOW + dt.timedelta(days=7),
    )


def say(what: str, number: int) -> None:
    os.write(1, b"%s %d\n" % (what.encode(), number))


async def produce(queue: WriteBehindQueue[ProvcacheEntry], numbers: Iterable[int]) -> None:
    for number in numbers:
        say("o", number)
        await queue.enqueue(entry(number))
        say("a", number)


async def run(directory: Path, first: int, entries: int) -> None:
    """Enqueue, and say so."""
    async with (
        open_sqlite_repository(directory / "store.db") as repository,
        open_dead_letters(directory / "dead.db") as dead_letters,
        open_journal(directory / "journal", durability="always") as journal,
        open_write_behind_queue(
            repository, OPTIONS, dead_letters=dead_letters, journal=journal
        ) as queue,
        trio.open_nursery() as nursery,
    ):
        for producer in range(PRODUCERS):
            numbers = range(first + producer, first + entries, PRODUCERS)
            nursery.start_soon(produce, queue, numbers)


async def found(directory: Path) -> set[str]:
    """Let the next queue write what the last one left; return the keys in the store."""
    async with (
        open_sqlite_repository(directory / "store.db") as repository,
        open_dead_letters(directory / "dead.db") as dead_letters,
        open_journal(directory / "journal", durability="always") as journal,
    ):
        async with open_write_behind_queue(
            repository, dead_letters=dead_letters, journal=journal
        ) as queue:
            while queue.metrics().recovering:  # noqa: ASYNC110  # it has no event
                await trio.sleep(0.001)
        assert not queue.undelivered
        assert await dead_letters.count() == 0
        keys = {key_of(number) for number in range(MOST)}
        return set(await repository.get_many(keys))


MOST: Final = 5000


def check(directory: Path, said: bytes) -> None:
    """Check that what was accepted is in the store, and nothing that was not offered."""
    numbers: dict[bytes, set[int]] = {b"o": set(), b"a": set()}
    for line in said.split(b"\n")[:-1]:
        what, _, number = line.partition(b" ")
        numbers[what].add(int(number))
    stored = trio.run(found, directory)
    accepted, offered = ({key_of(number) for number in numbers[what]} for what in (b"a", b"o"))
    assert accepted <= stored, f"{len(accepted - stored)} of {len(accepted)} are lost"
    assert stored <= offered, f"{len(stored - offered)} were never offered"


def kill_once(directory: Path, first: int, dice: random.Random) -> bytes:
    """Fork the program, kill it at some moment, and return what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writing, 1)
            os.close(reading)
            trio.run(run, directory, first, MOST - first)
        finally:
            os._exit(1)
    os.close(writing)
    said, lines, pause = b"", dice.randint(0, 60), dice.random() * 0.003
    while said.count(b"\n") < lines and (some := os.read(reading, 65536)):
        said += some
    select.select([], [], [], pause)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while some := os.read(reading, 65536):
        said += some
    os.close(reading)
    return said


def many(directory: Path, kills: int, seed: int) -> None:
    """Kill again and again; each time the next one finds what the last one left, or more."""
    dice = random.Random(seed)  # noqa: S311  # no secret
    for number in range(kills):
        where = directory / str(number)
        where.mkdir()
        said = b""
        for first in range(0, MOST, MOST // 3)[: dice.randint(1, 3)]:  # killed while it replays
            said += kill_once(where, first, dice)
        check_in_child(where, said)


def check_in_child(where: Path, said: bytes) -> None:
    """Check in a child, as this process must have no thread when it forks."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            check(where, said)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"{where}: see above; said: {said!r}")


def main() -> None:
    """Do as the command line says."""
    command, directory, *numbers = sys.argv[1:]
    if os.environ.get("WITHOUT_SYNC"):
        Disk.sync = lambda self, descriptor: None  # type: ignore[method-assign]  # noqa: ARG005
    if command == "run":
        trio.run(run, Path(directory), 0, int(numbers[0]))
    else:
        many(Path(directory), int(numbers[0]), int(numbers[1]))


if __name__ == "__main__":
    main()
