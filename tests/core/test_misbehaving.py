"""What belongs to the application may misbehave: its logging, its clock, its error classes."""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    DrainTimeoutError,
    QueueState,
    StoreUnavailableError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._core.ledger import Ledger
from provcache_trio._core.line import Line
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, items
from tests.support.journals import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provcache_trio import WriteBehindQueue


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


class BrokenFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise OSError(f"no room for {record.name}")


@pytest.fixture
def broken_logging(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, "provcache_trio")
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger = logging.getLogger("provcache_trio")
    broken = BrokenFilter()
    logger.addFilter(broken)
    yield
    logger.removeFilter(broken)


async def test_logging_that_raises_does_not_hold_up_dead_letters(
    store: MemoryRepository[Item], autojump_clock: MockClock, broken_logging: None
) -> None:
    store.reject("b")
    letters = MemoryDeadLetters[Item]()
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        await queue.enqueue_many(items("abc"))
        await queue.flush()
        await queue.persist(Item("d"))
        assert trio.current_time() == 0
    assert_settled(queue, persisted=3, failed=1)


async def test_logging_that_raises_does_not_replace_what_the_exit_has_to_say(
    store: MemoryRepository[Item], autojump_clock: MockClock, broken_logging: None
) -> None:
    store.crash_next(3)
    with pytest.raises(WriteBehindCrashedError):
        async with open_write_behind_queue(store) as queue:
            await queue.persist(Item("a"))
    with pytest.raises(LookupError, match="the body's"):
        async with open_write_behind_queue(store):
            raise LookupError("the body's")


async def test_logging_that_raises_is_told_on_standard_error_as_handlers_do(
    store: MemoryRepository[Item],
    broken_logging: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with open_write_behind_queue(store):
        assert capsys.readouterr().err == ""
    monkeypatch.setattr(logging, "raiseExceptions", True)
    async with open_write_behind_queue(store):
        assert "OSError: no room for provcache_trio" in capsys.readouterr().err


async def test_a_wall_clock_that_raises_is_replaced_by_the_system_s(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    ticks = [datetime.now(UTC)]  # the one that is tried at the opening
    store.down()
    with pytest.raises(DrainTimeoutError) as info:
        async with open_write_behind_queue(store, wall_clock=ticks.pop) as queue:
            await queue.enqueue(Item("a"))
            await trio.sleep(60)
            assert queue.metrics().state is QueueState.WAITING
    assert info.value.undelivered == (Item("a"),)
    assert info.value.metrics.timestamp.tzinfo is UTC


async def test_an_error_class_that_does_not_call_its_base_means_what_its_base_means(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    class NoSuchHostError(StoreUnavailableError):
        def __init__(self, code: int) -> None:
            self.code = code

    store.fail_next(lambda: NoSuchHostError(7), times=20)
    async with open_write_behind_queue(store) as queue:
        await queue.persist(Item("a"))
        error = queue.metrics().last_error
        assert error is not None
        assert (error.error_class, error.sqlstate) == (NoSuchHostError.__qualname__, None)
    assert_settled(queue, persisted=1, retries=20)


class Key:
    """Has the hash of every other key with its first letter."""

    can_be_compared = True

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return ord(self.name[0])

    def __eq__(self, other: object) -> bool:
        if not self.can_be_compared:
            raise LookupError("can't be compared")
        return isinstance(other, Key) and other.name == self.name


@pytest.mark.one_lane
async def test_a_key_that_can_not_be_compared_with_one_that_waits_leaves_no_trace(
    store: MemoryRepository[Item],
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.stall()
    options = WriteBehindOptions(queue_capacity=1, batch_size=1)
    async with open_write_behind_queue(
        store, options, key=lambda item: Key(item.veri_key)
    ) as queue:
        await queue.enqueue_many(items("xy"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.enqueue, Item("a"))
            await wait_all_tasks_blocked()
            with monkeypatch.context() as patch:
                patch.setattr(Key, "can_be_compared", False)
                with pytest.raises(LookupError, match="can't be compared"):
                    await queue.enqueue(Item("another"))
            assert queue.metrics().producers_waiting == 1
            store.resume()
    assert_settled(queue, enqueued=3, persisted=3)


class Fickle:
    """A key that can be compared a number of times, and then raises once."""

    left = -1

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        Fickle.left -= 1
        if Fickle.left == 0:
            raise LookupError("not now")
        return isinstance(other, Fickle) and other.name == self.name


async def bring(queue: WriteBehindQueue[Item], call: str, item: Item) -> None:
    match call:
        case "enqueue":
            await queue.enqueue(item)
        case "enqueue_nowait":
            queue.enqueue_nowait(item)
        case _:
            await queue.enqueue_many([item])


@pytest.mark.one_lane
@pytest.mark.parametrize("before", ["a", "ab"], ids=["opens a batch", "joins the open batch"])
@pytest.mark.parametrize("call", ["enqueue", "enqueue_nowait", "enqueue_many"])
async def test_a_key_that_can_not_be_compared_at_the_last_moment_leaves_no_trace(
    call: str,
    before: str,
    store: MemoryRepository[Item],
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = WriteBehindOptions(batch_size=len(before) + (before == "ab"))
    comparisons = 0
    async with open_write_behind_queue(
        store, options, key=lambda item: Fickle(item.veri_key)
    ) as queue:
        queue.enqueue_nowait(Item(before[0]))
        if before == "ab":
            queue.enqueue_nowait(Item(before[1]))
        line = queue._lanes.of(Fickle("x"))
        failed = True
        while failed:
            comparisons += 1
            monkeypatch.setattr(Fickle, "left", comparisons)
            lengths = [len(batch.entries) for batch in line.batches]
            try:
                await bring(queue, call, Item("x"))
                failed = False
            except LookupError:
                monkeypatch.setattr(Fickle, "left", -1)
                assert queue.metrics().total_enqueued == len(before)
                assert queue.metrics().current_queue_depth == len(before)
                assert [len(batch.entries) for batch in line.batches] == lengths
        monkeypatch.setattr(Fickle, "left", -1)
    # Looked up among those in line, put into the batch (where another one is), noted as in line.
    assert comparisons > len(before) + 1
    assert set(store.rows) == {*before, "x"}
    assert_settled(queue, enqueued=len(before) + 1, persisted=len(before) + 1)


@pytest.mark.one_lane
@pytest.mark.parametrize("comparison", [2, 3], ids=["put into the batch", "noted as in line"])
async def test_a_key_of_a_journal_that_can_not_be_compared_at_the_last_moment_is_taken_over_later(
    comparison: int,
    store: MemoryRepository[Item],
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = count()

    def key(item: Item) -> Fickle:
        if item == Item("b") and next(asked) == 0:
            monkeypatch.setattr(Fickle, "left", comparison)
        return Fickle(item.veri_key)

    journal = MemoryJournal(holds={1: Item("a"), 2: Item("b")})
    async with open_write_behind_queue(store, key=key, journal=journal) as queue:
        await queue.flush()
    assert next(asked) > 1  # it was tried again
    assert set(store.rows) == {"a", "b"}
    assert (journal.rows, journal.aside) == ({}, [])
    assert_settled(queue, recovered=2, persisted=2)


@pytest.mark.one_lane
async def test_a_key_of_a_journal_that_can_never_be_compared_is_set_aside_and_stops_nothing(
    store: MemoryRepository[Item], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Never:
        """A key that can't be compared with any other."""

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            raise LookupError("never")

    def key(item: Item) -> object:
        return "c" if item == Item("c") else Never()

    journal = MemoryJournal(holds={1: Item("a"), 2: Item("b"), 3: Item("c")})
    options = WriteBehindOptions(coalesce=False)
    async with open_write_behind_queue(store, options, key=key, journal=journal) as queue:
        await queue.flush()
    assert set(store.rows) == {"a", "c"}
    assert (journal.rows, journal.aside) == ({}, [2])
    assert_settled(queue, recovered=2, persisted=2)


def test_what_can_not_be_noted_as_in_line_is_not_left_in_the_open_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line[Item](batch_size=9, coalesce=True, merge=None, ledger=Ledger(), clock=float)
    line.place(Fickle("a"), Item("a"), None)
    monkeypatch.setattr(Fickle, "left", 2)  # it is put into the batch first
    with pytest.raises(LookupError, match="not now"):
        line.place(Fickle("b"), Item("b"), None)
    assert [list(batch.entries.values()) for batch in line.batches] == [[Item("a")]]


class Flaky:
    """A key that can be hashed a number of times, and then raises."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.left = math.inf

    def __hash__(self) -> int:
        self.left -= 1
        if self.left == 0:
            raise LookupError("not now")
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Flaky) and other.name == self.name


@pytest.mark.one_lane
@pytest.mark.parametrize("coalesce", [True, False])
@pytest.mark.parametrize("before", ["", "a", "b"], ids=["empty", "another", "the same"])
@pytest.mark.parametrize("call", ["enqueue", "enqueue_nowait", "enqueue_many"])
async def test_a_key_that_can_not_be_hashed_at_the_last_moment_leaves_no_trace(
    call: str,
    before: str,
    coalesce: bool,
    store: MemoryRepository[Item],
    autojump_clock: MockClock,
) -> None:
    key = Flaky("b")
    options = WriteBehindOptions(coalesce=coalesce)
    async with open_write_behind_queue(
        store, options, key=lambda item: key if item.version else Flaky(item.veri_key)
    ) as queue:
        await queue.enqueue_many(items(before))
        line = queue._lanes.of(key)
        failures = 0
        while True:
            key.left = failures + 1
            lengths = [len(batch.entries) for batch in line.batches]
            try:
                await bring(queue, call, Item("b", 1))
                break
            except LookupError:
                failures += 1
                assert queue.metrics().total_enqueued == len(before)
                assert [len(batch.entries) for batch in line.batches] == lengths
        key.left = math.inf
    assert failures >= 2  # looked up among those in line, put into the batch
    assert set(store.rows) == {*before, "b"}
    assert all(store.calls)
