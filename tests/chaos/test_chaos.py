"""Two processes in a storm of faults; see ``tests.chaos``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.storm import chaos

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED = 1


@pytest.mark.heavy
async def test_two_processes_in_a_storm_of_faults_keep_every_promise(
    tmp_path: Path, counts: Callable[[int, int], int]
) -> None:
    seconds = counts(60, 600)
    outcome = await chaos(seconds=seconds, seed=SEED, folder=tmp_path)
    replay = f"python -m tests.chaos --seconds {seconds} --seed {SEED}"
    assert outcome.wrong == [], "\n".join([replay, *map(str, outcome.events)])
