"""``WriteBehindQueue``: the methods that an application calls, and the step that accepts."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, cast, final

import msgspec
import trio

from provcache_trio._vocabulary.errors import QueueClosedError
from provcache_trio._vocabulary.metrics import FlushReason, QueueState, WriteBehindMetrics
from provcache_trio._vocabulary.protocols import E

from .batch import Receipt
from .calls import inside
from .seam import Seam

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence

    from provcache_trio._vocabulary.metrics import CacheMetrics, StreamMetrics
    from provcache_trio._vocabulary.protocols import EntryObserver
    from provcache_trio._vocabulary.table import Table

    from .backoff import Backoff
    from .calls import Calls
    from .lanes import Lanes
    from .lifetime import Lifetime
    from .line import Line
    from .outbox import Outbox
    from .recorder import Recorder
    from .waiting_room import WaitingRoom
    from .watch import StoreWatch

# The default key of an entry.
by_veri_key: Final = attrgetter("veri_key")
# The most entries that ``enqueue_many`` accepts in one step, which Ctrl-C does not interrupt.
_SLICE: Final = 250


@final
class WriteBehindQueue(Generic[E]):
    """Accepts entries in memory; background tasks write them in batches.

    Returned by ``open_write_behind_queue``; do not instantiate. Its methods are for the
    thread that runs trio, except ``metrics``; from another thread use
    ``trio.from_thread.run(queue.enqueue, entry)``.
    """

    def __init__(
        self,
        lifetime: Lifetime,
        lanes: Lanes[E],
        room: WaitingRoom[E],
        outbox: Outbox[E],
        watch: StoreWatch,
        backoffs: Sequence[Backoff],
        calls: Calls,
        recorder: Recorder[E] | None = None,
        *,
        key: Callable[[E], Hashable],
        table: Table[E] | None = None,
        stream_metrics: Callable[[], StreamMetrics | None] | None = None,
    ) -> None:
        self._lifetime = lifetime
        self._ledger = lifetime.ledger
        self._telemetry = lifetime.telemetry
        self._recorder = recorder
        # With "always", waiting for the disk is the checkpoint.
        self._checkpoint: Callable[[], Awaitable[None]] = (
            trio.lowlevel.checkpoint_if_cancelled
            if recorder is not None and recorder.always
            else trio.lowlevel.checkpoint
        )
        self._lanes = lanes
        # The hot path is for queues with one lane, no journal, and no telemetry.
        is_simple = len(lanes.lines) == 1 and recorder is None and lifetime.telemetry is None
        self._line = self._simple_line = lanes.lines[0] if is_simple else None
        self._room = room
        self._outbox = outbox
        self._watch = watch
        self._backoffs = backoffs
        self._calls = calls
        # The cache, and what those before it have counted. Replaced as a whole: a reader in another
        # thread never counts one twice.
        self._caches: tuple[EntryObserver[E] | None, CacheMetrics | None] = (None, None)
        self._stream_metrics = stream_metrics
        self._key = key
        self._table = table
        # Reading the attribute in place costs a third of what calling this getter does.
        self._reads_veri_key = key is by_veri_key

    def __repr__(self) -> str:
        return (
            f"<WriteBehindQueue {self._lifetime.name!r} {self._state()}, "
            f"{self._ledger.depth} in line, {self._ledger.in_flight} in flight>"
        )

    @property
    def name(self) -> str:
        """The name that was given to ``open_write_behind_queue``."""
        return self._lifetime.name

    async def enqueue(self, entry: E, /) -> None:
        """Accept ``entry``, waiting for room while the queue is full.

        Producers wait first come, first served. An entry whose key is in line takes that
        place at once, however full the queue is (unless ``coalesce`` is off).

        A checkpoint, before the entry is accepted: cancelled, the call leaves no trace.
        Nothing yields after acceptance, so an accepted entry is never reported as cancelled.

        With a journal of durability "interval", a crash loses what was accepted within the last
        ``sync_interval_seconds``. With "always", the entry is on disk before it is accepted;
        cancelled while the disk writes, it may be accepted or not. While an older journal is
        replayed, it waits.

        Raises:
            TypeError: the entry has no key, or one that can't be hashed; nothing is counted.
            QueueClosedError: the queue takes no more entries; also while waiting for room.
            JournalError: with "always": the entry could not be made safe, and is not accepted;
                it may still reappear after a crash.
            RuntimeError: called in a forked child; or the call would have to wait, inside a call of
                the queue's own repository or sink.
            Exception: whatever ``merge`` raised; nothing is counted.
        """
        await self._checkpoint()
        if not self._accept(entry, None):
            await self._room.wait(self._key(entry), entry, None)

    @trio.lowlevel.enable_ki_protection
    def enqueue_nowait(self, entry: E, /) -> None:  # noqa: C901, PLR0912, PLR0915  # a call is dearer
        """Accept ``entry`` if there is room for it, or raise.

        Raises:
            trio.WouldBlock: the queue is full or others wait for room, and the entry's key
                is not in line; or an older journal is being replayed.
            TypeError: the entry has no key, or one that can't be hashed; nothing is counted.
            QueueClosedError: the queue takes no more entries.
            RuntimeError: called from another thread, or in a forked child; or with a journal of
                durability "always", which has to wait for the disk.
            Exception: whatever ``merge`` raised; nothing is counted.
        """
        line, ledger = self._line, self._ledger
        if line is None or not self._lifetime.owner._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  # as ``may_be_called``, inlined
            if not self._accept(entry, None):
                self._refuse()
            return
        # By overload it has a ``veri_key``, or ``key`` was given.
        keyed: Any = entry
        try:
            key: Hashable = keyed.veri_key if self._reads_veri_key else self._key(entry)
            # The common cases of ``Line.accept``, inlined: one call fewer is 8 % faster.
            holder = line.holders.get(key)
            if holder is None:
                batch = line.open
                if (
                    batch is not None
                    and line.holders_before is None
                    and ledger.depth < self._room.most
                ):
                    entries = batch.entries
                    entries[key] = entry
                    try:
                        line.holders[key] = batch
                    except BaseException:
                        line.take_back(batch)
                        raise
                    ledger.enqueued += 1
                    ledger.depth += 1
                    if len(entries) == line.batch_size:
                        line.seal(FlushReason.FULL)
                    return
            elif type(entry) is line.plain:
                holder.entries[key] = entry
                ledger.enqueued += 1
                ledger.coalesced += 1
                return
            batch = line.accept(key, entry, self._room.most)
        except Exception:
            self._blame_key(entry)
            raise
        if batch is None:
            self._refuse()

    async def enqueue_many(self, entries: Iterable[E], /) -> int:
        """Accept every entry of ``entries``, waiting for room as ``enqueue`` does.

        Takes one item at a time and holds none back: when the call is cancelled, or ``entries``
        raises, every item taken before was accepted, except one that waited for room. A checkpoint
        at the start and at least every ``batch_size`` entries. With a journal of durability
        "always" each entry waits for the disk; several tasks are faster.

        Returns:
            How many entries were accepted.

        Raises:
            QueueClosedError: the queue takes no more entries; ``.accepted`` is the number that it
                accepted.
            TypeError: ``entries`` is not iterable, or as for ``enqueue``.
            JournalError: as for ``enqueue``; what came before was accepted.
            RuntimeError: as for ``enqueue``.
            Exception: whatever ``entries`` or ``merge`` raised.
        """
        accepted = 0
        checkpointed_at = 0
        size = min(self._lifetime.options.batch_size, _SLICE)
        await trio.lowlevel.checkpoint()
        try:
            for some in _slices(entries, size):
                rest = some
                while rest:
                    done = self._accept_some(rest)
                    accepted += done
                    rest = rest[done:]
                    if rest:
                        await self._room.wait(self._key(rest[0]), rest[0], None)
                        accepted += 1
                        rest = rest[1:]
                if accepted - checkpointed_at >= size:
                    checkpointed_at = accepted
                    await trio.lowlevel.checkpoint()
        except QueueClosedError as error:
            # Also raised by ``entries``, if they call the queue.
            error.accepted = accepted
            raise
        return accepted

    async def persist(self, entry: E, /) -> None:
        """Accept ``entry``, then wait until it, or the version that took its place, is stored.

        Its batch is written as soon as the writer is free. Cancelled while it waits for the
        fate, the entry stays accepted.

        Raises:
            EntryRejectedError: the store refused the entry; it is a dead letter, or one that waits
                for a failing sink and may end in ``undelivered``.
            QueueClosedError: the queue takes no more entries, or ended before the entry was
                stored (see ``undelivered``).
            TypeError, JournalError: as for ``enqueue``.
            RuntimeError: called in a forked child, or inside a call of the queue's own repository
                or sink.
            Exception: whatever ``merge`` raised; nothing is counted.
        """
        if inside.get() is not None:
            self._calls.raise_if_inside("persist")
        receipt = Receipt()
        await trio.lowlevel.checkpoint()
        try:
            if not self._accept(entry, receipt):
                await self._room.wait(self._key(entry), entry, receipt)
            await receipt.known.wait()
        finally:
            if not receipt.known.is_set():
                receipt.withdraw()
        if receipt.error is not None:
            raise receipt.error

    @trio.lowlevel.enable_ki_protection
    async def flush(self) -> None:
        """Wait for the fate of every entry accepted before the call, and of all that a journal held.

        Does not wait for the flush interval. Later entries may share a call of the store that it
        waits for, or replace an entry in it, but never add a call. For a refused entry it waits
        until the sink has the letter, or has failed a call that began after the letter came; it
        waits longer while ``batch_size`` letters wait for a failing sink. A checkpoint; cancelling
        it changes nothing for the entries.

        After a clean exit it returns.

        Raises:
            QueueClosedError: some of those entries ended in ``undelivered``, or stay in the journal
                unread.
            RuntimeError: called from another thread, in a forked child, or inside a call of the
                queue's own repository or sink.
        """
        lifetime = self._lifetime
        closed = lifetime.closing.is_set() and not lifetime.forked
        if not closed and not lifetime.may_be_called():
            self._raise_why_not()
        self._calls.raise_if_inside("flush")
        self._lanes.seal(FlushReason.REQUESTED)
        fates = self._lanes.tails()
        letters = self._outbox.posted
        await trio.lowlevel.checkpoint()
        if lifetime.recovering and self._recorder is not None:
            fates += await self._recorder.replay.fates()
        for fate in fates:
            await fate.known.wait()
            letters = max(letters, fate.letters)
        tried = await self._outbox.wait_for(letters)
        abandoned = any(fate.abandoned for fate in fates) if fates else lifetime.undelivered
        if abandoned or not tried or lifetime.recovering:
            raise QueueClosedError(f"queue {lifetime.name!r} ended before it was flushed")

    def pending(self, key: Hashable, /) -> E | None:
        """Return the newest accepted version of ``key`` that may yet be stored, or None.

        Call this before a read from the store to see your own writes. O(1).

        Raises:
            TypeError: ``key`` can't be hashed.
        """
        return self._lanes.of(key).pending(key)

    def metrics(self) -> WriteBehindMetrics:
        """Return a consistent snapshot, O(1); from any thread, and after exit."""
        lifetime = self._lifetime
        now = lifetime.clock()
        opened = [self._outbox.oldest(), self._lanes.oldest()]
        oldest = min((at for at in opened if at is not None), default=None)
        tries = [at for backoff in self._backoffs if (at := backoff.next_try_at) is not None]
        # Every call comes before the counters: between two reads of them nothing else runs.
        oldest_pending_seconds = 0.0 if oldest is None else max(0.0, now - oldest)
        next_try_in_seconds = max(0.0, min(tries) - now) if tries else None
        called_at = self._calls.oldest_at
        call_seconds = 0.0 if called_at is None else max(0.0, now - called_at)
        producers_waiting = len(self._room.producers)
        state = self._state()
        recorder = self._recorder
        durable = None if recorder is None else recorder.durable
        timestamp = lifetime.now()
        ledger = self._ledger
        return WriteBehindMetrics(
            total_enqueued=ledger.enqueued,
            total_recovered=ledger.recovered,
            total_persisted=ledger.persisted,
            total_coalesced=ledger.coalesced,
            total_failed=ledger.failed,
            total_abandoned=ledger.abandoned,
            total_kept=ledger.kept,
            current_queue_depth=ledger.depth,
            in_flight=ledger.in_flight,
            total_retries=ledger.retries,
            total_batches=ledger.batches,
            total_unchanged=ledger.unchanged,
            total_refused=ledger.refused,
            flushes_full=ledger.flushes_full,
            flushes_due=ledger.flushes_due,
            flushes_requested=ledger.flushes_requested,
            flushes_drain=ledger.flushes_drain,
            flush_seconds=ledger.flush_seconds,
            age_seconds=ledger.age_seconds,
            producers_waiting=producers_waiting,
            oldest_pending_seconds=oldest_pending_seconds,
            state=state,
            recovering=lifetime.recovering,
            durable=durable,
            call_seconds=call_seconds,
            next_try_in_seconds=next_try_in_seconds,
            last_error=self._watch.last_error,
            timestamp=timestamp,
        )

    def cache_metrics(self) -> CacheMetrics | None:
        """Return a snapshot of the cache over this queue, from any thread; None if it never had one.

        Counters go on where those of an earlier cache ended, and stay when the cache is closed.
        """
        cache, past = self._caches
        if cache is None:
            return past
        return cache.metrics() if past is None else past.plus(cache.metrics())

    def stream_metrics(self) -> StreamMetrics | None:
        """Return what is known of the stream that this queue writes to, from any thread.

        None if it writes to no stream, or nobody looks at that: see ``StreamRepository.watch``. Asks
        no server.
        """
        return None if self._stream_metrics is None else self._stream_metrics()

    @property
    def undelivered(self) -> tuple[E, ...]:
        """After exit: every entry that is not known to be stored, oldest batch first.

        Includes entries whose write was cut off, so that its outcome is unknown. Empty before the
        exit.
        """
        return self._lifetime.undelivered

    def _seam(self) -> Seam[E]:
        """Return what a cache asks of this queue; nothing else uses it."""
        return Seam(
            self._lifetime,
            self._lanes,
            self._room,
            self._outbox,
            key=self._key,
            enqueue=self.enqueue,
            flush=self.flush,
            note_cache=self._note_cache,
        )

    def _note_cache(self, cache: EntryObserver[E] | None) -> None:
        """Have ``cache_metrics`` read ``cache``, after what earlier ones counted; None: it has closed."""
        past = self.cache_metrics()
        if past is not None and cache is None:
            past = msgspec.structs.replace(past, entries=0)
        self._caches = cache, past
        # The inlined acceptance of ``enqueue_nowait`` reports to no cache, and so costs nothing.
        self._line = self._simple_line if cache is None else None

    @trio.lowlevel.enable_ki_protection
    def _accept(self, entry: E, receipt: Receipt | None) -> bool:
        """Accept ``entry`` in one step, or return False if it has to wait for room."""
        if not self._lifetime.owner._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  # as ``may_be_called``, inlined
            self._raise_why_not()
        # See ``enqueue_nowait``.
        keyed: Any = entry
        try:
            key: Hashable = keyed.veri_key if self._reads_veri_key else self._key(entry)
            line = self._line or self._line_of(key)
            batch = None if line is None else line.accept(key, entry, self._room.most)
        except Exception:
            self._blame_key(entry)
            raise
        if line is None or batch is None:
            return False
        if receipt is not None:
            line.await_fate(batch, key, receipt)
        if self._telemetry is not None:
            batch.note_producer(self._telemetry.producer())
        return True

    @trio.lowlevel.enable_ki_protection
    def _accept_some(self, entries: Sequence[Any]) -> int:
        """Accept ``entries`` in one step, up to the first that has to wait; return their number."""
        if not self._lifetime.may_be_called():
            self._raise_why_not()
        producer = None if self._telemetry is None else self._telemetry.producer()
        only_line, reads_veri_key, most = self._line, self._reads_veri_key, self._room.most
        accepted = 0
        for entry in entries:
            try:
                key: Hashable = entry.veri_key if reads_veri_key else self._key(entry)
                line = only_line or self._line_of(key)
                batch = None if line is None else line.accept(key, entry, most)
            except Exception:
                self._blame_key(entry)
                raise
            if batch is None:
                break
            if producer is not None:
                batch.note_producer(producer)
            accepted += 1
        return accepted

    def _line_of(self, key: Hashable) -> Line[E] | None:
        """Return the line of ``key``, or None while the journal keeps the door closed."""
        line = self._lanes.of(key)
        return line if self._room.door_is_open else None

    def _blame_key(self, entry: E) -> None:
        """Raise TypeError if the key of ``entry`` can't be read or hashed."""
        try:
            hash(self._key(entry))
        except Exception as error:  # noqa: BLE001  # whatever the user's key raises
            hint = ""
            if self._reads_veri_key:
                hint = "; it is entry.veri_key, unless key= is given or the repository has a table"
            elif self._table is not None and isinstance(error, AttributeError):
                hint = f"; an entry must be a {self._table.entry_type.__name__}"
            raise TypeError(
                f"the key of an entry of type {type(entry).__qualname__} can't be read or "
                f"hashed ({type(error).__qualname__}){hint}"
            ) from None

    def _refuse(self) -> NoReturn:
        """Raise, since the entry has to wait for room or for the journal."""
        recorder = self._recorder
        if recorder is not None and recorder.always:
            raise RuntimeError(
                f"queue {self._lifetime.name!r}: with a journal of durability 'always' entries have "
                "to wait for the disk: use enqueue"
            )
        self._ledger.refused += 1
        self._room.hurry()
        raise trio.WouldBlock

    def _raise_why_not(self) -> NoReturn:
        lifetime = self._lifetime
        if lifetime.forked:
            raise RuntimeError(f"queue {lifetime.name!r} belongs to the parent of this process")
        if lifetime.closing.is_set():
            raise QueueClosedError(f"queue {lifetime.name!r} takes no more entries")
        raise RuntimeError(
            f"queue {lifetime.name!r} was called from another thread than trio's: "
            "use trio.from_thread.run(queue.enqueue, entry)"
        )

    def _state(self) -> QueueState:
        lifetime = self._lifetime
        if lifetime.closed:
            return QueueState.CLOSED
        if lifetime.closing.is_set():
            return QueueState.DRAINING
        if self._watch.trouble is not None:
            return QueueState.WAITING
        if lifetime.restarting or self._outbox.blocked:
            return QueueState.PAUSED
        return QueueState.RUNNING


def _slices(entries: Iterable[E], size: int) -> Iterator[Sequence[E]]:
    """Yield the entries in order, in slices of a list or tuple.

    Other iterables may run user code, so they are consumed item by item.
    """
    if type(entries) in {list, tuple}:
        many = cast("Sequence[E]", entries)
        start = 0
        while some := many[start : start + size]:
            yield some
            start += size
    else:
        for entry in entries:
            yield (entry,)
