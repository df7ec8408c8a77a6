"""Who may call a queue: other threads, a forked child, and nobody at all for an hour."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from contextlib import contextmanager
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import QueueState, WriteBehindOptions, open_write_behind_queue
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, balance, items
from tests.support.tasks import kind_of, queue_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provcache_trio import WriteBehindMetrics, WriteBehindQueue

SNAPSHOTS: Final = 5000
STATES: Final = 100  # among them
COUNTERS: Final = attrgetter(
    "total_enqueued", "total_persisted", "total_coalesced", "total_failed", "total_batches"
)


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


# Threads


@pytest.mark.parametrize("call", ["enqueue", "enqueue_nowait", "enqueue_many", "persist", "flush"])
async def test_a_call_from_another_thread_is_refused_and_told_what_to_use(
    call: str, store: MemoryRepository[Item]
) -> None:
    def in_thread(queue: WriteBehindQueue[Item]) -> None:
        match call:
            case "enqueue_nowait":
                queue.enqueue_nowait(Item("a"))
            case "enqueue":
                trio.run(queue.enqueue, Item("a"))
            case "enqueue_many":
                trio.run(queue.enqueue_many, items("ab"))
            case "persist":
                trio.run(queue.persist, Item("a"))
            case _:
                trio.run(queue.flush)

    async with open_write_behind_queue(store, name="mine") as queue:
        with pytest.raises(RuntimeError, match=r"'mine' .* trio\.from_thread\.run"):
            await trio.to_thread.run_sync(in_thread, queue)
        await queue.enqueue(Item("b"))
    assert set(store.rows) == {"b"}
    assert_settled(queue, enqueued=1, persisted=1, refused=0)


async def test_another_thread_enqueues_through_trio(store: MemoryRepository[Item]) -> None:
    def in_thread(queue: WriteBehindQueue[Item]) -> int:
        trio.from_thread.run(queue.enqueue, Item("a"))
        trio.from_thread.run_sync(queue.enqueue_nowait, Item("b"))
        trio.from_thread.run(queue.persist, Item("c"))
        return trio.from_thread.run(queue.enqueue_many, items("de"))

    async with open_write_behind_queue(store) as queue:
        assert await trio.to_thread.run_sync(in_thread, queue) == 2
    assert set(store.rows) == set("abcde")


@pytest.fixture
def restless() -> Iterator[None]:
    """Have threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


async def work_until(enough: threading.Event, queue: WriteBehindQueue[Item]) -> None:
    """Coalesce in each turn, have several batches written, and some entries refused."""
    turn = 0
    with trio.move_on_after(60):
        while not enough.is_set():  # noqa: ASYNC110  # it is set in another thread
            turn += 1
            bad = [Item("bad", turn)] if turn % 50 == 0 else []
            await queue.enqueue_many([*items([0, 0, *range(20)], turn), *bad])


async def test_metrics_from_another_thread_balance_while_the_queue_works_hard(
    store: MemoryRepository[Item], restless: None
) -> None:
    snapshots: list[WriteBehindMetrics] = []
    enough = threading.Event()

    def watch(queue: WriteBehindQueue[Item]) -> None:
        states: set[object] = set()
        while not enough.is_set():
            snapshots.append(queue.metrics())
            states.add(COUNTERS(snapshots[-1]))
            if len(snapshots) >= SNAPSHOTS and len(states) >= STATES:
                enough.set()

    store.reject("bad")
    sink = MemoryDeadLetters[Item]()
    options = WriteBehindOptions(batch_size=8, queue_capacity=50, flush_interval_seconds=0)
    async with (
        open_write_behind_queue(store, options, dead_letters=sink) as queue,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(trio.to_thread.run_sync, watch, queue)
        try:
            await work_until(enough, queue)
        finally:
            enough.set()
    assert not [snapshot for snapshot in snapshots if balance(snapshot)]
    counters = list(map(COUNTERS, snapshots))
    assert len(set(counters)) >= STATES  # the queue did work in between
    assert all(all(map(int.__le__, *pair)) for pair in pairwise(counters))
    assert all(map(int.__lt__, counters[0], counters[-1]))


async def test_metrics_of_a_closed_queue_are_told_to_any_thread(
    store: MemoryRepository[Item],
) -> None:
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue(Item("a"))
    metrics = await trio.to_thread.run_sync(queue.metrics)
    assert metrics.state is QueueState.CLOSED
    assert metrics.total_persisted == 1


# Fork


async def check_child(queue: WriteBehindQueue[Item], store: MemoryRepository[Item]) -> None:
    """Check a queue in a forked child: the entries are the parent's to write."""
    refused = pytest.raises(RuntimeError, match="belongs to the parent")
    with refused:
        queue.enqueue_nowait(Item("b"))
    with refused:
        await queue.enqueue(Item("b"))
    with refused:
        await queue.enqueue_many(items("bc"))
    with refused:
        await queue.persist(Item("b"))
    with refused:
        await queue.flush()
    assert queue.metrics().total_enqueued == 3
    assert balance(queue.metrics()) == 0
    await trio.sleep(60)
    assert len(store.calls) == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_in_a_forked_child_every_call_is_refused_and_the_parent_goes_on(
    store: MemoryRepository[Item], autojump_clock: MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    manager = open_write_behind_queue(store)
    queue = await manager.__aenter__()
    await queue.persist(Item("stored"))
    await queue.enqueue_many(items("xy"))
    context = dict(vars(GLOBAL_RUN_CONTEXT))
    if (child := os.fork()) == 0:
        vars(GLOBAL_RUN_CONTEXT).update(context)  # trio-asyncio, once imported, clears it
        status = 1
        try:
            await check_child(queue, store)
            await manager.__aexit__(None, None, None)
            check_left_child(queue, store)
            status = 0
        except BaseException:  # noqa: ASYNC103, BLE001  # the child must not go on
            traceback.print_exc()
        finally:
            os._exit(status)
    _, failed = os.waitpid(child, 0)  # noqa: ASYNC222  # takes milliseconds
    assert not failed, capfd.readouterr().err
    await queue.enqueue(Item("z"))
    await manager.__aexit__(None, None, None)
    assert set(store.rows) == {"stored", *"xyz"}
    assert_settled(queue, enqueued=4, persisted=4)


def check_left_child(queue: WriteBehindQueue[Item], store: MemoryRepository[Item]) -> None:
    """Check that leaving the queue in the child neither drained nor abandoned anything."""
    assert trio.current_time() == 60
    assert len(store.calls) == 1
    assert queue.undelivered == ()
    assert queue.metrics().total_abandoned == 0
    assert queue_tasks() == []


# Nobody


class Steps(trio.abc.Instrument):
    """Counts the steps of a queue's tasks, and how often trio woke up at all."""

    def __init__(self) -> None:
        self.of_tasks: list[str] = []
        self.wake_ups = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name in queue_tasks():
            self.of_tasks.append(task.name)

    def after_io_wait(self, _: float) -> None:
        self.wake_ups += 1


@contextmanager
def counted() -> Iterator[Steps]:
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    yield steps
    trio.lowlevel.remove_instrument(steps)


@pytest.mark.one_lane
@pytest.mark.parametrize("used", [False, True])
async def test_an_idle_queue_wakes_nobody(
    used: bool, store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    sink = MemoryDeadLetters[Item]()
    async with open_write_behind_queue(store, dead_letters=sink) as queue:
        if used:
            store.reject("a")
            await queue.enqueue_many(items("abc"))
            await trio.sleep(1)
            assert_settled(queue, persisted=2, failed=1)
        await wait_all_tasks_blocked()
        with counted() as steps:
            await trio.sleep(3600)
        assert steps.of_tasks == []
        assert steps.wake_ups < 10
        with counted() as steps:
            await queue.persist(Item("z"))
        # So they would have been seen.
        assert {"batcher", "writer"} <= set(map(kind_of, steps.of_tasks))


async def test_a_full_queue_before_a_store_that_hangs_wakes_only_who_warns_of_it_once(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(queue_capacity=4, batch_size=2)
    async with open_write_behind_queue(store, options) as queue, trio.open_nursery() as nursery:
        nursery.start_soon(queue.enqueue_many, items(range(10)))
        await trio.sleep(1)
        with counted() as steps:
            await trio.sleep(3600)
        assert set(steps.of_tasks) == {"calls"}
        assert len(steps.of_tasks) <= len(queue._lanes.lines)
        store.resume()


@pytest.mark.one_lane
async def test_the_batcher_wakes_for_batches_and_not_for_entries(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(batch_size=500, flush_interval_seconds=60)
    async with open_write_behind_queue(store, options) as queue:
        await wait_all_tasks_blocked()
        with counted() as steps:
            for key in range(1000):
                await queue.enqueue(Item(str(key)))
                await queue.enqueue(Item(str(key), 1))
            await queue.flush()
        assert len(store.calls) == 2
        assert [kind_of(name) for name in steps.of_tasks].count("batcher") <= 8
