"""The writer: retries in place, isolates entries that can't be stored, and loses nothing."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Generic

import trio

from provcache_trio._vocabulary.failures import Failure, Kind
from provcache_trio._vocabulary.keys import shown_key
from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.plurals import counted_entries
from provcache_trio._vocabulary.protocols import E

from .backoff import Backoff
from .doubt import Case, Doubt
from .pace import Pace
from .progress import Refusal
from .verdict import result_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from provcache_trio._vocabulary.telemetry import FlushTelemetry

    from .batch import Batch
    from .calls import WatchedRepository
    from .lifetime import Lifetime
    from .line import Line
    from .outbox import Outbox
    from .pace import Sizes
    from .progress import Part, Progress
    from .watch import StoreWatch


# The number of calls in a row, while draining, that find the store closed and so end the drain.
_CLOSED_FOR_GOOD: Final = 2
_NO_TELEMETRY: Final = nullcontext()


class Writer(Generic[E]):
    """Writes one line's batches, one at a time, in order.

    What is left to do with a batch is kept on the batch, so a restarted writer goes on with the
    call that the crash interrupted. The rules are in the tables of ``progress``, ``doubt``,
    ``pace`` and ``watch``; this class carries them out.
    """

    def __init__(
        self,
        repository: WatchedRepository[E],
        line: Line[E],
        outbox: Outbox[E],
        watch: StoreWatch,
        lifetime: Lifetime,
        *,
        lane: int,
    ) -> None:
        self._repository = repository
        self._line = line
        self._outbox = outbox
        self._watch = watch
        self._lifetime = lifetime
        self._lane = lane
        # Telemetry of the batch that is being written.
        self._flush: FlushTelemetry | None = None
        # Calls in a row that found no working store.
        self._failures = 0
        # Calls in a row that found the store closed.
        self._closed = 0
        # The number of the last call that changed something.
        self._last_stored = 0
        # How many entries from behind were tried.
        self._tried_from_behind = 0
        self._pace = Pace(lifetime.options.batch_size)
        self.backoff = Backoff(lifetime)

    async def run(self, channel: trio.MemoryReceiveChannel[Batch[E]]) -> None:
        """Write each batch that comes, for as long as the queue lives."""
        line = self._line
        while True:
            while line.writing is None:
                line.take(await channel.receive())
            with self._reported(line.writing) as self._flush:
                await self._write(line.writing)

    def _reported(self, batch: Batch[E]) -> AbstractContextManager[FlushTelemetry | None]:
        """Return a context that reports the writing of ``batch`` to telemetry."""
        telemetry = self._lifetime.telemetry
        if telemetry is None:
            return _NO_TELEMETRY
        reason = batch.due or FlushReason.DUE
        return telemetry.flush(self._lifetime.name, reason, batch.unsettled(), batch.producers)

    async def _write(self, batch: Batch[E]) -> None:
        progress = batch.progress
        while True:
            part = progress.next(self._pace.most, suspecting=self._watch.suspecting)
            if part is not None:
                await self._try(batch, progress, part)
            elif not (self._put_back(batch, progress) or await self._next_round(progress)):
                break
        self._watch.finished(self.backoff)
        if self._flush is not None:
            self._flush.refused(len(batch.refused))
        await self._outbox.post(batch)
        self._line.finish(batch)
        self._lifetime.note_settled()

    # When nothing is left to be tried

    def _put_back(self, batch: Batch[E], progress: Progress) -> bool:
        """Put refused entries back if the store may be to blame rather than the entries."""
        suspecting = self._watch.suspecting
        keys = progress.to_try_again(
            batch.refused.items(), suspecting=suspecting, epoch=self._watch.epoch
        )
        if not keys:
            return False
        for key in keys:
            refusal = batch.refused.pop(key)
            batch.entries[key] = refusal.entry
            progress.tries[key] = refusal.tries
        progress.put_back(keys)
        # Under suspicion each failure waits, so entries in doubt need no wait of their own.
        rest = progress.begin_round() if suspecting else 0
        self._lifetime.ledger.retries += len(keys) + rest
        return True

    async def _next_round(self, progress: Progress) -> bool:
        """Wait, then plan to retry entries in doubt; return whether there are any."""
        if not progress.doubtful:
            return False
        _, failure = progress.doubtful[-1]
        self._watch.waits_in_doubt(self.backoff, failure)
        progress.rounds += 1
        await self.backoff.wait(progress.rounds)
        self._lifetime.ledger.retries += progress.begin_round()
        return True

    # One call

    async def _call(self, entries: Sequence[E]) -> tuple[int, object]:
        """Have the store write ``entries``; return the number of the call, and how it ended."""
        if self._lifetime.forked:
            # They are the parent's to write.
            await trio.sleep_forever()
        call = self._watch.begin()
        result = await result_of(
            lambda: self._repository.upsert_many(entries),
            self._lifetime.scope,
            self._repository.watched,
        )
        return call, result

    async def _try(self, batch: Batch[E], progress: Progress, part: Part) -> None:
        entries = batch.to_send(part)
        part.tries += 1
        began_at = self._lifetime.clock()
        call, result = await self._call(entries)
        if not isinstance(result, Failure):
            self._persisted(batch, progress, part, call, result)
            self._measure(batch, len(entries), began_at, None)
            return
        self._measure(batch, len(entries), began_at, result)
        self._watch.note(result)
        if not result.too_slow:
            self._pace.failed_otherwise()
        if not result.closed:
            self._closed = 0
        match result.kind:
            case Kind.UNKNOWN:
                await self._unknown(batch, progress, part, call, result)
            case Kind.TRANSIENT:
                await self._rolled_back(batch, progress, part, call, result)
            case Kind.REJECTED:
                await self._rejected(batch, progress, part, call, result)
            case _:
                await self._unavailable(progress, part, result)

    def _measure(
        self, batch: Batch[E], entries: int, began_at: float, failure: Failure | None
    ) -> None:
        now = self._lifetime.clock()
        seconds, age = now - began_at, now - batch.opened_at
        if failure is None:
            ledger = self._lifetime.ledger
            ledger.flush_seconds = ledger.flush_seconds.plus(seconds)
            ledger.age_seconds = ledger.age_seconds.plus(age)
        if self._flush is not None:
            self._flush.called(entries=entries, seconds=seconds, age_seconds=age, failure=failure)

    def _persisted(
        self, batch: Batch[E], progress: Progress, part: Part, call: int, changed: object
    ) -> None:
        written = len(part.keys)
        changed = _changed(changed, written)
        self._line.persisted(batch, part, written - changed)
        if changed:
            progress.stored = True
            self._last_stored = call
            self._watch.proved(self.backoff, call)
        else:
            # Nothing had to be written, which proves nothing about writing.
            self._watch.answered(self.backoff)
        self._failures = self._closed = 0
        if part.failed_unknown:
            progress.narrowed.clear()
            self._watch.went_through()
        if part is progress.singled_out:
            progress.believes_hints = False
        if progress.doubts or part.failed_unknown:
            self._watch.doubts(self.backoff, len(progress.doubts))
        sizes = self._pace.stored(written)
        if sizes is not None:
            self._log_sizes(sizes)
        self._lifetime.note_persisted(self._lane)
        # For each batch, so nothing is made for a log that nobody keeps.
        self._lifetime.log(logging.DEBUG, "batch persisted, entries: %d", written, count=written)

    # The store is away

    async def _unavailable(self, progress: Progress, part: Part, failure: Failure) -> None:
        if failure.closed:
            self._closed += 1
            if self._closed >= _CLOSED_FOR_GOOD and self._lifetime.closing.is_set():
                self._lifetime.end_drain()
        if failure.too_slow and self._pace.was_too_slow(len(part.keys)):
            progress.halve(part)
            return
        self._watch.lost(self.backoff, failure)
        self._failures += 1
        await self._retry(part, self._failures)

    # It answered

    async def _rolled_back(
        self, batch: Batch[E], progress: Progress, part: Part, call: int, failure: Failure
    ) -> None:
        self._answered()
        most = self._lifetime.options.max_retries
        if most is None or part.retries < most:
            part.retries += 1
            self._log_retry(part, failure)
            await self._retry(part, part.retries)
        elif len(part.keys) > 1:
            progress.halve(part)
            await self._wait_under_suspicion(failure)
        else:
            await self._refuse(batch, progress, part, call, failure)

    async def _rejected(
        self, batch: Batch[E], progress: Progress, part: Part, call: int, failure: Failure
    ) -> None:
        self._answered()
        index, several = failure.position, len(part.keys)
        if several == 1:
            await self._refuse(batch, progress, part, call, failure)
            return
        believed = progress.believes_hints and (failure.local or not self._watch.suspecting)
        if believed and type(index) is int and 0 <= index < several:
            progress.single_out(part, index)
        else:
            progress.halve(part)
        await self._wait_under_suspicion(failure)

    def _answered(self) -> None:
        self._watch.answered(self.backoff)
        if not self._watch.suspecting:
            self._failures = 0

    async def _refuse(
        self,
        batch: Batch[E],
        progress: Progress,
        part: Part,
        call: int,
        failure: Failure,
        *,
        condemned: bool = False,
    ) -> None:
        """Take an entry out of the batch.

        A condemned one was counted when it first failed alone. One that was refused before the store
        was asked is never counted.
        """
        watch = self._watch
        (key,) = part.keys
        if not (condemned or failure.local):
            watch.refused(self.backoff, call, failure, counts=progress.counts(key, watch.run))
        unsure = watch.suspecting and not progress.stored
        progress.done(part)
        batch.refused[key] = Refusal(
            batch.entries.pop(key),
            failure,
            part.tries + progress.tries.get(key, 0),
            epoch=watch.epoch,
            suspected=watch.suspecting,
            proven=progress.stored,
            final=condemned or failure.local or (key in progress.second and not unsure),
        )
        watch.doubts(self.backoff, len(progress.doubts))
        await self._wait_under_suspicion(failure)

    # Nobody knows

    async def _unknown(
        self, batch: Batch[E], progress: Progress, part: Part, call: int, failure: Failure
    ) -> None:
        if len(part.keys) == 1:
            await self._failed_alone(batch, progress, part, call, failure)
        elif part.failed_unknown or part.was_halved:
            progress.halve(part, was_halved=True)
            await self._wait_after_unknown(progress, failure)
        else:
            part.failed_unknown = True
            self._log_retry(part, failure)
            await self._retry(part, 1)

    async def _failed_alone(
        self, batch: Batch[E], progress: Progress, part: Part, call: int, failure: Failure
    ) -> None:
        watch, (key,) = self._watch, part.keys
        part.failed_unknown = True
        waits = progress.note_alone(failure.error_class, call) and key not in progress.doubts
        doubt = progress.doubts.get(key)
        if doubt is None:
            watch.refused(self.backoff, call, failure, counts=progress.counts(key, watch.run))
            doubt = progress.doubts[key] = Doubt(call)
            self._log_doubt(key, failure)
            watch.doubts(self.backoff, len(progress.doubts))
        if doubt.condemned(self._case(progress, part, call)) and not watch.suspecting:
            await self._refuse(batch, progress, part, call, failure, condemned=True)
            return
        progress.set_aside(part, failure)
        if waits:
            await self._wait_after_unknown(progress, failure)
        else:
            await self._wait_under_suspicion(failure)

    def _case(self, progress: Progress, part: Part, call: int) -> Case:
        lifetime, watch = self._lifetime, self._watch
        return Case(
            call=call,
            last_stored=self._last_stored,
            flaps=watch.flaps,
            draining=lifetime.closing.is_set(),
            alone=watch.one_in_doubt and progress.parts == [part],
            now=lifetime.clock(),
            max_retries=lifetime.options.max_retries,
        )

    # Waits and log lines

    async def _retry(self, part: Part, failures: int) -> None:
        """Wait; the part keeps its place, so nothing overtakes it."""
        await self.backoff.wait(failures)
        self._lifetime.ledger.retries += len(part.keys)

    async def _wait_under_suspicion(self, failure: Failure) -> None:
        """Wait if the store refuses everything, or entries put back would be retried without pause."""
        if self._watch.suspecting and not failure.local:
            self._watch.hold(self.backoff, failure)
            self._failures += 1
            await self.backoff.wait(self._failures)
            await self._try_from_behind()

    async def _try_from_behind(self) -> None:
        """Try an entry from behind: a store that takes it is well, and the ones in front are bad.

        Otherwise a run of bad entries would stop the good ones behind it. It stays in line, and is
        written once more in its turn, which changes nothing.
        """
        watch = self._watch
        found = self._line.behind(self._tried_from_behind) if watch.suspecting else None
        if found is None:
            return
        batch, key = found
        entry = batch.entries[key]
        # A letter says in how many calls its entry was.
        tries = batch.progress.tries
        tries[key] = tries.get(key, 0) + 1
        self._tried_from_behind += 1
        call, result = await self._call((entry,))
        # What else it may be is met by the next call for the batch.
        if not isinstance(result, Failure) and _changed(result, 1):
            self._last_stored = call
            watch.proved(self.backoff, call)

    async def _wait_after_unknown(self, progress: Progress, failure: Failure) -> None:
        """Wait once an entry has failed alone, unless entries are known to be to blame."""
        if self._watch.suspecting:
            await self._wait_under_suspicion(failure)
        elif progress.failed_alone and not (
            self._lifetime.closing.is_set()
            or progress.is_narrowed(failure.error_class, self._last_stored)
        ):
            progress.waits += 1
            await self.backoff.wait(progress.waits)

    def _log_retry(self, part: Part, failure: Failure) -> None:
        self._lifetime.log(
            logging.WARNING,
            "batch failed and is retried: %s, %s",
            counted_entries(len(part.keys)),
            failure.described(),
            count=len(part.keys),
            error_class=failure.error_class,
            sqlstate=failure.sqlstate,
        )

    def _log_doubt(self, key: Hashable, failure: Failure) -> None:
        self._lifetime.log(
            logging.WARNING,
            "entry fails alone, and is kept until it is known why: %s, %s",
            shown_key(key),
            failure.described(),
            key=key,
            error_class=failure.error_class,
            sqlstate=failure.sqlstate,
        )

    def _log_sizes(self, sizes: Sizes) -> None:
        self._lifetime.log(
            logging.WARNING,
            "calls with %d entries are too slow, with %d they work: fewer are sent at once, "
            "until more work again; lower batch_size if that lasts",
            sizes.too_slow,
            sizes.works,
            count=sizes.works,
        )


def _changed(returned: object, written: int) -> int:
    """Return how many rows a call changed; they are stored, whatever the repository returned."""
    return returned if type(returned) is int and 0 <= returned <= written else written
