"""The writer: DESIGN's table of errors, backoff, isolation, and a store that refuses all."""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    QueueState,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, balance, items

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.one_lane

UNAVAILABLE = [
    StoreUnavailableError("gone"),
    StoreMisconfiguredError("no table"),
    ConnectionRefusedError("refused"),
    TimeoutError(110, "the network's"),
    trio.BrokenResourceError(),
    trio.BusyResourceError(),
    trio.ClosedResourceError(),
    EOFError(),
    ExceptionGroup("two", [ValueError("x"), ExceptionGroup("in", [OSError("y")])]),
]


class Scripted:
    """A repository whose every call does what a function says."""

    def __init__(self, answer: Callable[[Sequence[Item]], object]) -> None:
        self.answer = answer
        self.calls: list[tuple[Item, ...]] = []
        self.started_at: list[float] = []

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        self.calls.append(tuple(entries))
        self.started_at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        result = self.answer(entries)
        if isinstance(result, BaseException):
            raise result
        return result  # type: ignore[return-value]


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


@pytest.mark.parametrize("error", UNAVAILABLE, ids=lambda error: type(error).__name__)
async def test_an_unavailable_store_is_retried_without_end_and_uses_up_no_retry(
    error: Exception, autojump_clock: MockClock
) -> None:
    failures = 50
    scripted: Scripted = Scripted(
        lambda entries: error if len(scripted.calls) <= failures else len(entries)
    )
    options = WriteBehindOptions(max_retries=0, flush_interval_seconds=0)
    async with open_write_behind_queue(scripted, options) as queue:
        await queue.enqueue_many(items("ab"))
        await wait_all_tasks_blocked()
        await queue.enqueue(Item("c"))
        await trio.sleep(1)
        assert queue.metrics().state is QueueState.WAITING
        await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    # The same batch again and again, the entry that came later behind it.
    assert scripted.calls == [tuple(items("ab"))] * (failures + 1) + [tuple(items("c"))]
    assert_settled(queue, persisted=3, failed=0, retries=2 * failures)


@pytest.mark.parametrize(
    "error",
    [
        TransientStoreError("deadlock"),
        ExceptionGroup("g", [TransientStoreError("d"), EntryRejectedError("r")]),
    ],
    ids=["alone", "in a group"],
)
async def test_a_batch_whose_transient_retries_are_used_up_is_halved(
    error: Exception, autojump_clock: MockClock, store: MemoryRepository[Item]
) -> None:
    store.fail_next(error, times=4)
    async with open_write_behind_queue(store, WriteBehindOptions(max_retries=3)) as queue:
        await queue.enqueue_many(items("abcd"))
        await queue.flush()
    assert store.calls[:4] == [tuple(items("abcd"))] * 4
    assert store.calls[4:] == [tuple(items("ab")), tuple(items("cd"))]
    assert_settled(queue, persisted=4, failed=0, retries=12)


async def test_an_entry_whose_own_transient_retries_are_used_up_is_a_dead_letter(
    autojump_clock: MockClock,
) -> None:
    store = Scripted(
        lambda entries: TransientStoreError("d") if Item("b") in entries else len(entries)
    )
    letters = MemoryDeadLetters[Item]()
    options = WriteBehindOptions(max_retries=2)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        await queue.enqueue_many(items("abcd"))
    assert [len(call) for call in store.calls] == [4] * 3 + [2] * 3 + [1] + [1] * 3 + [2]
    assert [(one.key, one.attempts) for one in letters.letters] == [("b", 9)]
    assert letters.letters[0].error_class == "TransientStoreError"
    assert_settled(queue, persisted=3, failed=1, retries=2 * (4 + 2 + 1))


async def test_max_retries_none_retries_a_transient_error_without_end(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.fail_next(TransientStoreError("deadlock"), times=200)
    options = WriteBehindOptions(max_retries=None, retry_cap_seconds=1)
    async with open_write_behind_queue(store, options) as queue:
        await queue.persist(Item("a"))
    assert_settled(queue, persisted=1, retries=200)


async def test_an_outage_does_not_use_up_the_retries_of_a_transient_error(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    for _ in range(3):
        store.fail_next(TransientStoreError("deadlock"), times=1)
        store.fail_next(StoreUnavailableError("gone"), times=7)
    options = WriteBehindOptions(max_retries=3)
    async with open_write_behind_queue(store, options) as queue:
        await queue.persist(Item("a"))
    assert_settled(queue, persisted=1, failed=0, retries=24)


@pytest.mark.parametrize("poison", range(16))
@pytest.mark.parametrize("with_index", [True, False], ids=["index", "halving"])
async def test_one_refused_entry_is_isolated_at_every_position(
    poison: int, with_index: bool, autojump_clock: MockClock
) -> None:
    store = MemoryRepository[Item](reject_with_index=with_index)
    store.reject(str(poison))
    letters = MemoryDeadLetters[Item]()
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        await queue.enqueue_many(items(range(16)))
    assert set(store.rows) == set(map(str, range(16))) - {str(poison)}
    assert [letter.entry for letter in letters.letters] == [Item(str(poison))]
    assert len(store.calls) <= (3 if with_index else 2 * math.log2(16) + 1)
    assert_settled(queue, persisted=15, failed=1, retries=0)


async def test_neighbours_are_persisted_in_order_of_acceptance(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.reject("3", "9")
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(12)))
    stored = [item.veri_key for batch in store.persisted for item in batch]
    assert stored == [str(n) for n in range(12) if n not in (3, 9)]


@pytest.mark.parametrize("index", [-1, 99, True, "0"])
async def test_a_wrong_index_is_not_believed(index: object, autojump_clock: MockClock) -> None:
    def answer(entries: Sequence[Item]) -> object:
        if Item("c") in entries:
            return EntryRejectedError("no", index=index)  # type: ignore[arg-type]
        return len(entries)

    store = Scripted(answer)
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items("abcd"))
    assert_settled(queue, persisted=3, failed=1)


async def test_a_transient_error_while_isolating_is_retried_on_its_own(
    autojump_clock: MockClock,
) -> None:
    script = [
        EntryRejectedError("no"),  # abcd
        TransientStoreError("deadlock"),  # ab
        2,  # ab
        EntryRejectedError("no"),  # cd
        EntryRejectedError("no"),  # c
        1,  # d
    ]
    scripted: Scripted = Scripted(lambda _: script[len(scripted.calls) - 1])
    async with open_write_behind_queue(scripted, WriteBehindOptions(max_retries=1)) as queue:
        await queue.enqueue_many(items("abcd"))
    assert [len(call) for call in scripted.calls] == [4, 2, 2, 2, 1, 1]
    assert_settled(queue, persisted=3, failed=1, retries=2)


async def test_a_store_that_fails_for_unknown_reasons_until_all_is_isolated_is_not_away(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(max_retries=2)
    async with open_write_behind_queue(store, options) as queue:
        store.fail_next(StoreUnavailableError("away"))
        store.fail_next(ValueError("odd"), times=3)
        await queue.enqueue(Item("a"))
        await trio.sleep(3600)
        assert queue.metrics().state is QueueState.RUNNING
    assert_settled(queue, failed=1)


async def test_an_unknown_error_is_retried_once_and_isolated_by_halving(
    autojump_clock: MockClock,
) -> None:
    def answer(entries: Sequence[Item]) -> object:
        return KeyError("odd") if Item("c") in entries else len(entries)

    store = Scripted(answer)
    async with open_write_behind_queue(store, WriteBehindOptions(max_retries=1)) as queue:
        await queue.enqueue_many(items("abcd"))
    # Once more as it was, then halves; at last the one that failed alone, once more.
    assert [len(call) for call in store.calls] == [4, 4, 2, 2, 1, 1, 1]
    assert_settled(queue, persisted=3, failed=1, retries=4 + 1)


@pytest.mark.parametrize("many", [1, 5, 19])
async def test_fewer_than_20_refusals_in_a_row_are_dead_letters(
    many: int, store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.reject(*map(str, range(many)))
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(many + 1)))
        await queue.flush()
    assert_settled(queue, persisted=1, failed=many)


@pytest.mark.parametrize("error", [EntryRejectedError("revoked?"), RuntimeError("what")])
async def test_a_store_that_refuses_everything_is_misconfigured_and_nothing_is_dead_lettered(
    error: Exception, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    healthy = False
    store = Scripted(lambda entries: len(entries) if healthy else error)
    options = WriteBehindOptions(batch_size=7, max_retries=1, flush_interval_seconds=0)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items(range(70)))
        await trio.sleep(3600)
        metrics = queue.metrics()
        assert metrics.state is QueueState.WAITING
        assert metrics.total_persisted == 0
        # Batches that got their verdict before the 20th refusal in a row are dead letters.
        assert metrics.total_failed == 14
        assert balance(metrics) == 0
        healthy = True
        await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    assert_settled(queue, persisted=56, failed=14)
    misconfigured = [r for r in caplog.records if "misconfigured" in r.getMessage()]
    assert [r.levelno for r in misconfigured] == [logging.ERROR]


async def test_entries_that_change_nothing_do_not_speak_for_a_store_that_refuses_every_change(
    autojump_clock: MockClock,
) -> None:
    healthy = False

    def answer(entries: Sequence[Item]) -> object:
        new = [item for item in entries if item.version > 0]  # the others are stored already
        return EntryRejectedError("revoked?") if new and not healthy else len(new)

    async with open_write_behind_queue(Scripted(answer)) as queue:
        await queue.enqueue_many([Item(str(key), int(key % 10 > 0)) for key in range(60)])
        await trio.sleep(3600)
        assert queue.metrics().state is QueueState.WAITING
        assert queue.metrics().total_failed == 0
        assert queue.metrics().total_unchanged == 6
        healthy = True
        await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    assert_settled(queue, persisted=60, failed=0)


async def test_a_batch_of_only_bad_entries_is_refused_for_good_once_the_store_took_another(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.reject(*map(str, range(30)))
    options = WriteBehindOptions(batch_size=40)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items(range(40)))
        await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    assert_settled(queue, persisted=10, failed=30)


@pytest.mark.parametrize("with_index", [True, False], ids=["index", "halving"])
@pytest.mark.parametrize(
    "bad",
    [range(475, 500), range(25), range(480), range(0, 500, 7)],
    ids=["at the end", "at the beginning", "all but the last", "here and there"],
)
async def test_a_run_of_bad_entries_with_good_neighbours_holds_nothing_up(
    bad: range, with_index: bool, autojump_clock: MockClock
) -> None:
    store = MemoryRepository[Item](reject_with_index=with_index)
    store.reject(*map(str, bad))
    letters = MemoryDeadLetters[Item]()
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        await queue.enqueue_many(items(range(500)))
        await queue.enqueue(Item("behind"))
        await queue.flush()
        assert trio.current_time() < 120  # some backoffs, and not one for each bad entry
        assert queue.metrics().state is QueueState.RUNNING
    assert {letter.key for letter in letters.letters} == set(map(str, bad))
    assert_settled(queue, persisted=501 - len(bad), failed=len(bad))


async def test_an_entry_refused_under_suspicion_gets_one_more_chance_and_not_many(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository[Item]()
    bad = [*range(25), *range(25, 100, 2)]
    store.reject(*map(str, bad))
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items(range(100)))
        await queue.flush()
    alone = [call[0].veri_key for call in store.calls if len(call) == 1]
    assert max(alone.count(str(key)) for key in bad) <= 2
    assert_settled(queue, persisted=100 - len(bad), failed=len(bad))


async def test_a_store_that_refuses_everything_is_not_hammered_by_transient_errors(
    autojump_clock: MockClock,
) -> None:
    scripted: Scripted = Scripted(
        lambda _: (
            EntryRejectedError("no")
            if len(scripted.calls) < 100
            else TransientStoreError("deadlock")
        )
    )
    options = WriteBehindOptions(max_retries=0, drain_timeout_seconds=0)
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(scripted, options) as queue:
            await queue.enqueue_many(items(range(30)))
            await trio.sleep(3600)
            assert queue.metrics().state is QueueState.WAITING
            assert queue.metrics().total_failed == 0
    assert len(scripted.calls) < 600


async def test_an_answer_ends_an_outage_for_the_backoff_too(
    monkeypatch: pytest.MonkeyPatch, store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    ceilings: list[float] = []

    def uniform(_: float, high: float) -> float:
        ceilings.append(high)
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    store.fail_next(OSError("gone"), times=3)
    store.fail_next(EntryRejectedError("no"), times=1)
    store.fail_next(OSError("gone"), times=1)
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue(Item("bad"))
        await queue.flush()
        await queue.persist(Item("good"))
    assert ceilings == [0.1, 0.2, 0.4, 0.1]


async def test_backoff_has_full_jitter_and_doubles_up_to_the_cap(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    ceilings: list[float] = []

    def uniform(low: float, high: float) -> float:
        assert low == 0
        ceilings.append(high)
        return high

    monkeypatch.setattr(random, "uniform", uniform)
    scripted: Scripted = Scripted(
        lambda entries: OSError() if len(scripted.calls) <= 7 else len(entries)
    )
    options = WriteBehindOptions(retry_base_seconds=0.5, retry_cap_seconds=10)
    async with open_write_behind_queue(scripted, options) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(0.5)
        assert queue.metrics().next_try_in_seconds == 0.25
        await queue.flush()
        assert queue.metrics().next_try_in_seconds is None
    assert ceilings == [0.5, 1, 2, 4, 8, 10, 10]
    waits = [b - a for a, b in zip(scripted.started_at, scripted.started_at[1:], strict=False)]
    assert waits == ceilings


async def test_backoff_starts_again_after_a_success(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, store: MemoryRepository[Item]
) -> None:
    ceilings: list[float] = []

    def uniform(_: float, high: float) -> float:
        ceilings.append(high)
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    async with open_write_behind_queue(store) as queue:
        for key in "ab":
            store.fail_next(OSError("gone"), times=3)
            await queue.persist(Item(key))
    assert ceilings == [0.1, 0.2, 0.4] * 2


async def test_a_failed_batch_stays_at_the_head_and_nothing_overtakes_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.fail_next(TransientStoreError("deadlock"), times=5)
    options = WriteBehindOptions(batch_size=2)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many([Item("a", 1), Item("b", 1)])
        await wait_all_tasks_blocked()
        await queue.enqueue_many([Item("a", 2), Item("c", 1)])
    assert [batch[0] for batch in store.persisted] == [Item("a", 1), Item("a", 2)]


async def test_a_lost_answer_is_repeated_and_counted_once(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.lose_next_answer()
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items("abc"))
    assert store.rows == {item.veri_key: item for item in items("abc")}
    assert_settled(queue, persisted=3, unchanged=3, retries=3)


@pytest.mark.parametrize("answer", [None, -1, 99, "2", True])
async def test_a_wrong_row_count_is_not_believed(answer: object, autojump_clock: MockClock) -> None:
    store = Scripted(lambda _: answer)
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items("ab"))
    assert_settled(queue, persisted=2, unchanged=0)


async def test_an_outage_is_two_log_lines(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    async with open_write_behind_queue(store, name="decisions") as queue:
        store.down()
        await queue.enqueue(Item("secret"))
        await trio.sleep(3600)
        store.up()
        await queue.flush()
    lines = [r.getMessage() for r in caplog.records if "decisions: store" in r.getMessage()]
    assert len(lines) == 2
    assert "lost" in lines[0]
    assert lines[1] == "decisions: store found again"
    assert "secret" not in caplog.text


async def test_last_error_names_class_sqlstate_and_time(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.fail_next(
        TransientStoreError("d", error_class="DeadlockDetectedError", sqlstate="40P01"), times=1
    )
    async with open_write_behind_queue(store) as queue:
        assert queue.metrics().last_error is None
        await queue.persist(Item("a"))
        error = queue.metrics().last_error
        assert error is not None
        assert (error.error_class, error.sqlstate) == ("DeadlockDetectedError", "40P01")
        assert error.at.tzinfo is not None


async def test_a_rejection_tells_the_waiter_what_the_store_said(
    autojump_clock: MockClock,
) -> None:
    cause = EntryRejectedError(
        "no", error_class="CheckViolationError", sqlstate="23514", constraint="c", table="t"
    )
    store = Scripted(lambda _: cause)
    async with open_write_behind_queue(store) as queue:
        with pytest.raises(EntryRejectedError, match="CheckViolationError, SQLSTATE 23514") as info:
            await queue.persist(Item("a"))
    raised = info.value
    assert raised is not cause
    assert (raised.sqlstate, raised.constraint, raised.table) == ("23514", "c", "t")
