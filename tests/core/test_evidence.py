"""No dead letter without evidence: hints, unknown errors, closed stores, and batches too much."""

from __future__ import annotations

import logging
import math
import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    QueueState,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, items

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.testing import MockClock

    from provcache_trio import WriteBehindQueue

pytestmark = pytest.mark.one_lane


class Odd:
    """A store that fails for an unknown reason with chosen keys, or as a function says."""

    def __init__(self, *keys: object, error: type[Exception] = KeyError) -> None:
        self.keys = set(map(str, keys))
        self.error = error
        self.calls: list[tuple[Item, ...]] = []
        self.at: list[float] = []
        self.stored: list[Item] = []
        self.stored_at: dict[str, float] = {}
        self.answer: Callable[[Sequence[Item]], object] = lambda _: None

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        self.calls.append(tuple(entries))
        self.at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        answer = self.answer(entries)
        if isinstance(answer, BaseException):
            raise answer
        if self.keys.intersection(item.veri_key for item in entries):
            raise self.error("odd")
        self.stored += entries
        self.stored_at.update((item.veri_key, trio.current_time()) for item in entries)
        return len(entries)

    def alone(self, key: object) -> int:
        return sum(call == (Item(str(key)),) for call in self.calls)


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


async def keep(queue: WriteBehindQueue[Item], seconds: float) -> None:
    """Let time pass; nothing may be dead-lettered."""
    await trio.sleep(seconds)
    assert queue.metrics().total_failed == 0


# Hints


@pytest.mark.parametrize("poison", [0, 250, 499])
async def test_a_right_index_costs_three_calls(poison: int, autojump_clock: MockClock) -> None:
    store = MemoryRepository[Item](reject_with_index=True)
    store.reject(str(poison))
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(500)))
    assert [len(call) for call in store.calls] == [500, 1, 499]
    assert_settled(queue, persisted=499, failed=1)


async def test_several_right_indexes_cost_two_calls_each_and_one(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository[Item](reject_with_index=True)
    store.reject(*map(str, range(0, 500, 50)))
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(500)))
    assert len(store.calls) == 2 * 10 + 1
    assert_settled(queue, persisted=490, failed=10)


@pytest.mark.parametrize("poison", [1, 250, 499])
async def test_a_wrong_index_costs_a_call_and_no_good_entry(
    poison: int, autojump_clock: MockClock
) -> None:
    store = Odd()
    store.answer = lambda entries: (
        EntryRejectedError("no", index=0) if Item(str(poison)) in entries else None
    )
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(500)))
    assert len(store.calls) <= 2 * math.log2(500) + 4
    assert_settled(queue, persisted=499, failed=1)


# One unknown error


@pytest.mark.parametrize("poison", [0, 1, 77, 250, 498, 499])
async def test_the_good_neighbours_of_one_unknown_error_are_stored_within_a_backoff_and_some_calls(
    poison: int, autojump_clock: MockClock
) -> None:
    store = Odd(poison)
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(500)))
        await trio.sleep(0.3)
        assert len(store.stored) == 499
        assert max(store.stored_at.values()) <= 0.1
        until = max(at for at, call in enumerate(store.calls) if Item(str(poison)) not in call)
        assert until + 1 <= 2 * math.log2(500) + 4
        await queue.flush()
    assert_settled(queue, persisted=499, failed=1)


async def test_an_unknown_error_that_has_gone_at_the_retry_costs_one_call(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository[Item]()
    store.fail_next(RuntimeError("odd"))
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items("abcd"))
    assert len(store.calls) == 2
    assert_settled(queue, persisted=4, retries=4)


async def test_ten_unknown_errors_at_exit_hand_no_good_entry_back(
    autojump_clock: MockClock,
) -> None:
    bad = range(100, 4100, 401)
    store = Odd(*bad)
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(4000)))
    assert_settled(queue, persisted=4000 - len(bad), failed=len(bad))


async def test_while_draining_no_failure_waits_until_a_round_begins(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    classes = [type(f"Odd{number}", (Exception,), {}) for number in range(10)]
    store = Odd()
    store.answer = lambda entries: next(
        (classes[int(item.veri_key)]() for item in entries if int(item.veri_key) < 10), None
    )
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(20)))
    assert trio.current_time() == pytest.approx(0.2)  # the one retry, and the round
    assert_settled(queue, persisted=10, failed=10)


async def test_sixty_unknown_errors_of_one_class_in_a_batch_take_rounds_and_not_hours(
    autojump_clock: MockClock,
) -> None:
    bad = range(5, 485, 8)
    store = Odd(*bad)
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(500)))
        await queue.flush()
        assert trio.current_time() < 10
    assert_settled(queue, persisted=440, failed=60)


async def test_after_one_failed_alone_each_failure_of_another_class_waits(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    classes = [KeyError, ValueError, IndexError, RuntimeError]
    store = Odd()
    store.answer = lambda entries: next(
        (classes[int(item.veri_key)]("odd") for item in entries if int(item.veri_key) < 4), None
    )
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(8)))
        await queue.flush()
    # One retry; halving to 0 at once; then 1, 23, 2 and 3, each with a class of its own.
    first_round = store.at[: len(store.at) - 4]
    waits = [b - a for a, b in pairwise(first_round) if b > a]
    assert waits == pytest.approx([0.1, 0.1, 0.2, 0.4, 0.8])
    assert_settled(queue, persisted=4, failed=4)


async def test_an_unknown_error_names_its_class_and_the_line_in_the_repository(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_write_behind_queue(Odd("a"), name="q") as queue:
        await queue.enqueue_many(items("ab"))
    retried = [r.getMessage() for r in caplog.records if "is retried" in r.getMessage()]
    assert len(retried) == 1
    assert f"KeyError at {__file__}:" in retried[0]
    doubtful = [r.getMessage() for r in caplog.records if "fails alone" in r.getMessage()]
    assert len(doubtful) == 1
    assert f": a, KeyError at {__file__}:" in doubtful[0]
    assert "'odd'" not in caplog.text


# An outage that looks unknown


async def test_an_unknown_outage_of_half_a_minute_costs_nothing_where_two_are_in_doubt(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository[Item]()
    store.fail_next(RuntimeError, times=10**6)
    options = WriteBehindOptions(max_retries=3)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items("ab"))
        await keep(queue, 30)
        store._failures.clear()
        await queue.flush()
    assert_settled(queue, persisted=2, failed=0)


async def test_a_lone_entry_in_doubt_is_kept_for_as_long_as_max_retries_last(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    store = Odd("a")
    async with open_write_behind_queue(store, WriteBehindOptions(max_retries=10)) as queue:
        await queue.enqueue(Item("a"))
        await keep(queue, 81)  # 0.1 s, doubled nine times up to 30 s: 81.1 s
        assert queue.metrics().state is QueueState.WAITING
        await trio.sleep(1)
        assert queue.metrics().total_failed == 1
        assert queue.metrics().state is QueueState.RUNNING
    assert store.alone("a") == 11


async def test_several_in_doubt_wait_ten_minutes_longer_and_one_error_line_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Odd(*"abc")
    options = WriteBehindOptions(max_retries=2, retry_cap_seconds=1)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items("abc"))
        await keep(queue, 600)
        assert queue.metrics().state is QueueState.WAITING
        assert len(errors_of(caplog)) == 1
        assert "3 entries fail alone for an unknown reason" in errors_of(caplog)[0]
        await trio.sleep(30)
        assert queue.metrics().state is QueueState.RUNNING
    assert_settled(queue, failed=3)


async def test_without_end_of_retries_what_is_in_doubt_is_kept_without_end(
    autojump_clock: MockClock,
) -> None:
    store = Odd("a")
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(
            store, WriteBehindOptions(max_retries=None, retry_cap_seconds=100)
        ) as queue:
            await queue.enqueue(Item("a"))
            await keep(queue, 50_000)
            assert queue.metrics().state is QueueState.WAITING
    assert caught.value.undelivered == (Item("a"),)


async def test_twenty_that_fail_alone_are_the_store_s_fault(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryRepository[Item]()
    store.fail_next(RuntimeError, times=10**6)
    async with open_write_behind_queue(store, WriteBehindOptions(max_retries=0)) as queue:
        await queue.enqueue_many(items(range(60)))
        await keep(queue, 20_000)
        assert queue.metrics().state is QueueState.WAITING
        assert "store misconfigured" in errors_of(caplog)[0]
        assert len(store.calls) < 5000
        store._failures.clear()
        await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    assert_settled(queue, persisted=60, failed=0)


async def test_what_is_in_doubt_at_the_end_of_a_drain_is_undelivered(
    autojump_clock: MockClock,
) -> None:
    store = Odd("a")
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, WriteBehindOptions(max_retries=1)) as queue:
            await queue.enqueue(Item("a"))
    assert caught.value.undelivered == (Item("a"),)
    assert trio.current_time() == 20


async def test_a_flapping_store_has_to_fail_an_entry_as_often_as_max_retries(
    autojump_clock: MockClock,
) -> None:
    def answer(entries: Sequence[Item]) -> object:
        keys = {item.veri_key for item in entries}
        tried = sum(call == tuple(entries) for call in store.calls)
        # "flap" goes through as it was, at its second try; "good" fails alone six times.
        fails = (keys == {"flap"} and tried < 2) or (keys == {"good"} and tried < 7)
        fails = fails or keys >= {"good", "other"} or keys >= {"flap", "good"}
        return RuntimeError("odd") if fails else None

    store = Odd()
    store.answer = answer
    options = WriteBehindOptions(retry_cap_seconds=1)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue(Item("flap"))
        await queue.flush()
        await queue.enqueue_many(items(["good", "other"]))
        await queue.flush()
    assert "good" in store.stored_at
    assert_settled(queue, persisted=3, failed=0)


# Closed


async def test_a_store_that_was_closed_before_its_queue_costs_nothing_and_ends_the_drain(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryRepository[Item]()
    store.fail_next(lambda: trio.ClosedResourceError("the repository is closed"), times=10**6)
    with pytest.raises(DrainTimeoutError, match="50 entries: the store is closed;") as caught:
        async with open_write_behind_queue(store) as queue:
            await queue.enqueue_many(items(range(50)))
            await keep(queue, 3600)
            assert queue.metrics().state is QueueState.WAITING
            assert len(errors_of(caplog)) == 1
            began = trio.current_time()
    assert len(caught.value.undelivered) == 50
    assert trio.current_time() - began < 1


async def test_closed_once_while_draining_is_tried_again(autojump_clock: MockClock) -> None:
    store = MemoryRepository[Item]()
    for error in (trio.ClosedResourceError(), OSError(), trio.ClosedResourceError()):
        store.fail_next(error)
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items("ab"))
    assert_settled(queue, persisted=2)


async def test_closed_before_the_drain_is_tried_without_end(autojump_clock: MockClock) -> None:
    store = MemoryRepository[Item]()
    store.fail_next(trio.ClosedResourceError, times=5)
    async with open_write_behind_queue(store) as queue:
        await queue.persist(Item("a"))
    assert_settled(queue, persisted=1)


async def test_a_closed_queue_as_the_store_of_another_costs_nothing(
    autojump_clock: MockClock,
) -> None:
    class Forwarding:
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            return await inner.enqueue_many(entries)

    async with open_write_behind_queue(MemoryRepository[Item]()) as inner:
        pass
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(Forwarding()) as queue:
            await queue.enqueue(Item("a"))  # fewer than the rule of twenty protects
            await keep(queue, 600)
    assert caught.value.undelivered == (Item("a"),)


async def test_a_full_queue_as_the_store_of_another_costs_nothing(
    autojump_clock: MockClock,
) -> None:
    class Forwarding:
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            await trio.lowlevel.checkpoint()
            for entry in entries:
                inner.enqueue_nowait(entry)
            return len(entries)

    store = MemoryRepository[Item](latency_seconds=2)
    small = WriteBehindOptions(queue_capacity=5, batch_size=5)
    async with (
        open_write_behind_queue(store, small) as inner,
        open_write_behind_queue(Forwarding(), WriteBehindOptions(batch_size=50)) as queue,
    ):
        await queue.enqueue_many(items(range(300)))
        with trio.fail_after(2000):
            await queue.flush()
    assert_settled(queue, persisted=300, failed=0)
    assert len(store.rows) == 300


# Too much


def limited(most: int, error: Callable[[], Exception]) -> Odd:
    store = Odd()
    store.answer = lambda entries: error() if len(entries) > most else None
    return store


@pytest.mark.parametrize(
    "error",
    [
        lambda: StoreUnavailableError("too slow", too_slow=True),
        TimeoutError,
        trio.TooSlowError,
        MemoryError,
        trio.WouldBlock,
    ],
    ids=["too_slow=True", "TimeoutError", "TooSlowError", "MemoryError", "WouldBlock"],
)
async def test_a_batch_that_is_too_much_is_halved_after_three_calls_and_then_after_one(
    error: Callable[[], Exception],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = limited(2, error)
    options = WriteBehindOptions(batch_size=16, max_retries=0)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items(range(16)))
        with trio.fail_after(60):
            await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    sizes = [len(call) for call in store.calls]
    assert sizes[:6] == [16, 16, 16, 8, 4, 2]
    assert sizes[6:8] == [2, 4]
    assert store.stored == items(range(16))
    assert_settled(queue, persisted=16, failed=0, retries=32)
    (line,) = [r.getMessage() for r in caplog.records if "too slow, with" in r.getMessage()]
    assert line.startswith("default: calls with 4 entries are too slow, with 2 they work: ")


async def test_what_is_sent_at_once_grows_to_batch_size_again(autojump_clock: MockClock) -> None:
    store = limited(2, TimeoutError)
    options = WriteBehindOptions(batch_size=8, flush_interval_seconds=0)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items(range(8)))
        await queue.flush()
        store.answer = lambda _: None
        store.calls.clear()
        await queue.enqueue_many(items(range(24)))
        await queue.flush()
        assert [len(call) for call in store.calls[-2:]] == [8, 8]


async def test_one_entry_that_is_too_much_is_kept_as_in_an_outage(
    autojump_clock: MockClock,
) -> None:
    store = limited(0, TimeoutError)
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(store, WriteBehindOptions(max_retries=0)) as queue:
            await queue.enqueue_many(items("abcd"))
            await keep(queue, 3600)
            assert queue.metrics().state is QueueState.WAITING
            assert len(store.calls) < 600


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError("a lock"),
        TimeoutError(110, "the network's"),
        ConnectionRefusedError(),
        ExceptionGroup("both", [TimeoutError(), ConnectionResetError()]),
    ],
    ids=["unavailable", "ETIMEDOUT", "refused", "group"],
)
async def test_an_outage_that_is_not_slow_halves_nothing(
    error: Exception, autojump_clock: MockClock
) -> None:
    store = MemoryRepository[Item]()
    store.fail_next(error, times=20)
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items("abcd"))
        await queue.flush()
    assert {len(call) for call in store.calls} == {4}
    assert_settled(queue, persisted=4, retries=80)


async def test_letters_of_refused_and_of_condemned_entries_come_together(
    autojump_clock: MockClock,
) -> None:
    store, letters = Odd("b"), MemoryDeadLetters[Item]()
    store.answer = lambda entries: EntryRejectedError("no") if Item("c") in entries else None
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        await queue.enqueue_many(items("abcd"))
    found = {letter.key: letter.error_class for letter in letters.letters}
    assert found == {"b": "KeyError", "c": "EntryRejectedError"}
    for letter in letters.letters:
        assert letter.attempts == sum(letter.entry in call for call in store.calls)
