"""A task of ours crashes: it is restarted and loses nothing; after three in a row it is over."""

from __future__ import annotations

import logging
from itertools import groupby
from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    QueueClosedError,
    QueueState,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._core import batcher as _batcher
from provcache_trio._core.line import Line
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository, RepositoryCrash

from tests.support.items import Item, assert_settled, balance, items
from tests.support.tasks import kind_of, queue_tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from provcache_trio import WriteBehindQueue
    from provcache_trio._core.batch import Batch
    from provcache_trio._core.lifetime import Lifetime

pytestmark = pytest.mark.one_lane

PROMPT: Final = WriteBehindOptions(
    queue_capacity=4, batch_size=2, flush_interval_seconds=0, drain_timeout_seconds=10
)
CONTENTS: Final = "contents of a row"


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:  # noqa: ASYNC124  # needs trio's loop
    yield
    assert queue_tasks() == []


def crashes(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if " crashed: " in record.getMessage()]


class CrashingLine:
    """Makes a method of every line crash at one of its calls, before or after its work."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, method: str, at: int, *, after: bool
    ) -> None:
        self.calls = 0
        original = getattr(Line, method)

        def crashing(*arguments: object) -> object:
            self.calls += 1
            crash = self.calls == at
            if crash and not after:
                raise KeyError(CONTENTS)
            result = original(*arguments)
            if crash:
                raise KeyError(CONTENTS)
            return result

        monkeypatch.setattr(Line, method, crashing)


def crash_the_batcher(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Make the batcher crash the next ``times`` times that it looks for a batch."""
    original = _batcher._due_batch
    left = [None] * times

    async def crashing(line: Line[Item], lifetime: Lifetime) -> Batch[Item]:
        batch = await original(line, lifetime)
        if left:
            left.pop()
            raise KeyError(CONTENTS)
        return batch

    monkeypatch.setattr(_batcher, "_due_batch", crashing)


# It is restarted


async def test_a_crash_is_logged_once_with_the_frames_of_our_code_and_without_its_message(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.fail_next(RepositoryCrash(CONTENTS))
    async with open_write_behind_queue(store, PROMPT, name="q") as queue:
        await queue.enqueue(Item("a"))
    [record] = crashes(caplog)
    first, rest = record.getMessage().split("\n", 1)
    assert (
        first
        == f"q: {record.__dict__['task']} crashed: RepositoryCrash; if none of its frames is yours, report it"
    )
    assert "supervisor.py" in rest
    assert "writer.py" in rest
    assert "in upsert_many" in rest
    assert record.levelno == logging.ERROR
    assert record.exc_info is None
    assert kind_of(record.__dict__["task"]) == "writer"
    assert record.__dict__["error_class"] == "RepositoryCrash"
    assert CONTENTS not in caplog.text


async def test_a_crashed_writer_goes_on_after_a_second_with_the_batch_it_held(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    called_at: list[float] = []

    class Timed(MemoryRepository[Item]):
        async def _arrive(self) -> None:
            called_at.append(trio.current_time())
            await super()._arrive()

    store = Timed()
    async with open_write_behind_queue(store, PROMPT) as queue:
        store.crash_next(2)
        await queue.enqueue_many(items("abc"))
        await trio.sleep(0.5)
        metrics = queue.metrics()
        assert metrics.state is QueueState.PAUSED
        assert (metrics.in_flight, metrics.current_queue_depth) == (2, 1)
        assert queue.pending("a") == Item("a")
        await queue.enqueue(Item("a", 1))
        with trio.fail_after(60):
            await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    assert called_at == [0, 1, 2, 2]
    assert store.calls == [tuple(items("ab"))] * 3 + [(Item("c"), Item("a", 1))]
    assert_settled(queue, enqueued=4, persisted=4, abandoned=0)


async def test_a_crash_during_the_drain_is_restarted_too(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.crash_next(2)
    async with open_write_behind_queue(store, PROMPT) as queue:
        await queue.enqueue_many(items("abc"))
    assert trio.current_time() == 2
    assert_settled(queue, persisted=3, abandoned=0)


async def test_crashes_with_something_persisted_in_between_never_add_up(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_write_behind_queue(store, PROMPT) as queue:
        for version in range(10):
            store.crash_next(2)
            with trio.fail_after(60):
                await queue.persist(Item("a", version))
    assert len(crashes(caplog)) == 20
    assert_settled(queue, persisted=10, abandoned=0)


@pytest.mark.parametrize(
    ("method", "after"),
    [("take", False), ("take", True), ("persisted", False), ("persisted", True), ("finish", False)],
)
async def test_a_crash_at_any_step_of_a_batch_loses_nothing_and_keeps_the_order(
    method: str, after: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 5):
        store = MemoryRepository[Item]()
        with monkeypatch.context() as patch:
            line = CrashingLine(patch, method, at, after=after)
            async with open_write_behind_queue(store, PROMPT) as queue:
                await queue.enqueue_many(items("abcdefgh"))
                with trio.fail_after(5):
                    await queue.flush()
        assert line.calls >= at
        # A batch whose persisting could not be booked is written again, at once.
        written = [batch for batch, _ in groupby(store.persisted)]
        assert [item for batch in written for item in batch] == items("abcdefgh")
        assert_settled(queue, enqueued=8, persisted=8)


async def test_a_crashed_batcher_goes_on_after_a_second(
    store: MemoryRepository[Item],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crash_the_batcher(monkeypatch, 2)
    async with open_write_behind_queue(store, PROMPT) as queue:
        await queue.enqueue_many(items("abc"))
        await trio.sleep(0.5)
        assert queue.metrics().state is QueueState.PAUSED
        assert queue.metrics().current_queue_depth == 3
        with trio.fail_after(60):
            await queue.flush()
        assert trio.current_time() == 2
    assert [item for call in store.calls for item in call] == items("abc")
    assert [kind_of(record.__dict__["task"]) for record in crashes(caplog)] == ["batcher"] * 2
    assert "batcher.py" in caplog.text
    assert CONTENTS not in caplog.text


async def test_a_crashed_dead_letter_task_goes_on_with_its_letters(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    sink = MemoryDeadLetters[Item]()
    sink.crash_next(2)
    store.reject("a", "b")
    async with open_write_behind_queue(store, PROMPT, dead_letters=sink) as queue:
        await queue.enqueue_many(items("abc"))
        await trio.sleep(0.5)
        assert queue.metrics().state is QueueState.PAUSED
        assert queue.metrics().total_failed == 0
        assert balance(queue.metrics()) == 0
    assert trio.current_time() == 2
    assert [letter.entry for letter in sink.letters] == items("ab")
    assert [record.__dict__["task"] for record in crashes(caplog)] == ["dead letters"] * 2
    assert_settled(queue, persisted=1, failed=2, abandoned=0)


async def test_two_tasks_that_crash_at_once_are_both_restarted(
    store: MemoryRepository[Item], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_write_behind_queue(store, PROMPT) as queue:
        store.stall()
        await queue.enqueue(Item("a"))
        await wait_all_tasks_blocked()
        crash_the_batcher(monkeypatch, 1)
        store.crash_next()
        await queue.enqueue(Item("b"))
        await wait_all_tasks_blocked()
        store.resume()
        await wait_all_tasks_blocked()
        assert queue.metrics().state is QueueState.PAUSED
        await queue.enqueue(Item("c"))
    assert [item for call in store.persisted for item in call] == items("abc")
    assert_settled(queue, persisted=3)


# The third in a row is one too many


async def test_the_third_crash_in_a_row_cancels_the_body_and_hands_back(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[BaseException] = []
    with pytest.raises(WriteBehindCrashedError, match="gave up after 3 crashes") as caught:
        async with open_write_behind_queue(store, PROMPT, name="q") as queue:
            await queue.persist(Item("stored"))
            store.crash_next(3)
            await queue.enqueue_many(items("abc"))
            try:
                await trio.sleep(60)
            except trio.Cancelled as cancelled:
                seen.append(cancelled)
                raise
    assert trio.current_time() == 2
    error = caught.value
    assert error.undelivered == queue.undelivered == tuple(items("abc"))
    assert "left in .undelivered: 3 entries" in str(error)
    assert [error.__context__] == seen
    assert isinstance(error.__cause__, RepositoryCrash)
    assert balance(error.metrics) == 0
    assert error.metrics.total_abandoned == 3
    assert error.metrics.state is QueueState.CLOSED
    assert len(crashes(caplog)) == 3
    assert_settled(queue, enqueued=4, persisted=1, abandoned=3)


@pytest.mark.parametrize("task", ["batcher", "dead letters"])
async def test_every_task_of_ours_can_be_the_one_that_gives_up(
    task: str,
    store: MemoryRepository[Item],
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink = MemoryDeadLetters[Item]()
    store.reject("a")
    if task == "batcher":
        crash_the_batcher(monkeypatch, 3)
    else:
        sink.crash_next(3)
    with pytest.raises(WriteBehindCrashedError) as caught:
        async with open_write_behind_queue(store, PROMPT, dead_letters=sink) as queue:
            await queue.enqueue(Item("a"))
            await trio.sleep(60)
    assert trio.current_time() == 2
    assert caught.value.undelivered == (Item("a"),)
    assert sink.letters == []
    assert_settled(queue, abandoned=1, failed=0)


async def test_crashes_of_different_tasks_in_a_row_add_up(
    store: MemoryRepository[Item], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_the_batcher(monkeypatch, 1)
    store.crash_next(2)
    with pytest.raises(WriteBehindCrashedError):
        async with open_write_behind_queue(store, PROMPT) as queue:
            await queue.enqueue(Item("a"))
            await trio.sleep(60)
    assert trio.current_time() == 2


async def test_giving_up_during_the_drain_ends_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.crash_next(3)
    with pytest.raises(WriteBehindCrashedError) as caught:
        async with open_write_behind_queue(store, PROMPT) as queue:
            await queue.enqueue_many(items("abc"))
    assert trio.current_time() == 2
    assert caught.value.undelivered == tuple(items("abc"))
    assert caught.value.__context__ is None
    assert_settled(queue, abandoned=3)


async def test_giving_up_while_the_body_s_exception_drains_keeps_it_as_context(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.crash_next(3)
    body = ValueError("body")
    with pytest.raises(WriteBehindCrashedError) as caught:
        async with open_write_behind_queue(store, PROMPT) as queue:
            await queue.enqueue(Item("a"))
            raise body
    assert caught.value.__context__ is body
    assert trio.current_time() == 2


async def test_giving_up_in_a_cancelled_scope_comes_instead_of_cancelled(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.crash_next(3)
    scope = trio.CancelScope()
    with pytest.raises(WriteBehindCrashedError) as caught, scope:
        async with open_write_behind_queue(store, PROMPT) as queue:
            await queue.enqueue(Item("a"))
            scope.cancel()
            await trio.sleep(60)
    assert isinstance(caught.value.__context__, trio.Cancelled)
    assert trio.current_time() == 2


@pytest.mark.parametrize(
    "body", [ValueError("body"), ExceptionGroup("body", [OSError("x")]), SystemExit(1)]
)
async def test_what_a_body_raises_instead_of_its_cancellation_is_the_context(
    body: BaseException, store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.crash_next(3)
    with pytest.raises(WriteBehindCrashedError) as caught:
        async with open_write_behind_queue(store, PROMPT) as queue:
            await queue.enqueue(Item("a"))
            try:
                await trio.sleep(60)
            finally:
                raise body
    assert caught.value.__context__ is body
    assert_settled(queue, abandoned=1)


async def test_a_body_that_outlives_the_giving_up_sees_a_closed_queue(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.crash_next(3)
    with pytest.raises(WriteBehindCrashedError) as caught:
        async with open_write_behind_queue(store, PROMPT) as queue:
            await queue.enqueue_many(items("abc"))
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
                assert queue.undelivered == tuple(items("abc"))
                assert_settled(queue, abandoned=3)
                assert queue.metrics().state is QueueState.DRAINING
                assert queue_tasks() == []
                with pytest.raises(QueueClosedError):
                    queue.enqueue_nowait(Item("d"))
                with pytest.raises(QueueClosedError):
                    await queue.flush()
                await trio.sleep(5)
    assert trio.current_time() == 10
    assert caught.value.undelivered == tuple(items("abc"))
    assert caught.value.__context__ is None


async def test_giving_up_wakes_everyone_who_waits_before_the_body_has_ended(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    outcomes: dict[str, QueueClosedError] = {}
    woken_at: set[float] = set()

    async def wait(name: str, call: Callable[..., Awaitable[object]], *arguments: object) -> None:
        with pytest.raises(QueueClosedError) as caught:
            await call(*arguments)
        outcomes[name] = caught.value
        woken_at.add(trio.current_time())

    async def use(queue: WriteBehindQueue[Item]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "persist", queue.persist, Item("a"))
            await wait_all_tasks_blocked()
            await queue.enqueue_many(items("bcde"))
            nursery.start_soon(wait, "flush", queue.flush)
            nursery.start_soon(wait, "room", queue.enqueue, Item("x"))
            nursery.start_soon(wait, "persist room", queue.persist, Item("y"))
            nursery.start_soon(wait, "many", queue.enqueue_many, items("z"))

    store.crash_next(3)
    options = WriteBehindOptions(queue_capacity=4, batch_size=2)
    with pytest.raises(WriteBehindCrashedError) as caught:
        async with open_write_behind_queue(store, options) as queue:
            with trio.CancelScope(shield=True):
                await use(queue)
                assert len(outcomes) == 5
                await trio.sleep(5)
    assert woken_at == {2}
    assert len(set(map(id, outcomes.values()))) == 5
    assert outcomes["many"].accepted == 0
    assert caught.value.__context__ is None
    assert caught.value.undelivered == tuple(items("abcde"))
    assert_settled(queue, enqueued=5, abandoned=5)


async def test_no_crash_becomes_a_group_in_the_application_s_nursery(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.crash_next(3)
    seen: list[type[BaseException]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 60)
        try:
            async with open_write_behind_queue(store, PROMPT) as queue:
                await queue.enqueue(Item("a"))
                await trio.sleep(60)
        except WriteBehindCrashedError as error:
            seen.append(type(error))
        assert trio.current_time() == 2  # and nobody else was cancelled
    assert seen == [WriteBehindCrashedError]
    assert trio.current_time() == 60
