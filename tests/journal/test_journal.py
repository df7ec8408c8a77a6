"""A queue with a journal, on a real disk."""

from __future__ import annotations

import dataclasses
import errno
import logging
import math
import os
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import msgspec
import pytest
import trio
import trio.testing
from msgspec.structs import replace

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    JournalError,
    ProvcacheEntry,
    QueueClosedError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._core.recorder import Recorder
from provcache_trio.journal import FileJournal, open_journal
from provcache_trio.journal._disk import Disk
from provcache_trio.journal._documents import Documents
from provcache_trio.journal._file import JournalFile
from provcache_trio.journal._records import Beginning, RecordKind, pack, read_beginning
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.disks import PATH, ModelDisk
from tests.support.entries import entry, key_of
from tests.support.files import mode_of
from tests.support.items import Item, assert_settled, balance, items
from tests.support.model_journals import in_virtual_thread, journal_on
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from trio.testing import MockClock

    from provcache_trio import WriteBehindQueue
    from provcache_trio.journal import Durability

SOON: Final = WriteBehindOptions(drain_timeout_seconds=0.05)  # where nothing can be written
IN_TIME: Final = WriteBehindOptions(drain_timeout_seconds=HANG_SECONDS)
NO_INTS: Final[list[Any]] = [[1, "two", 3], ["one"]]
EMPTY_BYTES: Final = 330  # a journal without entries is smaller, and one with entries larger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal"


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


@asynccontextmanager
async def queue_with_journal(
    path: Path,
    store: MemoryRepository[Item],
    options: WriteBehindOptions = IN_TIME,
    *,
    durability: Durability = "interval",
    dead_letters: MemoryDeadLetters[Item] | None = None,
    merge: Callable[[Item, Item], Item] | None = None,
) -> AsyncIterator[WriteBehindQueue[Item]]:
    async with (
        open_journal(
            path, entry_type=Item, durability=durability, sync_interval_seconds=0.001
        ) as journal,
        open_write_behind_queue(
            store, options, journal=journal, dead_letters=dead_letters, merge=merge
        ) as queue,
    ):
        yield queue


def size_of(path: Path) -> int:
    return path.stat().st_size


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def inode_of(path: Path) -> int:
    return path.stat().st_ino


def there_is(path: Path) -> bool:
    return path.exists()


def remove(path: Path) -> None:
    path.unlink()


def put_away(path: Path) -> Path:
    """Put another directory in the place of that of ``path``; return where it is now."""
    away = path.parent.with_name("away")
    path.parent.rename(away)
    path.parent.mkdir()
    return away


def put_back(path: Path, away: Path) -> None:
    assert list(path.parent.iterdir()) == []
    path.parent.rmdir()
    away.rename(path.parent)


async def leave_behind(
    path: Path, left: list[Item], *, durability: Durability = "interval"
) -> None:
    """Leave entries in a journal, as one whose store does not come back."""
    store = MemoryRepository[Item]()
    store.down()
    options = WriteBehindOptions(
        drain_timeout_seconds=0, queue_capacity=10**6, batch_size=2, coalesce=False
    )
    async with queue_with_journal(path, store, options, durability=durability) as queue:
        for item in left:
            await queue.enqueue(item)
    assert queue.undelivered


class GoesDown(MemoryRepository[Item]):
    """A store that takes one batch."""

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        changed = await super().upsert_many(entries)
        self.down()
        return changed


both = pytest.mark.parametrize("durability", ["interval", "always"])


# What it is for


@pytest.mark.one_lane
@both
async def test_what_could_not_be_written_is_written_by_the_next_queue(
    path: Path,
    store: MemoryRepository[Item],
    durability: Durability,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await leave_behind(path, items("abc", 1), durability=durability)
    assert "3 entries left in the journal" in caplog.text
    async with queue_with_journal(path, store, durability=durability) as queue:
        assert queue.metrics().durable
        await until(lambda: len(store.rows) == 3)
        await until(lambda: not queue.metrics().recovering)
    assert_settled(queue, recovered=3, persisted=3, enqueued=0)
    assert list(store.rows.values()) == items("abc", 1)
    assert size_of(path) < EMPTY_BYTES


@both
async def test_what_is_replayed_is_not_overtaken_by_what_is_new(
    path: Path, durability: Durability
) -> None:
    await leave_behind(path, [Item("a", 1), Item("b", 1), Item("a", 2)], durability=durability)
    store = MemoryRepository[Item](merge=lambda old, new: Item(old.veri_key, new.version))
    options = WriteBehindOptions(coalesce=False)
    async with queue_with_journal(path, store, options, durability=durability) as queue:
        await queue.enqueue(Item("a", 3))
    written = [item.version for call in store.calls for item in call if item.veri_key == "a"]
    assert written == sorted(written)
    assert written[-1] == 3


async def test_nothing_is_accepted_at_once_while_older_entries_are_to_come(
    path: Path, store: MemoryRepository[Item]
) -> None:
    await leave_behind(path, items("abc", 1))
    async with queue_with_journal(path, store) as queue:
        assert queue.metrics().recovering
        with pytest.raises(trio.WouldBlock):
            queue.enqueue_nowait(Item("a", 2))
        await queue.enqueue(Item("a", 2))
        assert not queue.metrics().recovering
        queue.enqueue_nowait(Item("a", 3))
    assert store.rows["a"] == Item("a", 3)


@pytest.mark.one_lane
@both
async def test_a_backlog_that_memory_can_not_hold_is_replayed_within_its_bound(
    path: Path, store: MemoryRepository[Item], durability: Durability
) -> None:
    await leave_behind(path, items(range(50)), durability=durability)
    store.stall()
    options = WriteBehindOptions(queue_capacity=4, batch_size=3, drain_timeout_seconds=5)
    async with queue_with_journal(path, store, options, durability=durability) as queue:
        # Three are with the stalled store, and four wait: there is no room for another.
        await until(lambda: queue.metrics().total_recovered >= 7)
        await trio.testing.wait_all_tasks_blocked()
        metrics = queue.metrics()
        assert metrics.total_recovered == 7
        assert metrics.current_queue_depth == 4
        assert metrics.recovering
        assert balance(metrics) == 0
        store.resume()
        await until(lambda: not queue.metrics().recovering)
    assert_settled(queue, recovered=50, persisted=50)
    assert list(store.rows.values()) == items(range(50))


@both
async def test_a_replay_that_is_cut_off_again_and_again_ends_with_the_same_rows(
    path: Path, durability: Durability
) -> None:
    left = [Item(key, version) for version in range(10) for key in "abcde"]
    await leave_behind(path, left, durability=durability)
    store = GoesDown()  # so that each of the first queues leaves the rest to the next
    options = WriteBehindOptions(
        queue_capacity=2, batch_size=1, coalesce=False, drain_timeout_seconds=0
    )
    for _ in range(8):
        store.up()
        before = len(store.persisted)
        async with queue_with_journal(path, store, options, durability=durability) as queue:
            await until(lambda: len(store.persisted) > before)  # noqa: B023
            assert queue.metrics().recovering
    whole = MemoryRepository[Item]()
    whole.rows.update(store.rows)
    async with queue_with_journal(path, whole, durability=durability) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert whole.rows == {key: Item(key, 9) for key in "abcde"}


@pytest.mark.one_lane
@both
async def test_leaving_while_it_replays_keeps_the_rest(
    path: Path,
    store: MemoryRepository[Item],
    durability: Durability,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await leave_behind(path, items(range(20)), durability=durability)
    store.down()
    options = WriteBehindOptions(queue_capacity=2, batch_size=1, drain_timeout_seconds=0.01)
    async with queue_with_journal(path, store, options, durability=durability) as queue:
        await until(lambda: queue.metrics().total_recovered == 3)
        with trio.move_on_after(0.01):
            await queue.enqueue(Item("late"))
    assert queue.metrics().total_abandoned == 3
    assert "older entries left in the journal" in caplog.text
    store.up()
    async with queue_with_journal(path, store, durability=durability) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert list(store.rows.values()) == items(range(20))


async def test_an_entry_that_the_store_has_at_once_is_never_written_to_the_journal(
    path: Path, store: MemoryRepository[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = Disk.write

    def spy(self: Disk, descriptor: int, data: bytes) -> int:
        written.append(bytes(data))
        return write(self, descriptor, data)

    monkeypatch.setattr(Disk, "write", spy)
    options = WriteBehindOptions(flush_interval_seconds=0)
    async with (
        open_journal(path, entry_type=Item, sync_interval_seconds=3600) as journal,
        open_write_behind_queue(store, options, journal=journal) as queue,
    ):
        await queue.enqueue_many(items("abc"))
        await queue.flush()
    assert len(written) == 1  # the file, when it was made
    assert size_of(path) < EMPTY_BYTES


@pytest.mark.one_lane
@both
async def test_a_settled_entry_leaves_the_journal_and_a_newer_version_of_its_key_does_not(
    path: Path, durability: Durability
) -> None:
    store = GoesDown()
    options = WriteBehindOptions(flush_interval_seconds=0, drain_timeout_seconds=0.05)
    async with queue_with_journal(path, store, options, durability=durability) as queue:
        store.stall()
        await queue.enqueue(Item("a", 1))
        await until(lambda: store.in_calls)
        await queue.enqueue(Item("a", 2))
        await queue.enqueue(Item("b", 1))
        await until(lambda: size_of(path) > EMPTY_BYTES)
        store.resume()
        await until(lambda: store.persisted)
    assert set(queue.undelivered) == {Item("a", 2), Item("b", 1)}
    store.up()
    calls = len(store.calls)
    options = WriteBehindOptions(coalesce=False)
    async with queue_with_journal(path, store, options, durability=durability) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert {item for call in store.calls[calls:] for item in call} == {Item("a", 2), Item("b", 1)}


@both
async def test_a_merged_entry_is_replayed_once(path: Path, durability: Durability) -> None:
    """Of two versions that were added up, not one is added again."""

    def add(old: Item, new: Item) -> Item:
        return Item(old.veri_key, old.version + new.version)

    store = MemoryRepository[Item]()
    store.down()
    async with queue_with_journal(path, store, SOON, durability=durability, merge=add) as queue:
        size = size_of(path)
        for _ in range(3):
            await queue.enqueue(Item("a", 1))
            await until(lambda: size_of(path) > size)  # noqa: B023
            size = size_of(path)
    store.up()
    async with queue_with_journal(path, store, durability=durability, merge=add) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert store.rows == {"a": Item("a", 3)}


@both
async def test_a_dead_letter_stays_until_the_sink_has_it(
    path: Path, store: MemoryRepository[Item], durability: Durability
) -> None:
    store.reject("bad")
    sink = MemoryDeadLetters[Item]()
    sink.down()
    async with queue_with_journal(
        path, store, SOON, durability=durability, dead_letters=sink
    ) as queue:
        await queue.enqueue_many([Item("good"), Item("bad")])
        await queue.flush()
    assert queue.undelivered == (Item("bad"),)
    sink.up()
    async with queue_with_journal(path, store, durability=durability, dead_letters=sink) as queue:
        await until(lambda: sink.letters)
    assert_settled(queue, recovered=1, failed=1)
    assert size_of(path) < EMPTY_BYTES
    async with queue_with_journal(path, store, durability=durability, dead_letters=sink) as queue:
        pass
    assert_settled(queue, recovered=0)


async def test_a_dead_letter_that_was_not_written_before_is_written(
    store: MemoryRepository[Item], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store refuses it within the interval, and the sink is down for longer."""
    monkeypatch.setattr("provcache_trio.journal._journal.in_thread", in_virtual_thread)
    disk = ModelDisk()
    store.reject("bad")
    sink = MemoryDeadLetters[Item]()
    sink.down()
    _, journal = journal_on(disk, always=False)
    async with open_write_behind_queue(store, SOON, journal=journal, dead_letters=sink) as queue:
        await queue.enqueue(Item("bad", 7))
        await queue.flush()
        assert b'"bad"' not in disk.names[PATH].data
        await trio.sleep(1)
        assert b'"bad"' in disk.names[PATH].data
    sink.up()
    _, journal = journal_on(disk, always=False)
    async with open_write_behind_queue(store, journal=journal, dead_letters=sink):
        await until(lambda: sink.letters)
    assert [letter.entry for letter in sink.letters] == [Item("bad", 7)]


@both
async def test_a_dead_letter_without_a_sink_leaves_the_journal(
    path: Path, store: MemoryRepository[Item], durability: Durability
) -> None:
    store.reject("bad")
    async with queue_with_journal(path, store, durability=durability) as queue:
        with pytest.raises(EntryRejectedError):
            await queue.persist(Item("bad"))
    async with queue_with_journal(path, store, durability=durability) as queue:
        pass
    assert_settled(queue, recovered=0)


# "always"


async def test_always_lets_nobody_in_without_waiting(
    path: Path, store: MemoryRepository[Item]
) -> None:
    async with queue_with_journal(path, store, durability="always") as queue:
        with pytest.raises(RuntimeError, match="'always'"):
            queue.enqueue_nowait(Item("a"))
        assert await queue.enqueue_many(items("ab")) == 2
        await queue.persist(Item("c"))
        assert Item("c") in store.rows.values()
    assert_settled(queue, enqueued=3, persisted=3, refused=0)


@pytest.mark.parametrize("entry", [object(), Item([])])  # type: ignore[arg-type]
async def test_always_refuses_an_entry_without_a_usable_key_before_it_waits(
    path: Path, store: MemoryRepository[Item], entry: Item
) -> None:
    async with queue_with_journal(path, store, durability="always") as queue:
        for bring in (queue.enqueue, lambda entry: queue.enqueue_many([entry])):
            with pytest.raises(TypeError, match=r"key of an entry of type .* can't be"):
                await bring(entry)
    assert_settled(queue, enqueued=0, persisted=0)


async def test_many_producers_share_one_write(
    path: Path, store: MemoryRepository[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = 0
    sync = Disk.sync

    def count(self: Disk, descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        sync(self, descriptor)

    options = WriteBehindOptions(flush_interval_seconds=3600)
    async with queue_with_journal(path, store, options, durability="always") as queue:
        monkeypatch.setattr(Disk, "sync", count)
        async with trio.open_nursery() as nursery:
            for item in items(range(100)):
                nursery.start_soon(queue.enqueue, item)
        assert queue.metrics().total_enqueued == 100
        assert syncs <= 5
        monkeypatch.undo()


@pytest.mark.one_lane
async def test_always_accepts_no_more_than_there_is_room_for(
    path: Path, store: MemoryRepository[Item]
) -> None:
    options = WriteBehindOptions(queue_capacity=3, batch_size=2)
    store.stall()
    async with queue_with_journal(path, store, options, durability="always") as queue:  # noqa: SIM117  # it outlives the nursery
        async with trio.open_nursery() as nursery:
            for item in items(range(20)):
                nursery.start_soon(queue.enqueue, item)
            await until(lambda: queue.metrics().current_queue_depth == 3)
            await until(lambda: queue.metrics().producers_waiting == 15)
            # A key that is in line needs no room.
            (first,) = list(queue._lanes.lines[0].batches[0].entries.values())[:1]
            await queue.enqueue(Item(first.veri_key, 9))
            assert queue.metrics().current_queue_depth == 3
            store.resume()
    assert_settled(queue, enqueued=21, persisted=20, coalesced=1)


async def test_a_full_line_is_written_for_those_who_came_together(
    path: Path, store: MemoryRepository[Item]
) -> None:
    options = WriteBehindOptions(queue_capacity=1, flush_interval_seconds=3600)
    async with queue_with_journal(path, store, options, durability="always") as queue:
        with trio.fail_after(HANG_SECONDS):
            async with trio.open_nursery() as nursery:
                for item in items("abc"):
                    nursery.start_soon(queue.enqueue, item)
    assert_settled(queue, enqueued=3, persisted=3)


async def test_damage_is_gone_after_an_orderly_end_though_there_was_nothing_to_replay(
    path: Path, store: MemoryRepository[Item], caplog: pytest.LogCaptureFixture
) -> None:
    await leave_behind(path, items(["only"]))
    overwrite(path, b"only", b"ONLY")
    for times in (1, 1):
        async with queue_with_journal(path, store):
            pass
        assert caplog.text.count("are missing") == times


async def test_whoever_waits_for_the_disk_when_the_queue_is_left_is_sent_away(
    path: Path, store: MemoryRepository[Item], disk: SlowDisk
) -> None:
    turned_away: list[Item] = []

    async def enqueue(queue: WriteBehindQueue[Item], item: Item) -> None:
        try:
            await queue.enqueue(item)
        except QueueClosedError:
            turned_away.append(item)

    async with trio.open_nursery() as nursery:  # noqa: SIM117  # its tasks outlive the queue
        async with queue_with_journal(path, store, durability="always") as queue:
            await queue.enqueue(Item("accepted"))
            disk.go_on.clear()
            disk.asked.clear()
            for item in items(range(3)):
                nursery.start_soon(enqueue, queue, item)  # noqa: ASYNC111  # it outlives the queue
            await until(disk.asked.is_set)
            nursery.start_soon(enqueue, queue, Item("late"))  # noqa: ASYNC111  # likewise
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(go_on_when_it_closes, queue, disk.go_on)  # noqa: ASYNC111  # likewise
    assert set(turned_away) == {*items(range(3)), Item("late")}
    assert_settled(queue, enqueued=1, persisted=1)
    assert size_of(path) < EMPTY_BYTES


async def go_on_when_it_closes(queue: WriteBehindQueue[Item], go_on: threading.Event) -> None:
    await until(lambda: queue.metrics().state == "draining")
    go_on.set()


async def test_a_page_that_is_read_while_the_queue_closes_is_not_lost(
    path: Path, store: MemoryRepository[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_behind(path, items("abc"))
    reading, go_on = threading.Event(), threading.Event()
    read = Disk.read

    def wait_and_read(self: Disk, descriptor: int, count: int, at: int) -> bytes:
        reading.set()
        assert go_on.wait(HANG_SECONDS)
        return read(self, descriptor, count, at)

    async with open_journal(path, entry_type=Item) as journal, trio.open_nursery() as nursery:
        monkeypatch.setattr(Disk, "read", wait_and_read)
        async with open_write_behind_queue(store, journal=journal) as queue:
            await until(reading.is_set)
            nursery.start_soon(go_on_when_it_closes, queue, go_on)  # noqa: ASYNC111  # outlives it
    assert balance(queue.metrics()) == 0
    assert queue.undelivered == ()
    async with queue_with_journal(path, store) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert store.rows == {item.veri_key: item for item in items("abc")}


@pytest.mark.one_lane
async def test_whoever_is_cancelled_before_the_disk_was_asked_leaves_no_trace(
    path: Path, store: MemoryRepository[Item]
) -> None:
    store.stall()
    options = WriteBehindOptions(queue_capacity=1, batch_size=1)
    async with queue_with_journal(path, store, options, durability="always") as queue:
        await queue.enqueue(Item("a"))
        await until(lambda: queue.metrics().in_flight == 1)
        await queue.enqueue(Item("b"))
        with trio.move_on_after(0.01) as scope:
            await queue.enqueue(Item("c"))
        assert scope.cancelled_caught
        store.resume()
    assert_settled(queue, enqueued=2)


class SlowDisk(Disk):
    """Waits in ``sync`` until it is told to go on, or to fail."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.fails = False
        self.tries = 0

    def sync(self, descriptor: int) -> None:
        self.tries += 1
        self.asked.set()
        assert self.go_on.wait(HANG_SECONDS)
        if self.fails:
            raise OSError(errno.EIO, "as the test asked")
        super().sync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    """Return the disk that every journal of the test uses."""
    disk = SlowDisk()
    monkeypatch.setattr("provcache_trio.journal._opening.Disk", lambda: disk)
    return disk


async def test_whoever_is_cancelled_while_the_disk_writes_may_have_been_accepted(
    path: Path, store: MemoryRepository[Item], disk: SlowDisk
) -> None:
    async with queue_with_journal(path, store, durability="always") as queue:
        disk.go_on.clear()
        disk.asked.clear()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(queue.persist, Item("a"))
                await until(disk.asked.is_set)
                scope.cancel()
        assert scope.cancelled_caught
        disk.go_on.set()
        await until(lambda: queue.metrics().total_enqueued)
    assert_settled(queue, enqueued=1, persisted=1)


async def test_whoever_is_cancelled_while_the_disk_fails_was_not_accepted(
    path: Path, store: MemoryRepository[Item], disk: SlowDisk
) -> None:
    async with queue_with_journal(path, store, durability="always") as queue:
        disk.go_on.clear()
        disk.asked.clear()
        disk.fails = True
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(queue.enqueue, Item("a"))
                await until(disk.asked.is_set)
                scope.cancel()
        disk.go_on.set()
        await until(lambda: not queue.metrics().durable)
        disk.fails = False
    assert_settled(queue, enqueued=0)


async def test_an_entry_whose_merging_fails_is_not_accepted_and_leaves_the_journal(
    path: Path, store: MemoryRepository[Item]
) -> None:
    def merge(old: Item, new: Item) -> Item:
        raise ValueError(new.version)

    store.stall()
    options = WriteBehindOptions(batch_size=1)
    async with queue_with_journal(path, store, options, durability="always", merge=merge) as queue:
        await queue.enqueue(Item("a", 1))
        await until(lambda: queue.metrics().in_flight)
        await queue.enqueue(Item("a", 2))
        with pytest.raises(ValueError, match="3"):
            await queue.enqueue(Item("a", 3))
        await queue.enqueue(Item("b"))
        store.resume()
    assert_settled(queue, enqueued=3, persisted=3)


async def test_a_producer_of_an_entry_that_json_does_not_hold_is_told_and_no_other(
    path: Path,
) -> None:
    store = MemoryRepository[Any](key=id)
    async with (
        open_journal(path, entry_type=list[int], durability="always") as journal,
        open_write_behind_queue(store, key=id, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(queue.enqueue, [1])
        for odd in (["x"], [object()], [10**18] * 500_000):
            nursery.start_soon(refused, queue, odd)
    assert store.persisted == [([1],)]


async def refused(queue: WriteBehindQueue[Any], entry: object) -> None:
    with pytest.raises(JournalError, match="JSON"):
        await queue.enqueue(entry)


class Measured(msgspec.Struct, frozen=True):
    """An entry that JSON holds, if its fields are what they should be."""

    limit: ClassVar[int] = 7
    veri_key: str
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    value: float = 0.0
    text: str = ""


GOOD = Measured("a", datetime(2026, 11, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    ("kind", "entry", "fault"),
    [
        (Measured, replace(GOOD, at=GOOD.at.replace(tzinfo=None)), "its field 'at' does not"),
        (Measured, replace(GOOD, value=math.nan), "its field 'value' does not"),
        (Measured, Item("a"), "it is a Item, not a Measured; see entry_type of the journal"),
        (Measured, replace(GOOD, text=10**6 * "long enough"), "it is larger than"),
        (Item, Item("a"), "see its fields, and entry_type of the journal"),
    ],
    ids=["naive", "nan", "another type", "too large", "no field"],
)
async def test_what_json_does_not_hold_is_named_and_never_quoted(
    kind: type[Any],
    entry: Any,  # noqa: ANN401  # of any type
    fault: str,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if type(entry) is kind is Item:
        monkeypatch.setattr(Documents, "document_of", lambda *_: None)
    for durability in ("always", "interval"):
        async with (
            open_journal(path, entry_type=kind, durability=durability) as journal,
            open_write_behind_queue(MemoryRepository[Any](), SOON, journal=journal) as queue,
        ):
            if durability == "always":
                with pytest.raises(JournalError) as caught:
                    await queue.enqueue(entry)
                begin = f"entry a can't be written as JSON and read back: {fault}"
                assert str(caught.value).startswith(begin)
            else:
                await queue.enqueue(entry)
                await until(lambda: fault in caplog.text)
    assert "2026" not in caplog.text


async def test_an_entry_that_json_does_not_hold_is_logged_by_its_key_and_written(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryRepository[Any](key=len)
    store.down()
    async with (
        open_journal(path, entry_type=list[int], sync_interval_seconds=0.001) as journal,
        open_write_behind_queue(store, SOON, key=len, journal=journal) as queue,
    ):
        await queue.enqueue(NO_INTS[0])
        await until(lambda: "can't be written to the journal" in caplog.text)
        assert not queue.metrics().durable
        assert caplog.text.count("can't be written to the journal") == 1
        await queue.enqueue(NO_INTS[1])
        await until(lambda: caplog.text.count("can't be written to the journal") == 2)
        store.up()
        await queue.flush()
        assert queue.metrics().durable
    assert store.rows == {3: NO_INTS[0], 1: NO_INTS[1]}


# A disk that fails


async def test_interval_goes_on_while_the_disk_fails_and_says_so_and_heals(
    path: Path,
    store: MemoryRepository[Item],
    disk: SlowDisk,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    store.down()
    async with queue_with_journal(path, store, SOON) as queue:
        await queue.enqueue(Item("a", 1))
        await until(lambda: size_of(path) > EMPTY_BYTES)
        disk.fails = True
        await queue.enqueue(Item("a", 2))
        await until(lambda: not queue.metrics().durable)
        await queue.enqueue(Item("b", 1))
        tries = disk.tries
        await until(lambda: disk.tries > tries + 3)
        assert caplog.text.count("would not survive a crash") == 1
        before = inode_of(path)
        disk.fails = False
        await until(lambda: queue.metrics().durable)
        assert inode_of(path) != before  # the file that failed is not trusted again
        assert "journal works again" in caplog.text
    assert len(queue.undelivered) == 2
    store.up()
    async with queue_with_journal(path, store) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert store.rows == {"a": Item("a", 2), "b": Item("b", 1)}


@pytest.mark.one_lane
async def test_always_tells_the_producer_that_the_disk_failed_and_heals(
    path: Path,
    store: MemoryRepository[Item],
    disk: SlowDisk,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.down()
    async with queue_with_journal(path, store, SOON, durability="always") as queue:
        await queue.enqueue(Item("a", 1))
        disk.fails = True
        for _ in range(2):
            with pytest.raises(JournalError, match="Input/output error"):
                await queue.enqueue(Item("b", 1))
            assert not queue.metrics().durable
        assert queue.metrics().total_enqueued == 1
        # Nothing is in danger, and nobody is told so.
        assert "default: no entry is accepted now, and what was accepted is safe: " in caplog.text
        assert "would not survive" not in caplog.text
        disk.fails = False
        await until(lambda: queue.metrics().durable)  # though nobody comes
        await queue.enqueue(Item("c", 1))
    assert queue.undelivered == (Item("a", 1), Item("c", 1))
    store.up()
    async with queue_with_journal(path, store, durability="always") as queue:
        await until(lambda: not queue.metrics().recovering)
    assert list(store.rows.values()) == [Item("a", 1), Item("c", 1)]


@pytest.mark.one_lane
@both
async def test_a_journal_that_was_removed_is_made_anew(
    path: Path, store: MemoryRepository[Item], durability: Durability
) -> None:
    store.down()
    async with queue_with_journal(path, store, SOON, durability=durability) as queue:
        await queue.enqueue(Item("a"))
        await until(lambda: size_of(path) > EMPTY_BYTES)
        remove(path)
        if durability == "always":
            with pytest.raises(JournalError, match="removed or replaced"):
                await queue.enqueue(Item("b"))
        await queue.enqueue(Item("c"))
        await until(lambda: there_is(path) and queue.metrics().durable)
    store.up()
    async with queue_with_journal(path, store, durability=durability) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert set(store.rows) == {"a", "c"}


async def test_a_directory_that_is_another_one_is_not_written_to(
    path: Path, store: MemoryRepository[Item]
) -> None:
    """As when its disk was unmounted."""
    store.down()
    async with queue_with_journal(path, store, SOON) as queue:
        await queue.enqueue(Item("a"))
        away = put_away(path)
        await until(lambda: not queue.metrics().durable)
        await trio.sleep(0.01)
        put_back(path, away)
        await until(lambda: queue.metrics().durable)


async def test_what_json_does_not_hold_is_not_said_to_stay_in_the_journal(
    path: Path,
) -> None:
    store = MemoryRepository[Any]()
    store.down()
    odd = Item("odd", *NO_INTS[:1])
    with pytest.raises(DrainTimeoutError) as caught:
        async with queue_with_journal(path, store, SOON) as queue:
            await queue.enqueue(Item("good"))
            await queue.enqueue(odd)
    assert caught.value.undelivered == (Item("good"), odd)
    assert entries_in(path) == 1


@both
async def test_what_neither_store_nor_journal_took_is_handed_back_with_an_error(
    path: Path, store: MemoryRepository[Item], disk: SlowDisk, durability: Durability
) -> None:
    store.down()
    with pytest.raises(DrainTimeoutError) as caught:
        async with queue_with_journal(path, store, SOON, durability=durability) as queue:
            await queue.enqueue(Item("a"))
            disk.fails = True
            if durability == "always":
                with pytest.raises(JournalError):
                    await queue.enqueue(Item("b"))
    assert caught.value.undelivered == (Item("a"),)


async def test_a_journal_that_can_not_be_emptied_is_a_warning(
    path: Path,
    store: MemoryRepository[Item],
    disk: SlowDisk,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with queue_with_journal(path, store, durability="always") as queue:
        await queue.enqueue(Item("a"))
        disk.fails = True
    assert_settled(queue, persisted=1)
    assert "could not be emptied" in caplog.text


# Exits


async def test_a_queue_that_gives_up_leaves_its_entries_in_the_journal(
    path: Path, store: MemoryRepository[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provcache_trio._core.supervisor._RESTART_SECONDS", 0.001)
    store.crash_next(100)
    with pytest.raises(WriteBehindCrashedError):
        async with queue_with_journal(path, store) as queue:
            await queue.enqueue(Item("a"))
            await trio.sleep_forever()
    assert queue.undelivered == (Item("a"),)
    store._failures.clear()
    async with queue_with_journal(path, store) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert set(store.rows) == {"a"}


@both
async def test_the_journals_task_may_crash_in_the_middle_of_a_call(
    path: Path,
    store: MemoryRepository[Item],
    monkeypatch: pytest.MonkeyPatch,
    durability: Durability,
) -> None:
    monkeypatch.setattr("provcache_trio._core.supervisor._RESTART_SECONDS", 0.001)
    store.down()
    async with queue_with_journal(path, store, SOON, durability=durability) as queue:
        await queue.enqueue(Item("a"))
        await until(lambda: size_of(path) > EMPTY_BYTES)

        async def crash(*_: object) -> None:
            await trio.lowlevel.checkpoint()
            monkeypatch.setattr(FileJournal, "append", append)
            crashed.set()
            raise RuntimeError("as the test asked")

        crashed = trio.Event()
        append = FileJournal[Item].append
        monkeypatch.setattr(FileJournal, "append", crash)
        if durability == "always":
            with pytest.raises(JournalError, match="crashed"):
                await queue.enqueue(Item("b"))
        await queue.enqueue(Item("c"))
        # It counts as durable before: an interval long, what was accepted may wait.
        await crashed.wait()
        await until(lambda: queue.metrics().durable)
    store.up()
    async with queue_with_journal(path, store, durability=durability) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert set(store.rows) == {"a", "c"}


async def test_ctrl_c_after_the_deadline_is_just_ctrl_c(
    path: Path, store: MemoryRepository[Item]
) -> None:
    store.down()
    with pytest.raises(KeyboardInterrupt) as caught:
        async with queue_with_journal(path, store, SOON) as queue:
            await queue.enqueue(Item("a"))
            raise KeyboardInterrupt
    assert not getattr(caught.value, "__notes__", [])
    assert queue.undelivered == (Item("a"),)


async def test_a_journal_is_entered_once(path: Path) -> None:
    opening = open_journal(path)
    async with opening:
        pass
    with pytest.raises(RuntimeError, match="once"):
        async with opening:
            pass


async def test_a_journal_that_was_closed_leaves_the_file_to_its_next_owner(path: Path) -> None:
    async with open_journal(path, entry_type=Item) as closed:
        pass
    async with open_journal(path, entry_type=Item):
        before = inode_of(path)
        with pytest.raises(JournalError):
            await closed.rewrite([Item("a")])
        assert inode_of(path) == before


async def test_without_a_thread_nothing_is_lost(
    path: Path, store: MemoryRepository[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async with queue_with_journal(path, store) as queue:
        with monkeypatch.context() as patched:
            patched.setattr(trio.lowlevel, "start_thread_soon", none_left)
            store.stall()
            await queue.enqueue(Item("a"))
            await until(lambda: not queue.metrics().durable)
        await until(lambda: queue.metrics().durable)
        store.resume()
    assert_settled(queue, persisted=1)
    with monkeypatch.context() as patched:
        async with open_journal(path, entry_type=Item):
            patched.setattr(trio.lowlevel, "start_thread_soon", none_left)
        await fails(path, "no thread can be started", entry_type=Item)
    async with open_journal(path, entry_type=Item):  # was let go
        pass


async def test_a_journal_serves_one_queue(path: Path, store: MemoryRepository[Item]) -> None:
    async with (
        open_journal(path, entry_type=Item) as journal,
        open_write_behind_queue(store, journal=journal),
    ):
        with pytest.raises(RuntimeError, match="one queue"):
            await open_write_behind_queue(store, journal=journal).__aenter__()


def test_what_is_no_journal_is_refused(store: MemoryRepository[Item]) -> None:
    odd: Any = 7
    with pytest.raises(TypeError, match="journal must have a method append; int"):
        open_write_behind_queue(store, journal=odd)


def exit_status_of(child: int) -> int:
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_leaves_the_journal_alone(
    path: Path, store: MemoryRepository[Item]
) -> None:
    store.down()
    async with queue_with_journal(path, store, SOON) as queue:
        await queue.enqueue(Item("a"))
        await until(lambda: size_of(path) > EMPTY_BYTES)
        before = bytes_of(path)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with pytest.raises(RuntimeError, match="parent"):
                    queue.enqueue_nowait(Item("b"))
                code = 0
            finally:
                os._exit(code)
        assert exit_status_of(child) == 0
        assert bytes_of(path) == before


# Opening


async def fails(path: Path, text: str, **arguments: Any) -> None:  # noqa: ANN401  # as given
    with pytest.raises(JournalError, match=text):
        async with open_journal(path, **arguments):
            pass


async def test_a_journal_is_its_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        async with open_journal(path):
            modes = {name: mode_of(path.parent / name) for name in names_in(path)}
    finally:
        os.umask(before)
    assert mode_of(path.parent) == 0o700
    assert modes == {"journal": 0o600, "journal.lock": 0o600, "journal.last": 0o600}


async def test_what_others_could_read_is_taken_away_from_them(path: Path) -> None:
    await leave_behind(path, items("a"))
    open_to_all(path)
    async with open_journal(path, entry_type=Item):
        assert mode_of(path) == 0o600


def open_to_all(path: Path) -> None:
    path.chmod(0o644)


def names_in(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir())


async def test_whoever_waits_for_a_journal_says_so_once_and_for_whom(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    async with open_journal(path):
        # What passes within a moment is no wait.
        await fails(path, "in use")
        assert caplog.messages == []
        await fails(path, "in use", lock_timeout_seconds=0.3)
    said = (
        f"journal {path}: in use: another part of this process owns it; waiting for it, at most 0.3 s: it "
        "should be the predecessor in a restart, and not one of several workers, each of which needs files "
        "of its own"
    )
    assert caplog.messages == [said]
    assert caplog.records[0].levelno == logging.WARNING


async def test_a_second_owner_is_refused_at_once_or_waits(path: Path) -> None:
    async with open_journal(path):
        await fails(path, "in use")
        await fails(path, "in use", lock_timeout_seconds=0.01)
    entered = trio.Event()

    async def successor() -> None:
        async with open_journal(path, lock_timeout_seconds=HANG_SECONDS):
            entered.set()

    async with trio.open_nursery() as nursery:
        async with open_journal(path):
            nursery.start_soon(successor)
            await trio.sleep(0.06)
            assert not entered.is_set()
        await entered.wait()


async def test_links_are_refused(path: Path) -> None:
    async with open_journal(path):
        pass
    make_link(path)
    await fails(path, "Too many levels of symbolic links")
    remove(path)
    make_link(path.with_name("journal.lock"))
    await fails(path, f"its lock file {path}.lock is a symbolic link")


def make_link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name(f"{path.name} elsewhere")))


async def test_what_is_no_file_is_refused(path: Path) -> None:
    make_directory(path)
    await fails(path, "can't be opened")
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    await fails(pipe, "no regular file")


def make_directory(path: Path) -> None:
    path.mkdir(parents=True)


async def test_a_directory_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    tmp_path.joinpath("file").touch()
    await fails(tmp_path / "file" / "deep" / "journal", "directory can't be made")


async def test_a_journal_of_another_type_is_refused_by_name(path: Path) -> None:
    await leave_behind(path, items("a"))
    await fails(path, r"type tests\.support\.items\.Item, not provcache_trio\.ProvcacheEntry")
    await fails(path, r"not list\[int\]", entry_type=list[int])


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("durability", "never", ValueError),
        ("sync_interval_seconds", 0, ValueError),
        ("sync_interval_seconds", float("inf"), ValueError),
        ("sync_interval_seconds", True, TypeError),
        ("lock_timeout_seconds", -1, ValueError),
        ("lock_timeout_seconds", "1", TypeError),
        ("entry_type", 7, TypeError),
    ],
)
def test_arguments_are_checked(
    path: Path, argument: str, value: object, error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {argument: value}
    with pytest.raises(error, match=argument):
        open_journal(path, **arguments)


async def test_a_crash_in_the_middle_of_a_record_is_told_and_kept_and_costs_nothing_else(
    path: Path, store: MemoryRepository[Item], caplog: pytest.LogCaptureFixture
) -> None:
    await leave_behind(path, items("abc"))
    cut_off(path, b"\xf7pvj and something")
    async with queue_with_journal(path, store) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert len(store.rows) == 3
    (record,) = [record for record in caplog.records if "no record in" in record.message]
    assert record.levelname == "WARNING"
    assert bytes_of(path.with_name("journal.set-aside")).endswith(b"\xf7pvj and something")


def cut_off(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.one_lane
async def test_a_record_that_is_damaged_is_told_by_number_and_kept_and_costs_nothing_else(
    path: Path, store: MemoryRepository[Item], caplog: pytest.LogCaptureFixture
) -> None:
    await leave_behind(path, items(["first", "second", "third"]))
    overwrite(path, b"second", b"SECOND")
    async with queue_with_journal(path, store) as queue:
        await until(lambda: not queue.metrics().recovering)
        overwrite(path, b"x", b"x")
    assert set(store.rows) == {"first", "third"}
    assert "records 2 to 2 are missing" in caplog.text
    assert b"SECOND" in bytes_of(path.with_name("journal.set-aside"))
    caplog.clear()
    async with queue_with_journal(path, store):
        pass
    assert not caplog.records


def salt_of(path: Path) -> int:
    found = read_beginning(path.read_bytes())
    assert found is not None
    return msgspec.json.decode(found[0], type=Beginning).salt


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


class Strict(Item, frozen=True):
    """An item that has become choosier."""

    __module__ = Item.__module__
    __qualname__ = Item.__qualname__

    def __post_init__(self) -> None:
        if self.veri_key == "bad":
            raise ValueError("bad")


@pytest.mark.one_lane
async def test_an_entry_that_can_not_be_read_is_set_aside_and_stops_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await leave_behind(path, items(["a", "bad", "b"]))
    store = MemoryRepository[Strict]()
    async with (
        open_journal(path, entry_type=Strict) as journal,
        open_write_behind_queue(store, WriteBehindOptions(batch_size=1), journal=journal) as queue,
    ):
        await until(lambda: not queue.metrics().recovering)
    assert set(store.rows) == {"a", "b"}
    assert "record 2 is no entry of its type" in caplog.text
    assert b"bad" in bytes_of(path.with_name("journal.set-aside"))
    assert "bad" not in caplog.text
    assert size_of(path) < EMPTY_BYTES


@pytest.mark.one_lane
async def test_what_can_not_be_set_aside_yet_costs_nothing_else_of_its_page(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_behind(path, items(["a", "bad", "b", "bad", "c"]))
    create, failures = Disk.create, 1

    def fails_at_first(disk: Disk, name: str) -> int:
        nonlocal failures
        if name.endswith(".set-aside") and failures:
            failures -= 1
            raise OSError(errno.ENOSPC, "full")
        return create(disk, name)

    monkeypatch.setattr(Disk, "create", fails_at_first)
    store = MemoryRepository[Strict]()
    async with (
        open_journal(path, entry_type=Strict, sync_interval_seconds=0.001) as journal,
        open_write_behind_queue(store, journal=journal) as queue,
    ):
        await until(lambda: not queue.metrics().recovering)
    assert failures == 0
    assert set(store.rows) == {"a", "b", "c"}
    assert bytes_of(path.with_name("journal.set-aside")).count(b"bad") == 2


@pytest.mark.one_lane
async def test_what_was_set_aside_is_not_set_aside_again_by_the_next_queue(path: Path) -> None:
    await leave_behind(path, items(["a", "bad", "b"]))
    store = MemoryRepository[Strict]()
    store.down()
    for _ in range(3):
        async with (
            open_journal(path, entry_type=Strict, sync_interval_seconds=0.001) as journal,
            open_write_behind_queue(store, SOON, journal=journal) as queue,
        ):
            await until(lambda: not queue.metrics().recovering)
        assert bytes_of(path.with_name("journal.set-aside")).count(b"bad") == 1


@pytest.mark.one_lane
async def test_a_crash_in_the_middle_of_a_page_costs_nothing_of_it(
    path: Path, store: MemoryRepository[Item]
) -> None:
    await leave_behind(path, items("abcdef"))
    crashes = [SystemExit("once")]

    def key(item: Item) -> str:
        if item.veri_key == "c" and crashes:
            raise crashes.pop()
        return item.veri_key

    async with (
        open_journal(path, entry_type=Item) as journal,
        open_write_behind_queue(store, key=key, journal=journal) as queue,
    ):
        await until(lambda: not queue.metrics().recovering)
    assert_settled(queue, recovered=6, persisted=6)


async def test_a_log_filter_that_raises_costs_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_record: logging.LogRecord) -> bool:
        raise RuntimeError("a filter")

    await leave_behind(path, items(["a", "bad", "b"]))
    logger = logging.getLogger("provcache_trio")
    logger.addFilter(broken)
    try:
        store = MemoryRepository[Strict]()
        async with (
            open_journal(path, entry_type=Strict) as journal,
            open_write_behind_queue(store, journal=journal) as queue,
        ):
            await until(lambda: not queue.metrics().recovering)
    finally:
        logger.removeFilter(broken)
    assert set(store.rows) == {"a", "b"}
    assert "RuntimeError: a filter" in capsys.readouterr().err


@pytest.mark.one_lane
async def test_an_entry_that_is_too_deep_is_set_aside_and_stops_nothing(
    path: Path, store: MemoryRepository[Item], caplog: pytest.LogCaptureFixture
) -> None:
    before = items(["a", "deep", "b"])
    await leave_behind(path, before)
    deep = b'{"veri_key":"deep","more":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    salt = salt_of(path)
    old = pack(RecordKind.ENTRY, 2, msgspec.json.encode(before[1]), salt)
    overwrite(path, old, pack(RecordKind.ENTRY, 2, deep, salt))
    async with queue_with_journal(path, store) as queue:
        await until(lambda: not queue.metrics().recovering)
    assert set(store.rows) == {"a", "b"}
    assert "record 2 is no entry of its type" in caplog.text
    assert deep in bytes_of(path.with_name("journal.set-aside"))


@pytest.mark.one_lane
async def test_an_entry_that_has_no_key_is_set_aside_and_stops_nothing(
    path: Path, store: MemoryRepository[Item], disk: SlowDisk, caplog: pytest.LogCaptureFixture
) -> None:
    await leave_behind(path, items(["a", "bad", "b"]))

    def key(item: Item) -> str:
        if item.veri_key == "bad":
            raise KeyError
        return item.veri_key

    disk.fails = True
    async with (
        open_journal(path, entry_type=Item, sync_interval_seconds=0.001) as journal,
        open_write_behind_queue(store, key=key, journal=journal) as queue,
    ):
        await until(lambda: not queue.metrics().durable)
        disk.fails = False
        await until(lambda: not queue.metrics().recovering)
        await until(lambda: queue.metrics().durable)
    assert set(store.rows) == {"a", "b"}
    assert "record 2 of the journal has no key" in caplog.text
    assert b"bad" in bytes_of(path.with_name("journal.set-aside"))
    assert size_of(path) < EMPTY_BYTES


@pytest.mark.one_lane
async def test_an_entry_whose_key_can_not_be_hashed_is_set_aside_and_stops_nothing(
    path: Path, store: MemoryRepository[Item], caplog: pytest.LogCaptureFixture
) -> None:
    await leave_behind(path, items(["bad", "a"]))

    def key(item: Item) -> Any:  # noqa: ANN401  # what a careless key returns
        return [item.veri_key] if item.veri_key == "bad" else item.veri_key

    async with (
        open_journal(path, entry_type=Item, sync_interval_seconds=0.001) as journal,
        open_write_behind_queue(
            store, WriteBehindOptions(coalesce=False), key=key, journal=journal
        ) as queue,
    ):
        await until(lambda: not queue.metrics().recovering)
    assert store.calls == [(Item("a"),)]
    assert "record 1 of the journal has no key" in caplog.text


async def test_a_journal_that_can_not_be_read_is_read_once_it_can(
    path: Path, store: MemoryRepository[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_behind(path, items(range(5)))
    read = Disk.read

    def fail(self: Disk, descriptor: int, count: int, at: int) -> bytes:
        raise OSError(errno.EIO, "as the test asked")

    async with (
        open_journal(path, entry_type=Item, sync_interval_seconds=0.001) as journal,
    ):
        monkeypatch.setattr(Disk, "read", fail)
        async with open_write_behind_queue(store, journal=journal) as queue:
            await until(lambda: not queue.metrics().durable)
            assert queue.metrics().recovering
            monkeypatch.setattr(Disk, "read", read)
            await until(lambda: not queue.metrics().recovering)
            await until(lambda: queue.metrics().durable)
    assert len(store.rows) == 5


async def test_a_journal_grows_no_larger_than_what_is_not_settled(
    path: Path, store: MemoryRepository[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provcache_trio.journal._file._GROWTH_BYTES", 2000)
    largest = 0
    options = WriteBehindOptions(flush_interval_seconds=0)
    async with queue_with_journal(path, store, options, durability="always") as queue:
        for item in items(range(200)):
            await queue.enqueue(item)
            largest = max(largest, size_of(path))
    assert 1000 < largest < 10_000
    assert len(store.rows) == 200


async def test_whoever_waits_for_a_task_that_crashed_is_sent_away_when_the_queue_is_left(
    path: Path, store: MemoryRepository[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = trio.Event()

    async def crash(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        crashed.set()
        raise RuntimeError("as the test asked")

    async def enqueue(queue: WriteBehindQueue[Item]) -> None:
        with pytest.raises(QueueClosedError):
            await queue.enqueue(Item("a"))

    monkeypatch.setattr(FileJournal, "append", crash)
    async with trio.open_nursery() as nursery:  # noqa: SIM117  # its tasks outlive the queue
        async with queue_with_journal(path, store, durability="always") as queue:
            nursery.start_soon(enqueue, queue)  # noqa: ASYNC111  # it outlives the queue
            await crashed.wait()
    assert not store.rows


@pytest.mark.one_lane
async def test_a_page_is_replayed_once_more_when_it_is_asked_for_again(path: Path) -> None:
    await leave_behind(path, items("abc"))
    async with open_journal(path, entry_type=Item) as journal:
        first = await journal.replay(0, 2)
        assert [item for _, item in first] == items("ab")
        assert await journal.replay(0, 2) == first
        last = await journal.replay(first[-1][0], 2)
        assert [item for _, item in last] == items("c")
        assert await journal.replay(last[-1][0], 2) == []


async def test_an_entry_of_ours_comes_back_as_it_was(path: Path) -> None:
    store = MemoryRepository[ProvcacheEntry]()
    store.down()
    async with (
        open_journal(path, durability="always") as journal,
        open_write_behind_queue(store, SOON, journal=journal) as queue,
    ):
        await queue.enqueue(entry())
    store.up()
    async with open_journal(path) as journal, open_write_behind_queue(store, journal=journal):
        await until(lambda: store.rows)
    assert store.rows == {key_of(0): entry()}


class Incomparable(msgspec.Struct, eq=False):
    """An entry that equals only itself."""

    veri_key: str


async def test_an_entry_need_not_define_equality(path: Path) -> None:
    store = MemoryRepository[Incomparable]()
    async with (
        open_journal(path, entry_type=Incomparable, durability="always") as journal,
        open_write_behind_queue(store, journal=journal) as queue,
    ):
        await queue.enqueue(Incomparable("a"))
    assert list(store.rows) == ["a"]


class Growing(msgspec.Struct):
    """An entry that does not come back as it is."""

    veri_key: str
    version: int = 0

    def __post_init__(self) -> None:
        self.version += 1


async def test_an_entry_that_does_not_come_back_as_it_is_is_not_accepted(path: Path) -> None:
    store = MemoryRepository[Growing]()
    async with (
        open_journal(path, entry_type=Growing, durability="always") as journal,
        open_write_behind_queue(store, journal=journal) as queue,
    ):
        await refused(queue, Growing("a"))
    assert not store.rows


async def test_what_is_settled_while_it_is_written_leaves_the_journal_all_the_same(
    path: Path, store: MemoryRepository[Item], disk: SlowDisk
) -> None:
    store.stall()
    async with queue_with_journal(path, store) as queue:
        disk.go_on.clear()
        disk.asked.clear()
        await queue.enqueue(Item("written"))
        await until(disk.asked.is_set)
        store.resume()
        await queue.flush()
        assert entries_in(path) == 1
        disk.go_on.set()
        await until(lambda: entries_in(path) == 0)
        assert b"written" in bytes_of(path)


async def test_in_a_forked_child_the_journals_task_writes_nothing(
    path: Path, store: MemoryRepository[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def noted(recorder: Recorder[Item]) -> JournalError | None:
        writes.set()
        return await write(recorder)

    async def append(*_: object) -> None:
        called.set()
        await trio.sleep_forever()

    called = trio.Event()
    write, writes = Recorder[Item]._write_what_is_left, trio.Event()
    store.down()
    async with queue_with_journal(path, store, SOON) as queue:
        await queue.enqueue(Item("a"))
        queue._lifetime.forked = True  # as the hook does in a child that goes on
        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "_write_what_is_left", noted)
            patch.setattr(FileJournal, "append", append)
            await writes.wait()
            await trio.testing.wait_all_tasks_blocked()
        assert not called.is_set()
        assert entries_in(path) == 0
        queue._lifetime.forked = False
    assert entries_in(path) == 1


def entries_in(path: Path) -> int:
    """Return how many entries would be replayed if the process died now."""
    file = JournalFile(
        str(path), entry_type="tests.support.items.Item", disk=Disk(), read_only=True
    )
    findings = file.open()
    file.close()
    return findings.entries


def test_a_type_that_can_not_be_decoded_is_named_with_its_field(tmp_path: Path) -> None:
    kind = dataclasses.make_dataclass("Odd", [("fine", int), ("value", list[int] | set[int])])
    with pytest.raises(TypeError, match="field 'value' of Odd"):
        open_journal(tmp_path / "journal", entry_type=kind)
