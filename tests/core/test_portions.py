"""How many letters go to the sink at once: each row of the table at its head."""

from __future__ import annotations

from provcache_trio import StoreUnavailableError
from provcache_trio._core.portions import Portions
from provcache_trio._core.verdict import classify

SLOW = classify(TimeoutError())
AWAY = classify(StoreUnavailableError("gone"))


def test_all_letters_go_at_once() -> None:
    portions = Portions(100)
    portions.taken(100)
    assert portions.most == 100


def test_a_letter_that_was_named_goes_alone_after_those_before_it() -> None:
    portions = Portions(100)
    assert not portions.refused(100, 7)
    assert portions.most == 7
    portions.taken(7)
    assert portions.most == 1
    assert portions.refused(1, None)
    assert portions.most == 92
    portions.taken(92)
    assert portions.most == 100


def test_the_first_letter_and_the_last_one_go_alone_if_they_were_named() -> None:
    for index, sizes in ((0, [1, 99]), (99, [99, 1])):
        portions = Portions(100)
        assert not portions.refused(100, index)
        for size in sizes:
            assert portions.most == size
            portions.taken(size)
        assert portions.most == 100


def test_without_an_index_it_is_the_first_half_then_the_second() -> None:
    for index in (None, -1, 99, True):
        portions = Portions(100)
        assert not portions.refused(99, index)
        for size in (49, 50):
            assert portions.most == size
            portions.taken(size)
        assert portions.most == 100


def test_no_index_is_believed_after_a_wrong_one_until_a_letter_was_found() -> None:
    portions = Portions(100)
    portions.refused(100, 0)
    portions.taken(1)
    assert not portions.refused(99, 10)
    assert portions.most == 49
    assert not portions.refused(49, 10)
    assert portions.most == 24
    portions.taken(23)
    assert portions.refused(1, None)
    assert portions.most == 25
    portions.refused(25, 10)
    assert portions.most == 10


def test_what_is_refused_of_a_portion_is_a_portion_of_its_own() -> None:
    portions = Portions(100)
    portions.refused(100, 60)
    assert not portions.refused(60, 20)
    sizes = []
    for _ in range(5):
        sizes.append(portions.most)
        portions.taken(portions.most)
    assert sizes == [20, 1, 39, 1, 39]
    assert portions.most == 100


def test_three_slow_calls_in_a_row_halve_what_is_sent_and_successes_double_it() -> None:
    portions = Portions(100)
    portions.failed(100, SLOW)
    portions.failed(100, SLOW)
    portions.failed(100, AWAY)  # not in a row any more
    for _ in range(3):
        assert portions.most == 100
        portions.failed(100, SLOW)
    assert portions.most == 50
    portions.refused(50, None)
    portions.failed(25, SLOW)
    assert portions.most == 13
    portions.taken(13)
    assert portions.most == 12  # of that half
    portions.taken(12)
    assert portions.most == 25
    portions.taken(25)
    for most in (26, 52, 100):
        assert portions.most == most
        portions.taken(most)
