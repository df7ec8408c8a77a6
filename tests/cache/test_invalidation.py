"""What an invalidation leaves: here, in line, and in the store."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    ProvcacheEntry,
    StoreUnavailableError,
    Table,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.cache import open_cache
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from tests.support.entries import DAY, MICROSECOND, NOW, entry, key_of
from tests.support.gated import now, opened
from tests.support.tasks import put_aside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEY = key_of(0)
BAD = key_of("bad policy")


def bad(number: object, **changes: object) -> ProvcacheEntry:
    return entry(number, policy_hash=BAD, **changes)


async def test_what_is_remembered_in_line_and_stored_goes(autojump_clock: MockClock) -> None:
    async with opened() as (store, queue, cache):
        store.hold(bad(0), bad(1), entry(2))
        await cache.get_many([KEY, key_of(2)])
        await cache.put(bad(3))
        await cache.put(entry(4))
        assert await cache.invalidate_where(policy_hash=BAD) == 3
        assert set(store.rows) == {key_of(2), key_of(4)}
        keys = [key_of(number) for number in range(5)]
        assert set(await cache.get_many(keys)) == {key_of(2), key_of(4)}
        assert cache.peek(key_of(2)) == entry(2)
        assert queue.metrics().current_queue_depth == 0


async def test_entries_go_by_signers_and_by_epoch_too(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache):
        store.hold(
            entry(0, feed_epoch="epoch-9"),
            entry(1, feed_epoch="epoch-10"),  # which comes before, as a text
            entry(2, signer_set_hash=BAD),
        )
        assert await cache.invalidate_where(feed_epoch="epoch-9") == 1
        assert await cache.invalidate_where(feed_epoch="epoch-10", policy_hash=BAD) == 0
        assert await cache.invalidate_where(signer_set_hash=BAD) == 1
        assert set(store.rows) == {key_of(1)}


async def test_a_version_of_this_instant_goes_and_one_dated_later_may_stay(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (store, _, cache):
        await trio.sleep(5)
        store.hold(bad(0, created_at=now()), bad(1, created_at=now() + MICROSECOND))
        await cache.invalidate_where(policy_hash=BAD)
        assert set(store.rows) == {key_of(1)}


async def test_what_is_accepted_meanwhile_stays(autojump_clock: MockClock) -> None:
    async with opened() as (store, queue, cache), trio.open_nursery() as nursery:
        store.hold(bad(0), entry(1))
        await cache.get(key_of(1))
        store.delete.close()
        done = await put_aside(nursery, lambda: cache.invalidate_where(policy_hash=BAD))
        await trio.sleep(1)
        newer = bad(0, created_at=now())
        await cache.put(newer)
        await queue.flush()
        store.delete.open()
        await wait_all_tasks_blocked()
        assert done == [0]
        assert await cache.get(KEY) == newer


async def test_what_was_deleted_before_its_fate_was_known_is_not_remembered(
    autojump_clock: MockClock,
) -> None:
    async with opened(WriteBehindOptions(flush_interval_seconds=0)) as (store, queue, cache):
        async with trio.open_nursery() as nursery:
            store.delete.close()
            done = await put_aside(nursery, lambda: cache.invalidate_where(policy_hash=BAD))
            store.written.close()
            await cache.put(bad(0))
            await wait_all_tasks_blocked()
            assert KEY in store.rows
            store.delete.open()
            await wait_all_tasks_blocked()
            assert done == [1]
            # The queue still holds it.
            assert await cache.get(KEY) == bad(0)
            store.written.open()
            await queue.flush()
        assert cache.peek(KEY) is None
        assert await cache.get(KEY) is None
        await cache.put(bad(0))
        assert await cache.get(KEY) == bad(0)
        assert cache.peek(KEY) == bad(0)


async def test_what_a_read_brings_back_meanwhile_is_not_remembered(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (store, _, cache), trio.open_nursery() as nursery:
        store.hold(bad(0), bad(1), entry(2), entry(3), entry(4))
        await cache.get(key_of(4))
        store.delete.close()
        store.read.close()
        before = await put_aside(nursery, cache.get_many, [KEY, key_of(2)])
        done = await put_aside(nursery, lambda: cache.invalidate_where(policy_hash=BAD))
        during = await put_aside(nursery, cache.get_many, [key_of(1), key_of(3), key_of(9)])
        await cache.put(entry(3, hit_count=5))
        await cache.put(entry(4, hit_count=5))
        store.delete.open()
        await wait_all_tasks_blocked()
        assert done == [2]
        after = await put_aside(nursery, cache.get, KEY)
        assert after == []
        store.read.open()
        await wait_all_tasks_blocked()
        assert before == [{KEY: bad(0), key_of(2): entry(2)}]
        assert during == [{key_of(1): bad(1), key_of(3): entry(3, hit_count=5)}]
        assert after == [None]  # it did not join the read that began before
        assert cache.peek(KEY) is None
        assert cache.peek(key_of(1)) is None
        assert cache.peek(key_of(2)) == entry(2)
        assert cache.peek(key_of(3)) is None
        assert cache.peek(key_of(4)) is None
        assert await cache.get(key_of(4)) == entry(4, hit_count=5)


async def test_what_is_merged_with_what_is_deleted_is_not_remembered(
    autojump_clock: MockClock,
) -> None:
    async with opened(WriteBehindOptions(flush_interval_seconds=0)) as (store, queue, cache):
        store.hold(entry(1))
        async with trio.open_nursery() as nursery:
            store.delete.close()
            await cache.get(key_of(1))
            done = await put_aside(nursery, lambda: cache.invalidate_where(policy_hash=BAD))
            await cache.put(bad(1, hit_count=9))
            await queue.flush()
            store.delete.open()
            await wait_all_tasks_blocked()
        assert done == [1]
        assert cache.peek(key_of(1)) is None
        await cache.put(entry(1, hit_count=2))
        assert await cache.get(key_of(1)) == entry(1, hit_count=2)


async def test_when_the_store_is_away_the_caller_hears_of_it_and_memory_works_on(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (store, _, cache):
        store.hold(bad(0), entry(1))
        await cache.get(KEY)
        store.down()
        with pytest.raises(StoreUnavailableError):
            await cache.invalidate_where(policy_hash=BAD)
        store.up()
        assert cache.peek(KEY) is None
        assert await cache.get(KEY) == bad(0)
        assert cache.peek(KEY) == bad(0)


async def test_an_invalidation_can_be_cancelled(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache):
        store.hold(bad(0))
        store.delete.close()
        with trio.move_on_after(1) as scope:
            await cache.invalidate_where(policy_hash=BAD)
        assert scope.cancelled_caught
        assert await cache.get(KEY) == bad(0)
        assert cache.peek(KEY) == bad(0)


async def test_forgetting_lets_others_run(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provcache_trio.cache._cache._SLICE", 3)
    async with opened(max_entries=9) as (store, _, cache):
        store.hold(*map(bad, range(9)), *map(entry, range(100, 109)))
        await cache.get_many(list(store.rows)[:9])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: cache.invalidate_where(policy_hash=BAD))
            await cache.get_many(list(store.rows)[9:])  # which pushes the others out meanwhile
        assert all(cache.peek(key_of(number)) is None for number in range(9))
        assert len(store.rows) == 9


@pytest.mark.parametrize(
    ("conditions", "error", "text"),
    [
        ({}, TypeError, "at least one field=value"),
        ({"verdict": "x"}, ValueError, "deleted by policy_hash, signer_set_hash, feed_epoch"),
        ({"policy_hash": "x"}, ValueError, "policy_hash must be 'sha256:' and 64"),
        ({"feed_epoch": 7}, TypeError, "feed_epoch must be a str, not int"),
    ],
)
async def test_what_entries_can_not_be_told_by_is_refused(
    conditions: dict[str, Any], error: type[Exception], text: str, autojump_clock: MockClock
) -> None:
    async with opened() as (store, _, cache):
        store.hold(entry())
        await cache.get(KEY)
        with pytest.raises(error, match=text):
            await cache.invalidate_where(**conditions)
        assert cache.peek(KEY) is not None


async def test_a_repository_without_delete_where_is_a_type_error(
    autojump_clock: MockClock,
) -> None:
    class Plain:
        async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
            raise NotImplementedError

        async def get_many(self, keys: object, /) -> dict[Any, ProvcacheEntry]:
            raise NotImplementedError

    plain = Plain()
    async with open_write_behind_queue(plain) as queue, open_cache(queue, plain) as cache:
        with pytest.raises(TypeError, match="needs a repository with delete_where; Plain has none"):
            await cache.invalidate_where(policy_hash=BAD)


class Doc(msgspec.Struct, frozen=True):
    id: int
    owner: str | None
    tags: list[str]
    at: datetime | None = None
    number: int = 0
    until: datetime | None = None


DOCS = Table(Doc, "doc", key="id", newer="at", expires="until")
BY_NUMBER = Table(Doc, "doc", key="id", newer="number")


class Odd:
    """A value that can't be compared."""

    def __eq__(self, other: object) -> bool:
        raise LookupError("odd")

    __hash__ = None  # type: ignore[assignment]  # as classes with __eq__ have it


async def test_a_table_is_invalidated_by_any_field_that_is_no_json(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository[Doc](table=DOCS)
    async with (
        open_write_behind_queue(store) as queue,
        open_cache(queue, store, wall_clock=now) as cache,
    ):
        await cache.put(Doc(1, None, [], NOW - DAY))
        await cache.put(Doc(2, "me", [], NOW + DAY))
        await cache.put(Doc(3, "me", [], NOW, until=NOW - DAY))
        assert set(await cache.get_many([1, 2, 3])) == {1, 2}
        assert await cache.invalidate_where(owner="me") == 1
        assert set(store.rows) == {1, 2}
        assert await cache.invalidate_where(owner=None) == 1
        with pytest.raises(TypeError, match="tags is stored as JSON"):
            await cache.invalidate_where(tags=[])
        with pytest.raises(ValueError, match="no field 'nope'"):
            await cache.invalidate_where(nope=1)
        with pytest.raises(TypeError, match="at least one"):
            await cache.invalidate_where()
        await cache.get(2)
        with pytest.raises(LookupError):
            await cache.invalidate_where(owner=Odd())
        assert cache.peek(2) is None


async def test_without_a_date_every_version_goes(autojump_clock: MockClock) -> None:
    store = MemoryRepository[Doc](table=BY_NUMBER)
    async with (
        open_write_behind_queue(store) as queue,
        open_cache(queue, store, wall_clock=now) as cache,
    ):
        await cache.put(Doc(1, "me", [], number=7, until=NOW - DAY))
        assert await cache.get(1) is not None  # the table has no ``expires``
        assert await cache.invalidate_where(owner="me") == 1


async def test_a_time_that_the_store_will_refuse_says_nothing(autojump_clock: MockClock) -> None:
    store = MemoryRepository[Doc](table=DOCS)
    async with (
        open_write_behind_queue(store) as queue,
        open_cache(queue, store, wall_clock=now) as cache,
    ):
        naive = Doc(1, "me", [], until=datetime(2000, 1, 1))  # noqa: DTZ001  # that is the point
        await cache.put(naive)
        assert await cache.get(1) == naive


async def test_entries_in_sqlite_are_invalidated(tmp_path: Path) -> None:
    async with (
        open_sqlite_repository(tmp_path / "cache.db") as store,
        open_write_behind_queue(store) as queue,
        open_cache(queue, store, wall_clock=lambda: NOW) as cache,
    ):
        for number in range(5):
            await cache.put(bad(number))
            await cache.put(entry(number + 5))
        await cache.put(bad(10, created_at=NOW + timedelta(seconds=1)))
        with pytest.raises(ValueError, match="policy_hash must be"):
            await store.delete_where(policy_hash="x")
        with pytest.raises(TypeError, match="before must be a datetime"):
            await store.delete_where(policy_hash=BAD, before=1)
        assert await cache.invalidate_where(policy_hash=BAD) == 5
        assert await store.count() == 6
        assert await store.delete_where(policy_hash=BAD, feed_epoch="2026-W48") == 1
        assert await store.delete_where(signer_set_hash=entry(7).signer_set_hash) == 1


async def test_deleting_in_memory_obeys_the_table(autojump_clock: MockClock) -> None:
    with pytest.raises(TypeError, match="at least one"):
        await MemoryRepository().delete_where()
    with pytest.raises(TypeError, match="declared without newer="):
        await MemoryRepository(table=Table(Doc, "doc", key="id")).delete_where(owner="", before=1)
    with pytest.raises(ValueError, match="no field 'nope'"):
        await MemoryRepository(table=DOCS).delete_where(nope=1)
    store = MemoryRepository[Doc](table=BY_NUMBER)
    await store.upsert_many([Doc(number, "me", [], number=number) for number in range(5)])
    assert await store.delete_where(owner="me", before=3) == 3
    assert set(store.rows) == {3, 4}
