"""Power cuts, crashes, a failing disk: what a journal made safe reaches the store.

A machine plays the life of a program that is killed and started again: with each start there
is a new queue, on what the disk kept. It believes callers (who was told that an entry is
accepted), the clock (how long ago that was) and the journal's ``durable``; the rest it looks up
in store, dead letters and at the end.
"""

from __future__ import annotations

import errno
import functools
import logging
import random
from typing import TYPE_CHECKING, Final

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    JournalError,
    QueueClosedError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.journal import FileJournal, _journal
from provcache_trio.journal._documents import Documents
from provcache_trio.journal._file import JournalFile
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.disks import BLOCK_BYTES, PATH, ModelDisk, no_fault
from tests.support.items import Item, balance
from tests.support.machine import TrioMachine, in_loop
from tests.support.model_journals import DISK_SECONDS, INTERVAL, in_virtual_thread

if TYPE_CHECKING:
    from provcache_trio import WriteBehindQueue


KEYS: Final = "abcd"
WINDOW: Final = INTERVAL + 3 * 2 * DISK_SECONDS + 1e-6

some_key = st.sampled_from(KEYS)
some_options = st.builds(
    WriteBehindOptions,
    queue_capacity=st.integers(1, 8),
    batch_size=st.integers(1, 4),
    flush_interval_seconds=st.sampled_from([0.5, 0.01, 0]),
    max_retries=st.just(1),
    retry_cap_seconds=st.just(1),
    drain_timeout_seconds=st.sampled_from([0, 5]),
    coalesce=st.booleans(),
    writers=st.integers(1, 3),
)
some_capacity = st.sampled_from([None, 2, 3, 5])  # blocks


class Life:
    """One process: a queue, and what only it holds."""

    def __init__(
        self,
        disk: ModelDisk,
        rows: dict[object, Item],
        sink: MemoryDeadLetters[Item],
        *,
        always: bool,
    ) -> None:
        self.disk = disk
        self.always = always
        self.store = MemoryRepository[Item](latency_seconds=0.003)
        self.store.rows.update(rows)
        self.sink = MemoryDeadLetters[Item]()
        self.sink.letters += sink.letters
        self.scope = trio.CancelScope()
        self.leave = trio.Event()
        self.left = trio.Event()
        self.over = False  # killed: what its callers are told does not count any more
        self.queue: WriteBehindQueue[Item]


class JournalMachine(TrioMachine):
    """A program that is killed and started again."""

    @initialize(
        seed=st.integers(0, 2**16),
        options=some_options,
        always=st.booleans(),
        more=st.booleans(),
        blocks=some_capacity,
    )
    def begin(
        self, seed: int, options: WriteBehindOptions, always: bool, more: bool, blocks: int | None
    ) -> None:
        self.options = options
        self.always = always
        self.dice = random.Random(seed)  # noqa: S311  # no secret
        self.version = 0
        self.rank: dict[Item, int] = {}  # in the order in which keys were read
        self.accepted: dict[Item, float] = {}  # when its caller was told
        self.safe: set[Item] = set()  # has to be somewhere in the end
        self.offered: set[Item] = set()
        self.trouble_at = -1.0  # when the disk last failed or was not durable
        self.rejections_matter = more
        self.boot(seed)
        disk = ModelDisk(None if blocks is None else blocks * BLOCK_BYTES)
        self.do(functools.partial(self.start, disk, {}, MemoryDeadLetters[Item]()))

    async def start(
        self,
        disk: ModelDisk,
        rows: dict[object, Item],
        sink: MemoryDeadLetters[Item],
        power_cut: bool = False,
    ) -> None:
        self.life = Life(disk, rows, sink, always=self.always)
        await self.nursery.start(self.live, self.life, power_cut)

    async def live(  # noqa: ASYNC114  # its nursery lives as long as the machine
        self,
        life: Life,
        power_cut: bool,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        file = JournalFile(PATH, entry_type="Item", disk=life.disk)
        findings = file.open()
        # A power cut may leave a later record that was never acknowledged, without those before.
        assert not findings.missing or power_cut, "something that was written is missing"
        journal = FileJournal(
            file, Documents(Item), always=self.always, sync_interval_seconds=INTERVAL
        )
        journal.begin(findings)
        with life.scope:
            try:
                async with open_write_behind_queue(
                    life.store,
                    self.options,
                    key=self.key,
                    dead_letters=life.sink,
                    journal=journal,
                ) as life.queue:
                    task_status.started()
                    await life.leave.wait()
            except WriteBehindCrashedError as error:
                self.given_back(life, error.undelivered)
            except DrainTimeoutError as error:
                assert self.trouble_at >= 0, "the journal could have kept it"
                self.given_back(life, error.undelivered)
            finally:
                file.close()
                life.left.set()

    def given_back(self, life: Life, undelivered: tuple[object, ...]) -> None:
        if not life.over:
            self.safe.difference_update(undelivered)
            self.accepted.clear()

    def key(self, item: Item) -> str:
        self.rank.setdefault(item, len(self.rank))
        return item.veri_key

    def check(self) -> None:
        if hasattr(self, "life") and hasattr(self.life, "queue"):
            metrics = self.life.queue.metrics()
            assert balance(metrics) == 0
            assert metrics.current_queue_depth <= self.options.queue_capacity
            assert metrics.current_queue_depth == sum(
                len(batch.entries)
                for line in self.life.queue._lanes.lines
                for batch in line.batches
            )
            if not metrics.durable:
                self.trouble_at = trio.current_time()

    # Callers

    def make(self, key: str) -> Item:
        self.version += 1
        item = Item(key, self.version)
        self.offered.add(item)
        return item

    def told(self, life: Life, item: Item) -> None:
        if not life.over:
            self.accepted[item] = trio.current_time()
            if life.always:
                self.safe.add(item)

    @rule(keys=st.lists(some_key, min_size=1, max_size=8), patience=st.sampled_from([9e9, 0.003]))
    @in_loop
    async def enqueue(self, keys: list[str], patience: float) -> None:
        for key in keys:
            self.nursery.start_soon(self.call, self.life, self.make(key), patience, "enqueue")

    @rule(key=some_key, patience=st.sampled_from([9e9, 0.003]))
    @in_loop
    async def persist(self, key: str, patience: float) -> None:
        self.nursery.start_soon(self.call, self.life, self.make(key), patience, "persist")

    async def call(self, life: Life, item: Item, patience: float, method: str) -> None:
        with trio.move_on_after(patience):
            try:
                await getattr(life.queue, method)(item)
            except JournalError:
                assert life.always
                assert self.trouble_at >= 0, "nothing was wrong with the disk"
            except EntryRejectedError:
                self.told(life, item)
            except QueueClosedError:
                pass
            else:
                self.told(life, item)

    @rule(key=some_key)
    @in_loop
    async def enqueue_nowait(self, key: str) -> None:
        item = self.make(key)
        try:
            self.life.queue.enqueue_nowait(item)
        except trio.WouldBlock:
            assert not self.always
        except RuntimeError:
            assert self.always
        else:
            self.told(self.life, item)

    # Time and faults

    @rule(seconds=st.sampled_from([0.001, 0.003, 0.01, 0.06, 0.2, 3]))
    @in_loop
    async def time_passes(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @rule(what=st.sampled_from(["down", "lose_next_answer", "crash_next"]))
    @in_loop
    async def store_breaks(self, what: str) -> None:
        getattr(self.life.store, what)()

    @precondition(lambda self: self.rejections_matter)
    @rule(keys=st.sampled_from(["a", "ab"]))
    @in_loop
    async def keys_turn_to_poison(self, keys: str) -> None:
        self.life.store.reject(*keys)
        self.life.sink.down()

    @rule()
    @in_loop
    async def store_works(self) -> None:
        self.life.store.up()
        self.life.sink.up()
        self.life.store.accept(*KEYS)

    @rule(
        code=st.sampled_from([errno.EIO, errno.ENOSPC]),
        short=st.booleans(),
        in_how_many=st.integers(1, 4),
        for_good=st.booleans(),
    )
    @in_loop
    async def disk_fails(self, code: int, short: bool, in_how_many: int, for_good: bool) -> None:
        disk = self.life.disk
        at = disk.operations + in_how_many
        disk.short = short

        def fault(_: str, number: int) -> None:
            if number >= at if for_good else number == at:
                self.trouble_at = trio.current_time()
                raise OSError(code, "as the test asked")

        disk.fault = fault

    @rule()
    @in_loop
    async def others_fill_the_disk(self) -> None:
        if self.life.disk.capacity is not None:
            self.life.disk.fill_up()
            self.trouble_at = trio.current_time()

    @rule()
    @in_loop
    async def disk_is_another_one(self) -> None:
        self.life.disk.names.pop(PATH, None)
        self.trouble_at = trio.current_time()
        self.safe.clear()  # whoever removes it takes what it held
        self.accepted.clear()

    @rule()
    @in_loop
    async def disk_works(self) -> None:
        self.mend_disk()

    def mend_disk(self) -> None:
        self.life.disk.fault = no_fault
        self.life.disk.short = False
        self.life.disk.foreign = 0

    # Ends

    def note_what_is_safe(self) -> None:
        now = trio.current_time()
        for item, at in self.accepted.items():
            if not self.always and self.trouble_at < at and now - at > WINDOW:
                self.safe.add(item)
        self.accepted.clear()

    async def end(self, life: Life) -> None:
        """Let the old one go, which has nothing to say any more."""
        life.over = True
        life.disk.fault = no_fault
        life.scope.cancel()
        await life.left.wait()

    @rule(power=st.booleans(), options=some_options, always=st.booleans())
    @in_loop
    async def it_is_killed(self, power: bool, options: WriteBehindOptions, always: bool) -> None:
        life = self.life
        self.note_what_is_safe()
        disk = life.disk.cut_power(self.dice) if power else life.disk.crash()
        rows, sink = dict(life.store.rows), MemoryDeadLetters[Item]()
        sink.letters += life.sink.letters
        await self.end(life)
        self.options, self.always = options, always
        await self.start(disk, rows, sink, power)

    @rule(options=some_options, always=st.booleans())
    @in_loop
    async def it_is_left_and_started_again(self, options: WriteBehindOptions, always: bool) -> None:
        life = self.life
        began_at = trio.current_time()
        life.leave.set()
        await life.left.wait()
        took = trio.current_time() - began_at
        assert took <= self.options.drain_timeout_seconds + 10 * DISK_SECONDS
        if life.queue.undelivered and self.trouble_at < began_at - 1:
            self.safe.update(set(life.queue.undelivered) & self.accepted.keys())
        if life.queue.metrics().durable and self.trouble_at < began_at - 1:
            self.safe.update(self.accepted)
        self.accepted.clear()
        self.mend_disk()
        self.options, self.always = options, always
        await self.start(life.disk, dict(life.store.rows), life.sink)

    async def finish(self) -> None:
        """Let everything work; then what was safe is there, and the journal is empty."""
        life = self.life
        life.store.up()
        life.sink.up()
        life.store.accept(*KEYS)
        life.store._failures.clear()
        self.mend_disk()
        life.disk.capacity = None
        while life.queue.metrics().recovering:  # noqa: ASYNC110  # on the virtual clock
            await trio.sleep(1)
        await trio.sleep(60)
        await life.queue.flush()
        ends = {*life.store.rows.values(), *(letter.entry for letter in life.sink.letters)}
        assert ends <= self.offered
        for item in self.safe:
            newest = max(
                (self.rank[end] for end in ends if end.veri_key == item.veri_key), default=-1
            )
            assert self.rank[item] <= newest, f"{item} is lost"
        life.leave.set()
        await life.left.wait()
        assert life.queue.metrics().durable
        file = JournalFile(PATH, entry_type="Item", disk=life.disk)
        findings = file.open()
        assert findings.entries == 0
        assert findings.flawless

    async def release(self) -> None:
        self.life.scope.cancel()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep log records from pytest, and threads from the virtual clock."""
    monkeypatch.setattr(logging.getLogger("provcache_trio"), "propagate", False)
    monkeypatch.setattr(_journal, "in_thread", in_virtual_thread)
    # So that it is made smaller now and then.
    monkeypatch.setattr("provcache_trio.journal._file._GROWTH_BYTES", 600)


@pytest.mark.heavy
def test_what_a_journal_made_safe_reaches_the_store_whatever_happens() -> None:
    run_state_machine_as_test(JournalMachine, settings=settings(stateful_step_count=30))
