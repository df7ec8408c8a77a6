"""Doubt about one entry: each row of the table at its head."""

from __future__ import annotations

from provcache_trio._core.doubt import Case, Doubt

CASE = Case(call=0, last_stored=0, flaps=False, draining=False, alone=False, now=0.0, max_retries=2)


def verdicts(*cases: Case) -> list[bool]:
    doubt = Doubt(10)
    return [doubt.condemned(case._replace(call=10 * at)) for at, case in enumerate(cases, 1)]


def test_an_entry_that_failed_alone_twice_with_something_stored_in_between_is_condemned() -> None:
    assert verdicts(CASE, CASE._replace(last_stored=15)) == [False, True]


def test_what_was_stored_before_its_first_failure_is_no_evidence() -> None:
    assert verdicts(CASE._replace(last_stored=5), CASE._replace(last_stored=5)) == [False, False]


def test_only_what_was_stored_since_its_last_failure_is_evidence() -> None:
    flapping = CASE._replace(last_stored=15, flaps=True)
    later = CASE._replace(last_stored=15, max_retries=None)
    assert verdicts(CASE, flapping, later) == [False, False, False]


def test_while_the_store_flaps_max_retries_are_demanded_too() -> None:
    def flapping(last_stored: int) -> Case:
        return CASE._replace(last_stored=last_stored, flaps=True)

    assert verdicts(*map(flapping, (0, 15, 25, 35))) == [False, False, True, True]
    without_end = [flapping(at)._replace(max_retries=None) for at in range(0, 1000, 10)]
    assert not any(verdicts(*without_end))


def test_the_only_one_in_doubt_is_condemned_once_max_retries_are_used_up() -> None:
    alone = CASE._replace(alone=True)
    assert verdicts(alone, alone, alone) == [False, False, True]
    assert verdicts(alone._replace(max_retries=0)) == [True]


def test_it_is_not_while_draining() -> None:
    draining = CASE._replace(alone=True, draining=True)
    assert verdicts(*[draining] * 20) == [False] * 20
    assert verdicts(CASE, draining._replace(last_stored=15)) == [False, True]


def test_several_in_doubt_are_condemned_ten_minutes_later() -> None:
    cases = [CASE._replace(now=now) for now in (0.0, 1.0, 2.0, 601.9, 602.0)]
    assert verdicts(*cases) == [False, False, False, False, True]


def test_without_end_of_retries_nothing_is_condemned_without_a_proof() -> None:
    cases = [CASE._replace(alone=True, now=float(now), max_retries=None) for now in range(5000)]
    assert not any(verdicts(*cases))
