"""KeyboardInterrupt, by real signals: at every place, and at every step of our code.

trio delivers the signal to its main task: at once where that runs unprotected code, else at
its next checkpoint. These tests call ``trio.run`` themselves, so that the queue's caller is
the main task.
"""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio.testing import MockClock

import provcache_trio
from provcache_trio import (
    QueueState,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryRepository, RepositoryCrash

from tests.support.items import Item, assert_settled, balance, items
from tests.support.machine import EveryStep
from tests.support.tasks import queue_tasks
from tests.support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from types import FrameType

    TraceFunction = Callable[[FrameType, str, object], "TraceFunction | None"]

    from provcache_trio import WriteBehindQueue

pytestmark = pytest.mark.one_lane

PACKAGE: Final = str(Path(provcache_trio.__file__).parent)
PATIENT: Final = WriteBehindOptions(
    queue_capacity=4, batch_size=2, flush_interval_seconds=60, drain_timeout_seconds=10
)


def press() -> None:
    """Press Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


@trio.lowlevel.enable_ki_protection
async def press_at(*times: float) -> None:
    """Press Ctrl-C at these times, from a task that does not want it for itself."""
    for time in times:
        await trio.sleep_until(time)
        press()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run ``main`` in virtual time, and see that it leaves no task of a queue."""

    async def and_look() -> None:
        try:
            await main()
        finally:
            assert queue_tasks() == []

    trio.run(and_look, clock=MockClock(autojump_threshold=0))


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


def assert_whole(queue: WriteBehindQueue[Item]) -> None:
    """Check that the identity holds, and that the gauges tell the real lengths."""
    metrics = queue.metrics()
    lines = queue._lanes.lines
    assert balance(metrics) == 0
    assert metrics.current_queue_depth == sum(
        len(batch.entries) for line in lines for batch in line.batches
    )
    written = sum(line.writing.unsettled() for line in lines if line.writing is not None)
    assert metrics.in_flight == written + len(queue._outbox.letters)
    assert metrics.producers_waiting == len(queue._room.producers)


async def bring(queue: WriteBehindQueue[Item], call: str, item: Item) -> None:
    match call:
        case "enqueue":
            await queue.enqueue(item)
        case "enqueue_nowait":
            queue.enqueue_nowait(item)
        case "enqueue_many":
            await queue.enqueue_many([item])
        case _:
            await queue.persist(item)


# In the body


def test_an_interrupt_of_the_body_drains_and_goes_on_as_the_same_object(
    store: MemoryRepository[Item],
) -> None:
    store.latency_seconds = 1
    seen: list[BaseException] = []

    async def main() -> None:
        try:
            async with open_write_behind_queue(store, PATIENT) as queue:
                await queue.enqueue_many(items("abc"))
                try:
                    press()
                except KeyboardInterrupt as interrupt:
                    seen.append(interrupt)
                    raise
        finally:
            assert trio.current_time() == 2
            assert_settled(queue, persisted=3)

    with pytest.raises(KeyboardInterrupt) as caught:
        run(main)
    assert [caught.value] == seen
    assert not hasattr(caught.value, "__notes__")


def test_an_interrupt_that_comes_while_we_run_waits_for_a_checkpoint_of_the_body(
    store: MemoryRepository[Item],
) -> None:
    reached: list[str] = []

    def key(item: Item) -> str:
        if item.version == 1:
            press()
        return item.veri_key

    async def main() -> None:
        async with open_write_behind_queue(store, PATIENT, key=key) as queue:
            queue.enqueue_nowait(Item("a", 1))
            assert_whole(queue)
            assert queue.pending("a") == Item("a", 1)
            reached.append("accepted")
            await trio.lowlevel.checkpoint()
            reached.append("too far")

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert reached == ["accepted"]
    assert store.rows == {"a": Item("a", 1)}


@pytest.mark.parametrize("call", ["enqueue", "enqueue_nowait", "enqueue_many", "persist"])
@pytest.mark.parametrize("where", ["key", "merge"])
def test_an_interrupt_in_a_callback_of_accept_leaves_the_step_whole(
    call: str, where: str, store: MemoryRepository[Item]
) -> None:
    pressed: list[Item] = []

    def press_for(item: Item) -> None:
        if item.version == 1:
            pressed.append(item)
            press()

    def key(item: Item) -> str:
        if where == "key":
            press_for(item)
        return item.veri_key

    def merge(_: Item, new: Item) -> Item:
        if where == "merge":
            press_for(new)
        return new

    async def main() -> None:
        async with open_write_behind_queue(store, PATIENT, key=key, merge=merge) as queue:
            await queue.enqueue(Item("a", 0))
            try:
                await bring(queue, call, Item("a", 1))
            finally:
                assert_whole(queue)
                assert queue.metrics().total_enqueued == 2
                assert queue.pending("a") == Item("a", 1)
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert pressed
    assert store.rows == {"a": Item("a", 1)}


def test_an_interrupted_wait_for_room_leaves_no_trace(store: MemoryRepository[Item]) -> None:
    store.stall()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1)
            async with open_write_behind_queue(store, PATIENT) as queue:
                await queue.enqueue_many(items(range(6)))
                try:
                    await queue.enqueue(Item("waits"))
                finally:
                    assert trio.current_time() == 1
                    assert queue.metrics().producers_waiting == 0
                    assert queue.metrics().total_enqueued == 6
                    assert_whole(queue)
                    store.resume()

    with pytest.RaisesGroup(KeyboardInterrupt):
        run(main)
    assert set(store.rows) == set("012345")


def test_an_interrupted_persist_keeps_the_entry(store: MemoryRepository[Item]) -> None:
    store.stall()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1)
            async with open_write_behind_queue(store, PATIENT) as queue:
                try:
                    await queue.persist(Item("a"))
                finally:
                    assert trio.current_time() == 1
                    assert_whole(queue)
                    assert queue.pending("a") == Item("a")
                    store.resume()

    with pytest.RaisesGroup(KeyboardInterrupt):
        run(main)
    assert set(store.rows) == {"a"}


def test_an_interrupted_flush_changes_nothing_for_the_entries(
    store: MemoryRepository[Item],
) -> None:
    store.stall()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1)
            async with open_write_behind_queue(store, PATIENT) as queue:
                await queue.enqueue_many(items("abc"))
                try:
                    await queue.flush()
                finally:
                    assert trio.current_time() == 1
                    assert_whole(queue)
                    store.resume()

    with pytest.RaisesGroup(KeyboardInterrupt):
        run(main)
    assert set(store.rows) == set("abc")


def test_an_interrupt_in_the_repository_arrives_in_the_main_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows: list[Item] = []

    class Pressed:
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            await trio.lowlevel.checkpoint()
            press()
            await trio.lowlevel.checkpoint()
            rows.extend(entries)
            return len(entries)

    async def main() -> None:
        async with open_write_behind_queue(Pressed(), PATIENT) as queue:
            await queue.enqueue_many(items("ab"))
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert rows == items("ab")
    assert caplog.records == []


def test_an_interrupt_in_a_task_of_the_repository_s_own_is_handed_on_to_the_main_task() -> None:
    pressed: list[float] = []

    async def press_once() -> None:
        await trio.lowlevel.checkpoint()
        if not pressed:
            pressed.append(trio.current_time())
            press()  # this task is not ours, so not protected: it is raised here

    class WithTasks(MemoryRepository[Item]):
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(press_once)
                nursery.start_soon(trio.lowlevel.checkpoint)
            return await super().upsert_many(entries)

    repository = WithTasks()

    async def main() -> None:
        async with open_write_behind_queue(repository, PATIENT) as queue:
            await queue.enqueue_many(items("ab"))
            await trio.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert pressed
    assert set(repository.rows) == set("ab")


# During the drain


def test_the_first_interrupt_of_a_drain_lets_it_go_on(store: MemoryRepository[Item]) -> None:
    store.latency_seconds = 2

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1)
            try:
                async with open_write_behind_queue(store, PATIENT) as queue:
                    await queue.enqueue_many(items("abc"))
            finally:
                assert trio.current_time() == 4
                assert_settled(queue, persisted=3)

    with pytest.RaisesGroup(KeyboardInterrupt) as caught:
        run(main)
    assert not hasattr(caught.value.exceptions[0], "__notes__")


def test_the_second_interrupt_of_a_drain_ends_it_and_hands_back(
    store: MemoryRepository[Item],
) -> None:
    store.stall()
    queues: list[WriteBehindQueue[Item]] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1, 3)
            try:
                async with open_write_behind_queue(store, PATIENT) as queue:
                    queues.append(queue)
                    await queue.enqueue_many(items("abc"))
            finally:
                assert trio.current_time() == 3

    with pytest.RaisesGroup(KeyboardInterrupt) as caught:
        run(main)
    [queue] = queues
    assert queue.undelivered == tuple(items("abc"))
    assert queue.metrics().state is QueueState.CLOSED
    assert_settled(queue, abandoned=3)
    [note] = caught.value.exceptions[0].__notes__
    assert (
        "could not write 3 entries: the drain was interrupted; save what is in .undelivered" in note
    )


def test_an_interrupt_during_the_drain_of_an_interrupted_body_ends_it(
    store: MemoryRepository[Item],
) -> None:
    store.stall()
    seen: list[KeyboardInterrupt] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1, 3)
            try:
                async with open_write_behind_queue(store, PATIENT) as queue:
                    await queue.enqueue_many(items("abc"))
                    try:
                        await trio.sleep_forever()
                    except KeyboardInterrupt as interrupt:
                        seen.append(interrupt)
                        raise
            finally:
                assert trio.current_time() == 3
                assert queue.undelivered == tuple(items("abc"))

    with pytest.RaisesGroup(KeyboardInterrupt) as caught:
        run(main)
    assert list(caught.value.exceptions) == seen
    assert len(seen[0].__notes__) == 1


def test_an_interrupt_in_a_group_of_the_body_is_the_first_one(
    store: MemoryRepository[Item],
) -> None:
    store.stall()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1, 3)
            try:
                async with open_write_behind_queue(store, PATIENT) as queue:
                    await queue.enqueue_many(items("abc"))
                    async with trio.open_nursery() as inner:
                        inner.start_soon(trio.sleep_forever)
                        await trio.sleep_forever()
            finally:
                assert trio.current_time() == 3

    with pytest.RaisesGroup(pytest.RaisesGroup(KeyboardInterrupt)):
        run(main)


def test_an_interrupt_then_the_deadline_is_an_interrupt_with_a_note(
    store: MemoryRepository[Item],
) -> None:
    store.stall()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1)
            try:
                async with open_write_behind_queue(store, PATIENT) as queue:
                    await queue.enqueue_many(items("abc"))
            finally:
                assert trio.current_time() == 10
                assert queue.undelivered == tuple(items("abc"))

    with pytest.RaisesGroup(KeyboardInterrupt) as caught:
        run(main)
    assert "3 entries" in caught.value.exceptions[0].__notes__[0]


@pytest.mark.parametrize("times", [(12.0,), (1.0, 12.0)])
def test_an_interrupt_after_the_deadline_while_a_call_takes_its_time_is_not_lost(
    times: tuple[float, ...],
) -> None:
    class Slow:
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            with trio.CancelScope(shield=True):
                await trio.sleep(15)
            return len(entries)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, *times)
            try:
                async with open_write_behind_queue(Slow(), PATIENT) as queue:
                    await queue.enqueue_many(items("abc"))
            finally:
                assert trio.current_time() == 15
                assert queue.undelivered == (Item("c"),)

    with pytest.RaisesGroup(KeyboardInterrupt):
        run(main)


def test_an_interrupt_of_the_drain_and_an_error_of_the_body_are_both_told(
    store: MemoryRepository[Item],
) -> None:
    store.latency_seconds = 2
    body = ValueError("body")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1)
            async with open_write_behind_queue(store, PATIENT) as queue:
                await queue.enqueue(Item("a"))
                raise body

    with pytest.RaisesGroup(KeyboardInterrupt) as caught:
        run(main)
    assert caught.value.exceptions[0].__context__ is body
    assert set(store.rows) == {"a"}


def test_an_interrupt_of_a_drain_that_gives_up_comes_from_the_crash(
    store: MemoryRepository[Item],
) -> None:
    store.crash_next(3)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 0.5)
            async with open_write_behind_queue(store, PATIENT) as queue:
                await queue.enqueue(Item("a"))

    with pytest.RaisesGroup(KeyboardInterrupt) as caught:
        run(main)
    crashed = caught.value.exceptions[0].__cause__
    assert isinstance(crashed, WriteBehindCrashedError)
    assert crashed.undelivered == (Item("a"),)
    assert isinstance(crashed.__cause__, RepositoryCrash)


def test_a_queue_in_another_task_than_the_main_one_drains_all_the_same(
    store: MemoryRepository[Item],
) -> None:
    store.latency_seconds = 1
    queues: list[WriteBehindQueue[Item]] = []

    async def use() -> None:
        async with open_write_behind_queue(store, PATIENT) as queue:
            queues.append(queue)
            await queue.enqueue_many(items("abc"))
            await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press_at, 1.5, 2.5)  # the second does not reach the drain
            nursery.start_soon(use)

    with pytest.RaisesGroup(KeyboardInterrupt):
        run(main)
    assert_settled(queues[0], persisted=3, abandoned=0)


# At every step


class Presser:
    """Presses Ctrl-C at one step of the package's code: a line or, if told, an instruction."""

    def __init__(self, at: int, *, opcodes: bool = False) -> None:
        self._at = at
        self._opcodes = opcodes
        self._steps = 0
        self._looking_away = False

    @property
    def pressed(self) -> bool:
        return self._steps >= self._at

    def unseen(self, check: Callable[[], None]) -> None:
        """Run ``check``, whose steps do not count."""
        self._looking_away = True
        check()
        self._looking_away = False

    @contextmanager
    def active(self) -> Iterator[None]:
        before = sys.gettrace()
        # Python 3.12 reports instructions only if a frame wants them when tracing begins.
        sys._getframe().f_trace_opcodes = self._opcodes
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, _: object, /) -> TraceFunction | None:
        if self._looking_away or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = self._opcodes
        # Not at "call" and "return": a task that goes to sleep or wakes up causes them too,
        # and there Python lets no signal in.
        if event == ("opcode" if self._opcodes else "line"):
            self._steps += 1
            if self._steps == self._at:
                press()
        return self._trace


def interrupted(main: Callable[[], Awaitable[None]]) -> bool:
    """Run ``main`` and tell whether it was interrupted; any other error goes on."""
    try:
        run(main)
    except KeyboardInterrupt:
        return True
    except BaseExceptionGroup as group:
        rest = group.split(KeyboardInterrupt)[1]
        if rest is not None:
            raise rest from None
        return True
    return False


def sweep(main: Callable[[Presser], Awaitable[None]], *, opcodes: bool, stride: int = 1) -> int:
    """Interrupt ``main`` at step 1, then at step 2, and so on, until it ends before that."""
    at = 1
    while True:
        presser = Presser(at, opcodes=opcodes)
        assert interrupted(partial(main, presser)) == presser.pressed
        if not presser.pressed:
            return at
        at += stride


@pytest.mark.parametrize(
    ("situation", "before"),
    [("new", ""), ("in line", "x"), ("sealed", "xyz"), ("fills a batch", "a"), ("full", "abcd")],
)
def test_enqueue_nowait_is_whole_at_every_instruction(situation: str, before: str) -> None:
    async def main(presser: Presser) -> None:
        returned = False
        async with open_write_behind_queue(MemoryRepository[Item](), PATIENT) as queue:
            for item in items(before):
                queue.enqueue_nowait(item)
            try:
                with presser.active():
                    queue.enqueue_nowait(Item("x", 1))
                returned = True
                await trio.lowlevel.checkpoint()  # where it arrives
            except trio.WouldBlock:
                assert situation == "full"
            finally:
                assert_whole(queue)
                assert returned == (situation != "full")
                assert (queue.pending("x") == Item("x", 1)) == returned
                assert queue.metrics().total_enqueued == len(before) + returned

    assert sweep(main, opcodes=True) > 50


def test_an_interrupt_at_any_line_of_opening_and_leaving_leaves_nothing_half_open() -> None:
    async def main(presser: Presser) -> None:
        store = MemoryRepository[Item]()
        queues: list[WriteBehindQueue[Item]] = []
        try:
            with presser.active():
                async with open_write_behind_queue(store, PATIENT) as queue:
                    queues.append(queue)
                    queue.enqueue_nowait(Item("a"))
        finally:
            for queue in queues:
                assert queue.metrics().state is QueueState.CLOSED
                assert_settled(queue, abandoned=0)
                assert len(store.rows) == queue.metrics().total_enqueued
            assert queue_tasks() == []

    assert sweep(main, opcodes=False) > 200


@pytest.mark.heavy
def test_an_interrupt_at_any_line_of_a_busy_queue_loses_nothing(
    counts: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest would format hundreds of thousands of records.
    monkeypatch.setattr(logging.getLogger("provcache_trio"), "propagate", False)

    async def main(presser: Presser) -> None:
        store = MemoryRepository[Item](latency_seconds=0.1)
        store.fail_next(OSError("gone"))
        store.reject("bad")
        witness = Witness(store, PATIENT, "abcdefg")
        every_step = EveryStep(partial(presser.unseen, witness.look))
        logging.getLogger("provcache_trio").addHandler(witness)
        trio.lowlevel.add_instrument(every_step)
        try:
            with presser.active():
                await be_busy(store, witness)
        finally:
            trio.lowlevel.remove_instrument(every_step)
            logging.getLogger("provcache_trio").removeHandler(witness)
            assert every_step.broken is None
            assert queue_tasks() == []
            if witness.queue is not None:
                witness.check_end()
                assert witness.queue.undelivered == ()

    assert sweep(main, opcodes=False, stride=counts(10, 1)) > 1000


async def be_busy(store: MemoryRepository[Item], witness: Witness) -> None:
    """Use every call of a queue, with producers that wait for room."""
    async with open_write_behind_queue(
        store, PATIENT, key=witness.key, merge=witness.merge
    ) as queue:
        witness.queue = queue
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.enqueue_many, items("abcdefg", 1))
            nursery.start_soon(queue.enqueue_many, items("gfa", 2))
            nursery.start_soon(queue.persist, Item("b", 3))
            await queue.enqueue(Item("bad", 4))
            await queue.enqueue(Item("a", 5))
            with suppress(trio.WouldBlock):
                queue.enqueue_nowait(Item("c", 6))
            await queue.persist(Item("d", 7))
            await queue.flush()
            await queue.enqueue(Item("e", 8))
