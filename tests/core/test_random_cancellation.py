"""Cancellation at any moment: at every step of a small program, at random in a larger one.

Whatever is cancelled, ``Witness`` follows every entry at every step; at the end each is
stored, replaced by a newer version that is, dead-lettered, or handed back.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import (
    TransientStoreError,
    WriteBehindOptions,
)
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, items
from tests.support.scopes import KEYS, Canceller, Program

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the log records of thousands of runs from pytest, which would format each."""
    monkeypatch.setattr(logging.getLogger("provcache_trio"), "propagate", False)


# At every step


async def small(program: Program) -> None:
    """Use most of what a queue has, in few steps."""
    store = program.store
    store.fail_next(OSError("gone"))
    store.reject("h")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.enqueue, [*items("abcdh", 1), Item("a", 2)])
        nursery.start_soon(program.persist, Item("b", 3))
        with program.a_caller:
            await program.enqueue(items("cdefga", 4))
        await program.flush()
        store.fail_next(TransientStoreError("deadlock"))
        await program.enqueue([Item("a", 5)])


@pytest.mark.heavy
@pytest.mark.parametrize("whom", ["surroundings", "a_caller"])
@pytest.mark.parametrize(
    ("latency", "drain_timeout", "in_time"),
    [(0, 0, False), (0.1, 0.15, False), (0, 60, True), (0.1, 60, True)],
)
def test_cancelled_at_any_step_of_a_program_nothing_accepted_is_lost(
    whom: str, latency: float, drain_timeout: float, in_time: bool
) -> None:
    options = WriteBehindOptions(
        queue_capacity=3,
        batch_size=2,
        flush_interval_seconds=0.05,
        drain_timeout_seconds=drain_timeout,
    )
    at = handed_back = 0
    while True:
        at += 1
        store = MemoryRepository[Item](latency_seconds=latency)
        program = Program(options, seed=at, store=store)
        canceller = Canceller(program.witness.look, getattr(program, whom), at)
        program.run(small, canceller)
        handed_back += program.error is not None
        if canceller.steps < at:
            break
    assert at > 60
    assert bool(handed_back) != in_time


# At random


async def large(program: Program) -> None:
    """Have several producers with hot keys, and a store that has its troubles."""
    draw = random.Random(program.seed)  # noqa: S311  # no secret
    version = iter(range(1_000_000))

    def some(most: int) -> list[Item]:
        keys = draw.choices(KEYS, weights=[20, 10, 5, 1, 1, 1, 1, 1], k=draw.randint(1, most))
        return [Item(key, next(version)) for key in keys]

    make_trouble(program, draw)
    async with trio.open_nursery() as nursery:
        for _ in range(draw.randint(2, 4)):
            nursery.start_soon(program.enqueue, some(30), draw.choice([0.0, 0.05]))
        nursery.start_soon(program.enqueue_many, some(30))
        nursery.start_soon(program.enqueue_nowait, some(20), 0.1)
        for item in some(3):
            nursery.start_soon(program.persist, item)
        for _ in range(draw.randint(0, 3)):
            await trio.sleep(draw.uniform(0, 1))
            await program.flush()


def make_trouble(program: Program, draw: random.Random) -> None:
    program.store.reject(*draw.choices(["h", "g", "nothing"], k=1))
    for stand_in in (program.store, program.sink):
        for error in draw.choices([OSError("x"), TransientStoreError("x"), KeyError("x")], k=3):
            stand_in.fail_next(error)
        if draw.random() < 0.3:
            stand_in.lose_next_answer()
        if draw.random() < 0.2:
            stand_in.crash_next()


def some_options(draw: random.Random) -> WriteBehindOptions:
    return WriteBehindOptions(
        queue_capacity=draw.randint(1, 10),
        batch_size=draw.randint(1, 5),
        flush_interval_seconds=draw.choice([0, 0.1]),
        max_retries=draw.choice([0, 2, None]),
        drain_timeout_seconds=draw.choice([0, 0.5, 3, 60]),
        coalesce=draw.random() < 0.8,
    )


@pytest.mark.heavy
def test_cancelled_at_a_random_moment_nothing_accepted_is_lost(
    counts: Callable[[int, int], int],
) -> None:
    cancelled = handed_back = 0
    cases = counts(200, 1000)
    for seed in range(cases):
        draw = random.Random(seed)  # noqa: S311  # no secret
        options = some_options(draw)
        store = MemoryRepository[Item](latency_seconds=draw.choice([0, 0.02, 0.3]))
        program = Program(options, seed=seed, store=store)
        by_time = draw.random() < 0.5
        if by_time:
            program.cancel_at = draw.uniform(0, 4)
        at = None if by_time else draw.randint(1, 400)
        canceller = Canceller(program.witness.look, program.surroundings, at)
        try:
            program.run(large, canceller)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        cancelled += program.surroundings.cancelled_caught
        handed_back += program.error is not None
    # Every kind of end is seen often.
    assert cases / 4 < cancelled < cases
    assert cases / 10 < handed_back < cases / 2
