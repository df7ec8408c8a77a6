"""A letter that its sink can never take is named once, and keeps nothing up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, balance, items
from tests.support.journals import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from provcache_trio import DeadLetter, WriteBehindQueue


class Choosy(MemoryDeadLetters[Item]):
    """Never takes the letters of some keys."""

    async def put_many(self, letters: Sequence[DeadLetter[Item]], /) -> None:
        for index, letter in enumerate(letters):
            if letter.entry.version:
                raise EntryRejectedError("too large", index=index)
        await super().put_many(letters)


@pytest.mark.one_lane
@pytest.mark.parametrize("with_journal", [False, True])
async def test_a_letter_that_never_fits_stays_beside_the_others_and_is_handed_back(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, *, with_journal: bool
) -> None:
    store = MemoryRepository[Item]()
    store.reject(*"abcde")
    sink = Choosy()
    journal = MemoryJournal[Item]() if with_journal else None
    options = WriteBehindOptions(batch_size=2, flush_interval_seconds=0)
    left = (Item("b", 1), Item("d", 1))
    began_at = trio.current_time()
    queue: WriteBehindQueue[Item] | None = None
    try:
        async with open_write_behind_queue(
            store, options, dead_letters=sink, journal=journal
        ) as queue:
            await queue.enqueue_many([Item("a"), left[0], Item("c"), left[1], Item("e")])
            await queue.enqueue_many(items("xyz"))
            await queue.flush()
            await trio.sleep(1)
            assert balance(queue.metrics()) == 0
            assert queue.metrics().in_flight == 2
            assert queue.metrics().state == "running"
    except DrainTimeoutError:
        assert not with_journal  # a journal keeps them, so there is no error
    assert trio.current_time() < began_at + 5  # nothing waits for them
    assert queue is not None
    assert queue.undelivered == left
    assert [letter.entry for letter in sink.letters] == items("ace")
    assert set(store.rows) == set("xyz")
    assert caplog.text.count("can never take a letter") == 2
    if journal is not None:
        assert list(journal.rows.values()) == list(left)
        assert queue.metrics().durable
