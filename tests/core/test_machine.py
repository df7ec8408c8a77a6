"""Whatever happens, every entry is accounted for at every step: the whole queue as a machine.

The rules are everything that callers, time and faults do to a queue; ``Witness`` checks
every step, each call's promise is checked as it returns, and the exit at the end.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import TYPE_CHECKING, Any, Final, Literal

import hypothesis.strategies as st
import msgspec
import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    JournalError,
    QueueClosedError,
    Table,
    TransientStoreError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item
from tests.support.journals import MemoryJournal
from tests.support.machine import TrioMachine, in_loop
from tests.support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from provcache_trio import DeadLetter, WriteBehindQueue
    from provcache_trio._core.batch import Batch
    from provcache_trio._core.line import Line

    from tests.support.journals import Failure

KEYS: Final = "abcdef"
EPSILON_SECONDS: Final = 1e-6
ENOUGH_SECONDS: Final = 4.5  # to drain: one backoff, one restart and every call of the store
REPLAY_SECONDS: Final = 3.0  # to read and write what a journal holds

some_key = st.sampled_from(KEYS)
some_keys = st.lists(some_key, min_size=1, max_size=24)
some_options = st.builds(
    WriteBehindOptions,
    queue_capacity=st.integers(1, 8),
    batch_size=st.integers(1, 4),
    flush_interval_seconds=st.sampled_from([0.5, 0.5, 0]),
    max_retries=st.sampled_from([0, 1, 3, None]),
    retry_cap_seconds=st.just(600),
    drain_timeout_seconds=st.sampled_from([0, 5, 20]),
    coalesce=st.booleans(),
    writers=st.sampled_from([1, 1, 2, 4]),
)
some_exit = st.sampled_from(["body ends", "body raises", "cancelled"])
some_patience = st.sampled_from([math.inf, math.inf, 1, 0])


class Sink(MemoryDeadLetters[Item]):
    """A dead letter sink that tells the witness what it acknowledged."""

    witness: Witness

    async def put_many(self, letters: Sequence[DeadLetter[Item]], /) -> None:
        await super().put_many(letters)
        self.witness.dead.update(letter.entry for letter in letters)


class QueueMachine(TrioMachine):
    """One queue, its callers, its store and its sink."""

    @initialize(
        seed=st.integers(0, 2**16),
        options=some_options,
        latency=st.sampled_from([0, 0, 0.1]),
        with_index=st.booleans(),
        with_sink=st.sampled_from([True, True, False]),
        with_journal=st.sampled_from([None, None, "interval", "always"]),
        disk_seconds=st.sampled_from([0, 0.02]),
        held_keys=st.lists(some_key, max_size=12),
        beginning=st.sampled_from(["trouble", "peace", "poison"]),
        first_keys=st.lists(some_key, max_size=30),
        at_the_end=st.tuples(some_exit, st.booleans()),
        with_table=st.booleans(),
    )
    def open_queue(
        self,
        seed: int,
        options: WriteBehindOptions,
        latency: float,
        with_index: bool,
        with_sink: bool,
        with_journal: str | None,
        disk_seconds: float,
        held_keys: list[str],
        beginning: str,
        first_keys: list[str],
        at_the_end: tuple[str, bool],
        with_table: bool,
    ) -> None:
        self.options = self.widened(options)
        self.with_sink = with_sink
        self.in_peace = beginning == "peace"  # no fault ever comes, so promptness is seen
        self.plan_store(latency, with_index, with_table)
        self.at_the_end = at_the_end
        self.version = 0
        self.plan_journal(self.kind_of(with_journal), disk_seconds, held_keys)
        self.rejections: list[EntryRejectedError] = []
        self.calls: list[trio.CancelScope] = []
        self.calm = True  # nothing has ever gone wrong
        self.writer_free_at: dict[Line[Item], float] = {}  # while it is busy: now
        self.full_at: dict[Batch[Item], float] = {}
        self.healed_since: float | None = None
        self.crashing: str | None = None  # the task that crashes next
        self.leaving: str | None = None  # the exit's name
        self.leaving_at = math.inf
        self.left_at = math.inf
        self.body_error = ValueError("the body failed")
        self.exit_error: BaseException | None = None
        if beginning == "poison":  # many refusals in a row are rare otherwise
            self.trouble()
            self.store.reject(*KEYS)
            self.sink.down()
        logger = logging.getLogger("provcache_trio")
        logger.addHandler(self.witness)
        self.boot(seed)
        self.do(functools.partial(self.begin, first_keys))

    @staticmethod
    def widened(options: WriteBehindOptions) -> WriteBehindOptions:
        return options

    @staticmethod
    def kind_of(journal: str | None) -> str | None:
        return journal

    def plan_store(self, latency: float, with_index: bool, with_table: bool) -> None:
        self.store = MemoryRepository[Item](latency_seconds=latency, reject_with_index=with_index)
        self.sink = Sink()
        self.witness = Witness(self.store, self.options, KEYS)
        self.sink.witness = self.witness
        if with_table:
            self.store.table = self.watched_table()

    def plan_journal(self, kind: str | None, disk_seconds: float, held_keys: list[str]) -> None:
        self.with_journal = kind is not None
        self.always = kind == "always"
        self.journal: MemoryJournal[Item] | None = None
        self.disk_seconds = disk_seconds
        self.disk_failed = False
        self.held_keys = held_keys if self.with_journal else []

    async def begin(self, first_keys: list[str]) -> None:
        self.leave_now = trio.Event()
        self.left = trio.Event()
        if self.with_journal:
            holds = {number: self.make(key) for number, key in enumerate(self.held_keys, 1)}
            for item in holds.values():
                self.witness.note_held(item)
            self.journal = MemoryJournal(
                holds=holds, always=self.always, latency_seconds=self.disk_seconds
            )
            self.journal.sync_interval_seconds = 0.5  # an hour must not take too many steps
        self.queue: WriteBehindQueue[Item] = await self.nursery.start(self.use_queue)
        self.witness.queue = self.queue
        self.queue._lifetime.clock = self.read_clock
        self.bring(list(map(self.make, first_keys)))
        if self.store._rejected:
            await trio.sleep(1)

    def bring(self, first_items: list[Item]) -> None:
        self.call(self.call_enqueue_many, math.inf, first_items)

    async def use_queue(  # noqa: ASYNC114  # its nursery lives as long as the machine
        self, task_status: trio.TaskStatus[WriteBehindQueue[Item]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.CancelScope() as self.surroundings:
            try:
                async with open_write_behind_queue(
                    self.store,
                    self.options,
                    **self.key_and_merge(),
                    dead_letters=self.sink if self.with_sink else None,
                    journal=self.journal,
                ) as queue:
                    task_status.started(queue)
                    await self.leave_now.wait()
                    if self.leaving == "body raises":
                        raise self.body_error  # noqa: TRY301  # what is tested
            except BaseException as error:  # noqa: ASYNC103  # only Cancelled has to go on
                self.exit_error = error
                if isinstance(error, trio.Cancelled):
                    raise
            finally:
                self.left_at = trio.current_time()
                self.left.set()

    def watched_table(self) -> Table[Item]:
        """Return a table that tells the witness of the keys and merges that the queue asks for."""
        table = Table(Item, "item", key="veri_key")
        real_merge = table.merge

        def merge(old: Item, new: Item) -> Item:
            assert real_merge(old, new) is new
            return self.witness.merge(old, new)

        table.key = self.witness.key
        table.merge = merge  # type: ignore[method-assign,assignment]  # as a method is called
        return table

    def key_and_merge(self) -> dict[str, Any]:
        """Return what the queue is told, if its repository has no table that says it."""
        if self.store.table is not None:
            return {}
        return {"key": self.witness.key, "merge": self.witness.merge}

    def read_clock(self) -> float:
        """Be trio's clock for the queue's own tasks, and crash one of them on request."""
        name = trio.lowlevel.current_task().name
        if self.crashing == name and not self.witness.looking:
            self.crashing = None
            raise RuntimeError(f"crash of the {name}, as the test asked")
        return trio.current_time()

    def check(self) -> None:
        self.witness.look()
        queue = self.witness.queue
        if queue is None:
            return
        if self.calm:
            self.check_promptness()
        if queue._room.door_is_open and queue._room.producers:
            self.check_door(queue)

    def check_door(self, queue: WriteBehindQueue[Item]) -> None:
        """Nobody waits in vain, and what is in the way of those who wait is written."""
        assert queue._ledger.depth >= self.options.queue_capacity, "there is room, and they wait"
        in_line = [line.holder(key) for line in queue._lanes.lines for key in KEYS]
        keys = {key for batch in in_line if batch is not None for key in batch.entries}
        waiting = {producer.key for producer in queue._room.producers}
        assert not waiting & keys, "somebody waits whose key is in line"
        heads = [line.batches[0] for line in queue._lanes.lines if line.batches]
        assert all(head.due for head in heads), "they wait, and a head is not due"

    def check_promptness(self) -> None:
        """Nothing that is due waits for anything but the writer."""
        now = trio.current_time()
        for line in self.queue._lanes.lines:
            if line.writing is not None:
                self.writer_free_at[line] = now
            elif line.batches:
                head = line.batches[0]
                due_at = head.opened_at + self.options.flush_interval_seconds
                if len(head.entries) == self.options.batch_size:
                    due_at = min(due_at, self.full_at.setdefault(head, now))
                latest = max(due_at, self.writer_free_at.get(line, 0.0)) + EPSILON_SECONDS
                assert now <= latest, "a batch is overdue and the writer is free"

    def make(self, key: str) -> Item:
        self.version += 1
        return Item(key, self.version)

    def call(
        self, method: Callable[..., Awaitable[None]], patience: float, *arguments: object
    ) -> None:
        """Start a task that calls the queue and checks what it was promised."""
        scope = trio.CancelScope()

        async def in_scope() -> None:
            with scope:
                scope.deadline = trio.current_time() + patience
                await method(*arguments)

        self.calls.append(scope)
        self.nursery.start_soon(in_scope, name=method.__name__)

    # Callers

    @rule(key=some_key, patience=some_patience)
    @in_loop
    async def enqueue(self, key: str, patience: float) -> None:
        self.call(self.call_enqueue, patience, self.make(key))

    async def call_enqueue(self, item: Item) -> None:
        try:
            await self.queue.enqueue(item)
        except QueueClosedError:
            self.witness.turned_away.add(item)
            assert self.queue._lifetime.closing.is_set()
        except JournalError:
            self.check_journal_error(item)
        except trio.Cancelled:
            self.note_cancelled(item)
            raise
        else:
            self.witness.accepted.add(item)

    def check_journal_error(self, item: Item) -> None:
        assert self.always
        assert self.disk_failed or self.witness.crashes
        self.witness.turned_away.add(item)

    def note_cancelled(self, *items: Item) -> None:
        """Note what leaves no trace, unless the disk was writing it."""
        if not self.always:
            self.witness.turned_away.update(items)

    @rule(keys=st.lists(some_key, min_size=1, max_size=4))
    @in_loop
    async def enqueue_nowait(self, keys: list[str]) -> None:
        for key in keys:
            item = self.make(key)
            self.look()
            metrics = self.queue.metrics()
            full = metrics.current_queue_depth >= self.options.queue_capacity
            has_place = self.options.coalesce and any(
                key in batch.entries for line in self.queue._lanes.lines for batch in line.batches
            )
            expect_room = has_place or not (full or metrics.producers_waiting)
            if metrics.recovering:
                expect_room = False
            try:
                self.queue.enqueue_nowait(item)
            except trio.WouldBlock:
                assert not expect_room
                self.witness.turned_away.add(item)
            except QueueClosedError:
                assert self.queue._lifetime.closing.is_set()
                self.witness.turned_away.add(item)
            except RuntimeError:
                assert self.always
                self.witness.turned_away.add(item)
            else:
                assert expect_room
                self.witness.accepted.add(item)

    @rule(keys=some_keys, patience=some_patience)
    @in_loop
    async def enqueue_many(self, keys: list[str], patience: float) -> None:
        self.call(self.call_enqueue_many, patience, [self.make(key) for key in keys])

    async def call_enqueue_many(self, items: list[Item]) -> None:
        taken: list[Item] = []

        def one_by_one() -> Iterator[Item]:
            for item in items:
                self.witness.accepted.update(taken)  # it wants another, so it has those
                taken.append(item)
                yield item

        try:
            accepted = await self.queue.enqueue_many(one_by_one())
        except QueueClosedError as error:
            accepted = error.accepted or 0
            assert self.queue._lifetime.closing.is_set()
            self.witness.turned_away.update(items[accepted:])
        except JournalError:
            self.check_journal_error(taken[-1])
            self.witness.turned_away.update(items[len(taken) :])
            return
        except trio.Cancelled:
            self.witness.turned_away.update(items[len(taken) :])
            raise
        else:
            assert accepted == len(items)
        self.witness.accepted.update(items[:accepted])

    @rule(key=some_key, callers=st.integers(1, 3), patience=some_patience)
    @in_loop
    async def persist(self, key: str, callers: int, patience: float) -> None:
        for _ in range(callers):
            self.call(self.call_persist, patience, self.make(key))

    async def call_persist(self, item: Item) -> None:
        asked_at = trio.current_time()
        witness = self.witness
        try:
            await self.queue.persist(item)
        except JournalError:
            self.check_journal_error(item)
            return
        except EntryRejectedError as error:
            self.note_rejection(error)
            self.look()
            last = witness.last_version(item)
            assert last in witness.dead | witness.posted, f"{last} is no dead letter"
            assert last not in witness.persisted
        except QueueClosedError:
            self.look()
            if item not in witness.seen:
                witness.turned_away.add(item)
            else:
                assert witness.last_version(item) in self.queue.undelivered
        else:
            self.look()
            assert witness.last_version(item) in witness.persisted, f"{item} is not stored"
        self.check_no_time_passed_since(asked_at)

    def check_no_time_passed_since(self, asked_at: float) -> None:
        """Whoever waits for a fate does not wait for the flush interval."""
        if self.calm and not self.store.latency_seconds and not self.with_journal:
            assert trio.current_time() == asked_at

    def note_rejection(self, error: EntryRejectedError) -> None:
        assert error not in self.rejections, "two callers got the same error object"
        self.rejections.append(error)

    @rule(patience=some_patience)
    @in_loop
    async def flush(self, patience: float) -> None:
        self.call(self.call_flush, patience)

    async def call_flush(self) -> None:
        asked_at = trio.current_time()
        witness = self.witness
        self.look()
        before = set(witness._unposted)
        if self.queue.metrics().recovering:
            before |= witness.held
        witness.note_flush()
        handed_back = False
        try:
            await self.queue.flush()
        except QueueClosedError:
            handed_back = True
            assert self.queue.undelivered or self.queue.metrics().recovering
        self.look()
        if not handed_back:
            assert before <= witness.seen, f"not replayed: {before - witness.seen}"
        still_open = before.intersection(witness._unposted)
        assert not still_open, f"flushed, but {still_open} are open"
        lost = set(map(witness.last_version, before)).intersection(self.queue.undelivered)
        assert handed_back or lost <= witness.posted
        self.check_no_time_passed_since(asked_at)

    @rule(which=st.integers(0, 20))
    @in_loop
    async def cancel_a_call(self, which: int) -> None:
        if self.calls:
            self.calls.pop(which % len(self.calls)).cancel()

    # Time

    @rule(steps=st.integers(1, 6))
    @in_loop
    async def let_tasks_run(self, steps: int) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()

    @rule()
    @in_loop
    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()

    @rule(seconds=st.sampled_from([0.05, 0.5, 2, 60, 3600]))
    @in_loop
    async def time_passes(self, seconds: float) -> None:
        await trio.sleep(seconds)

    # Faults

    def trouble(self) -> None:
        """Note that from here on nothing needs to be prompt."""
        self.calm = False
        self.healed_since = None

    @precondition(lambda self: not self.in_peace)
    @rule(what=st.sampled_from(["down", "stall", "lose_next_answer"]))
    @in_loop
    async def store_breaks(self, what: str) -> None:
        self.trouble()
        getattr(self.store, what)()

    @precondition(lambda self: not self.in_peace)
    @rule(
        error=st.sampled_from([TransientStoreError("deadlock"), KeyError("odd"), OSError("gone")]),
        times=st.integers(1, 5),
    )
    @in_loop
    async def store_fails(self, error: Exception, times: int) -> None:
        self.trouble()
        self.store.fail_next(error, times)

    @precondition(lambda self: not self.in_peace)
    @rule(times=st.integers(1, 4))
    @in_loop
    async def repository_crashes(self, times: int) -> None:
        self.trouble()
        self.store.crash_next(times)

    @precondition(lambda self: not self.in_peace)
    @rule(keys=st.sampled_from([KEYS, "abc", "a"]))
    @in_loop
    async def keys_turn_to_poison(self, keys: str) -> None:
        self.trouble()
        self.store.reject(*keys)

    @precondition(lambda self: self.with_sink and not self.in_peace)
    @rule(what=st.sampled_from(["down", "stall", "lose_next_answer", "crash_next"]))
    @in_loop
    async def sink_breaks(self, what: str) -> None:
        self.trouble()
        getattr(self.sink, what)()

    @precondition(lambda self: not self.in_peace)
    @rule(
        name=st.sampled_from(["batcher", "writer", "dead letters", "journal"]),
        lane=st.integers(1, 4),
    )
    @in_loop
    async def task_crashes(self, name: str, lane: int) -> None:
        self.trouble()
        several = name in {"batcher", "writer"} and len(self.queue._lanes.lines) > 1
        self.crashing = f"{name} {lane}" if several else name

    @precondition(lambda self: self.with_journal and not self.in_peace)
    @rule(
        times=st.sampled_from([1, 3, 10**9]),
        when=st.sampled_from(["before", "after"]),
        name=st.sampled_from(["append", "rewrite", "replay", ""]),
    )
    @in_loop
    async def disk_breaks(self, times: int, when: Literal["before", "after"], name: str) -> None:
        self.trouble()
        assert self.journal is not None
        left = iter(range(times))

        def fails(call: str) -> Failure:
            if name not in {"", call} or next(left, None) is None:
                return None
            self.disk_failed = True
            return when

        self.journal.fails = fails

    @precondition(lambda self: self.with_journal)
    @rule()
    @in_loop
    async def journal_is_overgrown(self) -> None:
        assert self.journal is not None
        self.journal.shrinks = True

    @precondition(lambda self: not self.calm)
    @rule(what=st.sampled_from(["store", "keys", "sink", "disk", "everything"]))
    @in_loop
    async def is_mended(self, what: str) -> None:
        match what:
            case "store":
                self.mend(self.store)
            case "keys":
                self.store.accept(*KEYS)
            case "sink":
                self.mend(self.sink)
            case "disk":
                self.mend_disk()
            case _:
                self.heal()

    def heal(self) -> None:
        self.mend(self.store)
        self.mend(self.sink)
        self.mend_disk()
        self.store.accept(*KEYS)
        self.crashing = None
        if self.healed_since is None:
            self.healed_since = trio.current_time()

    def mend_disk(self) -> None:
        if self.journal is not None:
            self.journal.fails = lambda _: None

    @staticmethod
    def mend(stand_in: MemoryRepository[Item] | Sink) -> None:
        stand_in.up()
        stand_in.resume()
        stand_in._failures.clear()

    # Exits

    @precondition(lambda self: self.version > 20 and self.leaving is None)
    @rule(how=some_exit)
    @in_loop
    async def leave(self, how: str) -> None:
        self.start_leaving(how)

    @precondition(lambda self: self.leaving is not None)
    @rule()
    @in_loop
    async def surroundings_are_cancelled(self) -> None:
        self.surroundings.cancel()

    def start_leaving(self, how: str) -> None:
        self.leaving = how
        self.leaving_at = trio.current_time()
        if how == "cancelled":
            self.surroundings.cancel()
        else:
            self.leave_now.set()

    async def finish(self) -> None:
        how, healed = self.at_the_end
        if healed:
            self.heal()
        if self.leaving is None:
            self.start_leaving(how)
        # Longer, so that a drain without a deadline is seen as such.
        with trio.move_on_after(self.options.drain_timeout_seconds + 1):
            await self.left.wait()
        assert self.left_at - self.leaving_at <= (
            self.options.drain_timeout_seconds + self.end_seconds
        ), "the exit took longer than it may"
        await trio.testing.wait_all_tasks_blocked()
        assert not self.nursery.child_tasks, f"left over: {self.nursery.child_tasks}"
        self.look()
        self.witness.check_end()
        self.check_exit()

    @property
    def end_seconds(self) -> float:
        """How long the journal's write under way and its last one take; each may rewrite it first."""
        return EPSILON_SECONDS + 4 * self.disk_seconds

    def check_journal(self) -> bool:
        """Check what the journal holds at the end; return whether that is all that is left."""
        if self.journal is None:
            return False
        undelivered = self.queue.undelivered
        held = set(self.journal.rows.values())
        unread = self.witness.held - self.witness.seen
        assert unread <= held, f"not replayed, and gone: {unread - held}"
        assert bool(unread) <= self.queue.metrics().recovering
        recorder = self.queue._recorder
        assert recorder is not None
        if recorder.kept:
            assert held.issuperset(undelivered), f"not kept: {set(undelivered) - held}"
        else:
            assert self.disk_failed
        if not (undelivered or unread or self.disk_failed):
            assert not held, f"settled, and yet held: {held}"
        return recorder.kept

    def check_exit(self) -> None:
        """Check what the caller saw, and that what could be written was."""
        undelivered = self.queue.undelivered
        error = self.exit_error
        kept = self.check_journal()
        if self.witness.has_to_give_up:
            assert isinstance(error, WriteBehindCrashedError)
            assert error.undelivered == undelivered
            assert self.left_at <= self.witness.last_crash_at + self.end_seconds
            return
        drain_ends_at = self.leaving_at + self.options.drain_timeout_seconds
        worked_since = math.inf
        if self.healed_since is not None:
            worked_since = max(self.leaving_at, self.healed_since)
        enough = ENOUGH_SECONDS + (REPLAY_SECONDS if self.with_journal else 0)
        if worked_since + enough <= drain_ends_at:
            assert not undelivered, "the store worked, and yet not everything was written"
            assert not self.queue.metrics().recovering, "nor was everything replayed"
            took = self.left_at - worked_since
            assert took <= enough, "the exit waited though nothing was left"
        if self.leaving == "body raises" and not isinstance(error, trio.Cancelled):
            assert error is self.body_error
            assert bool(getattr(error, "__notes__", [])) == bool(undelivered and not kept)
        elif undelivered and not kept:
            assert isinstance(error, DrainTimeoutError)
            assert error.undelivered == undelivered
        elif self.leaving == "body ends":
            assert error is None
        else:
            assert isinstance(error, trio.Cancelled)

    async def release(self) -> None:
        self.heal()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            logging.getLogger("provcache_trio").removeHandler(self.witness)


class LanesWithJournalMachine(QueueMachine):
    """The same with several writers and a journal, which otherwise rarely meet."""

    @staticmethod
    def widened(options: WriteBehindOptions) -> WriteBehindOptions:
        return msgspec.structs.replace(options, writers=max(options.writers, 2))

    @staticmethod
    def kind_of(journal: str | None) -> str | None:
        return journal or "interval"

    def bring(self, first_items: list[Item]) -> None:
        """Have them wait side by side, if there is something to be replayed before."""
        for item in first_items:
            self.call(self.call_enqueue, math.inf, item)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a hundred thousand log records from pytest, which would format each."""
    monkeypatch.setattr(logging.getLogger("provcache_trio"), "propagate", False)


@pytest.mark.heavy
def test_every_entry_is_accounted_for_at_every_step_whatever_happens() -> None:
    run_state_machine_as_test(QueueMachine, settings=settings(stateful_step_count=35))


@pytest.mark.heavy
def test_with_several_lanes_and_a_journal_every_entry_is_accounted_for_too() -> None:
    run_state_machine_as_test(LanesWithJournalMachine, settings=settings(stateful_step_count=35))
