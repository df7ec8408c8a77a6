"""A letter that its sink can never take is named once, and keeps nothing up."""

from __future__ import annotations

from contextlib import suppress
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


@pytest.mark.parametrize("with_journal", [False, True])
async def test_no_more_letters_that_never_fit_are_kept_than_fit_into_a_batch(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, *, with_journal: bool
) -> None:
    store = MemoryRepository[Item]()
    bad = [Item(f"bad {n}", 1) for n in range(10)]
    store.reject(*(item.veri_key for item in bad))
    journal = MemoryJournal[Item]() if with_journal else None
    options = WriteBehindOptions(batch_size=2, flush_interval_seconds=0)
    queue: WriteBehindQueue[Item] | None = None
    with suppress(DrainTimeoutError):
        async with open_write_behind_queue(
            store, options, dead_letters=Choosy(), journal=journal
        ) as queue:
            await queue.enqueue_many(bad)
            await queue.enqueue_many(items("xyz"))
            await queue.flush()
            assert queue.metrics().in_flight == 2
            assert queue.metrics().total_failed == 8
            assert balance(queue.metrics()) == 0
    assert queue is not None
    assert len(queue.undelivered) == 2
    assert caplog.text.count("its payload is gone: the sink can never take it") == 8
    assert set(store.rows) == set("xyz")
    if journal is not None:
        assert len(journal.rows) == 2


class Vague(MemoryDeadLetters[Item]):
    """Never takes the letters of some keys, and names one as it likes."""

    def __init__(self, hint: str) -> None:
        super().__init__()
        self.hint = hint
        self.sizes: list[int] = []

    async def put_many(self, letters: Sequence[DeadLetter[Item]], /) -> None:
        self.sizes.append(len(letters))
        bad = [index for index, letter in enumerate(letters) if letter.entry.version]
        if bad:
            hints = {"right": bad[-1], "first": 0, "last": len(letters) - 1, "none": None}
            raise EntryRejectedError("too large", index=hints[self.hint])
        await super().put_many(letters)


@pytest.mark.one_lane
@pytest.mark.parametrize("bad", [{0}, {7, 8}, {17}, set(range(18))], ids=str)
@pytest.mark.parametrize("hint", ["right", "first", "last", "none"])
async def test_letters_that_never_fit_are_found_whatever_the_sink_says_of_them(
    autojump_clock: MockClock, bad: set[int], hint: str
) -> None:
    store, sink = MemoryRepository[Item](), Vague(hint)
    store.reject(*map(str, range(18)))
    with pytest.raises(DrainTimeoutError, match=r"entr(y|ies): the sink refuses them;") as caught:
        async with open_write_behind_queue(store, dead_letters=sink) as queue:
            await queue.persist(Item("good"))
            entries = [Item(f"{key}", key in bad) for key in range(18)]
            await queue.enqueue_many([*entries, Item("good")])
            with trio.fail_after(5):
                await queue.flush()
            # All that the sink can take, it has: nobody was told before.
            assert [letter.entry for letter in sink.letters] == [
                entry for entry in entries if not entry.version
            ]
            assert queue.metrics().in_flight == len(bad)
    assert caught.value.undelivered == tuple(entry for entry in entries if entry.version)
    assert len(sink.sizes) <= 40


@pytest.mark.one_lane
async def test_the_letter_that_a_sink_names_costs_three_more_calls(
    autojump_clock: MockClock,
) -> None:
    store, sink = MemoryRepository[Item](), Vague("right")
    store.reject(*map(str, range(18)))
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(store, dead_letters=sink) as queue:
            await queue.persist(Item("good"))
            await queue.enqueue_many(Item(f"{key}", key == 7) for key in range(18))
            await queue.enqueue(Item("good"))
    assert sink.sizes == [18, 7, 1, 10]


@pytest.mark.one_lane
async def test_a_sink_that_is_too_slow_for_all_letters_gets_fewer_at_once(
    autojump_clock: MockClock,
) -> None:
    sizes: list[int] = []

    class Slow(MemoryDeadLetters[Item]):
        async def put_many(self, letters: Sequence[DeadLetter[Item]], /) -> None:
            sizes.append(len(letters))
            await trio.sleep(len(letters))
            await super().put_many(letters)

    store, sink, poison = MemoryRepository[Item](), Slow(), items(range(18))
    store.reject(*(item.veri_key for item in poison))
    async with open_write_behind_queue(store, dead_letters=sink) as queue:
        await queue.persist(Item("good"))
        await queue.enqueue_many([*poison, Item("good")])
        await trio.sleep(120)
    assert sizes[:6] == [18, 18, 18, 9, 5, 3]
    assert [letter.entry for letter in sink.letters] == poison
