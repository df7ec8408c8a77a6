"""The pace of a lane: each row of the table at its head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provcache_trio._core.pace import Pace, Sizes

if TYPE_CHECKING:
    from collections.abc import Callable


def slowed(entries: int = 8, batch_size: int = 8) -> Pace:
    pace = Pace(batch_size)
    assert [pace.was_too_slow(entries) for _ in range(3)] == [False, False, True]
    return pace


def test_three_too_slow_calls_in_a_row_halve_what_is_sent() -> None:
    assert slowed().most == 4
    assert slowed(entries=5).most == 3


def test_a_call_that_failed_otherwise_or_succeeded_breaks_the_row() -> None:
    pace = Pace(8)
    breaking: tuple[Callable[[], object], ...] = (pace.failed_otherwise, lambda: pace.stored(1))
    for breaks in breaking:
        assert not pace.was_too_slow(8)
        assert not pace.was_too_slow(8)
        breaks()
    assert not pace.was_too_slow(8)
    assert pace.most == 8


def test_a_smaller_part_is_halved_after_one() -> None:
    pace = slowed()
    assert pace.was_too_slow(4)
    assert pace.most == 2
    assert pace.was_too_slow(2)
    assert pace.most == 1


def test_one_entry_waits_as_in_an_outage() -> None:
    pace = slowed(entries=2)
    assert [pace.was_too_slow(1) for _ in range(10)] == [False] * 10
    assert pace.most == 1


def test_what_is_sent_doubles_with_each_success_until_it_is_batch_size_again() -> None:
    pace = slowed()
    pace.was_too_slow(4)
    pace.was_too_slow(2)
    mosts: list[int] = []
    for _ in range(4):
        pace.stored(pace.most)
        mosts.append(pace.most)
    assert mosts == [2, 4, 8, 8]


def test_a_success_with_less_than_may_be_sent_proves_nothing_of_more() -> None:
    pace = slowed()
    pace.stored(1)
    assert pace.most == 4


def test_it_is_full_again_once_as_many_were_stored_as_were_too_slow() -> None:
    pace = slowed()
    pace.stored(4)
    assert pace.most == 8
    assert pace.was_too_slow(8)  # once is enough, still
    pace.stored(4)
    pace.stored(8)
    assert [pace.was_too_slow(8) for _ in range(3)] == [False, False, True]


def test_sizes_are_reported_once_in_a_slow_period() -> None:
    pace = slowed()
    assert pace.stored(4) == Sizes(works=4, too_slow=8)
    assert pace.stored(2) is None
    assert pace.stored(8) is None
    assert not any(pace.was_too_slow(8) for _ in range(2))
    assert pace.was_too_slow(8)
    assert pace.stored(4) == Sizes(works=4, too_slow=8)
