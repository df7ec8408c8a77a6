"""Everything that may fail, at random: no good entry lost, nothing stuck; see support/failures.

``python -m tests.support.failures 100000`` runs it as often as you like.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support import failures

if TYPE_CHECKING:
    from collections.abc import Callable

SLICES = 8


@pytest.mark.two_pythons
@pytest.mark.parametrize("part", range(SLICES))
def test_no_good_entry_is_lost_and_nothing_is_stuck_whatever_fails(
    part: int, counts: Callable[[int, int], int]
) -> None:
    many = counts(50, 2500)
    for seed in range(part * many, (part + 1) * many):
        failures.run(seed)


def test_the_model_meets_what_it_is_about() -> None:
    plans = [failures.Plan(seed) for seed in range(400)]
    kinds = Counter(outage.kind for plan in plans for outage in plan.outages)
    assert set(kinds) == set(failures.OUTAGES)
    assert {plan.options.writers for plan in plans} == {1, 2, 3, 8}
    assert {plan.journal for plan in plans} == {None, "interval", "always"}
    assert {plan.options.coalesce for plan in plans} == {True, False}
    for some in (
        [plan for plan in plans if plan.leaves_at < plan.healed_at],
        [plan for plan in plans if plan.poison_entries >= failures.BLAMED_AFTER],
        [plan for plan in plans if plan.poison_entries > 0 and plan.must_go_on],
        [plan for plan in plans if plan.journal and plan.options.writers > 1],
    ):
        assert len(some) > 10


def test_the_model_reports_and_fails_if_no_run_of_it_succeeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(seed: int) -> failures.Outcome:
        raise AssertionError(f"lost {seed}")

    monkeypatch.setattr(failures, "run", run)
    monkeypatch.setattr("sys.argv", ["failures", "2", "7"])
    with pytest.raises(SystemExit) as caught:
        failures.main()
    assert caught.value.code == 1
    first, second, summary = capsys.readouterr().out.splitlines()
    assert (first, second) == (
        "AssertionError: lost 7 (seed 7)",
        "AssertionError: lost 8 (seed 8)",
    )
    assert summary.startswith("2 runs from seed 7, 2 failed; 0 entries accepted;")
