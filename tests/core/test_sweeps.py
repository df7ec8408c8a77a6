"""The store fails at any one of its calls, our tasks crash at any one of their steps.

Once, or from there on, and in every way. Whatever it is, ``Witness`` follows every entry at
every step; at the end each is stored, replaced, dead-lettered, or handed back.
"""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
import trio

from provcache_trio import (
    EntryRejectedError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
    WriteBehindCrashedError,
    WriteBehindOptions,
)
from provcache_trio.testing import MemoryRepository

from tests.support.disks import ModelDisk
from tests.support.items import Item, items
from tests.support.machine import EveryStep
from tests.support.model_journals import in_virtual_thread, journal_on
from tests.support.scopes import Canceller, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# What may become of an entry that nothing is wrong with.
AWAY: Final[dict[str, Callable[[], Exception]]] = {  # never given up
    "unavailable": partial(StoreUnavailableError, "away"),
    "misconfigured": partial(StoreMisconfiguredError, "no table"),
    "OSError": partial(OSError, "gone"),
    "TimeoutError": TimeoutError,
    "TooSlowError": trio.TooSlowError,
    "a group with one that is away": lambda: ExceptionGroup(
        "", [KeyError("x"), ExceptionGroup("", [OSError("gone")]), EntryRejectedError("no")]
    ),
}
ROLLED_BACK: Final[
    dict[str, Callable[[], Exception]]
] = {  # given up when it happens again and again
    "transient": partial(TransientStoreError, "deadlock"),
}
UNKNOWN: Final[dict[str, Callable[[], Exception]]] = {  # given up on evidence only
    "unknown": partial(KeyError, "x"),
    "a group of unknown ones": lambda: ExceptionGroup("", [KeyError("x"), ValueError("y")]),
}
REFUSED: Final[dict[str, Callable[[], Exception]]] = {  # given up at once, if the store says so
    "refused": partial(EntryRejectedError, "no"),
    "refused, the first": partial(EntryRejectedError, "no", index=0),
    "refused, one that is not there": partial(EntryRejectedError, "no", index=99),
    "a group of refusals": lambda: ExceptionGroup("", [EntryRejectedError("no", index=0)]),
}
ALL: Final = {**AWAY, **ROLLED_BACK, **UNKNOWN, **REFUSED}

POISON: Final = "h"
OPTIONS: Final = WriteBehindOptions(
    queue_capacity=4,
    batch_size=3,
    flush_interval_seconds=0.05,
    max_retries=3,
    drain_timeout_seconds=5,
)


class Failing(MemoryRepository[Item]):
    """Fails at call number ``at``, or from there on, before or after it has stored the batch."""

    def __init__(
        self, make_error: Callable[[], Exception], at: int, *, for_good: bool, stores: bool
    ) -> None:
        super().__init__(latency_seconds=0.01)
        self.reject(POISON)
        self.number = 0
        self._make_error = make_error
        self._at = at
        self._for_good = for_good
        self._stores = stores

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        self.number += 1
        fails = self.number >= self._at if self._for_good else self.number == self._at
        if not fails:
            return await super().upsert_many(entries)
        if not self._stores:
            self.fail_next(self._make_error)
            return await super().upsert_many(entries)
        self.lose_next_answer()
        try:
            return await super().upsert_many(entries)
        except StoreUnavailableError:
            raise self._make_error() from None


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the log records of thousands of runs from pytest, which would format each."""
    monkeypatch.setattr(logging.getLogger("provcache_trio"), "propagate", False)


async def mixed(program: Program) -> None:
    """Use what a queue has: several producers, a hot key, poison, ``persist``, ``flush``."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.enqueue, [*items("abcde", 1), Item("a", 2)], 0.01)
        nursery.start_soon(program.enqueue, [Item("a", version) for version in range(3, 9)], 0.02)
        nursery.start_soon(program.enqueue_many, [*items("fg", 1), Item(POISON, 1)])
        nursery.start_soon(program.persist, Item("b", 9))
        await trio.sleep(0.1)
        await program.flush()
    await program.enqueue(items("abh", 10))


def sweep(make_error: Callable[[], Exception], *, for_good: bool, stores: bool) -> list[Program]:
    """Let every call fail in turn, and return the programs, all of which held their promises."""
    programs: list[Program] = []
    while True:
        at = len(programs) + 1
        store = Failing(make_error, at, for_good=for_good, stores=stores)
        program = Program(OPTIONS, seed=at, store=store)
        program.cancel_at = 100.0  # those that wait for a store that does not come back
        try:
            program.run(mixed, Canceller(program.witness.look, program.surroundings, None))
        except BaseException as error:
            error.add_note(f"call {at}")
            raise
        if store.number < at:
            return programs
        programs.append(program)


def good_ones_given_up(program: Program) -> set[Item]:
    return {item for item in program.witness.dead if item.veri_key != POISON}


@pytest.mark.heavy
@pytest.mark.parametrize("stores", [False, True], ids=["nothing is stored", "it is stored"])
@pytest.mark.parametrize("kind", ALL)
def test_when_any_one_call_fails_everything_is_settled_all_the_same(
    kind: str, *, stores: bool
) -> None:
    programs = sweep(ALL[kind], for_good=False, stores=stores)
    assert len(programs) > 8
    for program in programs:
        assert program.error is None  # nothing is handed back
        if kind not in REFUSED:
            assert not good_ones_given_up(program)


@pytest.mark.heavy
@pytest.mark.parametrize("stores", [False, True], ids=["nothing is stored", "it is stored"])
@pytest.mark.parametrize("kind", ALL)
def test_when_every_call_fails_from_any_one_on_nothing_is_lost(kind: str, *, stores: bool) -> None:
    programs = sweep(ALL[kind], for_good=True, stores=stores)
    assert len(programs) > 8
    for program in programs:
        if kind in AWAY:
            assert not good_ones_given_up(program)
            # What was not acknowledged is handed back. Poison is refused before it is stored.
            assert stores or program.error is not None
    # What is in doubt when the time for the drain is over is handed back, too.
    handed_back = any(program.error for program in programs)
    assert handed_back == (kind in AWAY or kind in UNKNOWN)


# Crashes


class Crash(BaseException):
    """Nothing that anybody handles."""


class Crasher(EveryStep):
    """Checks every step, and crashes the task ``victim`` when a chosen one begins."""

    def __init__(self, program: Program, victim: str, at: int, *, for_good: bool) -> None:
        super().__init__(program.witness.look)
        self._victim = victim
        self._at = at
        self._for_good = for_good
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name in {self._victim, f"{self._victim} 1"} and _does_its_work(task):
            self.steps += 1
            if self.steps >= self._at if self._for_good else self.steps == self._at:
                # What the task waited for has happened, and is lost with the exception.
                task._next_send_fn, task._next_send = task.coro.throw, Crash()
        super().before_task_step(task)


def _does_its_work(task: trio.lowlevel.Task) -> bool:
    """Tell whether the next step is not its first, which is nobody's, or our supervisor's."""
    coroutine = task.coro
    if inspect.getcoroutinestate(coroutine) != inspect.CORO_SUSPENDED:
        return False
    awaited = coroutine.cr_await
    return inspect.iscoroutine(awaited) and awaited.cr_code is not trio.sleep.__code__


def crash(victim: str, *, for_good: bool, with_journal: bool = False) -> list[Program]:
    """Crash at every step in turn, and return the programs, all of which held their promises."""
    programs: list[Program] = []
    while True:
        at = len(programs) + 1
        store = MemoryRepository[Item](latency_seconds=0.01)
        store.reject(POISON)
        store.fail_next(OSError("gone"))
        program = Program(OPTIONS, seed=at, store=store)
        if with_journal:
            _, program.journal = journal_on(ModelDisk(), always=False)
        crasher = Crasher(program, victim, at, for_good=for_good)
        try:
            program.run(mixed, crasher)
        except BaseException as error:
            error.add_note(f"step {at}")
            raise
        if crasher.steps < at:
            return programs
        assert program.witness.crashes
        programs.append(program)


VICTIMS: Final = ["batcher", "writer", "dead letters"]


@pytest.mark.one_lane
@pytest.mark.heavy
@pytest.mark.parametrize("victim", ["batcher", "writer", "dead letters", "journal"])
def test_with_a_journal_a_task_may_crash_at_any_one_of_its_steps_too(
    victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provcache_trio.journal._journal.in_thread", in_virtual_thread)
    programs = crash(victim, for_good=False, with_journal=True)
    assert len(programs) >= 5
    for program in programs:
        assert program.error is None


@pytest.mark.one_lane
@pytest.mark.parametrize("victim", VICTIMS)
def test_when_a_task_crashes_at_any_one_of_its_steps_nothing_is_handed_back(victim: str) -> None:
    programs = crash(victim, for_good=False)
    assert len(programs) >= 5
    for program in programs:
        assert program.error is None
        assert not good_ones_given_up(program)


@pytest.mark.one_lane
@pytest.mark.parametrize("victim", VICTIMS)
def test_when_a_task_crashes_from_any_one_step_on_nothing_is_lost(victim: str) -> None:
    programs = crash(victim, for_good=True)
    assert len(programs) >= 5
    assert not any(map(good_ones_given_up, programs))
    gave_up = [
        program for program in programs if isinstance(program.error, WriteBehindCrashedError)
    ]
    # Each time it crashes, the batcher has handed a batch over, which is written meanwhile.
    assert bool(gave_up) == (victim != "batcher")
