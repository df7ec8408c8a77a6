"""Two processes in a storm of faults; see ``tests.chaos``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.storm import chaos
from tests.faults.site import draws_own_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED_OF_A_TABLE, SEED_OF_ENTRIES = 1, 3  # as the storm draws


@pytest.mark.heavy
async def test_two_processes_in_a_storm_of_faults_keep_every_promise(
    tmp_path: Path, counts: Callable[[int, int], int]
) -> None:
    seconds = counts(60, 600)
    seed = SEED_OF_A_TABLE if draws_own_table("a storm") else SEED_OF_ENTRIES
    outcome = await chaos(seconds=seconds, seed=seed, folder=tmp_path)
    replay = f"python -m tests.chaos --seconds {seconds} --seed {seed}"
    assert outcome.wrong == [], "\n".join([replay, *map(str, outcome.events)])
