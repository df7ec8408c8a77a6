"""A line of many keys: they are found in one of several dicts, none of which grows large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provcache_trio import WriteBehindOptions, WriteBehindQueue, open_write_behind_queue
from provcache_trio._core import line
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.one_lane
MANY = 12


@pytest.fixture(params=[True, False], ids=["coalesce", "every version"])
async def queue(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[WriteBehindQueue[Item]]:
    """Yield a queue with a dozen batches of one key in line, behind a call that does not return."""
    monkeypatch.setattr(line, "_MOST_KEYS", 3)
    store = MemoryRepository[Item]()
    store.stall()
    options = WriteBehindOptions(batch_size=1, coalesce=request.param)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many([Item(f"{n}") for n in range(MANY)])
        yield queue
        store.resume()
        await queue.flush()
        assert set(store.rows.values()) == {Item(f"{n}", 1) for n in range(MANY)}


async def test_a_newer_version_takes_the_place_of_the_one_in_line_wherever_that_is(
    queue: WriteBehindQueue[Item],
) -> None:
    coalesces = queue._lifetime.options.coalesce
    await queue.enqueue_many([Item(f"{n}", 1) for n in range(MANY)])
    for n in range(MANY):
        assert queue.pending(f"{n}") == Item(f"{n}", 1)
    assert queue.pending("none") is None
    assert queue.metrics().total_coalesced == (MANY - 1 if coalesces else 0)


async def test_no_dict_of_keys_grows_large(queue: WriteBehindQueue[Item]) -> None:
    first = queue._lanes.lines[0]  # all keys are in one lane
    await queue.enqueue_many([Item(f"{n}", 1) for n in range(MANY)])
    assert {len(keys) for keys in first.holders_before or ()} == {3}
    assert len(first.holders) <= 3


async def test_a_batch_that_still_fills_takes_no_key_that_is_in_line_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line, "_MOST_KEYS", 3)
    store = MemoryRepository[Item]()
    store.stall()
    async with open_write_behind_queue(store, WriteBehindOptions(batch_size=2)) as queue:
        for n in range(MANY + 1):
            queue.enqueue_nowait(Item(f"{n}"))
        first = queue._lanes.lines[0]  # all keys are in one lane
        assert first.open is not None
        for n in range(MANY + 1):
            queue.enqueue_nowait(Item(f"{n}", 1))
        assert queue.metrics().total_coalesced == MANY + 1
        store.resume()
    assert set(store.rows.values()) == {Item(f"{n}", 1) for n in range(MANY + 1)}
