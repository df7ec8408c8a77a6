"""Refusals by the repository itself, before the store was asked: they are never the store's fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    QueueState,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._core.lanes import Lanes
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

REASON = "version must be an int of 0 or more"


class Checking(MemoryRepository[Item]):
    """Refuses negative versions by itself, and then asks the store."""

    def __init__(self, *, local: bool = True, with_index: bool = True) -> None:
        super().__init__()
        self.local = local
        self.with_index = with_index

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        for index, entry in enumerate(entries):
            if entry.version < 0:
                await trio.lowlevel.checkpoint()
                error = EntryRejectedError(
                    REASON,
                    index=index if self.with_index else None,
                    field="version",
                    local=self.local,
                )
                error.reason = REASON
                raise error
        return await super().upsert_many(entries)


@pytest.mark.parametrize("with_index", [True, False], ids=["index", "halving"])
@pytest.mark.parametrize("writers", [1, 4])
async def test_any_number_of_them_in_a_row_becomes_letters_at_once_and_stops_nothing(
    writers: int, with_index: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, letters = Checking(with_index=with_index), MemoryDeadLetters[Item]()
    options = WriteBehindOptions(batch_size=50, writers=writers)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        await queue.enqueue_many(items(range(600), -1))
        with trio.fail_after(1):
            await queue.flush()
            assert queue.metrics().state is QueueState.RUNNING
            await queue.persist(Item("good"))
    assert_settled(queue, persisted=1, failed=600)
    assert "misconfigured" not in caplog.text
    assert {letter.reason for letter in letters.letters} == {REASON}


@pytest.mark.one_lane
async def test_the_store_s_own_refusals_still_count(autojump_clock: MockClock) -> None:
    store, letters = Checking(local=False), MemoryDeadLetters[Item]()
    options = WriteBehindOptions(drain_timeout_seconds=0)
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
            await queue.enqueue_many(items(range(20), -1))
            await trio.sleep(600)
            assert queue.metrics().state is QueueState.WAITING
            assert letters.letters == []


async def test_under_suspicion_they_are_final_and_wait_for_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lanes, "number_of", lambda _, key: int(key.startswith("bad")))
    store, letters = Checking(), MemoryDeadLetters[Item]()
    blamed = [str(number) for number in range(20)]
    store.reject(*blamed)
    options = WriteBehindOptions(writers=2)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        await queue.enqueue_many(items(blamed))
        await trio.sleep(600)
        assert queue.metrics().state is QueueState.WAITING
        began = trio.current_time()
        for number in range(5):
            await queue.enqueue_many([Item(f"bad{number}", -1), Item(f"bad too{number}", -1)])
            await trio.sleep(1)
        assert trio.current_time() - began < 6
        assert len(letters.letters) == 10
        assert queue.metrics().state is QueueState.WAITING
        store.accept(*blamed)
        with trio.fail_after(60):
            await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    assert {letter.attempts for letter in letters.letters} == {2}
    assert_settled(queue, persisted=20, failed=10)


async def test_persist_the_log_and_the_letter_say_why(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, letters = Checking(), MemoryDeadLetters[Item]()
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        with pytest.raises(EntryRejectedError, match=REASON) as caught:
            await queue.persist(Item("bad", -1))
    assert (caught.value.field, caught.value.reason, caught.value.local) == (
        "version",
        REASON,
        True,
    )
    (letter,) = letters.letters
    assert (letter.field, letter.reason) == ("version", REASON)
    (line,) = [r for r in caplog.records if "dead-lettered" in r.getMessage()]
    assert line.getMessage().endswith(f": bad (EntryRejectedError, field version: {REASON})")
    assert (line.__dict__["field"], line.__dict__["reason"]) == ("version", REASON)


async def test_the_words_of_a_store_are_not_kept(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, letters = Checking(local=False), MemoryDeadLetters[Item]()
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        with pytest.raises(EntryRejectedError) as caught:
            await queue.persist(Item("bad", -1))
    assert caught.value.local is False
    (letter,) = letters.letters
    assert (letter.field, letter.reason) == ("version", None)
    assert caught.value.reason is None
