"""A run of bad entries does not stop the good ones behind it: under suspicion one of those is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock  # noqa: TC002  # pytest-trio looks at it

from provcache_trio import (
    DrainTimeoutError,
    QueueState,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._core.ledger import Ledger
from provcache_trio._core.line import Line
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, items

if TYPE_CHECKING:
    from collections.abc import Sequence

BAD = [f"bad{number}" for number in range(60)]


def tries(store: MemoryRepository[Item], key: str) -> int:
    return sum(Item(key) in call for call in store.calls)


@pytest.fixture
def store() -> MemoryRepository[Item]:
    store = MemoryRepository[Item]()
    store.reject(*BAD)
    return store


@pytest.mark.one_lane
@pytest.mark.parametrize("coalesce", [True, False])
async def test_good_entries_behind_a_run_of_bad_ones_are_stored_and_the_bad_become_letters(
    store: MemoryRepository[Item], coalesce: bool, autojump_clock: MockClock
) -> None:
    letters = MemoryDeadLetters[Item]()
    options = WriteBehindOptions(batch_size=20, coalesce=coalesce)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        await queue.enqueue_many(items(BAD))
        await trio.sleep(600)
        assert queue.metrics().state is QueueState.WAITING
        # Each batch of bad ones takes a good one that the store did not have.
        good = items(["good1", "good2", "good3"])
        await queue.enqueue_many(good)
        with trio.fail_after(300):
            await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    assert {letter.key for letter in letters.letters} == {*BAD}
    # Calls that only tried an entry from behind count, too.
    assert all(letter.attempts == tries(store, str(letter.key)) for letter in letters.letters)
    assert sorted(map(str, store.rows)) == [item.veri_key for item in good]
    assert_settled(queue, persisted=3, failed=60)


@pytest.mark.one_lane
async def test_a_store_that_refuses_everything_is_still_to_blame(
    autojump_clock: MockClock,
) -> None:
    store, letters = MemoryRepository[Item](), MemoryDeadLetters[Item]()
    names = list(map(str, range(60)))
    store.reject(*names)
    options = WriteBehindOptions(batch_size=20)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        await queue.enqueue_many(items(names))
        await trio.sleep(3600)
        assert queue.metrics().state is QueueState.WAITING
        # Each of those behind had its turn.
        assert all(tries(store, name) for name in names)
        store.accept(*names)
        with trio.fail_after(60):
            await queue.flush()
    assert letters.letters == []
    assert_settled(queue, persisted=60, failed=0)
    # The one that proved it was stored before its turn.
    assert queue.metrics().total_unchanged <= 1


@pytest.mark.one_lane
async def test_what_was_there_already_proves_nothing(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.rows["good"] = Item("good")
    options = WriteBehindOptions(batch_size=20, drain_timeout_seconds=0)
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(store, options) as queue:
            await queue.enqueue_many(items([*BAD[:20], "good"]))
            await trio.sleep(600)
            assert tries(store, "good") > 1
            assert queue.metrics().state is QueueState.WAITING


@pytest.mark.one_lane
async def test_a_store_that_goes_away_while_an_entry_is_tried_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    class Falling(MemoryRepository[Item]):
        fell = False

        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            if not self.fell and Item("good") in entries:
                self.fell = True
                self.fail_next(StoreUnavailableError("away"), 5)
            return await super().upsert_many(entries)

    store = Falling()
    store.reject(*BAD)
    options = WriteBehindOptions(batch_size=20)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items([*BAD[:20], "good"]))
        with trio.fail_after(600):
            await queue.flush()
    assert store.fell
    assert_settled(queue, persisted=1, failed=20)


@pytest.mark.one_lane
async def test_the_drain_stores_what_is_behind_a_run_of_bad_entries(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, WriteBehindOptions(batch_size=20)) as queue:
        await queue.enqueue_many(items([*BAD[:20], "good"]))
    assert_settled(queue, persisted=1, failed=20)


@pytest.mark.one_lane
async def test_a_forked_child_tries_no_entry_from_behind(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, WriteBehindOptions(batch_size=20)) as queue:
        await queue.enqueue_many(items(BAD[:20]))
        await trio.sleep(600)
        assert queue.metrics().state is QueueState.WAITING
        queue._lifetime.forked = True  # as the hook does in a child that goes on
        queue._lanes.lines[0].accept("good", Item("good"), 99)
        calls = len(store.calls)
        await trio.sleep(3600)
    assert len(store.calls) == calls


def test_an_entry_of_which_an_older_version_is_open_is_not_tried() -> None:
    line = Line[Item](batch_size=2, coalesce=False, merge=None, ledger=Ledger(), clock=lambda: 0.0)
    assert line.behind(0) is None
    for key, version in (("a", 1), ("b", 1), ("a", 2), ("d", 2), ("b", 3), ("e", 3)):
        line.accept(key, Item(key, version), 99)
    first, *_ = line.batches
    line.take(first)
    assert [[*batch.entries] for batch in line.batches] == [["a", "d"], ["b", "e"]]
    first.refused["b"] = first.entries.pop("b")  # type: ignore[assignment]  # only its key counts

    def found(turns: int) -> list[Item | None]:
        places = map(line.behind, range(turns))
        return [None if place is None else place[0].entries[place[1]] for place in places]

    assert found(8) == 2 * [Item("e", 3), Item("d", 2), None, None]
    # Now an older one waits in line.
    line.accept("d", Item("d", 4), 99)
    assert found(4) == [None, Item("e", 3), Item("d", 2), None]
