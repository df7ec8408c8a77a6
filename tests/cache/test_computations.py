"""One computation for all who ask, whoever is cancelled, fails or invalidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    ProvcacheEntry,
    QueueClosedError,
    StoreUnavailableError,
    WriteBehindOptions,
)

from tests.support.entries import DAY, NOW, entry, key_of
from tests.support.gated import SLOWLY, now, opened
from tests.support.tasks import put_aside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

KEY = key_of(0)
MADE = entry(feed_epoch="made")


class Compute:
    """A computation that takes its time."""

    def __init__(self, result: object = MADE, seconds: float = 1) -> None:
        self.result = result
        self.seconds = seconds
        self.begun = 0
        self.ended = 0

    async def __call__(self) -> ProvcacheEntry:
        self.begun += 1
        try:
            await trio.sleep(self.seconds)
        finally:
            self.ended += 1
        if isinstance(self.result, BaseException):
            raise self.result
        return cast("ProvcacheEntry", self.result)


async def test_what_is_missing_is_computed_once_for_all_who_ask(autojump_clock: MockClock) -> None:
    compute = Compute()
    async with opened() as (store, queue, cache), trio.open_nursery() as nursery:
        answers = [await put_aside(nursery, cache.get_or_compute, KEY, compute) for _ in range(100)]
        await trio.sleep(2)
        assert all(one == [MADE] for one in answers)
        assert compute.begun == 1
        assert cache.peek(KEY) == queue.pending(KEY) == MADE
        await queue.flush()
        assert store.rows == {KEY: MADE}
        assert await cache.get_or_compute(KEY, compute) == MADE
        metrics = cache.metrics()
    assert compute.begun == metrics.computations == 1
    assert metrics.shared_waits == 99


async def test_what_is_there_is_not_computed(autojump_clock: MockClock) -> None:
    compute = Compute()
    async with opened() as (store, _, cache):
        store.hold(entry())
        assert await cache.get_or_compute(KEY, compute) == entry()
        assert compute.begun == 0
        later = Compute(entry(created_at=NOW + DAY / 2, feed_epoch="later"))
        assert await cache.get_or_compute(KEY, later, fresh=True) == later.result
        assert later.begun == 1


async def test_callers_without_patience_get_an_answer_while_others_wait(
    autojump_clock: MockClock,
) -> None:
    compute = Compute(seconds=5)
    answers: list[ProvcacheEntry] = []
    async with opened() as (_, _, cache), trio.open_nursery() as nursery:

        async def call(at: float) -> None:
            await trio.sleep(at)
            with trio.move_on_after(2.01):
                answers.append(await cache.get_or_compute(KEY, compute))

        for number in range(60):
            nursery.start_soon(call, number / 10 + 0.05)
    assert compute.begun == 1
    assert len(answers) == 30  # who came in the last two seconds before, and later


async def test_a_computation_ends_when_nobody_waits_for_it(autojump_clock: MockClock) -> None:
    compute = Compute(seconds=5)
    async with opened() as (_, _, cache):
        with trio.move_on_after(1):
            await cache.get_or_compute(KEY, compute)
        await wait_all_tasks_blocked()
        assert compute.begun == compute.ended == 1
        assert await cache.get_or_compute(KEY, compute) == MADE
        assert compute.begun == compute.ended == 2


async def test_a_computation_that_can_not_end_at_once_is_not_joined(
    autojump_clock: MockClock,
) -> None:
    calls = 0

    async def compute() -> ProvcacheEntry:
        nonlocal calls
        calls += 1
        if calls == 1:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)
        return entry(feed_epoch=f"call {calls}")

    async with opened() as (store, _, cache):
        with trio.move_on_after(1):
            await cache.get_or_compute(KEY, compute)
        with trio.fail_after(5):
            assert await cache.get_or_compute(KEY, compute) == entry(feed_epoch="call 2")
        await trio.sleep(20)
        assert cache.peek(KEY) is None
        assert await cache.get(KEY) == entry(feed_epoch="call 2")
    assert store.rows[KEY] == entry(feed_epoch="call 2")


async def test_what_is_computed_is_merged_with_what_was_there(autojump_clock: MockClock) -> None:
    expired = entry(created_at=NOW - 2 * DAY, expires_at=NOW - DAY, hit_count=9)
    both = entry(feed_epoch="made", hit_count=9)
    async with opened() as (store, queue, cache):
        store.hold(expired)
        assert await cache.get_or_compute(KEY, Compute()) == both
        assert len(store.reads) == 1
        assert cache.peek(KEY) == both
        await queue.flush()
        assert store.rows[KEY] == both


async def test_the_answer_is_the_state_of_the_key_and_not_what_was_computed(
    autojump_clock: MockClock,
) -> None:
    newer = entry(created_at=NOW + DAY / 2, feed_epoch="newer")
    async with opened(memory_seconds=5) as (store, _, cache), trio.open_nursery() as nursery:
        answer = await put_aside(nursery, cache.get_or_compute, KEY, Compute(seconds=10))
        store.hold(newer)  # another process
        await trio.sleep(11)
        assert answer == [newer]
        assert len(store.reads) == 2


class OwnError(Exception):
    """An error that can't be made of its ``args``."""

    def __init__(self, *, number: int) -> None:
        super().__init__("one", "two")
        self.number = number


class MissingError(OSError):
    """A subclass of an error that keeps more than its ``args``."""


@pytest.mark.parametrize(
    "error",
    [
        OwnError(number=7),
        MissingError(2, "no such file", "name"),
        ImportError("no module", name="module"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        ExceptionGroup("several", [ValueError("x"), OwnError(number=8)]),
        KeyError("key"),
        SystemExit(3),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_reaches_each_who_waits_with_an_object_of_its_own(
    error: BaseException, autojump_clock: MockClock
) -> None:
    error.add_note("a note")
    error.__cause__ = LookupError("why")
    raised: list[BaseException] = []
    async with opened() as (_, _, cache):

        async def call() -> None:
            try:
                await cache.get_or_compute(KEY, Compute(error))
            except (Exception, SystemExit) as one:  # noqa: BLE001  # the test looks at it
                raised.append(one)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call)
        assert cache.metrics().errors == cache.metrics().computations == 1
        assert await cache.get_or_compute(KEY, Compute()) == MADE  # it is not kept
    assert len({id(one) for one in (*raised, error)}) == 4
    for one in raised:
        assert type(one) is type(error)
        assert str(one) == str(error)
        assert one.args == error.args
        assert vars(one) == vars(error)
        assert one.__cause__ is error.__cause__
        assert one.__traceback__ is not None
        for name in ("filename", "name", "reason", "code"):
            assert getattr(one, name, None) == getattr(error, name, None)


async def test_a_group_that_holds_cancelled_is_freed_of_it(autojump_clock: MockClock) -> None:
    async def compute() -> ProvcacheEntry:
        stray: list[BaseException] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                stray.append(error)
                raise
        raise BaseExceptionGroup("both", [*stray, ValueError("x")])

    async with opened() as (_, _, cache):
        with pytest.RaisesGroup(ValueError):
            await cache.get_or_compute(KEY, compute)


async def test_what_a_computation_raises_while_it_is_cancelled_is_nobodys(
    autojump_clock: MockClock,
) -> None:
    async def compute() -> ProvcacheEntry:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("x")

    async with opened() as (_, _, cache):
        with trio.move_on_after(1) as scope:
            await cache.get_or_compute(KEY, compute)
        assert scope.cancelled_caught
        assert await cache.get_or_compute(KEY, Compute()) == MADE


async def test_a_computation_that_asks_for_its_own_key_is_told_so(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (_, _, cache):

        async def asks_itself() -> ProvcacheEntry:
            return await cache.get_or_compute(KEY, asks_itself)

        with pytest.raises(RuntimeError, match="asks for its own key"):
            await cache.get_or_compute(KEY, asks_itself)

        async def asks_the_other() -> ProvcacheEntry:
            await trio.sleep(1)
            return await cache.get_or_compute(key_of(1), asks_back)

        async def asks_back() -> ProvcacheEntry:
            await trio.sleep(2)
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own
                nursery.start_soon(cache.get_or_compute, KEY, asks_the_other)
            raise AssertionError("unreachable")

        async with trio.open_nursery() as nursery:
            both = [
                await put_aside(nursery, cache.get_or_compute, KEY, asks_the_other),
                await put_aside(nursery, cache.get_or_compute, key_of(1), asks_back),
            ]
        for raised in both:
            leaf = raised[0]
            while isinstance(leaf, ExceptionGroup):
                (leaf,) = leaf.exceptions
            assert isinstance(leaf, RuntimeError)


async def test_a_computation_may_ask_for_others_and_its_tasks_may_outlive_it(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (_, _, cache), trio.open_nursery() as nursery:
        later: list[Any] = []

        async def outlives() -> None:
            await trio.sleep(5)
            later.append(await cache.get_or_compute(KEY, Compute(), fresh=True))

        async def compute() -> ProvcacheEntry:
            assert await cache.get_or_compute(key_of(1), Compute(entry(1))) == entry(1)
            nursery.start_soon(outlives)
            return MADE

        assert await cache.get_or_compute(KEY, compute) == MADE
        await trio.sleep(10)
        assert later == [MADE]


@pytest.mark.parametrize(
    ("compute", "error", "text"),
    [
        (7, TypeError, "compute must be callable, not int"),
        (lambda: 7, TypeError, "compute must return an awaitable, not int"),
        (Compute(None), TypeError, "compute must return an entry; NoneType has no key"),
        (Compute(entry(1)), ValueError, "an entry with another key"),
    ],
)
async def test_what_is_no_computation_of_an_entry_is_refused(
    compute: Callable[[], Awaitable[ProvcacheEntry]],
    error: type[Exception],
    text: str,
    autojump_clock: MockClock,
) -> None:
    async with opened() as (_, queue, cache):
        with pytest.raises(error, match=text):
            await cache.get_or_compute(KEY, compute)
        assert queue.metrics().total_enqueued == 0


async def test_when_the_store_is_away_a_miss_is_an_error_or_is_computed(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (store, _, cache):
        store.down()
        with pytest.raises(StoreUnavailableError):
            await cache.get_or_compute(KEY, Compute())
        assert await cache.get_or_compute(KEY, Compute(), fresh=True) == MADE
        store.up()
    async with opened(on_store_error="miss") as (store, queue, cache):
        await cache.put(entry(hit_count=9))
        store.down()
        reads = len(store.reads)
        assert await cache.get_or_compute(KEY, Compute()) == entry(feed_epoch="made", hit_count=9)
        assert len(store.reads) == reads + 1
        assert queue.pending(KEY) is not None
        with pytest.raises(StoreUnavailableError):
            await cache.get(KEY)
        store.up()


async def test_an_error_that_is_not_about_the_store_is_no_miss(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(on_store_error="miss") as (store, _, cache):

        async def get_many(_: object) -> dict[Hashable, ProvcacheEntry]:
            await trio.lowlevel.checkpoint()
            raise ValueError("not such a key")

        monkeypatch.setattr(store, "get_many", get_many)
        with pytest.raises(ValueError, match="not such a key"):
            await cache.get_or_compute(KEY, Compute())


FULL = WriteBehindOptions(queue_capacity=1, flush_interval_seconds=1000, max_retries=0)


@pytest.mark.one_lane  # of several, another one may have room for what is computed
async def test_a_full_line_while_the_store_is_away_holds_nobody_up(
    autojump_clock: MockClock,
) -> None:
    async with opened(FULL, on_store_error="miss") as (store, queue, cache):
        store.down()
        await cache.put(entry(1))
        with trio.move_on_after(1):
            await queue.flush()  # so that it is with the writer
        await cache.put(entry(2))
        with trio.fail_after(1):
            assert await cache.get_or_compute(KEY, Compute(seconds=0)) == MADE
        assert queue.pending(KEY) is None
        # A key that is in line needs no room.
        newer = entry(2, feed_epoch="newer")
        assert await cache.get_or_compute(key_of(2), Compute(newer), fresh=True) == newer
        assert queue.pending(key_of(2)) == newer
        store.up()


@pytest.mark.one_lane  # of several, another one may have room for what is computed
async def test_one_that_ends_too_late_is_not_taken_for_the_one_that_is_under_way(
    autojump_clock: MockClock,
) -> None:
    async def late() -> ProvcacheEntry:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return MADE

    async with opened(FULL, on_store_error="miss") as (store, queue, cache):
        store.write.close()
        await cache.put(entry(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.put, entry(2))
            with trio.move_on_after(1):
                await cache.get_or_compute(KEY, late)
            compute = Compute(seconds=8)
            first = await put_aside(nursery, cache.get_or_compute, KEY, compute)
            await trio.sleep(6)
            second = await put_aside(nursery, cache.get_or_compute, KEY, compute)
            await trio.sleep(6)
            store.write.open()
        assert first == second == [MADE]
        assert compute.begun == 1
        assert queue.pending(KEY) is None


@pytest.mark.one_lane  # of several, another one may have room for what is computed
async def test_otherwise_a_computation_waits_for_room(autojump_clock: MockClock) -> None:
    async with opened(FULL) as (store, queue, cache), trio.open_nursery() as nursery:
        store.write.close()
        await cache.put(entry(1))
        nursery.start_soon(cache.put, entry(2))
        await wait_all_tasks_blocked()
        answer = await put_aside(nursery, cache.get_or_compute, KEY, Compute(seconds=0))
        assert answer == []
        store.write.open()
        await trio.sleep(1)
        assert answer == [MADE]
        assert queue.metrics().total_enqueued == 3


async def test_an_entry_that_is_computed_too_late_answers_those_who_wait(
    autojump_clock: MockClock,
) -> None:
    expired = entry(created_at=NOW - 2 * DAY, expires_at=NOW - DAY)
    async with opened() as (_, queue, cache):
        assert await cache.get_or_compute(KEY, Compute(expired)) == expired
        assert cache.peek(KEY) is None
        await queue.flush()
        assert await cache.get_or_compute(KEY, Compute(expired)) == expired


async def test_a_queue_that_takes_no_more_is_an_error(autojump_clock: MockClock) -> None:
    async with opened(SLOWLY) as (_, queue, cache):
        queue._lifetime.closing.set()
        queue._lifetime.disown()
        with pytest.raises(QueueClosedError):
            await cache.get_or_compute(KEY, Compute())


async def test_an_invalidation_overtakes_what_is_being_computed(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (_, queue, cache), trio.open_nursery() as nursery:
        compute, other = Compute(seconds=10), Compute(entry(1), seconds=10)
        answers = [
            await put_aside(nursery, cache.get_or_compute, KEY, compute),
            await put_aside(nursery, cache.get_or_compute, key_of(1), other),
        ]
        await trio.sleep(1)
        await cache.invalidate_where(policy_hash=MADE.policy_hash)
        late = await put_aside(nursery, cache.get_or_compute, KEY, compute)
        assert compute.begun == 1
        await trio.sleep(10)
        assert answers == [[MADE], [entry(1)]]  # who waited before
        assert cache.peek(KEY) is None
        assert queue.pending(KEY) is None
        assert queue.pending(key_of(1)) == entry(1)  # it is about something else
        assert late == []  # that was invalid before it came
        await trio.sleep(10)
        assert late == [MADE]
        assert compute.begun == 2
        assert queue.pending(KEY) == MADE


@pytest.mark.one_lane  # of several, another one may have room for what is computed
async def test_an_invalidation_overtakes_what_waits_for_room(autojump_clock: MockClock) -> None:
    async with opened(FULL) as (store, queue, cache), trio.open_nursery() as nursery:
        store.write.close()
        await cache.put(entry(1))
        nursery.start_soon(cache.put, entry(2))
        await wait_all_tasks_blocked()
        one = await put_aside(nursery, cache.get_or_compute, KEY, Compute(seconds=0))
        other = await put_aside(nursery, cache.get_or_compute, key_of(3), Compute(entry(3), 0))
        nursery.start_soon(lambda: cache.invalidate_where(policy_hash=MADE.policy_hash))
        await wait_all_tasks_blocked()
        assert one == [MADE]
        assert other == []
        store.write.open()
        await trio.sleep(1)
        assert other == [entry(3)]
        await queue.flush()
        assert KEY not in store.rows


async def test_computations_end_with_the_cache(autojump_clock: MockClock) -> None:
    compute = Compute(seconds=100)
    async with trio.open_nursery() as nursery:
        async with opened() as (_, _, cache):
            waiting = await put_aside(nursery, cache.get_or_compute, KEY, compute)
        assert compute.ended == 1
        await wait_all_tasks_blocked()
        assert isinstance(waiting[0], trio.ClosedResourceError)
        with pytest.raises(trio.ClosedResourceError):
            await cache.get_or_compute(KEY, compute)
        with pytest.raises(trio.ClosedResourceError):
            await cache.get_or_compute(KEY, compute, fresh=True)


async def test_a_scope_around_the_cache_does_not_reach_its_tasks(
    autojump_clock: MockClock,
) -> None:
    compute = Compute(seconds=5)
    answers: list[ProvcacheEntry] = []
    with trio.CancelScope() as scope:
        async with opened() as (store, _, cache):
            try:
                scope.cancel()
                await trio.lowlevel.checkpoint()
            finally:
                with trio.CancelScope(shield=True):
                    answers.append(await cache.get_or_compute(KEY, compute))
    assert answers == [MADE]
    assert store.rows == {KEY: MADE}
    assert now() > NOW
