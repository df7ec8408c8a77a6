"""Histories at random: every answer is a state that its key had meanwhile; see support/cached.

``python -m tests.support.cached 100000`` runs it as often as you like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import cached

if TYPE_CHECKING:
    from collections.abc import Callable

SLICES = 4


@pytest.mark.parametrize("part", range(SLICES))
def test_every_answer_is_a_state_that_its_key_had_between_begin_and_end(
    part: int, counts: Callable[[int, int], int]
) -> None:
    many = counts(20, 2500)
    for seed in range(part * many, (part + 1) * many):
        assert cached.run(seed).answers > 10


def test_the_histories_meet_what_they_are_about() -> None:
    plans = [cached.Plan(seed) for seed in range(80)]
    for some in (
        [plan for plan in plans if plan.options.writers > 1],
        [plan for plan in plans if not plan.options.coalesce],
        [plan for plan in plans if plan.options.queue_capacity == 3],
        [plan for plan in plans if plan.max_entries == 1],
        [plan for plan in plans if plan.fails],
        [plan for plan in plans if plan.refuses],
        [plan for plan in plans if plan.invalidates],
        [plan for plan in plans if plan.may_miss],
        [plan for plan in plans if plan.negative_seconds],
        [plan for plan in plans if not plan.memory_seconds],
    ):
        assert len(some) > 10
