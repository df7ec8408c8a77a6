"""A repository's ``prepare``: the next batch is encoded while the store writes the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from provcache_trio import EntryRejectedError, WriteBehindOptions, open_write_behind_queue

from tests.support.items import Item, assert_settled, items

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.one_lane

TWO = WriteBehindOptions(batch_size=2, flush_interval_seconds=0)


class Prepared(list[Item]):
    """What ``prepare`` returns: the same entries, as another type of sequence."""


class Preparing:
    """A repository with ``prepare``, whose calls end when they are let go."""

    def __init__(self, refused: Item | None = None) -> None:
        self.refused = refused
        self.error: Exception | None = None
        self.prepared: list[list[Item]] = []
        self.calls: list[Sequence[Item]] = []
        self.let_go = trio.Event()

    async def prepare(self, entries: Sequence[Item], /) -> Sequence[Item]:
        await trio.lowlevel.checkpoint()
        self.prepared.append(list(entries))
        if self.error is not None:
            raise self.error
        return Prepared(entries)

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        self.calls.append(entries)
        await self.let_go.wait()
        if self.refused in entries:
            raise EntryRejectedError("no")
        return len(entries)

    def sent(self) -> list[tuple[type, list[Item]]]:
        """Return the type and the entries of every call."""
        return [(type(entries), list(entries)) for entries in self.calls]


async def test_a_full_batch_is_prepared_while_the_one_before_is_written() -> None:
    store = Preparing()
    four = items(range(4))
    async with open_write_behind_queue(store, TWO) as queue:
        await queue.enqueue_many(four)
        await wait_all_tasks_blocked()
        assert store.prepared == [four[2:]]
        store.let_go.set()
    assert store.sent() == [(tuple, four[:2]), (Prepared, four[2:])]
    assert_settled(queue, persisted=4)


async def test_a_version_that_came_after_the_preparation_is_the_one_that_is_written() -> None:
    store = Preparing()
    first, newer = items(range(4)), items([3], version=1)
    async with open_write_behind_queue(store, TWO) as queue:
        await queue.enqueue_many(first)
        await wait_all_tasks_blocked()
        queue.enqueue_nowait(newer[0])
        store.let_go.set()
    assert store.prepared == [first[2:]]
    assert store.sent() == [(tuple, first[:2]), (tuple, [first[2], *newer])]
    assert_settled(queue, persisted=4, coalesced=1)


async def test_a_batch_that_can_still_grow_is_not_prepared() -> None:
    store = Preparing()
    five = items(range(5))
    async with open_write_behind_queue(
        store, WriteBehindOptions(batch_size=4, flush_interval_seconds=0)
    ) as queue:
        await queue.enqueue_many(five)
        await wait_all_tasks_blocked()
        assert store.prepared == []
        store.let_go.set()
    assert_settled(queue, persisted=5)


async def test_nothing_is_prepared_while_the_writer_is_free() -> None:
    store = Preparing()
    store.let_go.set()
    async with open_write_behind_queue(store, TWO) as queue:
        for two in (items([0, 1]), items([2, 3])):
            await queue.enqueue_many(two)
            await queue.flush()
    assert store.prepared == []


@pytest.mark.parametrize("error", [ValueError("broken"), OSError("gone")])
async def test_a_preparation_that_fails_has_no_consequence(error: Exception) -> None:
    store = Preparing()
    store.error = error
    four = items(range(4))
    async with open_write_behind_queue(store, TWO) as queue:
        await queue.enqueue_many(four)
        await wait_all_tasks_blocked()
        store.let_go.set()
        await queue.flush()
        assert queue.metrics().last_error is None
    assert store.sent() == [(tuple, four[:2]), (tuple, four[2:])]
    assert_settled(queue, persisted=4)


async def test_parts_of_a_prepared_batch_are_sent_as_they_are() -> None:
    store = Preparing()
    four = items(range(4))
    store.refused = four[3]
    async with open_write_behind_queue(store, TWO) as queue:
        await queue.enqueue_many(four)
        await wait_all_tasks_blocked()
        store.let_go.set()
    assert store.sent()[1:] == [(Prepared, four[2:]), (tuple, [four[2]]), (tuple, [four[3]])]
    assert_settled(queue, persisted=3, failed=1)
