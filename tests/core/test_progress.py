"""What is left to do with a batch: which part is next, and what becomes of it."""

from __future__ import annotations

import pytest

from provcache_trio import EntryRejectedError
from provcache_trio._core.doubt import Doubt
from provcache_trio._core.progress import Part, Progress, Refusal
from provcache_trio._core.verdict import classify

REFUSED = classify(EntryRejectedError("no"))


def progress_of(keys: str) -> Progress:
    progress = Progress()
    progress.begin(keys)
    return progress


def left(progress: Progress) -> list[str]:
    """Return the keys of each part, the next one first."""
    return ["".join(map(str, part.keys)) for part in reversed(progress.parts)]


def next_part(progress: Progress, *, suspecting: bool = False, most: int = 100) -> Part:
    part = progress.next(most, suspecting=suspecting)
    assert part is not None
    return part


def test_a_batch_begins_as_one_part_and_ends_with_none() -> None:
    progress = progress_of("abcd")
    assert left(progress) == ["abcd"]
    progress.done(next_part(progress))
    assert progress.next(100, suspecting=False) is None


def test_halves_are_tried_from_the_left() -> None:
    progress = progress_of("abcde")
    progress.halve(next_part(progress))
    assert left(progress) == ["ab", "cde"]
    progress.halve(next_part(progress))
    assert left(progress) == ["a", "b", "cde"]


def test_halves_have_retries_of_their_own_and_remember_how_often_they_were_tried() -> None:
    progress = progress_of("ab")
    part = next_part(progress)
    part.tries, part.retries, part.failed_unknown = 7, 3, True
    progress.halve(part, was_halved=True)
    half = next_part(progress)
    assert (half.tries, half.retries, half.failed_unknown, half.was_halved) == (7, 0, False, True)


def test_a_named_entry_is_tried_alone_and_then_the_rest() -> None:
    progress = progress_of("abcd")
    progress.single_out(next_part(progress), 2)
    assert left(progress) == ["c", "abd"]
    assert progress.singled_out is next_part(progress)


def test_no_more_is_sent_than_the_pace_allows() -> None:
    progress = progress_of("abcde")
    assert next_part(progress, most=2).keys == ("a", "b")
    assert left(progress) == ["ab", "cde"]


def test_under_suspicion_the_farthest_and_the_largest_part_are_tried_in_turns() -> None:
    progress = progress_of("abcdefgh")
    progress.halve(next_part(progress))  # abcd efgh
    progress.halve(next_part(progress))  # ab cd efgh
    far = next_part(progress, suspecting=True)
    assert far.keys == tuple("efgh")
    progress.halve(far)  # ab cd ef gh
    progress.halve(progress.parts[0])  # ab cd ef g h
    assert next_part(progress, suspecting=True).keys in {tuple("ab"), tuple("cd"), tuple("ef")}
    assert next_part(progress, suspecting=True).keys == ("h",)


def test_an_entry_in_doubt_waits_until_the_others_were_tried() -> None:
    progress = progress_of("abc")
    progress.halve(next_part(progress))
    doubtful = next_part(progress)
    progress.doubts["a"] = Doubt(7)
    progress.set_aside(doubtful, REFUSED)
    progress.done(next_part(progress))
    assert progress.next(100, suspecting=False) is None
    assert progress.begin_round() == 1
    assert next_part(progress) is doubtful
    progress.done(doubtful)
    assert progress.doubts == {}
    assert progress.begin_round() == 0


def test_an_error_class_is_narrowed_once_something_was_stored_after_one_failed_alone() -> None:
    progress = progress_of("ab")
    assert not progress.note_alone("KeyError", call=7)
    assert not progress.is_narrowed("KeyError", last_stored=6)
    assert progress.is_narrowed("KeyError", last_stored=8)
    assert not progress.is_narrowed("ValueError", last_stored=8)
    assert progress.note_alone("KeyError", call=9)
    assert progress.is_narrowed("KeyError", last_stored=8)


def refusal(
    *, epoch: int = 0, suspected: bool = False, proven: bool = False, final: bool = False
) -> Refusal[str]:
    return Refusal(
        "entry", REFUSED, 1, epoch=epoch, suspected=suspected, proven=proven, final=final
    )


@pytest.mark.parametrize(
    ("stored", "suspecting", "one", "again"),
    [
        # Something of the batch was stored.
        (True, False, refusal(epoch=2), False),
        (True, False, refusal(epoch=0), True),
        (True, False, refusal(epoch=0, proven=True), False),
        (True, False, refusal(epoch=1, suspected=True, proven=True), True),
        (True, True, refusal(epoch=2, suspected=True), True),
        (True, True, refusal(epoch=2, suspected=True, final=True), False),
        # The store is under suspicion.
        (False, True, refusal(epoch=2, suspected=True), True),
        (False, True, refusal(epoch=0), True),
        (False, True, refusal(epoch=0, final=True), False),
        # It was.
        (False, False, refusal(epoch=2), False),
        (False, False, refusal(epoch=1, suspected=True), True),
        (False, False, refusal(epoch=0), True),
        (False, False, refusal(epoch=0, final=True), False),
    ],
)
def test_what_was_refused_is_tried_again_as_the_table_says(
    stored: bool, suspecting: bool, one: Refusal[str], again: bool
) -> None:
    progress = progress_of("")
    progress.stored = stored
    keys = progress.to_try_again([("key", one)], suspecting=suspecting, epoch=2)
    assert keys == (["key"] if again else [])


def test_refusals_of_a_batch_of_which_nothing_was_stored_count_but_for_second_tries() -> None:
    progress = progress_of("bc")
    progress.put_back("b")
    assert [progress.counts(key, run=[]) for key in "bc"] == [False, True]
    progress.stored = True
    assert not progress.counts("c", run=[])


def test_what_failed_alone_and_is_refused_counts_once_in_a_run() -> None:
    progress = progress_of("a")
    progress.doubts["a"] = Doubt(7)
    assert [progress.counts("a", run) for run in ([6, 7, 8], [6, 8], [])] == [False, True, True]


def test_what_is_put_back_is_tried_for_the_second_time() -> None:
    progress = progress_of("ab")
    progress.put_back("xy")
    assert left(progress) == ["xy", "ab"]
    assert progress.second == {"x", "y"}
