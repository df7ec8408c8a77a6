"""The watch over the store: each row of the table at its head."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from provcache_trio import EntryRejectedError, StoreMisconfiguredError, WriteBehindOptions
from provcache_trio._core.backoff import Backoff
from provcache_trio._core.ledger import Ledger
from provcache_trio._core.lifetime import Lifetime
from provcache_trio._core.verdict import classify
from provcache_trio._core.watch import StoreWatch
from provcache_trio._vocabulary.errors import reworded
from provcache_trio._vocabulary.failures import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provcache_trio._vocabulary.failures import Failure

REFUSED = classify(EntryRejectedError("no"))
AWAY = classify(OSError("gone"))
UNKNOWN = classify(KeyError("odd"))


class Lane(Backoff):
    """Counts how often it was woken."""

    def __init__(self, lifetime: Lifetime) -> None:
        super().__init__(lifetime)
        self.woken = 0

    def cut(self) -> None:
        self.woken += 1


class Scene:
    """A watch, three lanes, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        lifetime = Lifetime(
            name="q",
            options=WriteBehindOptions(),
            ledger=Ledger(),
            clock=lambda: self.now,
            wall_clock=lambda: datetime.now(UTC),
        )
        self.watch = StoreWatch(lifetime)
        self.lanes: Sequence[Lane] = [Lane(lifetime) for _ in range(3)]

    def refuse(self, times: int, lane: int = 0, *, counts: bool = True) -> None:
        for _ in range(times):
            self.watch.refused(self.lanes[lane], self.watch.begin(), REFUSED, counts=counts)

    def prove(self, lane: int = 0) -> None:
        self.watch.proved(self.lanes[lane], self.watch.begin())


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_nineteen_refusals_in_a_row_leave_the_store_trusted(scene: Scene) -> None:
    scene.refuse(19)
    assert not scene.watch.suspecting
    assert scene.watch.epoch == 0
    assert scene.watch.trouble is None


def test_the_twentieth_refusal_brings_suspicion_a_new_epoch_and_one_line(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.refuse(12, lane=0)
    scene.refuse(8, lane=1)
    assert scene.watch.suspecting
    assert scene.watch.epoch == 1
    assert scene.watch.trouble is Kind.MISCONFIGURED
    scene.refuse(5, lane=2)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["misconfigured" in record.getMessage() for record in errors] == [True]


def test_what_does_not_count_brings_no_suspicion(scene: Scene) -> None:
    scene.refuse(100, counts=False)
    assert not scene.watch.suspecting
    assert scene.watch.trouble is None


def test_a_proof_drops_the_refusals_by_calls_that_began_before_it(scene: Scene) -> None:
    early = scene.watch.begin()
    scene.refuse(19)
    scene.watch.proved(scene.lanes[1], early)  # it says nothing of what began later
    scene.refuse(1)
    assert scene.watch.suspecting
    scene.prove()
    scene.refuse(19)
    scene.prove()
    scene.refuse(19)
    assert not scene.watch.suspecting


def test_the_run_names_the_calls_that_refused_until_a_proof_or_suspicion_ends_it(
    scene: Scene,
) -> None:
    runs = [list(scene.watch.run)]
    scene.refuse(3)
    scene.refuse(1, counts=False)
    runs.append(list(scene.watch.run))
    late = scene.watch.begin()
    scene.refuse(1)
    scene.watch.proved(scene.lanes[1], late)
    runs.append(list(scene.watch.run))
    scene.refuse(19)
    runs.append(list(scene.watch.run))
    assert runs == [[], [1, 2, 3], [6], []]


def test_a_proof_by_a_call_that_began_before_the_suspicion_ends_none(scene: Scene) -> None:
    early = scene.watch.begin()
    scene.refuse(20)
    late = scene.watch.begin()
    scene.watch.proved(scene.lanes[1], early)
    assert scene.watch.suspecting
    assert scene.watch.trouble is Kind.MISCONFIGURED
    scene.watch.proved(scene.lanes[1], late)
    assert not scene.watch.suspecting


def test_a_proof_by_any_lane_releases_and_wakes_every_held_lane(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    scene.refuse(20, lane=0)
    scene.refuse(1, lane=1)
    scene.prove(lane=2)
    assert [lane.woken for lane in scene.lanes] == [1, 1, 0]
    assert scene.watch.epoch == 2
    assert scene.watch.trouble is None
    assert [r.getMessage() for r in caplog.records][1:] == ["q: store found again"]
    scene.refuse(19)  # the run is empty
    assert not scene.watch.suspecting


def test_a_lane_that_finds_no_store_waits_and_its_answer_wakes_the_others(
    scene: Scene,
) -> None:
    first, second, third = scene.lanes
    scene.watch.lost(first, AWAY)
    scene.watch.lost(second, AWAY)
    assert scene.watch.trouble is Kind.UNAVAILABLE
    scene.watch.answered(third)  # it did not wait
    assert [lane.woken for lane in scene.lanes] == [0, 0, 0]
    scene.watch.answered(first)
    assert [lane.woken for lane in scene.lanes] == [0, 1, 0]
    assert scene.watch.trouble is Kind.UNAVAILABLE
    scene.watch.answered(second)
    assert scene.watch.trouble is None


def test_a_lane_first_lost_then_misconfigured_logs_both(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.watch.lost(scene.lanes[0], AWAY)
    scene.watch.lost(scene.lanes[0], AWAY)
    scene.watch.lost(scene.lanes[0], classify(StoreMisconfiguredError("no table")))
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.ERROR]
    scene.watch.lost(scene.lanes[0], AWAY)  # and the other way round
    assert [record.levelno for record in caplog.records] == [*levels, logging.WARNING]


def needs(what: str, sqlstate: str | None = None) -> Failure:
    """Return the failure of a store in which a person has to mend ``what``."""
    return classify(reworded(StoreMisconfiguredError("", sqlstate=sqlstate), what))


def test_each_new_cause_that_a_person_has_to_mend_is_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    lane = scene.lanes[0]
    causes = [
        needs("no column"),
        needs("no grant", "42501"),
        needs("no sequence", "42501"),
        needs("no sequence", "42704"),
    ]
    for cause in causes:
        for _ in range(3):
            scene.watch.lost(lane, cause)
            scene.now += 100
    assert [line.partition("mends it: ")[2] for line in caplog.messages] == [
        "no column",
        "no grant, SQLSTATE 42501",
        "no sequence, SQLSTATE 42501",
        "no sequence, SQLSTATE 42704",
    ]


def test_causes_that_alternate_are_a_line_each_a_minute_and_ten_at_most(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    lane = scene.lanes[0]
    lines: list[int] = []
    for now in (0, 1, 30, 59, 60, 61):
        scene.now = now
        scene.watch.lost(lane, needs("one"))
        scene.watch.lost(lane, needs("other"))
        lines.append(len(caplog.records))
    assert lines == [2, 2, 2, 2, 4, 4]
    for number in range(20):
        scene.watch.lost(lane, needs(f"number {number}"))
    assert len(caplog.records) == 4 + 8


def test_what_an_outage_is_called_meanwhile_is_not_logged(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (OSError("gone"), ConnectionRefusedError("no"), TimeoutError("late")):
        scene.watch.lost(scene.lanes[0], classify(error))
    assert len(caplog.records) == 1


def test_a_cause_is_news_again_after_another_state(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for cause in (needs("one"), AWAY, needs("other"), needs("one")):
        scene.watch.lost(scene.lanes[0], cause)
    assert len(caplog.records) == 4


def test_a_lane_that_finishes_its_batch_leaves_held_waiting_and_doubt(scene: Scene) -> None:
    lane, other, _ = scene.lanes
    scene.refuse(20)
    scene.watch.lost(lane, AWAY)
    scene.watch.doubts(lane, 2)
    scene.watch.doubts(other, 1)
    scene.watch.waits_in_doubt(lane, UNKNOWN)
    scene.watch.finished(lane)
    assert scene.watch.trouble is None
    assert scene.watch.one_in_doubt
    assert scene.watch.suspecting  # nobody has proved the store well


def test_entries_in_doubt_are_counted_over_all_lanes(scene: Scene) -> None:
    alone = [scene.watch.one_in_doubt]
    for lane, entries in ((0, 1), (1, 1), (0, 0), (0, 0)):
        scene.watch.doubts(scene.lanes[lane], entries)
        alone.append(scene.watch.one_in_doubt)
    assert alone == [False, True, False, True, True]


def test_several_in_doubt_are_one_line_until_none_is(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    lane = scene.lanes[0]
    scene.watch.doubts(lane, 1)
    scene.watch.waits_in_doubt(lane, UNKNOWN)
    troubles = [scene.watch.trouble]
    assert caplog.records == []
    for _ in range(2):
        scene.watch.doubts(lane, 3)
        scene.watch.waits_in_doubt(lane, UNKNOWN)
        scene.watch.waits_in_doubt(lane, UNKNOWN)
        scene.watch.answered(lane)
        scene.watch.doubts(lane, 0)
    troubles.append(scene.watch.trouble)
    assert troubles == [Kind.UNKNOWN, None]
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.ERROR] * 2


def test_a_lane_that_waits_in_doubt_is_not_woken_by_another_s_answer(scene: Scene) -> None:
    scene.watch.waits_in_doubt(scene.lanes[0], UNKNOWN)
    scene.watch.lost(scene.lanes[1], AWAY)
    scene.watch.answered(scene.lanes[1])
    assert scene.lanes[0].woken == 0


def test_the_store_flaps_for_a_minute_after_something_went_through(scene: Scene) -> None:
    flaps = [scene.watch.flaps]
    scene.watch.went_through()
    for now in (59, 60):
        scene.now = now
        flaps.append(scene.watch.flaps)
    assert flaps == [False, True, False]
