"""The shipped fakes: they store like a real store, and fail exactly as they were asked to."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

import provcache_trio.testing
from provcache_trio import (
    DeadLetter,
    DecisionDigest,
    EntryRejectedError,
    ProvcacheEntry,
    ReplaySeed,
    StoreUnavailableError,
    Table,
    TransientStoreError,
    merge_entries,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository, RepositoryCrash

from tests.support.items import Item, items

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DAY = timedelta(days=1)
HASH = "sha256:" + "a" * 64
ENTRY = ProvcacheEntry(
    veri_key=HASH,
    decision=DecisionDigest(
        verdict_hash=HASH, proof_root=HASH, replay_seed=ReplaySeed(), trust_score=1
    ),
    policy_hash=HASH,
    signer_set_hash=HASH,
    feed_epoch="a",
    created_at=NOW,
    expires_at=NOW + 9 * DAY,
)
LETTER = DeadLetter(
    entry=Item("a"),
    key="a",
    error_class="CheckViolation",
    sqlstate="23514",
    constraint=None,
    attempts=1,
    opened_at=NOW,
    failed_at=NOW,
)


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


@pytest.fixture
def sink() -> MemoryDeadLetters[Item]:
    return MemoryDeadLetters[Item]()


READS: list[Callable[[MemoryRepository[Item]], Awaitable[object]]] = [
    lambda store: store.get_many(["a"]),
    lambda store: store.count(),
    lambda store: store.delete_many(["a"]),
    lambda store: store.delete_expired(NOW, 1),
    lambda store: store.check(),
]
CALLS = [lambda store: store.upsert_many(items("a")), *READS]
names = st.sampled_from(["a", "b", "c"])


# What is stored


async def test_rows_are_stored_by_key_and_read_back(store: MemoryRepository[Item]) -> None:
    a, b, c = items("abc")
    assert await store.upsert_many([a, b]) == 2
    assert await store.upsert_many((c,)) == 1
    assert store.rows == {"a": a, "b": b, "c": c}
    assert await store.count() == 3
    assert await store.get_many(["c", "x", "a", "a"]) == {"c": c, "a": a}
    assert await store.get_many(iter("b")) == {"b": b}
    assert await store.delete_many(iter(["a", "x", "a"])) == 1
    assert await store.get_many("abc") == {"b": b, "c": c}
    assert await store.check() is None  # type: ignore[func-returns-value]


async def test_a_call_returns_how_many_rows_it_changed(store: MemoryRepository[Item]) -> None:
    await store.upsert_many(items("ab"))
    assert await store.upsert_many(items("ab")) == 0
    assert await store.upsert_many([Item("a", 1), Item("b"), Item("c")]) == 2
    assert await store.upsert_many([]) == 0


async def test_calls_and_persisted_keep_the_entries_of_each_call(
    store: MemoryRepository[Item],
) -> None:
    first, second = items("ab"), items("c")
    await store.upsert_many(first)
    store.fail_next(TransientStoreError("deadlock"))
    with pytest.raises(TransientStoreError):
        await store.upsert_many(second)
    first.clear()  # they are no views of the caller's list
    await store.upsert_many(second)
    assert store.calls == [tuple(items("ab")), tuple(items("c")), tuple(items("c"))]
    assert store.persisted == [tuple(items("ab")), tuple(items("c"))]


async def test_calls_under_way_are_counted(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 1
    async with trio.open_nursery() as nursery:
        for key in "abc":
            nursery.start_soon(store.upsert_many, items(key))
        await wait_all_tasks_blocked()
        assert store.in_calls == 3
    assert store.in_calls == 0
    await store.upsert_many(items("d"))
    assert store.max_in_calls == 3


async def test_a_provcache_entry_is_merged_with_the_one_stored() -> None:
    store = MemoryRepository()
    old = msgspec.structs.replace(ENTRY, created_at=NOW - DAY, feed_epoch="old", hit_count=7)
    await store.upsert_many([ENTRY])
    assert await store.upsert_many([old]) == 1
    assert store.rows == {HASH: msgspec.structs.replace(ENTRY, hit_count=7)}
    assert await store.upsert_many([old]) == 0


@given(
    arrivals=st.lists(
        st.builds(
            lambda created, hits: msgspec.structs.replace(
                ENTRY, created_at=created, hit_count=hits
            ),
            st.sampled_from([NOW, NOW + DAY]),
            st.integers(0, 2),
        ),
        min_size=2,
        max_size=2,
    )
)
def test_storing_the_merge_of_two_versions_equals_storing_one_after_the_other(
    arrivals: list[ProvcacheEntry],
) -> None:
    async def both_ways() -> None:
        merged, apart, together = MemoryRepository(), MemoryRepository(), MemoryRepository()
        first, second = arrivals
        await merged.upsert_many([merge_entries(first, second)])
        await apart.upsert_many([first])
        await apart.upsert_many([second])
        await together.upsert_many([first, second])
        assert merged.rows == apart.rows == together.rows

    trio.run(both_ways)


async def test_anything_else_is_replaced(store: MemoryRepository[Item]) -> None:
    await store.upsert_many([Item("a", 2)])
    await store.upsert_many([Item("a", 1)])
    assert store.rows == {"a": Item("a", 1)}


async def test_key_and_merge_can_be_given() -> None:
    store = MemoryRepository[str](key=len, merge=lambda stored, arriving: stored + arriving[:0])
    await store.upsert_many(["one", "two", "three"])
    assert store.rows == {3: "one", 5: "three"}
    assert await store.upsert_many(["six"]) == 0


async def test_nothing_is_stored_when_merge_raises() -> None:
    def merge(stored: Item, arriving: Item) -> Item:
        raise ZeroDivisionError

    store = MemoryRepository(merge=merge)
    await store.upsert_many(items("b"))
    with pytest.raises(ZeroDivisionError):
        await store.upsert_many([Item("a"), Item("b", 1)])
    assert store.rows == {"b": Item("b")}
    assert store.in_calls == 0


async def test_expired_entries_are_deleted_oldest_first_and_up_to_the_limit() -> None:
    store = MemoryRepository()
    keys = ["sha256:" + digit * 64 for digit in "01234"]
    days = dict(zip(keys, (3, 1, 4, 2, 5), strict=True))
    for key, day in days.items():
        await store.upsert_many(
            [msgspec.structs.replace(ENTRY, veri_key=key, expires_at=NOW + day * DAY)]
        )
    now = NOW + 4 * DAY  # to the microsecond when keys[2] expires
    assert await store.delete_expired(NOW + DAY - timedelta(microseconds=1), 9) == 0
    assert await store.delete_expired(now, 2) == 2
    assert store.rows.keys() == {keys[0], keys[2], keys[4]}
    assert await store.get_many([keys[0]])  # expired, and still there
    assert await store.delete_expired(now, 9) == 2
    assert store.rows.keys() == {keys[4]}


# Refusals


@pytest.mark.parametrize(("with_index", "index"), [(False, None), (True, 1)])
async def test_a_rejected_key_refuses_its_batch_until_it_is_accepted(
    with_index: bool, index: int | None
) -> None:
    store = MemoryRepository[Item](reject_with_index=with_index)
    store.reject("b", "c")
    store.reject("d")
    with pytest.raises(EntryRejectedError) as caught:
        await store.upsert_many(items("abc"))
    assert caught.value.index == index
    assert store.rows == {}
    store.accept("b", "d", "never rejected")
    await store.upsert_many(items("abd"))
    with pytest.raises(EntryRejectedError):
        await store.upsert_many(items("c"))
    assert store.rows.keys() == {"a", "b", "d"}


# Scripted failures, of both


class Picky(Exception):  # noqa: N818  # as an application may call it
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


async def test_an_error_that_wants_keywords_is_copied_all_the_same() -> None:
    store = MemoryRepository[Item]()
    error = Picky(code=7)
    store.fail_next(error, times=2)
    for _ in range(2):
        with pytest.raises(Picky, match="code 7") as caught:
            await store.upsert_many([Item("a")])
        assert (caught.value.code, caught.value is error) == (7, False)


async def test_fail_next_raises_in_the_order_given_and_stores_nothing(
    store: MemoryRepository[Item],
) -> None:
    store.fail_next(TransientStoreError("deadlock"), times=2)
    store.fail_next(OSError)
    store.fail_next(lambda: RuntimeError("made"))
    store.fail_next(ValueError("never"), times=0)
    raised: list[str] = []
    for _ in range(4):
        with pytest.raises(Exception) as caught:  # noqa: PT011  # any of them
            await store.upsert_many(items("a"))
        raised.append(repr(caught.value))
    assert raised == [
        "TransientStoreError('deadlock')",
        "TransientStoreError('deadlock')",
        "OSError()",
        "RuntimeError('made')",
    ]
    assert store.rows == {}
    assert store.persisted == []
    assert await store.upsert_many(items("a")) == 1


async def test_every_failing_call_raises_a_copy_with_its_data(
    store: MemoryRepository[Item],
) -> None:
    error = TransientStoreError("deadlock", sqlstate="40P01")
    store.fail_next(error, times=2)
    seen: list[BaseException] = [error]
    for _ in range(2):
        with pytest.raises(TransientStoreError) as caught:
            await store.upsert_many(items("a"))
        assert caught.value.sqlstate == "40P01"
        assert all(caught.value is not one for one in seen)
        seen.append(caught.value)
    assert error.__traceback__ is None


async def test_a_lost_answer_comes_after_everything_was_stored(
    store: MemoryRepository[Item], sink: MemoryDeadLetters[Item]
) -> None:
    store.lose_next_answer()
    with pytest.raises(StoreUnavailableError):
        await store.upsert_many(items("ab"))
    assert store.rows.keys() == {"a", "b"}
    assert store.persisted == []
    assert await store.upsert_many(items("ab")) == 0
    sink.lose_next_answer(times=2)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await sink.put_many([LETTER])
    await sink.put_many([LETTER])
    assert sink.letters == [LETTER] * 3


async def test_a_crash_is_no_answer_of_a_store(
    store: MemoryRepository[Item], sink: MemoryDeadLetters[Item]
) -> None:
    assert not issubclass(RepositoryCrash, Exception)
    store.crash_next()
    with pytest.raises(RepositoryCrash):
        await store.upsert_many(items("a"))
    sink.crash_next(times=2)
    for _ in range(2):
        with pytest.raises(RepositoryCrash):
            await sink.put_many([LETTER])
    await sink.put_many([])
    assert (store.rows, store.in_calls, sink.letters) == ({}, 0, [])


async def test_orders_to_fail_concern_writing_calls_only(store: MemoryRepository[Item]) -> None:
    store.crash_next()
    for read in READS:
        await read(store)
    with pytest.raises(RepositoryCrash):
        await store.upsert_many(items("a"))


@pytest.mark.parametrize("call", CALLS)
async def test_down_fails_every_call_until_up(
    call: Callable[[MemoryRepository[Item]], Awaitable[object]], store: MemoryRepository[Item]
) -> None:
    store.down()
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await call(store)
    assert store.rows == {}
    store.up()
    await call(store)


async def test_orders_to_fail_wait_while_it_is_down(sink: MemoryDeadLetters[Item]) -> None:
    sink.fail_next(ValueError("first"))
    sink.down()
    with pytest.raises(StoreUnavailableError):
        await sink.put_many([LETTER])
    sink.up()
    with pytest.raises(ValueError, match="first"):
        await sink.put_many([LETTER])
    await sink.put_many([LETTER])
    assert sink.letters == [LETTER]


@pytest.mark.parametrize("call", CALLS)
async def test_a_stall_holds_every_call_up_until_resume(
    call: Callable[[MemoryRepository[Item]], Awaitable[object]],
    store: MemoryRepository[Item],
    autojump_clock: MockClock,
) -> None:
    finished_at: list[float] = []

    async def run() -> None:
        await call(store)
        finished_at.append(trio.current_time())

    store.latency_seconds = 1
    with trio.move_on_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            store.stall()  # the call under way too
            nursery.start_soon(run)
            await trio.sleep(50)
            store.stall()  # nothing new for those who wait
            await trio.sleep(50)
            store.resume()
            store.stall()  # again, before anybody could go on
            await trio.sleep(100)
            assert finished_at == []
            store.resume()
    assert finished_at == [200, 200]
    await run()
    assert finished_at[-1] == 201


async def test_a_call_that_was_held_up_finds_the_store_as_it_is_then(
    store: MemoryRepository[Item],
) -> None:
    store.stall()
    with pytest.RaisesGroup(StoreUnavailableError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.upsert_many, items("a"))
            await wait_all_tasks_blocked()
            store.down()
            store.resume()
    assert store.rows == {}


async def test_latency_is_in_seconds_of_trios_clock(autojump_clock: MockClock) -> None:
    store = MemoryRepository[Item](latency_seconds=2.5)
    sink = MemoryDeadLetters[Item](latency_seconds=0.5)
    await store.upsert_many(items("a"))
    await store.check()
    await sink.put_many([LETTER])
    assert trio.current_time() == 5.5
    store.latency_seconds = 0
    await store.count()
    assert trio.current_time() == 5.5


# Manners


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", ["works", "down", "rejects", "fails", "loses the answer"])
async def test_every_call_is_a_checkpoint_whatever_comes_of_it(
    call: Callable[[MemoryRepository[Item]], Awaitable[object]],
    state: str,
    store: MemoryRepository[Item],
    sink: MemoryDeadLetters[Item],
) -> None:
    prepare: dict[str, Callable[[], None]] = {
        "works": lambda: None,
        "down": store.down,
        "rejects": lambda: store.reject("a"),
        "fails": lambda: store.fail_next(ValueError),
        "loses the answer": store.lose_next_answer,
    }
    prepare[state]()
    with assert_checkpoints():
        try:
            await call(store)
        except (StoreUnavailableError, EntryRejectedError, ValueError):
            assert state != "works"
    with assert_checkpoints():
        await sink.put_many([LETTER])


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_cancelled_call_stores_nothing_and_uses_up_no_order(
    stalled: bool, store: MemoryRepository[Item], sink: MemoryDeadLetters[Item]
) -> None:
    for fake in (store, sink):
        fake.lose_next_answer()
        if stalled:
            fake.stall()
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.upsert_many(items("a"))
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await sink.put_many([LETTER])
    assert scope.cancelled_caught
    assert (store.rows, store.in_calls, store.persisted, sink.letters) == ({}, 0, [], [])
    assert store.calls == [tuple(items("a"))]
    for fake in (store, sink):
        fake.resume()
    with pytest.raises(StoreUnavailableError):
        await store.upsert_many(items("a"))
    with pytest.raises(StoreUnavailableError):
        await sink.put_many([LETTER])


async def test_letters_are_kept_in_order_whole_calls_only(sink: MemoryDeadLetters[Item]) -> None:
    first, second, third = (msgspec.structs.replace(LETTER, attempts=n) for n in (1, 2, 3))
    letters = [first, second]
    await sink.put_many(letters)
    sink.fail_next(ConnectionResetError)
    with pytest.raises(ConnectionResetError):
        await sink.put_many([third])
    letters.clear()
    await sink.put_many((third,))
    assert sink.letters == [first, second, third]


def test_fakes_can_be_made_before_trio_runs() -> None:
    store, sink = MemoryRepository[Item](), MemoryDeadLetters[Item]()
    store.stall()
    store.resume()
    assert trio.run(store.upsert_many, items("a")) == 1
    trio.run(sink.put_many, [LETTER])


def test_the_module_offers_the_fakes_a_contract_and_nothing_else() -> None:
    offered = provcache_trio.testing.__all__
    assert offered == [
        "MemoryDeadLetters",
        "MemoryRepository",
        "RepositoryCrash",
        "check_repository",
    ]


async def test_rows_of_a_table_without_newer_are_deleted_by_their_fields() -> None:
    store = MemoryRepository[Item](table=Table(Item, "item", key="veri_key"))
    await store.upsert_many([Item("a", 1), Item("b", 2)])
    assert await store.delete_where(version=2) == 1
    assert set(store.rows) == {"a"}


class Colour(enum.Enum):
    RED = "red"


class Reading(msgspec.Struct, frozen=True):
    probe: int
    at: datetime | None = None
    lowest: Decimal = Decimal(1)
    colour: Colour = Colour.RED
    tags: list[str] = []


READINGS = Table(Reading, "readings", key="probe")


@pytest.mark.parametrize(
    ("wrong", "field", "message"),
    [
        ({"probe": "1"}, "probe", "probe must be an int, not str"),
        ({"at": datetime(2026, 11, 23)}, "at", "at must be an aware datetime, not a naive one"),  # noqa: DTZ001  # that is it
        ({"lowest": 0.5}, "lowest", "lowest must be a Decimal, not float"),
        ({"colour": "red"}, "colour", "colour must be a member of its Enum"),
        ({"tags": ("a",)}, "tags", "tags must be written as JSON and read back as it is"),
    ],
)
async def test_values_are_checked_if_a_test_asks_for_it(
    wrong: dict[str, Any], field: str, message: str
) -> None:
    good, bad = Reading(1), Reading(**{"probe": 2, **wrong})
    strict = MemoryRepository(table=READINGS, check_values=True)
    with pytest.raises(EntryRejectedError) as caught:
        await strict.upsert_many([good, bad])
    assert str(caught.value) == message
    assert (caught.value.index, caught.value.field) == (1, field)
    assert strict.rows == {}
    assert await strict.upsert_many([good, Reading(3, NOW, tags=["a"])]) == 2
    lax = MemoryRepository(table=READINGS)
    assert await lax.upsert_many([good, bad]) == 2


async def test_an_entry_of_another_type_is_refused_if_values_are_checked() -> None:
    store: MemoryRepository[Any] = MemoryRepository(table=READINGS, check_values=True)
    with pytest.raises(EntryRejectedError, match="an entry must be a Reading, not Item"):
        await store.upsert_many([Item("a")])
    with pytest.raises(TypeError, match="check_values needs a table"):
        MemoryRepository[Item](check_values=True)
