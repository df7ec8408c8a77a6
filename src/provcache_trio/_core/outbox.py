"""Dead letters: entries that the store refused, on their way to the sink."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Generic

import trio

from provcache_trio._vocabulary.failures import Kind
from provcache_trio._vocabulary.keys import shown_key
from provcache_trio._vocabulary.letters import why
from provcache_trio._vocabulary.protocols import DeadLetter, E

from .backoff import Backoff
from .batch import Bell
from .portions import Portions
from .verdict import result_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from provcache_trio._vocabulary.failures import Failure
    from provcache_trio._vocabulary.protocols import DeadLetterSink, EntryObserver

    from .batch import Batch, Place
    from .calls import WatchedSink
    from .journaled_line import Notes
    from .lifetime import Lifetime
    from .watch import StoreWatch

_SINK_TIMEOUT_SECONDS: Final = 5.0


class Outbox(Generic[E]):
    """Owns at most ``batch_size`` letters that the sink has not taken yet.

    Until then they count as in flight. Without a sink a letter is logged by its key and
    counted at once, and its payload is lost.
    """

    def __init__(
        self,
        sink: DeadLetterSink[E] | None,
        lifetime: Lifetime,
        watch: StoreWatch,
        notes: Notes[E] | None = None,
    ) -> None:
        self._sink = sink
        self._notes = notes
        self._lifetime = lifetime
        self._watch = watch
        self._backoff = Backoff(lifetime)
        # Rings when letters wait.
        self._bell = Bell()
        # Set when a call of the sink has ended, or the queue has.
        self._changed = trio.Event()
        self.letters: list[DeadLetter[E]] = []
        # With a journal, the place of each letter.
        self.places: list[Place] = []
        # Letters that the sink can never take, and when their batches were opened. They block
        # nothing, and end in ``undelivered``.
        self._unfit: list[tuple[float, DeadLetter[E]]] = []
        self._unfit_places: list[Place] = []
        # When the letters' batches were opened, on trio's clock.
        self._opened_at: list[float] = []
        # The oldest of these, which are in no order with several lanes.
        self._oldest: float | None = None
        # True if the sink's last call failed.
        self.failing: bool = False
        # The number of writers that wait for room.
        self.blocked: int = 0
        # Letters are numbered from 1 in the order in which they come, and leave in that order.
        # The number of the last letter that came.
        self.posted: int = 0
        # The number of the last letter that the sink took, or that waited when a failed call began.
        self._tried: int = 0
        self._portions = Portions(lifetime.options.batch_size)
        # True once what was left is abandoned.
        self._is_over = False
        self.observer: EntryObserver[E] | None = None

    def oldest(self) -> float | None:
        """Return when the oldest batch of a letter was opened; from any thread."""
        return self._oldest

    async def post(self, batch: Batch[E]) -> None:
        """Take over the refused entries of ``batch``, once there is room for them.

        Returns when a working sink has the letters; it does not wait for a failing one.
        """
        if not batch.refused:
            return
        while batch.refused:
            self._take_over(batch)
            if batch.refused:
                self.blocked += 1
                try:
                    await self._changed.wait()
                finally:
                    self.blocked -= 1
        last = self.posted
        for fate in batch.fates:
            fate.letters = last
        while self._tried < last and not self.failing:
            await self._changed.wait()

    async def wait_for(self, number: int) -> bool:
        """Wait until the sink has every letter up to ``number``, or fails while it waits.

        Returns:
            Whether that happened before the rest was abandoned.
        """
        while self._tried < number and not self._is_over:
            await self._changed.wait()
        return self._tried >= number

    def _take_over(self, batch: Batch[E]) -> None:
        """Move refused entries from ``batch`` to here, in one step, as far as they fit."""
        lifetime = self._lifetime
        now = lifetime.now()
        try:
            opened_at = now - timedelta(seconds=lifetime.clock() - batch.opened_at)
        except OverflowError:
            # The user's wall clock is at the beginning of time.
            opened_at = now
        room = lifetime.options.batch_size - len(self.letters)
        posted: list[DeadLetter[E]] = []
        for key in list(batch.refused)[:room]:
            refusal = batch.refused.pop(key)
            failure = refusal.failure
            posted.append(
                DeadLetter(
                    entry=refusal.entry,
                    key=key,
                    error_class=failure.error_class,
                    sqlstate=failure.sqlstate,
                    constraint=failure.constraint,
                    field=failure.field,
                    reason=failure.own_reason,
                    attempts=refusal.tries,
                    opened_at=opened_at,
                    failed_at=now,
                )
            )
            if self._notes is not None:
                self.places.append(self._notes.take_out(batch, key))
            for receipt in batch.receipts.get(key, ()):
                receipt.error = failure.rejection()
            if self.observer is not None:
                self.observer.refused(key)
        self._opened_at += [batch.opened_at] * len(posted)
        self._oldest = min(self._opened_at, default=None)
        self.letters += posted
        self.posted += len(posted)
        if self._sink is None:
            self._tried = self.posted
            self._settle(posted, " without a sink, its payload is gone")
        else:
            self._bell.ring()

    def _settle(self, letters: Sequence[DeadLetter[E]], remark: str = "") -> None:
        """Book the oldest letters as dead-lettered, and log each with a remark."""
        taken = len(letters)
        del self.letters[:taken]
        del self._opened_at[:taken]
        self._oldest = min(self._opened_at, default=None)
        ledger = self._lifetime.ledger
        ledger.in_flight -= taken
        ledger.failed += taken
        if self._notes is not None:
            self._notes.settle(self.places[:taken])
            del self.places[:taken]
        for letter in letters:
            self._lifetime.log(
                logging.ERROR,
                "entry dead-lettered%s: %s (%s)",
                remark,
                shown_key(letter.key),
                why(letter),
                key=letter.key,
                error_class=letter.error_class,
                sqlstate=letter.sqlstate,
                field=letter.field,
                reason=letter.reason,
            )
        self._lifetime.note_settled()

    async def run(self, sink: WatchedSink[E]) -> None:
        """Send letters to ``sink``, oldest first, for as long as the queue lives."""
        failures = 0
        while True:
            while not self.letters:
                await self._bell.wait()
            letters, last = tuple(self.letters[: self._portions.most]), self.posted
            if self._lifetime.forked:
                # The letters are the parent's.
                await trio.sleep_forever()
            failure = await self._put(sink, letters)
            if failure is None:
                failures = 0
                self._works()
                self._portions.taken(len(letters))
                self._settle(letters)
            elif failure.kind is Kind.REJECTED:
                failures = 0
                self._works()
                if self._portions.refused(len(letters), failure.position):
                    self._put_by(failure)
            else:
                failures += 1
                self._tried = last
                self._portions.failed(len(letters), failure)
                self._fails(failure)
            self._tried = max(self._tried, self.posted - len(self.letters))
            self._wake()
            if failures:
                await self._backoff.wait(failures)

    async def _put(self, sink: WatchedSink[E], letters: Sequence[DeadLetter[E]]) -> Failure | None:
        async def put() -> None:
            with trio.fail_after(_SINK_TIMEOUT_SECONDS):
                await sink.put_many(letters)

        return await result_of(put, self._lifetime.scope, sink.watched)

    def _put_by(self, failure: Failure) -> None:
        """Set the first letter aside, since the sink will never take it.

        At most ``batch_size`` are kept, as the queue's memory is bounded. Any more are counted and
        logged, as letters are without a sink.
        """
        if len(self._unfit) >= self._lifetime.options.batch_size:
            gone = ", its payload is gone: the sink can never take it, nor others that are kept"
            self._settle(self.letters[:1], gone)
            return
        letter = self.letters.pop(0)
        self._unfit.append((self._opened_at.pop(0), letter))
        self._oldest = min(self._opened_at, default=None)
        if self._notes is not None:
            self._unfit_places.append(self.places.pop(0))
        self._lifetime.unfit += 1
        self._lifetime.log(
            logging.ERROR,
            "the dead letter sink can never take a letter, which is kept until the queue ends: %s (%s)",
            shown_key(letter.key),
            failure.described(),
            key=letter.key,
            error_class=failure.error_class,
        )
        self._lifetime.note_settled()

    def journaled(self) -> Iterator[tuple[DeadLetter[E], Place]]:
        """Yield every letter that is here, and its place in the journal."""
        yield from zip(self.letters, self.places, strict=True)
        for (_, letter), place in zip(self._unfit, self._unfit_places, strict=True):
            yield letter, place

    def _fails(self, failure: Failure) -> None:
        self._watch.note(failure)
        if not self.failing:
            self.failing = True
            self._lifetime.log(
                logging.WARNING,
                "dead letter sink failed, its letters wait until it works: %s",
                failure.described(),
                error_class=failure.error_class,
                sqlstate=failure.sqlstate,
            )

    def _works(self) -> None:
        if self.failing:
            self.failing = False
            self._lifetime.log(logging.INFO, "dead letter sink works again")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def abandon(self, *, kept: bool) -> list[tuple[float, list[E]]]:
        """Abandon what the sink has not taken; return each batch's time of opening and its entries.

        Args:
            kept: see ``Line.abandon``.
        """
        given_up = [
            (at, [letter.entry]) for at, letter in zip(self._opened_at, self.letters, strict=True)
        ]
        given_up += [(at, [letter.entry]) for at, letter in self._unfit]
        moved = len(given_up)
        saved = moved if kept else 0
        self._unfit.clear()
        self._unfit_places.clear()
        self._lifetime.unfit = 0
        self.letters.clear()
        self.places.clear()
        self._opened_at.clear()
        self._oldest = None
        ledger = self._lifetime.ledger
        ledger.in_flight -= moved
        ledger.abandoned += moved
        ledger.kept += saved
        self._is_over = True
        self._wake()
        return given_up
