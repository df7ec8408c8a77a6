"""How to test an application that uses the queue.

    pip install pytest pytest-trio
    pytest -o trio_mode=true test_an_application.py

``autojump_clock`` is pytest-trio's ``MockClock``: whenever every task waits, time jumps to the
next deadline, so an hour takes no time and nothing depends on the speed of the machine. It
does not go with SQLite: a task that waits for a worker thread waits too, so time would jump
past the drain's deadline while the thread still writes. Use MemoryRepository with
``autojump_clock``, and the real clock with a real store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from provcache_trio import (
    DrainTimeoutError,
    EntryQueue,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

if TYPE_CHECKING:
    from trio.testing import MockClock

# The application. It would be a module of its own.


class Verdict(msgspec.Struct, frozen=True):
    """What was decided about an artifact."""

    veri_key: str
    admitted: bool


async def admit(queue: EntryQueue[Verdict], artifact: str) -> bool:
    """Decide about ``artifact``; a cache that is full must not hold the answer up for long."""
    verdict = Verdict(artifact, admitted=artifact.startswith("good"))
    with trio.move_on_after(0.05):
        await queue.enqueue(verdict)
    return verdict.admitted


# Its tests.


async def test_an_outage_of_an_hour_loses_nothing(autojump_clock: MockClock) -> None:
    repository = MemoryRepository[Verdict]()
    repository.down()
    async with open_write_behind_queue(repository) as queue:
        assert await admit(queue, "good-1")
        await trio.sleep(3600)
        metrics = queue.metrics()
        assert metrics.state == "waiting"
        assert metrics.oldest_pending_seconds == 3600
        repository.up()
    assert list(repository.rows) == ["good-1"]


async def test_answers_are_prompt_while_the_queue_is_full(autojump_clock: MockClock) -> None:
    repository = MemoryRepository[Verdict]()
    repository.stall()
    options = WriteBehindOptions(queue_capacity=1, batch_size=1)
    async with open_write_behind_queue(repository, options) as queue:
        started = trio.current_time()
        for number in range(10):
            assert await admit(queue, f"good-{number}")
        assert trio.current_time() - started < 10 * 0.06
        accepted = queue.metrics().total_enqueued
        assert accepted < 10
        repository.resume()
    assert len(repository.rows) == accepted  # nothing that was accepted is missing


async def test_a_poison_entry_is_kept_aside(autojump_clock: MockClock) -> None:
    repository = MemoryRepository[Verdict]()
    dead_letters = MemoryDeadLetters[Verdict]()
    repository.reject("bad-1")
    async with open_write_behind_queue(repository, dead_letters=dead_letters) as queue:
        for artifact in ("good-1", "bad-1", "good-2"):
            await admit(queue, artifact)
    assert list(repository.rows) == ["good-1", "good-2"]
    assert [letter.key for letter in dead_letters.letters] == ["bad-1"]


async def test_a_stalled_store_does_not_hold_the_shutdown_up(autojump_clock: MockClock) -> None:
    repository = MemoryRepository[Verdict]()
    repository.stall()
    options = WriteBehindOptions(drain_timeout_seconds=20)
    started = trio.current_time()
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(repository, options) as queue:
            await admit(queue, "good-1")
    assert trio.current_time() - started == pytest.approx(20)
    assert caught.value.undelivered == (Verdict("good-1", admitted=True),)
