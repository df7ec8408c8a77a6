"""One contract for every built-in repository: what a queue and its user may rely on."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import partial, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol, cast

import msgspec
import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import assert_checkpoints

from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    ReplaySeed,
    WriteBehindOptions,
    WriteBehindQueue,
    merge_entries,
    open_write_behind_queue,
)
from provcache_trio._asyncio.bridge import DEFAULT_KIND
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from tests.support.entries import DAY, MICROSECOND, NOW, by_key, entry, key_of
from tests.support.servers import other_postgres, postgres, unused_schema
from tests.support.strategies import FIRST, LAST, MOST_HITS, provcache_entries, versions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

    from provcache_trio._asyncio.bridge import BridgeKind

    from tests.support.pgserver import PostgresServer


class BuiltIn(Protocol):
    """What every built-in repository offers."""

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int: ...
    async def get_many(self, keys: Iterable[str], /) -> dict[str, ProvcacheEntry]: ...
    async def count(self) -> int: ...
    async def delete_many(self, keys: Iterable[str], /) -> int: ...
    async def delete_expired(self, now: datetime, limit: int) -> int: ...
    async def check(self) -> None: ...


@asynccontextmanager
async def open_memory() -> AsyncGenerator[BuiltIn]:
    yield cast("BuiltIn", MemoryRepository())  # it takes any key, as its annotations say


# Where there is a file system in memory, hundreds of files are written on that.
IN_MEMORY = next((path for path in ("/dev/shm",) if Path(path).is_dir()), None)  # noqa: S108


@asynccontextmanager
async def open_file() -> AsyncGenerator[BuiltIn]:
    with TemporaryDirectory(dir=IN_MEMORY) as directory:
        async with open_sqlite_repository(Path(directory) / "cache.db") as repository:
            yield repository


@asynccontextmanager
async def open_postgres(
    server: Callable[[], PostgresServer], bridge: BridgeKind
) -> AsyncGenerator[BuiltIn]:
    async with open_postgres_repository(
        server().dsn, schema=unused_schema(), create=True, bridge=bridge
    ) as repository:
        yield repository


# Each opens an empty one. A repository that is added here is held to everything below.
OPENERS: dict[str, Callable[[], AbstractAsyncContextManager[BuiltIn]]] = {
    "memory": open_memory,
    "sqlite": open_file,
    "postgres": partial(open_postgres, postgres, DEFAULT_KIND),
    "postgres in a thread": partial(open_postgres, other_postgres, "thread"),
}
each_kind = pytest.mark.parametrize("kind", OPENERS)
fewer = settings(max_examples=settings().max_examples * 3 // 10)  # each opens a repository


@pytest.fixture(params=OPENERS)
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[BuiltIn]:
    async with OPENERS[request.param]() as repository:
        yield repository


# Rows


EDGES = {
    "the first and the last moment": entry(
        created_at=FIRST, expires_at=LAST, last_accessed_at=LAST - MICROSECOND
    ),
    "the last microsecond": entry(created_at=LAST - MICROSECOND, expires_at=LAST),
    "before 1970": entry(created_at=datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    "another time zone": entry(
        created_at=datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=14))),
        last_accessed_at=datetime(2026, 1, 1, tzinfo=timezone(-timedelta(minutes=90))),
    ),
    "as many hits as there can be": entry(hit_count=MOST_HITS),
    "text of any script": entry(
        feed_epoch="\x01\x7f\n'\"\\ü\u0301漢🦉\uffff\U0010ffff",
        decision=DecisionDigest(
            digest_version="v2-β",
            verdict_hash=key_of(1),
            proof_root=key_of(2),
            replay_seed=ReplaySeed(feed_ids=("näïve", "'; --", '"\\'), rule_ids=("🦉",)),
            trust_score=0,
        ),
    ),
    "a seed of 64 KiB": entry(
        decision=DecisionDigest(
            verdict_hash=key_of(1),
            proof_root=key_of(2),
            replay_seed=ReplaySeed(feed_ids=("ü" * 128,) * 255, rule_ids=("\x01",) * 256),
            trust_score=100,
        )
    ),
    "a seed of 65,536 ids": entry(
        decision=DecisionDigest(
            verdict_hash=key_of(1),
            proof_root=key_of(2),
            replay_seed=ReplaySeed(rule_ids=("a",) * 2**16),
            trust_score=100,
        )
    ),
    "nothing but the least": entry(
        decision=DecisionDigest(
            verdict_hash=key_of(1), proof_root=key_of(2), replay_seed=ReplaySeed(), trust_score=0
        )
    ),
}


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
async def test_an_entry_comes_back_as_it_was(store: BuiltIn, edge: ProvcacheEntry) -> None:
    assert await store.upsert_many([edge]) == 1
    (found,) = (await store.get_many([edge.veri_key])).values()
    assert found == edge
    assert found.created_at.tzinfo is UTC


@pytest.mark.heavy
@each_kind
@fewer
@given(drawn=st.lists(provcache_entries(), max_size=5, unique_by=lambda one: one.veri_key))
def test_every_entry_comes_back_as_it_was(kind: str, drawn: list[ProvcacheEntry]) -> None:
    async def there_and_back() -> None:
        async with OPENERS[kind]() as store:
            assert await store.upsert_many(drawn) == len(drawn)
            assert await store.get_many(by_key(drawn)) == by_key(drawn)

    trio.run(there_and_back)


async def test_keys_that_are_not_stored_are_left_out(store: BuiltIn) -> None:
    await store.upsert_many([entry(1), entry(2)])
    asked = [key_of(2), key_of("unknown"), key_of(2)]
    assert await store.get_many(asked) == by_key([entry(2)])
    assert await store.get_many(iter(asked)) == by_key([entry(2)])
    assert await store.get_many([]) == {}


async def test_thousands_of_keys_are_read_and_deleted_at_once(store: BuiltIn) -> None:
    many = [entry(number) for number in range(3000)]
    assert await store.upsert_many(many) == 3000
    assert await store.count() == 3000
    asked = [*by_key(many), *map(key_of, range(3000, 6000))]
    assert await store.get_many(asked) == by_key(many)
    assert await store.delete_many(asked) == 3000
    assert await store.count() == 0


async def test_deleting_returns_how_many_there_were(store: BuiltIn) -> None:
    await store.upsert_many([entry(number) for number in range(4)])
    assert await store.delete_many([]) == 0
    assert await store.delete_many([key_of("unknown")]) == 0
    assert await store.delete_many(iter([key_of(0), key_of(0), key_of("unknown"), key_of(2)])) == 2
    assert await store.get_many(map(key_of, range(4))) == by_key([entry(1), entry(3)])


async def test_those_that_expired_first_are_deleted_first(store: BuiltIn) -> None:
    for number, days in enumerate((3, 1, 4, 2, 5)):
        await store.upsert_many([entry(number, expires_at=NOW + days * DAY)])
    now = NOW + 4 * DAY  # to the microsecond when number 2 expires
    assert await store.delete_expired(NOW + DAY - MICROSECOND, 9) == 0
    assert await store.delete_expired(now.astimezone(timezone(timedelta(hours=-9))), 2) == 2
    assert set(await store.get_many(map(key_of, range(5)))) == {key_of(0), key_of(2), key_of(4)}
    assert await store.delete_expired(now, 9) == 2
    assert set(await store.get_many(map(key_of, range(5)))) == {key_of(4)}
    assert await store.delete_expired(LAST, 2**63 - 1) == 1


async def test_a_limit_below_one_is_refused(store: BuiltIn) -> None:
    with pytest.raises(ValueError, match=r"^limit must be"):
        await store.delete_expired(NOW, 0)


async def test_expired_entries_are_read_until_they_are_deleted(store: BuiltIn) -> None:
    old = entry(created_at=FIRST, expires_at=FIRST + MICROSECOND)
    await store.upsert_many([old])
    assert await store.get_many([old.veri_key]) == by_key([old])


# Merging


async def test_rows_that_stay_as_they_are_do_not_count(store: BuiltIn) -> None:
    assert await store.upsert_many([]) == 0
    assert await store.upsert_many([entry(1), entry(2)]) == 2
    assert await store.upsert_many([entry(1), entry(2)]) == 0
    older = entry(1, created_at=NOW - DAY, feed_epoch="older")
    assert await store.upsert_many([older, entry(2, hit_count=1), entry(3)]) == 2
    assert await store.upsert_many([entry(2)]) == 0  # fewer hits are no change
    assert await store.get_many(map(key_of, (1, 2))) == by_key([entry(1), entry(2, hit_count=1)])


CHANGED: dict[str, object] = {
    "policy_hash": key_of("other"),
    "signer_set_hash": key_of("other"),
    "feed_epoch": "other",
    "created_at": NOW + MICROSECOND,
    "expires_at": NOW + DAY - MICROSECOND,
    "hit_count": 1,
    "last_accessed_at": FIRST,
}
CHANGED_DECISION: dict[str, object] = {
    "digest_version": "other",
    "verdict_hash": key_of("other"),
    "proof_root": key_of("other"),
    "replay_seed": ReplaySeed(feed_ids=("nvd", "r1"), rule_ids=("r2",)),
    "trust_score": 89,
}


@pytest.mark.parametrize("field", [*CHANGED, *CHANGED_DECISION])
async def test_one_field_that_differs_is_a_change(store: BuiltIn, field: str) -> None:
    if field in CHANGED:
        changed = entry(**{field: CHANGED[field]})
    else:
        decision = msgspec.structs.replace(entry().decision, **{field: CHANGED_DECISION[field]})
        changed = entry(decision=decision)
    await store.upsert_many([entry()])
    assert await store.upsert_many([changed]) == 1
    assert await store.get_many([key_of(0)]) == by_key([changed])


@pytest.mark.heavy
@each_kind
@fewer
@given(arrivals=versions())
def test_storing_versions_one_by_one_is_storing_what_they_merge_to(
    kind: str, arrivals: list[ProvcacheEntry]
) -> None:
    async def compare() -> None:
        key = arrivals[0].veri_key
        before: dict[str, ProvcacheEntry] = {}
        async with OPENERS[kind]() as store:
            for index, arrival in enumerate(arrivals):
                changed = await store.upsert_many([arrival])
                after = await store.get_many([key])
                assert after == {key: reduce(merge_entries, arrivals[: index + 1])}
                assert changed == (before != after)
                before = after

    trio.run(compare)


@pytest.mark.heavy
@each_kind
@fewer
@given(pair=versions(at_most=2))
def test_the_order_of_two_versions_matters_only_if_they_were_created_at_once(
    kind: str, pair: list[ProvcacheEntry]
) -> None:
    async def compare() -> None:
        first, second = pair
        merged = merge_entries(first, second)
        if first.created_at == second.created_at:
            assert merged.decision == second.decision
            merged = merge_entries(second, first)
        async with OPENERS[kind]() as store:
            await store.upsert_many([second])
            await store.upsert_many([first])
            assert await store.get_many([first.veri_key]) == by_key([merged])

    trio.run(compare)


@pytest.mark.heavy
@each_kind
@fewer
@given(arrivals=versions(at_most=3))
def test_a_key_that_comes_twice_in_one_call_is_merged(
    kind: str, arrivals: list[ProvcacheEntry]
) -> None:
    async def compare() -> None:
        async with OPENERS[kind]() as store:
            await store.upsert_many(arrivals)
            key = arrivals[0].veri_key
            assert await store.get_many([key]) == {key: reduce(merge_entries, arrivals)}

    trio.run(compare)


# Calls


CALLS: list[Callable[[BuiltIn], Awaitable[object]]] = [
    lambda store: store.upsert_many([entry()]),
    lambda store: store.get_many([key_of(0)]),
    lambda store: store.count(),
    lambda store: store.delete_many([key_of(0)]),
    lambda store: store.delete_expired(NOW, 1),
    lambda store: store.check(),
]


@pytest.mark.parametrize("call", CALLS)
async def test_every_call_is_a_checkpoint(
    store: BuiltIn, call: Callable[[BuiltIn], Awaitable[object]]
) -> None:
    for _ in range(2):
        with assert_checkpoints():
            await call(store)


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_is_cancelled_before_it_begins_does_nothing(
    store: BuiltIn, call: Callable[[BuiltIn], Awaitable[object]]
) -> None:
    await store.upsert_many([entry(1, expires_at=NOW + MICROSECOND)])
    with trio.CancelScope() as scope:
        scope.cancel()
        await call(store)
    assert scope.cancelled_caught
    assert await store.count() == 1
    assert await store.get_many([key_of(0)]) == {}


async def test_the_entries_are_those_of_the_moment_of_the_call(store: BuiltIn) -> None:
    batch = [entry(1), entry(2)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.upsert_many, batch)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()  # after two, it has begun
        batch.clear()
    assert await store.count() == 2


async def test_several_tasks_may_use_it_at_once(store: BuiltIn) -> None:
    async def work(task: int) -> None:
        for turn in range(5):
            mine = [entry(f"{task}-{turn}-{number}") for number in range(20)]
            assert await store.upsert_many(mine) == 20
            assert await store.get_many(by_key(mine)) == by_key(mine)
            assert await store.delete_many([mine[0].veri_key]) == 1

    async with trio.open_nursery() as nursery:
        for task in range(8):
            nursery.start_soon(work, task)
    assert await store.count() == 8 * 5 * 19


async def test_cancelled_calls_leave_it_usable_and_store_all_or_nothing(store: BuiltIn) -> None:
    for round_number in range(20):
        mine = [entry(f"{round_number}-{number}") for number in range(500)]
        with trio.move_on_after(round_number / 2000):
            await store.upsert_many(mine)
        assert len(await store.get_many(by_key(mine))) in {0, 500}
        await store.upsert_many(mine)
        assert await store.get_many(by_key(mine)) == by_key(mine)


async def test_a_queue_writes_exactly_what_it_accepted(store: BuiltIn) -> None:
    many = [entry(number, hit_count=number) for number in range(300)]
    newer = [entry(number, created_at=NOW + DAY / 2, feed_epoch="newer") for number in range(50)]
    options = WriteBehindOptions(batch_size=40, flush_interval_seconds=0)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(many)
        await queue.enqueue_many(newer)
        await queue.persist(entry("awaited"))
        assert await store.get_many([key_of("awaited")])
        await queue.flush()
    expected = by_key([*many, entry("awaited")])
    for one in newer:
        expected[one.veri_key] = merge_entries(expected[one.veri_key], one)
    assert await store.get_many(expected) == expected
    assert await store.count() == 301
    metrics = queue.metrics()
    assert metrics.total_persisted + metrics.total_coalesced == metrics.total_enqueued == 351
    assert queue.undelivered == ()


# What the tasks of a program do: how they hand over their next entry, or wait for all.
DEEDS = ("enqueue", "nowait", "cancelled", "persist", "flush")
programs = st.lists(
    st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 3)), max_size=12),
    min_size=1,
    max_size=4,
)
some_options = st.builds(
    WriteBehindOptions,
    queue_capacity=st.integers(1, 8),
    batch_size=st.integers(1, 5),
    flush_interval_seconds=st.sampled_from([0, 0.001]),
    coalesce=st.booleans(),
)


class Scenario:
    """Tasks that write a few keys, and note what was accepted."""

    def __init__(self, store: BuiltIn, queue: WriteBehindQueue[ProvcacheEntry]) -> None:
        self.store = store
        self.queue = queue
        self.accepted: list[ProvcacheEntry] = []
        self.versions = 0

    async def work(self, deeds: list[tuple[str, int]]) -> None:
        for deed, number in deeds:
            if deed == "flush":
                before = list(self.accepted)
                await self.queue.flush()
                await self.assert_as_new(before)
                continue
            self.versions += 1
            created_at = NOW + self.versions * MICROSECOND
            version = entry(number, created_at=created_at, hit_count=self.versions % 7)
            if await self.hand_over(deed, version):
                self.accepted.append(version)
                if deed == "persist":
                    await self.assert_as_new([version])

    async def hand_over(self, deed: str, version: ProvcacheEntry) -> bool:
        if deed == "nowait":
            with suppress(trio.WouldBlock):
                self.queue.enqueue_nowait(version)
                return True
            return False
        with trio.move_on_after(0.0005 if deed == "cancelled" else math.inf):
            await (self.queue.persist if deed == "persist" else self.queue.enqueue)(version)
            return True
        return False

    async def assert_as_new(self, versions: list[ProvcacheEntry]) -> None:
        """Each may have been overtaken, but by a newer one only."""
        rows = await self.store.get_many(by_key(versions))
        for version in versions:
            assert rows[version.veri_key].created_at >= version.created_at

    def newest(self) -> dict[str, ProvcacheEntry]:
        """Return what the versions of each key merge to; as no two are of one moment, in any order."""
        merged: dict[str, ProvcacheEntry] = {}
        for version in self.accepted:
            old = merged.get(version.veri_key, version)
            merged[version.veri_key] = merge_entries(old, version)
        return merged


@pytest.mark.heavy
@each_kind
@fewer
@given(program=programs, options=some_options)
def test_whatever_tasks_do_the_store_ends_with_what_was_accepted(
    kind: str, program: list[list[tuple[str, int]]], options: WriteBehindOptions
) -> None:
    async def run() -> None:
        async with OPENERS[kind]() as store:
            async with (
                open_write_behind_queue(store, options) as queue,
                trio.open_nursery() as nursery,
            ):
                scenario = Scenario(store, queue)
                for deeds in program:
                    nursery.start_soon(scenario.work, deeds)
            assert await store.get_many(map(key_of, range(4))) == scenario.newest()
            metrics = queue.metrics()
            assert metrics.total_persisted + metrics.total_coalesced == metrics.total_enqueued
            assert metrics.total_enqueued == len(scenario.accepted)
            assert queue.undelivered == ()

    trio.run(run)
