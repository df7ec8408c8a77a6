"""Leaving the ``async with``: the body ends, raises or is cancelled, or the time is up."""

from __future__ import annotations

import logging
import random
import traceback
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    QueueClosedError,
    QueueState,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._vocabulary.errors import reworded
from provcache_trio.testing import MemoryRepository, RepositoryCrash

from tests.support.items import Item, assert_settled, balance, items
from tests.support.tasks import kind_of, queue_tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from provcache_trio import WriteBehindQueue

pytestmark = pytest.mark.one_lane

PATIENT = WriteBehindOptions(
    queue_capacity=4, batch_size=2, flush_interval_seconds=60, drain_timeout_seconds=10
)


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:  # noqa: ASYNC124  # needs trio's loop
    yield
    assert queue_tasks() == []


class Stubborn:
    """A repository whose calls do something of their own when they are cancelled."""

    def __init__(self, when_cancelled: Callable[[], Awaitable[None]]) -> None:
        self.when_cancelled = when_cancelled
        self.calls: list[tuple[Item, ...]] = []
        self.rows: dict[str, Item] = {}

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        self.calls.append(tuple(entries))
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # noqa: ASYNC103  # what a test does with it, that it tests
            with trio.CancelScope(shield=True):
                await self.when_cancelled()
        self.rows.update((entry.veri_key, entry) for entry in entries)
        return len(entries)  # noqa: ASYNC104


# The body ends


async def test_everything_accepted_is_written_in_order_when_the_body_ends(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 1
    async with open_write_behind_queue(store, PATIENT) as queue:
        await queue.enqueue_many(items("abcd"))
        await wait_all_tasks_blocked()
        kinds = {"batcher", "calls", "provcache_trio._core.opening: queue 'default'", "writer"}
        assert set(map(kind_of, queue_tasks())) == kinds
        await queue.enqueue_many([Item("c", 1), *items("ae")])
    assert store.calls == [
        (Item("a"), Item("b")),
        (Item("c", 1), Item("d")),
        (Item("a"), Item("e")),
    ]
    assert trio.current_time() == 3
    assert_settled(queue, enqueued=7, persisted=6, coalesced=1, abandoned=0)
    assert queue.metrics().state is QueueState.CLOSED
    assert queue.undelivered == ()
    assert queue_tasks() == []


async def test_a_queue_with_nothing_open_is_left_at_once(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    async with open_write_behind_queue(store):
        pass
    store.resume()
    async with open_write_behind_queue(store) as queue:
        await queue.persist(Item("a"))
        store.stall()
    assert trio.current_time() == 0


async def test_a_drain_waits_for_no_flush_interval(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, PATIENT) as queue:
        await queue.enqueue(Item("a"))
    assert trio.current_time() == 0
    assert store.calls == [(Item("a"),)]


async def test_closing_cuts_the_backoff_that_is_under_way(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(retry_base_seconds=1e9, retry_cap_seconds=1e9)
    store.down()
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(5)
        assert queue.metrics().state is QueueState.WAITING
        store.up()
    assert trio.current_time() == 5
    assert_settled(queue, persisted=1)


async def test_no_backoff_of_a_drain_exceeds_a_tenth_of_its_time(
    autojump_clock: MockClock,
) -> None:
    tried_at: list[float] = []

    class Gone:
        async def upsert_many(self, _: Sequence[Item], /) -> int:
            tried_at.append(trio.current_time())
            await trio.lowlevel.checkpoint()
            raise StoreUnavailableError("gone")

    options = WriteBehindOptions(
        retry_base_seconds=1e9, retry_cap_seconds=1e9, drain_timeout_seconds=100
    )
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(Gone(), options) as queue:
            await queue.enqueue(Item("a"))
    gaps = [later - sooner for sooner, later in pairwise(tried_at)]
    assert len(gaps) > 10
    assert max(gaps) <= 10
    assert max(gaps) > 5  # and they are drawn from all of that


async def test_a_queue_that_drains_says_so_and_takes_nothing(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 2
    seen: list[QueueState] = []

    async def look(queue: WriteBehindQueue[Item]) -> None:
        await trio.sleep(1)
        seen.append(queue.metrics().state)
        with pytest.raises(QueueClosedError, match="'default' takes no more entries"):
            await queue.enqueue(Item("b"))
        assert queue.pending("a") == Item("a")
        assert queue.undelivered == ()

    async with trio.open_nursery() as nursery, open_write_behind_queue(store) as queue:
        await queue.enqueue(Item("a"))
        nursery.start_soon(look, queue)  # noqa: ASYNC111  # outlives the body
    assert seen == [QueueState.DRAINING]
    assert_settled(queue, enqueued=1, persisted=1)


# The body raises


def chained() -> BaseException:
    error = ValueError("chained")
    error.__cause__ = LookupError("cause")
    error.__context__ = KeyError("context")
    error.__suppress_context__ = False
    error.add_note("a note of its own")
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        chained(),
        ExceptionGroup("of the body's own", [ValueError("one"), OSError("two")]),
        BaseExceptionGroup("mixed", [ValueError("one"), SystemExit(2)]),
        ExceptionGroup("of one", [ExceptionGroup("in one", [ValueError("x")])]),
        SystemExit(3),
        GeneratorExit(),
        BaseException("base"),
        StopAsyncIteration(),
        trio.ClosedResourceError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_body_s_exception_goes_on_as_the_very_same_object(
    error: BaseException, store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    def state() -> tuple[object, ...]:
        notes = list(getattr(error, "__notes__", []))
        children = getattr(error, "exceptions", ())
        return error.__context__, error.__cause__, error.__suppress_context__, notes, children

    def fail() -> None:
        raise error

    before = state()
    store.latency_seconds = 1
    with pytest.raises(type(error)) as caught:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue_many(items("abc"))
            fail()
    assert caught.value is error
    assert state() == before
    here = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert here == ["test_the_body_s_exception_goes_on_as_the_very_same_object", "fail"]
    assert trio.current_time() == 2
    assert_settled(queue, persisted=3, abandoned=0)


async def test_a_group_from_a_nursery_in_the_body_is_not_wrapped_again(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("in a task of the body")

    inside: list[BaseException] = []
    with pytest.RaisesGroup(OSError) as caught:
        async with open_write_behind_queue(store) as queue:
            await queue.enqueue(Item("a"))
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail)
                    nursery.start_soon(trio.sleep_forever)
            except ExceptionGroup as group:
                inside.append(group)
                raise
    assert [caught.value] == inside
    assert set(store.rows) == {"a"}


# A surrounding scope is cancelled


async def test_a_cancelled_scope_drains_first_and_absorbs_a_bare_cancelled(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 1
    seen: list[type[BaseException]] = []
    with trio.CancelScope() as scope:
        try:
            async with open_write_behind_queue(store, PATIENT) as queue:
                await queue.enqueue_many(items("abc"))
                scope.cancel()
                await trio.sleep_forever()
        except BaseException as error:
            seen.append(type(error))
            raise
    assert seen == [trio.Cancelled]
    assert scope.cancelled_caught
    assert trio.current_time() == 2
    assert_settled(queue, persisted=3, abandoned=0)


async def test_an_outer_deadline_that_passes_during_the_drain_does_not_shorten_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 4
    with trio.move_on_after(1) as scope:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue_many(items("abcd"))
        assert trio.current_time() == 8
        # The body had ended, so leaving was no failure; what comes next is cancelled.
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert_settled(queue, persisted=4, abandoned=0)


async def test_a_scope_cancelled_while_the_body_s_exception_drains_changes_nothing(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 4
    error = ValueError("body")
    with pytest.raises(ValueError, match="body") as caught, trio.move_on_after(1):
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue(Item("a"))
            raise error
    assert caught.value is error
    assert error.__context__ is None
    assert trio.current_time() == 4
    assert_settled(queue, persisted=1)


async def test_a_cancelled_nursery_around_the_queue_drains_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 1
    went_on = False
    async with trio.open_nursery() as nursery:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue_many(items("abc"))
            nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()
        went_on = True
    assert not went_on
    assert_settled(queue, persisted=3)


async def test_the_failure_of_a_sibling_drains_the_queue_and_is_the_only_error(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 1
    queues: list[WriteBehindQueue[Item]] = []
    sibling = LookupError("sibling")

    async def use() -> None:
        async with open_write_behind_queue(store, PATIENT) as queue:
            queues.append(queue)
            await queue.enqueue_many(items("abc"))
            await trio.sleep_forever()

    async def fail() -> None:
        await trio.sleep(5)
        raise sibling

    with pytest.RaisesGroup(LookupError) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            nursery.start_soon(fail)
    assert caught.value.exceptions == (sibling,)
    assert_settled(queues[0], persisted=3)


async def test_opening_in_a_cancelled_scope_opens_nothing(
    store: MemoryRepository[Item], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_write_behind_queue(store):
            raise AssertionError("not reached")
    assert scope.cancelled_caught
    assert queue_tasks() == []
    assert caplog.records == []


# The time is up


@pytest.mark.parametrize("state", [None, "57P03"])
async def test_an_error_at_the_deadline_names_what_the_store_said(
    store: MemoryRepository[Item], autojump_clock: MockClock, state: str | None
) -> None:
    store.fail_next(StoreUnavailableError("away", error_class="Away", sqlstate=state), times=99)
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue(Item("a"))
    sqlstate = f", SQLSTATE {state}" if state else ""
    assert str(caught.value) == (
        f"queue 'default' could not write 1 entry within 10 s, as the last call failed (Away{sqlstate}); "
        "save what is in .undelivered"
    )


async def test_the_last_lines_name_what_a_person_has_to_mend_now(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.fail_next(reworded(StoreMisconfiguredError(""), "no column"))
    now = reworded(StoreMisconfiguredError("", sqlstate="42501"), "no grant")
    store.fail_next(now, times=99)
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue(Item("a"))
    cause = ", as the last call failed (StoreMisconfiguredError: no grant, SQLSTATE 42501)"
    assert f"within 10 s{cause}; save" in str(caught.value)
    assert caplog.messages[-1] == (
        f"default: 1 entry not written, and handed back in .undelivered{cause}"
    )


async def test_an_error_at_the_deadline_blames_nothing_that_is_over(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.fail_next(StoreUnavailableError("away"))
    with pytest.raises(DrainTimeoutError, match="within 10 s; save"):
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.persist(Item("stored"))
            store.stall()
            await queue.enqueue(Item("a"))


async def test_at_the_deadline_what_is_left_is_handed_back_in_order_of_acceptance(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DrainTimeoutError, match="could not write 6 entries within 10 s") as caught:
        async with open_write_behind_queue(store, PATIENT, name="late") as queue:
            await queue.persist(Item("stored"))
            store.stall()
            await queue.enqueue_many(items("abc"))
            await wait_all_tasks_blocked()
            await queue.enqueue_many([*items("dea"), Item("c", 1)])
    assert trio.current_time() == 10
    error = caught.value
    assert error.undelivered == (*items("ab"), Item("c", 1), *items("dea"))
    assert queue.undelivered == error.undelivered
    assert error.__cause__ is None
    assert error.metrics.total_abandoned == len(error.undelivered)
    assert balance(error.metrics) == 0
    assert error.metrics.state is QueueState.CLOSED
    assert_settled(queue, enqueued=8, persisted=1, coalesced=1, abandoned=6)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "late: 6 entries not written, and handed back in .undelivered"
    assert record.__dict__["count"] == 6


async def test_out_of_a_cancelled_scope_the_timeout_comes_instead_of_cancelled_from_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    scope = trio.CancelScope()
    with pytest.raises(DrainTimeoutError) as caught, scope:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue(Item("a"))
            scope.cancel()
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, trio.Cancelled)
    assert caught.value.undelivered == (Item("a"),)
    assert trio.current_time() == 10


async def test_a_group_of_nothing_but_cancelled_counts_as_cancelled(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    groups: list[BaseException] = []
    scope = trio.CancelScope()
    with pytest.raises(DrainTimeoutError) as caught, scope:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue(Item("a"))
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:  # noqa: ASYNC103  # raised below, in a group
                groups.append(BaseExceptionGroup("of the body", [cancelled]))
            raise groups[0]
    assert caught.value.__cause__ is groups[0]


@pytest.mark.parametrize(
    "error",
    [ValueError("plain"), SystemExit(1), ExceptionGroup("group", [ValueError("x")])],
    ids=lambda error: type(error).__name__,
)
async def test_at_the_deadline_the_body_s_exception_gets_a_note(
    error: BaseException, store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    with pytest.raises(type(error)) as caught:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue_many(items("abc"))
            raise error
    assert caught.value is error
    assert error.__context__ is None
    [note] = error.__notes__
    assert note == (
        "queue 'default' could not write 3 entries within 10 s; save what is in .undelivered"
    )
    assert queue.undelivered == tuple(items("abc"))


async def test_a_mixed_group_with_cancelled_in_it_gets_the_note_too(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    groups: list[BaseException] = []
    scope = trio.CancelScope()
    with pytest.RaisesGroup(ValueError) as caught, scope:  # which takes its Cancelled out
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue(Item("a"))
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:  # noqa: ASYNC103  # raised below, in a group
                groups.append(BaseExceptionGroup("both", [cancelled, ValueError("x")]))
            raise groups[0]
    assert len(groups[0].__notes__) == 1
    assert caught.value.__notes__ == groups[0].__notes__


async def test_a_write_that_was_cut_off_is_handed_back_even_if_the_store_has_it(
    autojump_clock: MockClock,
) -> None:
    class StoresAndHangs:
        rows: dict[str, Item] = {}  # noqa: RUF012  # of one test

        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            self.rows.update((entry.veri_key, entry) for entry in entries)
            await trio.sleep_forever()
            raise AssertionError("unreachable")

    store = StoresAndHangs()
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue_many(items("abc"))
    assert set(store.rows) == {"a", "b"}
    assert caught.value.undelivered == tuple(items("abc"))
    assert_settled(queue, persisted=0, abandoned=3)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("the driver's way to tell that it was cancelled"),
        KeyError("unknown"),
        EntryRejectedError("refused"),
        RepositoryCrash("crashed"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_write_that_fails_when_it_is_cut_off_is_handed_back_without_a_verdict(
    error: BaseException, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    store = Stubborn(fail)
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, PATIENT, name="q") as queue:
            await queue.enqueue(Item("a"))
    assert caught.value.undelivered == (Item("a"),)
    assert_settled(queue, persisted=0, failed=0, retries=0, abandoned=1)
    assert len(store.calls) == 1
    assert queue.metrics().last_error is None
    [record] = caplog.records
    assert record.getMessage() == "q: 1 entry not written, and handed back in .undelivered"


async def test_a_write_that_ends_normally_although_cancelled_counts_as_persisted(
    autojump_clock: MockClock,
) -> None:
    store = Stubborn(partial(trio.sleep, 3))
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue_many(items("abc"))
    assert set(store.rows) == {"a", "b"}
    assert caught.value.undelivered == (Item("c"),)
    assert_settled(queue, persisted=2, abandoned=1)
    assert trio.current_time() == 13  # our deadline, and what the repository took beyond it


async def test_the_last_write_ending_normally_although_cancelled_is_no_timeout(
    autojump_clock: MockClock,
) -> None:
    store = Stubborn(trio.lowlevel.checkpoint)
    async with open_write_behind_queue(store, PATIENT) as queue:
        await queue.enqueue_many(items("ab"))
    assert queue.undelivered == ()
    assert_settled(queue, persisted=2, abandoned=0)


async def test_a_drain_timeout_of_zero_hands_back_at_once_but_nothing_that_is_settled(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(batch_size=2, drain_timeout_seconds=0)
    with pytest.raises(DrainTimeoutError, match="3 entries: drain_timeout_seconds is 0;") as caught:
        async with open_write_behind_queue(store, options) as queue:
            await queue.persist(Item("settled"))
            store.latency_seconds = 5
            await queue.enqueue_many(items("abc"))
            await wait_all_tasks_blocked()
    assert trio.current_time() == 0
    assert caught.value.undelivered == tuple(items("abc"))
    assert_settled(queue, persisted=1, abandoned=3)
    async with open_write_behind_queue(store, options) as queue:
        await queue.persist(Item("settled"))
    assert_settled(queue, persisted=1, abandoned=0)


# Who waits when the queue closes


Outcomes = dict[str, BaseException | None]


async def note_outcome(
    outcomes: Outcomes, name: str, call: Callable[..., Awaitable[object]], *args: object
) -> None:
    try:
        with trio.fail_after(60):
            await call(*args)
    except QueueClosedError as error:
        outcomes[name] = error
    else:
        outcomes[name] = None


async def test_producers_that_wait_for_room_are_sent_away_when_the_queue_closes(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    outcomes: Outcomes = {}
    store.latency_seconds = 1
    async with trio.open_nursery() as nursery:
        async with open_write_behind_queue(store, PATIENT, name="full") as queue:
            store.stall()
            await queue.enqueue_many(items(range(6)))
            calls = {"one": queue.enqueue, "two": queue.enqueue, "three": queue.persist}
            for name, call in calls.items():
                nursery.start_soon(note_outcome, outcomes, name, call, Item(name))  # noqa: ASYNC111
            await wait_all_tasks_blocked()
            assert queue.metrics().producers_waiting == 3
            store.resume()
        assert queue.metrics().producers_waiting == 0
    errors = [cast("QueueClosedError", error) for error in outcomes.values()]
    assert [str(error) for error in errors] == ["queue 'full' was closed while it was full"] * 3
    assert len(set(map(id, errors))) == 3
    assert set(store.rows) == set("012345")
    assert_settled(queue, enqueued=6, persisted=6)


@pytest.mark.parametrize("in_time", [True, False])
async def test_who_waits_for_a_fate_learns_it_from_the_drain(
    in_time: bool, store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    outcomes: Outcomes = {}
    store.stall()
    async with trio.open_nursery() as nursery:
        try:
            async with open_write_behind_queue(store, PATIENT, name="q") as queue:
                for name in ("one", "two"):
                    call = partial(queue.persist, Item("a"))
                    nursery.start_soon(note_outcome, outcomes, name, call)  # noqa: ASYNC111
                await wait_all_tasks_blocked()
                nursery.start_soon(note_outcome, outcomes, "flush", queue.flush)  # noqa: ASYNC111
                await wait_all_tasks_blocked()
                if in_time:
                    store.resume()
        except DrainTimeoutError:
            assert not in_time
    if in_time:
        assert outcomes == {"one": None, "two": None, "flush": None}
        return
    errors = [cast("QueueClosedError", outcomes[name]) for name in ("one", "two")]
    assert [str(error) for error in errors] == ["queue 'q' ended before the entry was stored"] * 2
    assert errors[0] is not errors[1]
    assert str(outcomes["flush"]) == "queue 'q' ended before it was flushed"


@pytest.mark.parametrize("call", ["enqueue", "enqueue_nowait", "enqueue_many", "persist"])
async def test_after_the_exit_every_call_that_brings_entries_is_refused(
    call: str, store: MemoryRepository[Item]
) -> None:
    async with open_write_behind_queue(store, name="over") as queue:
        await queue.enqueue(Item("a"))
    with pytest.raises(QueueClosedError, match="'over' takes no more entries") as caught:
        match call:
            case "enqueue":
                await queue.enqueue(Item("b"))
            case "enqueue_nowait":
                queue.enqueue_nowait(Item("b"))
            case "enqueue_many":
                await queue.enqueue_many(items("bc"))
            case _:
                await queue.persist(Item("b"))
    assert isinstance(caught.value, trio.ClosedResourceError)
    assert caught.value.accepted == (0 if call == "enqueue_many" else None)
    assert_settled(queue, enqueued=1, persisted=1, refused=0)
    assert set(store.rows) == {"a"}


async def test_after_a_clean_exit_every_question_has_its_answer(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, name="over") as queue:
        await queue.enqueue(Item("a"))
    await trio.sleep(5)
    await queue.flush()
    assert queue.pending("a") is None
    assert queue.undelivered == ()
    assert repr(queue) == "<WriteBehindQueue 'over' closed, 0 in line, 0 in flight>"
    metrics = queue.metrics()
    assert metrics.oldest_pending_seconds == 0
    assert metrics.next_try_in_seconds is None
    assert metrics.producers_waiting == 0


async def test_after_an_exit_that_handed_back_flush_says_so(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.down()
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(store, PATIENT) as queue:
            await queue.enqueue(Item("a"))
    with pytest.raises(QueueClosedError, match="ended before it was flushed"):
        await queue.flush()
    assert queue.pending("a") is None
    assert queue.undelivered == (Item("a"),)
    assert queue.metrics().next_try_in_seconds is None
    assert queue.metrics().oldest_pending_seconds == 0


# Nesting


async def test_two_queues_in_one_program_do_not_touch_each_other(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    other = MemoryRepository[Item]()
    other.stall()
    async with open_write_behind_queue(store, PATIENT) as outer:
        await outer.enqueue(Item("outer"))
        with pytest.raises(DrainTimeoutError) as caught:
            async with open_write_behind_queue(other, PATIENT) as inner:
                await inner.enqueue(Item("inner"))
                await outer.enqueue(Item("outer 2"))
        assert caught.value.undelivered == (Item("inner"),)
        assert outer.metrics().state is QueueState.RUNNING
        await outer.enqueue(Item("outer 3"))
    assert set(store.rows) == {"outer", "outer 2", "outer 3"}
    assert_settled(outer, persisted=3)
    assert_settled(inner, abandoned=1)


async def test_an_error_passes_through_two_queues_as_the_same_object(
    store: MemoryRepository[Item],
) -> None:
    other = MemoryRepository[Item]()
    error = ValueError("body")
    with pytest.raises(ValueError, match="body") as caught:
        async with AsyncExitStack() as stack:
            for repository in (store, other):
                manager = open_write_behind_queue(repository)
                queue = await stack.enter_async_context(manager)
                await queue.enqueue(Item("a"))
            raise error
    assert caught.value is error
    assert error.__context__ is None
    assert store.rows == other.rows == {"a": Item("a")}


@pytest.mark.parametrize("fails", [True, False])
async def test_a_queue_can_live_in_an_async_context_manager_of_the_application(
    fails: bool, store: MemoryRepository[Item]
) -> None:
    @asynccontextmanager
    async def application() -> AsyncIterator[WriteBehindQueue[Item]]:
        async with open_write_behind_queue(store) as queue:
            yield queue

    error = ValueError("body")
    seen: BaseException | None = None
    try:
        async with application() as queue:
            await queue.enqueue(Item("a"))
            if fails:
                raise error
    except ValueError as arrived:
        seen = arrived
    assert seen is (error if fails else None)
    assert store.rows == {"a": Item("a")}


async def test_a_queue_is_entered_once(store: MemoryRepository[Item]) -> None:
    manager = open_write_behind_queue(store)
    async with manager as queue:
        with pytest.raises(RuntimeError, match="entered once"):
            await manager.__aenter__()
        await queue.enqueue(Item("a"))
    with pytest.raises(RuntimeError, match="entered once"):
        await manager.__aenter__()
    assert_settled(queue, persisted=1)


async def test_a_start_and_a_clean_end_are_three_log_lines(
    store: MemoryRepository[Item], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.reject("bad")
    async with open_write_behind_queue(store, PATIENT, name="q") as queue:
        await queue.enqueue_many([Item("a"), Item("a", 1), Item("bad"), Item("b")])
    lines = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [line for line in lines if line[0] == logging.INFO] == [
        (
            logging.INFO,
            "q: started: batch size 2, flush interval 60 s, capacity 4, store MemoryRepository",
        ),
        (logging.INFO, "q: drained: 2 persisted, 1 coalesced, 1 dead-lettered"),
        (logging.INFO, "q: stopped: 4 accepted, 0 recovered, 0 abandoned"),
    ]
    assert {record.__dict__["queue"] for record in caplog.records} == {"q"}


# Arguments


class Empty:
    """Neither a repository nor a sink."""


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"repository": Empty()}, TypeError, "upsert_many; Empty has none"),
        ({"options": None}, TypeError, "options must be WriteBehindOptions, not NoneType"),
        ({"options": {"batch_size": 5}}, TypeError, "not dict"),
        ({"name": b"q"}, TypeError, "name must be a str, not bytes"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"key": "veri_key"}, TypeError, "key must be callable, not str"),
        ({"merge": 3}, TypeError, "merge must be callable, not int"),
        ({"dead_letters": Empty()}, TypeError, "put_many; Empty has none"),
        ({"telemetry": Empty()}, TypeError, "telemetry must be an OpenTelemetry, not Empty"),
        ({"wall_clock": 0.0}, TypeError, "wall_clock must be callable, not float"),
        ({"wall_clock": lambda: 0.0}, TypeError, "must return a datetime, not float"),
        ({"wall_clock": lambda: datetime(2026, 1, 1)}, ValueError, "aware"),  # noqa: DTZ001
    ],
)
async def test_a_wrong_argument_is_named_before_anything_is_opened(
    arguments: dict[str, object],
    error: type[Exception],
    message: str,
    store: MemoryRepository[Item],
) -> None:
    everything = {"repository": store, "wall_clock": lambda: datetime.now(UTC)} | arguments
    open_queue: Callable[..., AbstractAsyncContextManager[object]] = open_write_behind_queue
    with pytest.raises(error, match=message):
        async with open_queue(everything.pop("repository"), **everything):
            raise AssertionError("not reached")


async def test_closing_cuts_a_backoff_however_many_there_were_before(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    store = MemoryRepository[Item]()
    store.down()
    options = WriteBehindOptions(drain_timeout_seconds=3)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(120)
        next_try = queue.metrics().next_try_in_seconds
        assert next_try is not None
        assert next_try > 10
        began = trio.current_time()
        store.up()
    assert trio.current_time() == began
    assert_settled(queue, persisted=1)
