"""The watch over the store: one for all lanes, which report to it by its methods.

A *proof* is a call that changed at least one row. Calls are numbered when they begin. A *run*
is the refusals in a row in batches of which nothing was stored.

========== =========================== ========== ============================================
state      event                       next       action
========== =========================== ========== ============================================
trusting   refusal, fewer than 20      trusting   its call joins the run
trusting   refusal, the 20th           suspecting new epoch; the last call begun is noted;
                                                  hold this lane; one line for a person
trusting   proof by call c             trusting   what began before c leaves the run
suspecting refusal                     suspecting hold this lane
suspecting a held lane has waited      suspecting it tries an entry from behind, which may prove
suspecting proof by a call that began  suspecting none: the store was another then
           before the suspicion
suspecting proof by a later call       trusting   new epoch; empty run; release and wake every
                                                  held lane, whichever lane the proof is of
any        a lane finds no store       same       it waits
any        an answer in a lane         same       it waits no more; the other lanes that wait
                                                  are woken
any        a lane waits only for       same       it waits
           entries in doubt
any        a lane finishes its batch   same       it is not held, does not wait, has no doubts
========== =========================== ========== ============================================

A refusal is an entry that the store refused, or that failed alone for an unknown reason for the
first time. One that the repository refused without asking the store is none. An entry that did both
counts once in a run. A second try under the table of ``progress`` does not count.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Final

from provcache_trio._vocabulary.failures import Kind
from provcache_trio._vocabulary.metrics import LastError

if TYPE_CHECKING:
    from provcache_trio._vocabulary.failures import Failure

    from .backoff import Backoff
    from .lifetime import Lifetime

_REFUSALS_THAT_BLAME_THE_STORE: Final = 20
_FLAPPING_SECONDS: Final = 60
# While a person is needed, each cause that differs from the last one is reported, so that whoever
# mends one sees the next. Causes that alternate, or never recur, must not flood the log.
_REPEAT_SECONDS: Final = 60
_MOST_CAUSES: Final = 10


class StoreWatch:
    """Distinguishes an outage, and a store that refuses everything, from single bad entries.

    Lanes are known by their backoff.

    Attributes:
        suspecting: whether the store is blamed, after twenty refusals in a row.
        epoch: rises with each change of ``suspecting``.
        last_error: the last error of the store or the sink.
        last_cause: what a log may say of it; "" if there was none.
        run: the calls of the refusals in a row.
    """

    __slots__ = (
        "_calls",
        "_cause",
        "_causes",
        "_doubts",
        "_doubts_reported",
        "_flapped_at",
        "_held",
        "_lifetime",
        "_suspected_at",
        "_waiting",
        "epoch",
        "last_cause",
        "last_error",
        "run",
        "suspecting",
    )

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self.last_error: LastError | None = None
        self.last_cause: str = ""
        self.suspecting: bool = False
        self.epoch: int = 0
        self._calls = 0
        # The last call that had begun when the suspicion arose.
        self._suspected_at = 0
        self.run: list[int] = []
        self._held: set[Backoff] = set()
        # Why each waiting lane waits.
        self._waiting: dict[Backoff, Kind] = {}
        # How many entries of each lane are in doubt, if any are.
        self._doubts: dict[Backoff, int] = {}
        self._doubts_reported = False
        self._flapped_at = -inf
        # The trouble that was reported last, and when each was since the state changed.
        self._cause = ""
        self._causes: dict[str, float] = {}

    # What is known

    @property
    def trouble(self) -> Kind | None:
        """Why the queue waits: MISCONFIGURED, which needs a person, UNAVAILABLE or UNKNOWN."""
        if self._held:
            return Kind.MISCONFIGURED
        return min(self._waiting.values(), default=None)

    @property
    def flaps(self) -> bool:
        """Whether something that failed for an unknown reason was stored unchanged a moment ago."""
        return self._lifetime.clock() - self._flapped_at < _FLAPPING_SECONDS

    @property
    def one_in_doubt(self) -> bool:
        """Whether one entry is in doubt in all lanes together."""
        return sum(self._doubts.values()) == 1

    # Events

    def begin(self) -> int:
        """Return the number of a call that begins."""
        self._calls += 1
        return self._calls

    def note(self, failure: Failure) -> None:
        """Remember ``failure`` as the last error."""
        self.last_error = LastError(
            error_class=failure.error_class,
            sqlstate=failure.sqlstate,
            at=self._lifetime.now(),
        )
        self.last_cause = _described(failure)

    def refused(self, lane: Backoff, call: int, failure: Failure, *, counts: bool) -> None:
        """Note an entry that ``call`` refused; ``counts``: it may belong to a run."""
        if counts and not self.suspecting:
            self.run.append(call)
            if len(self.run) >= _REFUSALS_THAT_BLAME_THE_STORE:
                self._turn(suspecting=True)
        if self.suspecting:
            self.hold(lane, failure)

    def hold(self, lane: Backoff, failure: Failure) -> None:
        """Hold ``lane`` until a proof that the store is well."""
        before = self.trouble
        self._held.add(lane)
        self._report_change(before, failure._replace(kind=Kind.MISCONFIGURED))

    def proved(self, lane: Backoff, call: int) -> None:
        """Note that ``call`` of ``lane`` changed something."""
        if not self.suspecting:
            if self.run:
                self.run = [refusal for refusal in self.run if refusal >= call]
        elif call > self._suspected_at:
            self._turn(suspecting=False)
        self.answered(lane)

    def _turn(self, *, suspecting: bool) -> None:
        self.suspecting = suspecting
        self.epoch += 1
        self.run.clear()
        self._suspected_at = self._calls
        if not suspecting:
            released = tuple(self._held)
            self._held.clear()
            for lane in released:
                lane.cut()
            self._report_end(wake=True, had=bool(released))

    def lost(self, lane: Backoff, failure: Failure) -> None:
        """Note that ``lane`` can't reach the store, or that it needs a person."""
        before = self.trouble
        self._waiting[lane] = failure.kind
        self._report_change(before, failure)

    def answered(self, lane: Backoff) -> None:
        """Note that the store answered, if only to refuse or to roll back."""
        kind = self._waiting.pop(lane, None)
        if kind is not None:
            self._report_end(wake=kind is not Kind.UNKNOWN, had=kind is not Kind.UNKNOWN)

    def doubts(self, lane: Backoff, entries: int) -> None:
        """Note how many entries of ``lane`` are in doubt."""
        if entries:
            self._doubts[lane] = entries
        elif self._doubts.pop(lane, None) and not self._doubts:
            self._doubts_reported = False

    def waits_in_doubt(self, lane: Backoff, failure: Failure) -> None:
        """Note that ``lane`` waits only to retry entries in doubt."""
        self._waiting[lane] = Kind.UNKNOWN
        several = sum(self._doubts.values())
        if several > 1 and not self._doubts_reported:
            self._doubts_reported = True
            self._lifetime.log(
                logging.ERROR,
                "%d entries fail alone for an unknown reason, and are kept; look into it: %s",
                several,
                failure.described(),
                count=several,
                error_class=failure.error_class,
            )

    def went_through(self) -> None:
        """Note that something that had failed for an unknown reason was stored unchanged."""
        self._flapped_at = self._lifetime.clock()

    def finished(self, lane: Backoff) -> None:
        """Note that ``lane`` has nothing left of its batch."""
        kind = self._waiting.pop(lane, None)
        self.doubts(lane, 0)
        held = lane in self._held
        self._held.discard(lane)
        self._report_end(wake=False, had=held or kind not in {None, Kind.UNKNOWN})

    # Log lines: one per change

    def _report_change(self, before: Kind | None, failure: Failure) -> None:
        misconfigured = failure.kind == Kind.MISCONFIGURED
        cause = _described(failure)
        if self.trouble == before:
            if not misconfigured or not self._is_news(cause):
                return
        else:
            self._causes.clear()
        self._cause = cause
        self._causes[cause] = self._lifetime.clock()
        self._lifetime.log(
            logging.ERROR if misconfigured else logging.WARNING,
            "store %s: %s",
            "misconfigured, entries are kept until a person mends it"
            if misconfigured
            else "lost, entries are kept until it works",
            failure.described(),
            error_class=failure.error_class,
            sqlstate=failure.sqlstate,
        )

    def _is_news(self, cause: str) -> bool:
        """Return whether ``cause`` differs from what was reported last, and not too often."""
        now = self._lifetime.clock()
        for known, at in tuple(self._causes.items()):
            if now - at >= _REPEAT_SECONDS:
                del self._causes[known]
        return (
            cause != self._cause and cause not in self._causes and len(self._causes) < _MOST_CAUSES
        )

    def _report_end(self, *, wake: bool, had: bool) -> None:
        if wake:
            for lane, kind in self._waiting.items():
                if kind is not Kind.UNKNOWN:
                    lane.cut()
        if had and self.trouble in {None, Kind.UNKNOWN}:
            self._lifetime.log(logging.INFO, "store found again")


def _described(failure: Failure) -> str:
    """Return the class of the error and what else is known, which may begin with the class."""
    described = failure.described()
    name = failure.error_class
    return described if described.startswith(name) else f"{name}: {described}"
