"""A queue whose journal's volume is full: nothing acknowledged is lost, and it heals by itself."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Literal

import pytest
import trio

from provcache_trio import (
    DrainTimeoutError,
    JournalError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryRepository

from tests.support.disks import BLOCK_BYTES, PATH, Inode, ModelDisk, fail_at, no_fault
from tests.support.items import Item
from tests.support.model_journals import in_virtual_thread, journal_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from provcache_trio import WriteBehindQueue
    from provcache_trio.journal import FileJournal

Store = Literal["up", "down", "back"]
Next = Literal["same life", "restart", "kill"]

OPTIONS: Final = WriteBehindOptions(
    batch_size=4,
    flush_interval_seconds=0.01,
    retry_cap_seconds=0.5,
    drain_timeout_seconds=0.2,
    writers=2,
)
both = pytest.mark.parametrize("always", [False, True], ids=["interval", "always"])


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provcache_trio.journal._journal.in_thread", in_virtual_thread)


def big(number: int) -> Item:
    return Item(f"{number} {'x' * 500}", number)


class Life:
    """What callers and readiness probes were told."""

    def __init__(self, disk: ModelDisk, *, always: bool) -> None:
        self.disk = disk
        self.always = always
        self.store = MemoryRepository[Item]()
        self.safe: set[Item] = set()
        self.count = 0

    def open(self) -> FileJournal[Item]:
        _, journal = journal_on(self.disk, always=self.always)
        return journal

    async def enqueue(self, queue: WriteBehindQueue[Item], many: int) -> None:
        for _ in range(many):
            self.count += 1
            item = big(self.count)
            try:
                await queue.enqueue(item)
            except JournalError:
                assert self.always
                continue
            if self.always:
                self.safe.add(item)
        if not self.always:
            await trio.sleep(0.3)
            if queue.metrics().durable:
                self.safe |= {big(number) for number in range(1, self.count + 1)}

    async def see_it_heal(self, queue: WriteBehindQueue[Item]) -> None:
        with trio.fail_after(3):
            while not queue.metrics().durable:  # noqa: ASYNC110  # nothing is told
                await trio.sleep(0.01)
        calls = self.disk.operations
        await trio.sleep(60)
        assert self.disk.operations - calls < 300, "a busy loop"


async def first_life(life: Life, blocks: int, store: Store, then: Next) -> ModelDisk:
    """Return what a kill just before the end would leave."""
    async with open_write_behind_queue(life.store, OPTIONS, journal=life.open()) as queue:
        await life.enqueue(queue, 10)
        life.disk.fill_up()  # somebody else's data
        calls = life.disk.operations
        await life.enqueue(queue, 10)
        await trio.sleep(20)
        assert life.disk.operations - calls < 400, "a busy loop"
        if store == "back":
            life.store.up()
            await queue.flush()
            with trio.fail_after(3):
                # Without any room, unless there is no file yet.
                while blocks and not queue.metrics().durable:  # noqa: ASYNC110  # likewise
                    await trio.sleep(0.01)
        if then == "same life":
            life.disk.foreign, life.disk.capacity = 0, None
            await life.see_it_heal(queue)
            await life.enqueue(queue, 3)
            assert queue.metrics().durable
        return life.disk.crash()


async def run(blocks: int, always: bool, store: Store, then: Next) -> None:
    life = Life(ModelDisk(blocks * BLOCK_BYTES), always=always)
    if store != "up":
        life.store.down()
    handed_back: set[object] | None = None
    try:
        left_over = await first_life(life, blocks, store, then)
    except DrainTimeoutError as error:  # neither store nor journal had room for it
        handed_back = set(error.undelivered)
        left_over = life.disk.crash()
    if handed_back is not None:
        assert (store, then) in {("down", "restart"), ("down", "kill")}
        assert life.safe <= handed_back
    if then == "kill":
        life.disk = left_over
        rows, life.store = life.store.rows, MemoryRepository[Item]()
        life.store.rows.update(rows)
    life.store.up()
    # The start is not refused though the volume is still full.
    async with open_write_behind_queue(life.store, OPTIONS, journal=life.open()) as queue:
        await queue.flush()
        life.disk.foreign, life.disk.capacity = 0, None
        await life.see_it_heal(queue)
    assert life.safe <= set(life.store.rows.values())
    if PATH in life.disk.names:
        assert len(life.disk.names[PATH].data) < 400


@pytest.mark.two_pythons
@both
@pytest.mark.parametrize("store", ["up", "down", "back"])
@pytest.mark.parametrize("then", ["same life", "restart", "kill"])
async def test_a_volume_that_fills_at_any_point_costs_nothing_that_was_acknowledged(
    autojump_clock: MockClock, *, always: bool, store: Store, then: Next
) -> None:
    for blocks in range(6):
        try:
            await run(blocks, always, store, then)
        except Exception as error:
            error.add_note(f"{blocks} blocks")
            raise


class BrimfulDisk(ModelDisk):
    """A disk on which, once it is full, not even the last block of a file has room."""

    is_full = False

    def _room_in(self, inode: Inode) -> int:
        return 0 if self.is_full else super()._room_in(inode)


async def test_a_journal_of_which_all_is_settled_heals_though_not_a_byte_can_be_written(
    autojump_clock: MockClock,
) -> None:
    disk = BrimfulDisk()
    life = Life(disk, always=False)
    life.store.down()
    async with open_write_behind_queue(life.store, OPTIONS, journal=life.open()) as queue:
        await life.enqueue(queue, 10)
        assert queue.metrics().durable
        disk.is_full = True
        await life.enqueue(queue, 5)
        assert not queue.metrics().durable
        life.store.up()
        await queue.flush()
        with trio.fail_after(3):
            while not queue.metrics().durable:  # noqa: ASYNC110  # nothing is told
                await trio.sleep(0.01)
    assert len(life.store.rows) == 15


@both
async def test_a_journal_becomes_small_within_a_second_after_an_outage(
    autojump_clock: MockClock, *, always: bool
) -> None:
    disk = ModelDisk()
    store = MemoryRepository[Item]()
    store.down()
    _, journal = journal_on(disk, always=always)
    options = WriteBehindOptions(batch_size=500, retry_cap_seconds=0.5)
    async with open_write_behind_queue(store, options, journal=journal) as queue:
        if always:
            async with trio.open_nursery() as nursery:
                for number in range(4000):
                    nursery.start_soon(queue.enqueue, Item(f"{number} {'x' * 2000}"))
        else:
            await queue.enqueue_many(Item(f"{n} {'x' * 2000}") for n in range(4000))
            await trio.sleep(1)
        assert len(disk.names[PATH].data) > 8_000_000
        store.up()
        await queue.flush()
        await trio.sleep(1)
        assert len(disk.names[PATH].data) <= 4 * 2**20


@both
async def test_durable_is_false_while_a_sync_takes_too_long(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, *, always: bool
) -> None:
    disk, store = ModelDisk(), MemoryRepository[Item]()
    store.down()
    _, journal = journal_on(disk, always=always)

    async def slow(work: Callable[[], object], _: object) -> object:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)
        return work()

    options = WriteBehindOptions(drain_timeout_seconds=0)
    async with (
        open_write_behind_queue(store, options, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        monkeypatch.setattr("provcache_trio.journal._journal.in_thread", slow)
        nursery.start_soon(queue.enqueue, Item("a"))
        await trio.sleep(4)
        assert queue.metrics().durable
        await trio.sleep(2)
        assert not queue.metrics().durable
        await trio.sleep(20)
        assert queue.metrics().durable
        if not always:
            await queue.enqueue(Item("b"))
            await trio.sleep(0.2)
            await queue.enqueue(Item("c"))  # waits behind the write of b
            await trio.sleep(1)
            assert not queue.metrics().durable
            await trio.sleep(50)
            assert queue.metrics().durable
        monkeypatch.setattr("provcache_trio.journal._journal.in_thread", in_virtual_thread)


async def test_what_fails_is_tried_again_less_and_less_often_and_then_once_a_second(
    autojump_clock: MockClock,
) -> None:
    disk, store = ModelDisk(), MemoryRepository[Item]()
    store.down()
    _, journal = journal_on(disk, always=False)
    async with open_write_behind_queue(store, OPTIONS, journal=journal) as queue:
        at: list[float] = []

        def fault(name: str, number: int) -> None:
            at.append(trio.current_time())
            fail_at(number, errno.EIO)(name, number)

        disk.fault = fault
        await queue.enqueue(Item("a"))
        await trio.sleep(30)
        assert 25 < len(at) < 120
        disk.fault = no_fault
        await trio.sleep(1.5)
        assert queue.metrics().durable


async def test_the_disk_is_left_alone_while_a_store_is_away(autojump_clock: MockClock) -> None:
    disk, store = ModelDisk(), MemoryRepository[Item]()
    store.down()
    _, journal = journal_on(disk, always=False)
    async with open_write_behind_queue(store, OPTIONS, journal=journal) as queue:
        await queue.enqueue_many(map(big, range(1000)))
        await trio.sleep(5)
        before = disk.operations
        await trio.sleep(600)
        assert disk.operations == before
        store.up()
        await queue.flush()
