"""``Cache``: the calls of an application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Generic, Protocol, cast, final, runtime_checkable

import trio

from provcache_trio._core.verdict import classify
from provcache_trio._vocabulary.failures import Kind
from provcache_trio._vocabulary.metrics import CacheMetrics
from provcache_trio._vocabulary.protocols import E

from ._computations import Computations
from ._counts import Counts
from ._foreign import copy_of
from ._reads import Reads
from ._rules import Invalidation, any_matches

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence
    from datetime import datetime

    from provcache_trio._core.seam import Seam

    from ._foreign import Tasks
    from ._memory import Memory
    from ._reads import ReadableRepository, Reading
    from ._rules import Rules

# Remembered entries that an invalidation looks at in one step.
_SLICE: Final = 2000
_UNKNOWN: Final = False, None
# The errors that ``on_store_error="miss"`` covers: reading again later may help.
_AWAY: Final = frozenset({Kind.MISCONFIGURED, Kind.UNAVAILABLE, Kind.TRANSIENT})


@runtime_checkable
class _Deletes(Protocol):
    async def delete_where(self, *, before: object = None, **equals: object) -> int:
        """Delete the entries with these values of fields, older than ``before``; return how many."""
        ...


@final
class Cache(Generic[E]):
    """Reads through memory, through what the queue still holds, and through the store.

    Returned by ``open_cache``; do not instantiate. Only ``metrics`` may be called from another
    thread than the one that runs trio. After the ``async with`` block, and for tasks that wait
    when it ends, every awaited method raises ``trio.ClosedResourceError``.
    """

    def __init__(
        self,
        seam: Seam[E],
        repository: ReadableRepository[E],
        memory: Memory[E],
        rules: Rules[E],
        tasks: Tasks,
        clock: Callable[[], float],
        *,
        may_miss: bool,
    ) -> None:
        self._seam = seam
        self._repository = repository
        self._memory = memory
        self._slots = memory.slots
        self._rules = rules
        self._clock = clock
        self._may_miss = may_miss
        self._counts = Counts()
        self._reads = Reads(
            repository,
            seam.open_versions,
            memory,
            rules,
            tasks,
            self._counts,
            clock,
        )
        self._computations = Computations(
            seam, rules, tasks, self._counts, self._find, may_wait_for_room=not may_miss
        )
        # How many have begun.
        self._invalidations = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Cache of queue {self._seam.name!r}, {len(self._slots)} entries>"

    def peek(self, key: Hashable, /) -> E | None:
        """Return the entry of ``key`` if memory holds it, and it is neither expired nor too old.

        Not a checkpoint, and never a read. None does not mean that the store has no entry.

        Raises:
            TypeError: ``key`` can't be hashed.
        """
        try:
            slot = self._slots[key]
        except KeyError:
            return None
        except TypeError:
            self._rules.check_key(key)
            raise
        # In a variable, since CPython 3.11 is slow to call an attribute of an instance.
        clock = self._clock
        if slot.until > clock():
            slot.used = True
            return slot.entry
        return self._memory.live(slot)

    async def get(self, key: Hashable, /) -> E | None:
        """Return the entry of ``key``, or None if there is none or it has expired.

        Looks in memory, then in the store, and merges what the store has with every version that
        the queue still holds. Callers that ask for the same key at once share a read; reads of
        many keys are gathered into few calls of the repository. A checkpoint.

        Raises:
            TypeError, ValueError: the repository refuses such a key, or it can't be hashed.
            StoreUnavailableError: the store can't be read; each caller gets an object of its own.
            Exception: any other error of the repository's ``get_many``, or of ``merge``.
        """
        await trio.lowlevel.checkpoint()
        try:
            slot = self._slots.get(key)
        except TypeError:
            self._rules.check_key(key)
            raise
        if slot is not None and self._clock() < slot.until:
            slot.used = True
            self._counts.hits_memory += 1
            return slot.entry
        return await self._find(key)

    async def get_many(self, keys: Iterable[Hashable], /) -> dict[Hashable, E]:
        """Return the entries of ``keys`` by key, without those that are missing or expired.

        The same as a ``get`` for each key, but missing keys are read together, 500 per call. A
        checkpoint.

        Raises:
            TypeError: ``keys`` is not an iterable of keys.
            Exception: as for ``get``, for any of the keys.
        """
        if isinstance(keys, (str, bytes)) or not isinstance(cast("object", keys), Iterable):
            raise TypeError(f"keys must be an iterable of keys, not {type(keys).__name__}")
        keys = list(keys)
        try:
            wanted = dict.fromkeys(keys)
        except TypeError:
            for key in keys:
                self._rules.check_key(key)
            raise
        await trio.lowlevel.checkpoint()
        self._raise_if_closed()
        found: dict[Hashable, E] = {}
        missing = self._take_remembered(wanted, found) if self._slots else list(wanted)
        while missing:
            missing = await self._read(missing, found)
        now, is_live = self._rules.now(), self._rules.is_live
        return {key: found[key] for key in wanted if key in found and is_live(found[key], now)}

    def _take_remembered(
        self, keys: Iterable[Hashable], found: dict[Hashable, E]
    ) -> list[Hashable]:
        """Take what memory holds; return the keys that it does not know."""
        missing: list[Hashable] = []
        for key in keys:
            is_known, entry = self._memory.look(key) if key in self._slots else _UNKNOWN
            if not is_known:
                missing.append(key)
            elif entry is None:
                self._counts.misses += 1
            else:
                self._counts.hits_memory += 1
                found[key] = entry
        return missing

    async def _read(self, keys: Sequence[Hashable], found: dict[Hashable, E]) -> list[Hashable]:
        """Read ``keys`` into ``found``; return those that have to be read again."""
        again: list[Hashable] = []
        for reading, some in self._reads.join_all(keys).items():
            if not reading.done.is_set():
                await reading.done.wait()
            self._raise_if_closed()
            now = self._rules.now()
            if reading.is_plain():
                self._take_stored(reading.answers, some, found, now)
                continue
            for key in some:
                if key in reading.again:
                    again.append(key)
                elif (entry := self._answer(reading, key, now)) is not None:
                    found[key] = entry
        return again

    def _take_stored(
        self,
        answers: dict[Hashable, E | None],
        keys: Sequence[Hashable],
        found: dict[Hashable, E],
        now: datetime,
    ) -> None:
        """Do the same as ``_answer`` for keys without pending versions or errors."""
        before, is_live = len(found), self._rules.is_live
        for key in keys:
            entry = answers[key]
            if entry is not None and is_live(entry, now):
                found[key] = entry
        hits = len(found) - before
        self._counts.hits_store += hits
        self._counts.misses += len(keys) - hits

    async def get_or_compute(
        self, key: Hashable, compute: Callable[[], Awaitable[E]], /, *, fresh: bool = False
    ) -> E:
        """Return the entry of ``key``; if there is none, compute it.

        Callers that ask for the same key at once share one call of ``compute``. It runs in a task
        of the cache, so a cancelled caller does not end it; it is cancelled when nobody waits any
        more. Its result is stored through the queue. The return value is the state of the key
        with that result merged in. A checkpoint.

        If an invalidation that matches the result begins during the computation, the result is
        returned to callers that came before the invalidation, and is not stored.

        Args:
            key: the key of the entry.
            compute: called without arguments; returns an awaitable of the entry.
            fresh: compute without looking first. A computation under way is joined nevertheless.

        Raises:
            TypeError: ``compute`` can't be called, returns no awaitable, or not an entry.
            ValueError: the computed entry has another key.
            RuntimeError: the computation asks for its own key, directly or through others.
            StoreUnavailableError: the store can't be read, and ``on_store_error`` is "raise".
            QueueClosedError: the queue takes no more entries.
            BaseException: any error of ``compute``; each caller gets an object of its own. Errors
                are not remembered: the next caller computes again.
        """
        if not callable(compute):
            raise TypeError(f"compute must be callable, not {type(compute).__name__}")
        await trio.lowlevel.checkpoint()
        while True:
            entry, store_is_away = None, False
            if not fresh:
                entry, store_is_away = await self._look(key)
            if entry is not None:
                return entry
            self._raise_if_closed()
            joined_at = self._invalidations
            computation = self._computations.join(key, compute, store_is_away=store_is_away)
            await self._computations.wait(computation)
            self._raise_if_closed()
            if computation.error is not None:
                raise copy_of(computation.error)
            answer = cast("E", computation.answer)
            before = [one for one in computation.invalidations if one.number <= joined_at]
            # If it matches, it was invalid before this call began: compute again.
            if not any_matches(before, answer):
                return answer

    async def _look(self, key: Hashable) -> tuple[E | None, bool]:
        """Return the entry of ``key``, and whether the store can't be read."""
        try:
            return await self._find(key, as_base=True), False
        except Exception as error:
            self._rules.check_key(key)
            if not self._may_miss or classify(error).kind not in _AWAY:
                raise
            return None, True

    async def put(self, entry: E, /) -> None:
        """Accept ``entry`` as ``queue.enqueue`` does; every later read includes it.

        A checkpoint. Waits for room while the queue is full.

        Raises:
            Exception: as for ``WriteBehindQueue.enqueue``.
        """
        self._raise_if_closed()
        await self._seam.enqueue(entry)

    async def invalidate_where(self, **equals: object) -> int:
        """Delete every entry whose fields have these values; return how many rows were deleted.

        Forgets them in memory, waits for the fate of everything accepted before the call, then
        deletes them in the store. When it returns, no matching entry is left that was accepted
        here, or stored, before the call. Entries accepted during the call or by other processes
        may stay, and so may a version that is dated later. Other processes may answer from memory
        for their ``memory_seconds``.

        A checkpoint. While the store is away, it waits without end, so give it a deadline. After
        an error or a cancellation, some entries may be left.

        Args:
            equals: values by field name, at least one. For ``ProvcacheEntry``: ``policy_hash``,
                ``signer_set_hash`` and ``feed_epoch``; for a table: any field that is not stored
                as JSON.

        Raises:
            TypeError: there is no condition, a value has another type than its field, or the
                repository has no ``delete_where``.
            ValueError: there is no such field.
            QueueClosedError: the queue ended first.
            StoreUnavailableError: the store can't be reached; what is left is unknown.
        """
        self._rules.check_conditions(equals)
        repository = self._repository
        if not isinstance(repository, _Deletes):
            kind = type(repository).__name__
            raise TypeError(
                f"invalidate_where needs a repository with delete_where; {kind} has none"
            )
        self._raise_if_closed()
        before = self._rules.cut()
        self._invalidations += 1
        invalidation = Invalidation[E](self._invalidations, equals)
        self._reads.begin(invalidation)
        self._computations.overtake(invalidation)
        may_have_deleted = False
        try:
            await self._forget(invalidation)
            await self._seam.flush()
            may_have_deleted = True
            return await repository.delete_where(before=before, **equals)
        finally:
            self._reads.end(invalidation, self._seam.tails() if may_have_deleted else ())

    async def _forget(self, invalidation: Invalidation[E]) -> None:
        """Forget what matches. ``Reads`` and ``accepted`` keep it from being remembered again."""
        keys = list(self._slots)
        for start in range(0, len(keys), _SLICE):
            for key in keys[start : start + _SLICE]:
                slot = self._slots.get(key)
                if slot is not None and any_matches([invalidation], slot.entry):
                    self._memory.forget(key)
            await trio.lowlevel.checkpoint()

    def metrics(self) -> CacheMetrics:
        """Return a snapshot of the counters; from any thread, and after exit."""
        counts = self._counts
        return CacheMetrics(
            hits_memory=counts.hits_memory,
            hits_pending=counts.hits_pending,
            hits_store=counts.hits_store,
            misses=counts.misses,
            computations=counts.computations,
            shared_waits=counts.shared_waits,
            errors=counts.errors,
            entries=len(self._slots),
        )

    # Reading one key

    async def _find(self, key: Hashable, *, as_base: bool = False) -> E | None:
        self._raise_if_closed()
        is_known, entry = self._memory.look(key)
        if is_known:
            if entry is None:
                self._counts.misses += 1
            else:
                self._counts.hits_memory += 1
            return entry
        while True:
            reading = self._reads.join(key)
            if as_base:
                reading.bases.add(key)
            await reading.done.wait()
            self._raise_if_closed()
            if key not in reading.again:
                return self._answer(reading, key, self._rules.now())

    def _answer(self, reading: Reading[E], key: Hashable, now: datetime) -> E | None:
        """Return the answer of ``reading``, or raise its error, and count it."""
        if key in reading.failed:
            raise copy_of(reading.failed[key])
        entry = reading.answers[key]
        if entry is None or not self._rules.is_live(entry, now):
            self._counts.misses += 1
            return None
        if key in reading.pending:
            self._counts.hits_pending += 1
        else:
            self._counts.hits_store += 1
        return entry

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError(f"the cache of queue {self._seam.name!r} is closed")

    # Reports of the queue; see ``EntryObserver``

    def accepted(self, key: Hashable, version: E, /) -> None:
        """Merge ``version`` into what is remembered and what is being read."""
        if self._reads.invalidations:
            # The state that it would be merged with may be deleted before it is stored.
            self._memory.forget(key)
        else:
            try:
                self._memory.fold(key, version)
            except Exception:  # noqa: BLE001  # whatever somebody's merge raised
                self._memory.forget(key)
        self._reads.accepted(key, version)

    def refused(self, key: Hashable, /) -> None:
        """Forget the state of ``key``, which may include a version that will not be stored."""
        self._memory.forget(key)
        self._reads.refused(key)

    def _close(self) -> None:
        self._is_closed = True
        self._slots.clear()
        self._reads.close()
        self._computations.close()
