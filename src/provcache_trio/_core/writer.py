"""The writer: retries in place, isolates what can't be stored, and loses nothing."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Generic

import trio

from provcache_trio._vocabulary.failures import Failure, Kind
from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.protocols import E

from .backoff import Backoff
from .batch import Part, Refusal
from .verdict import result_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from provcache_trio._vocabulary.protocols import Repository
    from provcache_trio._vocabulary.telemetry import FlushTelemetry

    from .batch import Batch
    from .lifetime import Lifetime
    from .line import Line
    from .outbox import Outbox
    from .watch import StoreWatch


class Writer(Generic[E]):
    """Writes one line's batches, one at a time, in order.

    What is left to do with a batch is kept on the batch, so a writer that crashed and was
    restarted goes on with the call that it could not finish.
    """

    def __init__(
        self,
        repository: Repository[E],
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
        self._flush: FlushTelemetry | None = None  # of the batch that is being written
        self._failures = 0  # calls in a row that found no working store
        self.backoff = Backoff(lifetime)

    async def run(self, channel: trio.MemoryReceiveChannel[Batch[E]]) -> None:
        """Write each batch that comes, for as long as the queue lives."""
        line = self._line
        while True:
            while line.writing is None:
                line.take(await channel.receive())
            with self._told(line.writing) as self._flush:
                await self._write(line.writing)

    def _told(self, batch: Batch[E]) -> AbstractContextManager[FlushTelemetry | None]:
        """Surround the writing of ``batch`` with what telemetry has to say of it."""
        telemetry = self._lifetime.telemetry
        if telemetry is None:
            return nullcontext()
        reason = batch.due or FlushReason.DUE
        return telemetry.flush(self._lifetime.name, reason, batch.unsettled(), batch.producers)

    async def _write(self, batch: Batch[E]) -> None:
        while batch.parts or self._reconsider(batch):
            # A store that refuses everything is probed far from the entries it refused (see
            # ``_isolate``), to learn soon whether it is the store or a run of bad entries.
            part = batch.parts[0 if self._watch.refuses_everything else -1]
            await self._try(batch, part)
        if self._flush is not None:
            self._flush.refused(len(batch.refused))
        await self._outbox.post(batch)
        self._line.finish(batch)
        self._lifetime.note_settled()

    def _reconsider(self, batch: Batch[E]) -> bool:
        """Put refused entries back if the refusals may say more about the store than them."""
        if not batch.refused or batch.vindicated or not self._watch.refuses_everything:
            return False
        self._put_back(batch)
        return True

    def _put_back(self, batch: Batch[E]) -> None:
        keys = tuple(batch.refused)
        for key in keys:
            refusal = batch.refused.pop(key)
            batch.entries[key] = refusal.entry
            batch.tries[key] = refusal.tries
        batch.parts.append(Part(keys))
        self._lifetime.ledger.retries += len(keys)

    async def _try(self, batch: Batch[E], part: Part) -> None:
        if self._lifetime.forked:
            await trio.sleep_forever()  # the parent writes this batch
        entries = batch.to_send(part)
        part.tries += 1
        began_at = self._lifetime.clock()
        result = await result_of(
            lambda: self._repository.upsert_many(entries), self._lifetime.scope
        )
        if not isinstance(result, Failure):
            self._persisted(batch, part, result)
            self._measure(batch, len(entries), began_at, None)
            return
        self._measure(batch, len(entries), began_at, result)
        self._watch.note(result)
        if result.kind in (Kind.MISCONFIGURED, Kind.UNAVAILABLE):
            self._watch.lost(self.backoff, result)
            self._failures += 1
            await self._retry(part, self._failures)
            return
        retries = result.kind is not Kind.REJECTED and self._may_retry(part, result.kind)
        # Something unknown that goes on is taken for the entries' fault, so for an answer.
        if result.kind is not Kind.UNKNOWN or not retries:
            self._watch.answered(self.backoff)
            if not self._watch.refuses_everything:
                self._failures = 0
        if retries:
            part.retries += 1
            self._log_retry(part, result)
            await self._retry(part, part.retries)
        else:
            await self._isolate(batch, part, result)

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

    def _persisted(self, batch: Batch[E], part: Part, changed: object) -> None:
        written = len(part.keys)
        if type(changed) is not int or not 0 <= changed <= written:
            changed = written  # the rows are stored, whatever the repository says of them
        self._line.persisted(batch, part, written - changed)
        if changed:
            self._watch.persisted(self.backoff)
            self._vindicate(batch)
        else:  # nothing had to be written: no proof that it would be
            self._watch.answered(self.backoff)
        self._failures = 0
        self._lifetime.note_persisted(self._lane)
        self._lifetime.log(logging.DEBUG, "batch persisted: %d entries", written, count=written)

    def _vindicate(self, batch: Batch[E]) -> None:
        """The store takes entries of this batch: what it refuses of it is their own fault."""
        if not batch.vindicated:
            batch.vindicated = True
            if batch.suspect and batch.refused:
                self._put_back(batch)  # refused under suspicion: once more, now for good

    def _may_retry(self, part: Part, kind: Kind) -> bool:
        if kind is Kind.UNKNOWN and part.isolating:
            return False
        most = self._lifetime.options.max_retries
        return most is None or part.retries < most

    def _log_retry(self, part: Part, failure: Failure) -> None:
        self._lifetime.log(
            logging.WARNING,
            "batch failed and is retried: %d entries, %s",
            len(part.keys),
            failure.described(),
            count=len(part.keys),
            error_class=failure.error_class,
            sqlstate=failure.sqlstate,
        )

    async def _retry(self, part: Part, failures: int) -> None:
        """Wait; the part stays where it is, so nothing overtakes it."""
        await self.backoff.wait(failures)
        self._lifetime.ledger.retries += len(part.keys)

    async def _isolate(self, batch: Batch[E], part: Part, failure: Failure) -> None:
        """Refuse the bad entry if it is known, else narrow it down by halving."""
        keys = part.keys
        if failure.kind is Kind.TRANSIENT:
            batch.parts.remove(part)
            self._refuse(batch, keys, part, failure)
            if self._watch.refuses_everything:
                await self._wait_for_the_store()  # else they are put back and tried at once
            return
        index = 0 if len(keys) == 1 else failure.position
        if self._watch.refuses_everything and not batch.vindicated and len(keys) > 1:
            index = None  # halve all the same: an entry far from the refused may be good
        if type(index) is not int or not 0 <= index < len(keys):
            left, right = part.halves(isolating=failure.kind is Kind.UNKNOWN)
            batch.parts.remove(part)
            batch.parts += (right, left)
            return
        batch.parts.remove(part)
        if len(keys) > 1:
            batch.parts.append(part.without(index))
        self._refuse(batch, keys[index : index + 1], part, failure)
        if batch.vindicated:
            return
        self._watch.refused(self.backoff, failure)
        if self._watch.refuses_everything:
            batch.suspect = True
            await self._wait_for_the_store()

    async def _wait_for_the_store(self) -> None:
        self._failures += 1
        await self.backoff.wait(self._failures)

    @staticmethod
    def _refuse(batch: Batch[E], keys: tuple[Hashable, ...], part: Part, failure: Failure) -> None:
        for key in keys:
            tries = part.tries + batch.tries.get(key, 0)
            batch.refused[key] = Refusal(batch.entries.pop(key), failure, tries)
