"""What one of many costs: the same, whether ten wait or thousands.

Time is no measure on a busy machine, so lines of the core are counted, as Python runs them, and
comparisons, which stand for searches that run in C. What a dict does beneath that, the
benchmarks count in instructions.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio._core import line
from provcache_trio._core.batch import Place, Receipt
from provcache_trio._core.journaled_line import Notes
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, items
from tests.support.journals import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType

    from trio.testing import MockClock

pytestmark = [pytest.mark.one_lane, pytest.mark.two_pythons]

CORE = line.__file__.rpartition("line.py")[0]
FEW, MANY = 100, 2500
PATIENT = WriteBehindOptions(queue_capacity=10, batch_size=10, drain_timeout_seconds=1e9)


class Counter:
    """How many lines of the core ran, and comparisons of receipts."""

    def __init__(self) -> None:
        self.lines = 0
        self.comparisons = 0

    def trace(self, frame: FrameType, event: str, _: object) -> Any:  # noqa: ANN401  # as it is declared
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        self.lines += event == "line"
        return self.trace


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Generator[Counter]:
    counter = Counter()

    def compare(self: Receipt, other: object) -> bool:
        counter.comparisons += 1
        return self is other

    monkeypatch.setattr(Receipt, "__eq__", compare)
    before = sys.gettrace()
    sys.settrace(counter.trace)
    try:
        yield counter
    finally:
        sys.settrace(before)
        monkeypatch.undo()


async def admit(count: int, monkeypatch: pytest.MonkeyPatch, *, same_key: bool = False) -> float:
    store = MemoryRepository[Item]()
    store.stall()
    async with (
        open_write_behind_queue(store, PATIENT) as queue,
        trio.open_nursery() as nursery,
    ):
        await queue.enqueue_many(items(range(-20, 0)))
        for number in range(count):
            nursery.start_soon(queue.enqueue, Item("same" if same_key else f"{number}", number))
        await trio.sleep(1)
        assert queue.metrics().producers_waiting == count
        with counted(monkeypatch) as counter:
            store.resume()
            await trio.sleep(100)
        assert queue.metrics().producers_waiting == 0
    return counter.lines / count


async def admit_one_key(count: int, monkeypatch: pytest.MonkeyPatch) -> float:
    return await admit(count, monkeypatch, same_key=True)


async def admit_through_the_journal(count: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """With a full line, so that whoever comes wakes the journal's task in vain."""
    store = MemoryRepository[Item]()
    store.stall()
    journal = MemoryJournal[Item](always=True)
    async with (
        open_write_behind_queue(store, PATIENT, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        for number in range(20):
            nursery.start_soon(queue.enqueue, Item(f"{number}"))
        await trio.sleep(1)
        with counted(monkeypatch) as counter:
            for number in range(count):
                nursery.start_soon(queue.enqueue, Item(f"more {number}"))
                await trio.sleep(0.001)
            store.resume()
            await trio.sleep(100)
        assert queue.metrics().producers_waiting == 0
    return counter.lines / count


async def cancel_those_who_wait(count: int, monkeypatch: pytest.MonkeyPatch) -> float:
    store = MemoryRepository[Item]()
    store.stall()
    async with open_write_behind_queue(store, PATIENT) as queue:
        await queue.enqueue_many(items(range(20)))
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(queue.enqueue, Item(f"more {number // 2}"))
            await trio.sleep(1)
            with counted(monkeypatch) as counter:
                nursery.cancel_scope.cancel()
                await trio.lowlevel.cancel_shielded_checkpoint()
                await settle()
        assert queue.metrics().producers_waiting == 0
        store.resume()
    return counter.lines / count


async def cancel_those_who_persist_one_key(count: int, monkeypatch: pytest.MonkeyPatch) -> float:
    store = MemoryRepository[Item]()
    store.stall()
    async with open_write_behind_queue(store, PATIENT) as queue:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(queue.persist, Item("same", number))
            await trio.sleep(1)
            with counted(monkeypatch) as counter:
                nursery.cancel_scope.cancel()
                await settle()
        store.resume()
    return (counter.lines + counter.comparisons) / count


async def settle() -> None:
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()


async def flush_each(
    count: int, monkeypatch: pytest.MonkeyPatch, journal: MemoryJournal[Item] | None = None
) -> float:
    store = MemoryRepository[Item]()
    store.stall()
    options = WriteBehindOptions(drain_timeout_seconds=1e9)
    async with (
        open_write_behind_queue(store, options, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        with counted(monkeypatch) as counter:
            for number in range(count):
                await queue.enqueue(Item(f"{number}"))
                nursery.start_soon(queue.flush)
                await trio.sleep(0.06)  # the journal writes each
            store.resume()
            await trio.sleep(100)
        assert len(store.rows) == count
    return counter.lines / count


async def flush_each_with_a_journal(count: int, monkeypatch: pytest.MonkeyPatch) -> float:
    return await flush_each(count, monkeypatch, MemoryJournal())


async def replay(count: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """With a key that can't be read in every other entry."""
    holds = {number: Item(f"{number}", number) for number in range(1, count + 1)}

    def key(item: Item) -> str:
        if item.version % 2:
            raise LookupError("no key")
        return item.veri_key

    store, options = MemoryRepository[Item](), WriteBehindOptions(batch_size=10_000)
    journal = MemoryJournal(holds=holds)
    with counted(monkeypatch) as counter:
        async with open_write_behind_queue(store, options, journal=journal, key=key) as queue:
            await queue.flush()
    assert len(journal.aside) == count // 2
    return counter.lines / count


@pytest.mark.parametrize(
    "case",
    [
        admit,
        admit_one_key,
        admit_through_the_journal,
        cancel_those_who_wait,
        cancel_those_who_persist_one_key,
        flush_each,
        flush_each_with_a_journal,
        replay,
    ],
    ids=lambda case: case.__name__,
)
async def test_one_of_many_costs_no_more_than_one_of_few(
    case: Callable[[int, pytest.MonkeyPatch], Awaitable[float]],
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = await case(FEW, monkeypatch)
    many = await case(MANY, monkeypatch)
    assert few > 0.5, "nothing was counted"
    assert many <= 1.2 * few, f"{few:.1f} lines each of {FEW}, {many:.1f} of {MANY}"


def test_lines_of_the_core_are_counted_and_no_others() -> None:
    def settle_places() -> None:
        notes.settle(places)

    def look_at_places() -> None:
        for place in places:
            assert place.gone

    notes, places = Notes[Item](lambda: 0.0), [Place() for _ in range(1000)]
    for what, least, most in ((settle_places, 2000, 6000), (look_at_places, 0, 0)):
        counter = Counter()
        before = sys.gettrace()
        sys.settrace(counter.trace)
        try:
            what()
        finally:
            sys.settrace(before)
        assert least <= counter.lines <= most
