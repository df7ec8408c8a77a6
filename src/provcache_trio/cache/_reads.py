"""Reads of the store: keys that memory lacks are gathered, and few calls are made at once.

The answer to a read is what the store returned, merged with every version whose fate was open when
the call began and every one that was accepted until it ended. So it does not matter at which moment
the store looked: each version is in the store's answer, among these, or in both. Merging a version
twice changes nothing.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import trio

from provcache_trio._vocabulary.protocols import E

from ._foreign import Failed, outcome_of
from ._rules import any_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from provcache_trio._core.batch import Fate

    from ._counts import Counts
    from ._foreign import Tasks
    from ._memory import Memory
    from ._rules import Invalidation, Rules

E_co = TypeVar("E_co", covariant=True)

# In one call.
_MOST_KEYS: Final = 500
# Two at once, so that one slow call does not hold up the next. More would slow down the writer.
_MOST_CALLS: Final = 2


class ReadableRepository(Protocol[E_co]):
    """A repository with ``get_many``, as all built-in ones are."""

    async def get_many(self, keys: Iterable[Any], /) -> Mapping[Any, E_co]:
        """Return the stored entries of ``keys``, expired ones too, by key.

        It must read from the primary: a replica that lags behind returns replaced versions.
        """
        ...


class Reading(Generic[E]):
    """One call of ``get_many``, from its first waiting key to its answers.

    Attributes:
        keys: what is read.
        done: set when the answers are there; one event for all keys.
        began_at: when the call began.
        answers: by key, once it is done: the state, even if it has expired, or None.
        pending: keys whose answer includes a version that the store did not have yet.
        failed: by key, the error raised instead of an answer.
        again: keys to be read again, because one of their versions has become a dead letter.
        folded: by key, what the versions that were open or accepted during the call come to.
        bases: keys whose new version is being computed, and will be merged with the state.
        unkept: keys that a later call reads, too, so that the answer of this one is not remembered.
        invalidations: those that overlap with the call. What it found may be deleted by now, so it
            is not joined any more.
    """

    __slots__ = (
        "again",
        "answers",
        "bases",
        "began_at",
        "done",
        "failed",
        "folded",
        "invalidations",
        "keys",
        "pending",
        "unkept",
    )

    def __init__(self) -> None:
        self.keys: dict[Hashable, None] = {}
        self.done: trio.Event = trio.Event()
        self.began_at: float = 0.0
        self.answers: dict[Hashable, E | None] = {}
        self.pending: set[Hashable] = set()
        self.failed: dict[Hashable, BaseException] = {}
        self.again: set[Hashable] = set()
        self.folded: dict[Hashable, E] = {}
        self.bases: set[Hashable] = set()
        self.unkept: set[Hashable] = set()
        self.invalidations: list[Invalidation[E]] = []

    def is_plain(self) -> bool:
        """Return whether each answer is what the store had, once there are answers."""
        return not (self.pending or self.failed or self.again)


class Reads(Generic[E]):
    """The calls that wait, and those under way."""

    def __init__(
        self,
        repository: ReadableRepository[E],
        open_versions: Callable[[Iterable[Hashable]], dict[Hashable, E]],
        memory: Memory[E],
        rules: Rules[E],
        tasks: Tasks,
        counts: Counts,
        clock: Callable[[], float],
    ) -> None:
        self._repository = repository
        self._open_versions = open_versions
        self._memory = memory
        self._rules = rules
        self._tasks = tasks
        self._counts = counts
        self._clock = clock
        # Calls that have not begun, and the same by key.
        self._line: deque[Reading[E]] = deque()
        self._waiting: dict[Hashable, Reading[E]] = {}
        # Oldest first.
        self.under_way: list[Reading[E]] = []
        self._runners = 0
        # Those under way.
        self.invalidations: list[Invalidation[E]] = []
        # Those that are over, each with fates that were open then.
        self._over: list[tuple[Invalidation[E], Sequence[Fate]]] = []

    def join(self, key: Hashable) -> Reading[E]:
        """Return the reading that will answer for ``key``."""
        reading = self._waiting.get(key) or self._joinable(key)
        if reading is not None:
            self._counts.shared_waits += 1
            return reading
        if not self._line or len(self._line[-1].keys) >= _MOST_KEYS:
            self._line.append(Reading())
            self._start()
        reading = self._line[-1]
        reading.keys[key] = None
        self._waiting[key] = reading
        return reading

    def join_all(self, keys: Sequence[Hashable]) -> dict[Reading[E], Sequence[Hashable]]:
        """Return the readings that will answer for ``keys``."""
        joined: dict[Reading[E], list[Hashable]] = {}
        if self._waiting or self.under_way:
            for key in keys:
                joined.setdefault(self.join(key), []).append(key)
            return cast("dict[Reading[E], Sequence[Hashable]]", joined)
        # The same as above, but done in C.
        for start in range(0, len(keys), _MOST_KEYS):
            some = list(keys[start : start + _MOST_KEYS])
            reading: Reading[E] = Reading()
            reading.keys = dict.fromkeys(some)
            self._waiting.update(dict.fromkeys(some, reading))
            self._line.append(reading)
            joined[reading] = some
            self._start()
        return cast("dict[Reading[E], Sequence[Hashable]]", joined)

    def _joinable(self, key: Hashable) -> Reading[E] | None:
        """Return the call that is reading ``key``, if its answer may be given to a new caller."""
        for reading in reversed(self.under_way):
            if key in reading.keys:
                is_young = self._clock() < reading.began_at + self._memory.seconds
                joins = is_young and not reading.invalidations and key not in reading.again
                return reading if joins else None
        return None

    def _start(self) -> None:
        if self._runners < _MOST_CALLS:
            self._runners += 1
            scope = trio.CancelScope(shield=True)
            self._tasks.start(partial(self._run, scope), scope, "provcache_trio.cache: reads")

    async def _run(self, scope: trio.CancelScope) -> None:
        while self._line:
            reading = self._begin()
            await self._fetch(reading, tuple(reading.keys), scope)
            self._end(reading)
        self._runners -= 1

    def _begin(self) -> Reading[E]:
        reading = self._line.popleft()
        # Removes the keys in C.
        deque(map(self._waiting.pop, reading.keys), maxlen=0)
        for older in self.under_way:
            older.unkept |= older.keys.keys() & reading.keys.keys()
        reading.began_at = self._clock()
        self._drop_settled()
        reading.invalidations += self.invalidations
        reading.invalidations += [invalidation for invalidation, _ in self._over]
        try:
            reading.folded = self._open_versions(reading.keys)
        except Exception:  # noqa: BLE001  # whatever somebody's merge raised
            self._fold_each(reading)
        self.under_way.append(reading)
        return reading

    def _fold_each(self, reading: Reading[E]) -> None:
        for key in reading.keys:
            try:
                reading.folded.update(self._open_versions((key,)))
            except Exception as error:  # noqa: BLE001  # likewise
                reading.failed[key] = error

    async def _fetch(
        self, reading: Reading[E], keys: Sequence[Hashable], scope: trio.CancelScope
    ) -> None:
        """Ask for ``keys``. An error about one key must not fail callers that asked for others."""
        outcome = await outcome_of(lambda: self._repository.get_many(keys), scope)
        error = outcome.error if isinstance(outcome, Failed) else _take(reading.answers, outcome)
        if error is None:
            return
        if len(keys) > 1 and isinstance(error, (TypeError, ValueError)):
            half = len(keys) // 2
            await self._fetch(reading, keys[:half], scope)
            await self._fetch(reading, keys[half:], scope)
            return
        self._counts.errors += 1
        reading.failed.update(dict.fromkeys(keys, error))

    def _end(self, reading: Reading[E]) -> None:
        self.under_way.remove(reading)
        special = reading.failed or reading.again or reading.unkept or reading.invalidations
        if special or reading.folded:
            self._answer_each(reading, is_special=bool(special))
        else:
            # The same as ``_answer_each``, but mostly in C.
            look, keys = reading.answers.get, reading.keys
            reading.answers = answers = dict(zip(keys, map(look, keys), strict=True))
            if self._memory.seconds:
                keep, began_at, bases = self._memory.keep, reading.began_at, reading.bases
                now = self._rules.now()
                for key, entry in answers.items():
                    keep(key, entry, began_at, now, as_base=key in bases)
        reading.done.set()

    def _answer_each(self, reading: Reading[E], *, is_special: bool) -> None:
        """Merge what was stored with what was accepted, and remember it where that is allowed."""
        stored, reading.answers = reading.answers, {}
        answers, folded, now = reading.answers, reading.folded, self._rules.now()
        for key in reading.keys:
            entry = was = stored.get(key)
            if folded and key in folded:
                entry = self._merged(reading, key, entry)
            if key in reading.failed or key in reading.again:
                continue
            answers[key] = entry
            if is_special and not self._may_keep(reading, key, was):
                continue
            self._memory.keep(key, entry, reading.began_at, now, as_base=key in reading.bases)

    def _merged(self, reading: Reading[E], key: Hashable, entry: E | None) -> E | None:
        version = reading.folded[key]
        try:
            merged = version if entry is None else self._rules.merge(entry, version)
            if merged is not entry and merged != entry:
                reading.pending.add(key)
        except Exception as error:  # noqa: BLE001  # whatever somebody's merge raised
            reading.failed[key] = error
            return None
        return merged

    @staticmethod
    def _may_keep(reading: Reading[E], key: Hashable, was: E | None) -> bool:
        if key in reading.unkept:
            return False
        # What was found may include an invalidated version, which the store will not have.
        invalidations = reading.invalidations
        return not invalidations or not (key in reading.folded or any_matches(invalidations, was))

    # What the queue reports

    def accepted(self, key: Hashable, version: E) -> None:
        """Merge an accepted version into every call that reads ``key``."""
        for reading in self.under_way:
            if key in reading.keys:
                before = reading.folded.get(key)
                try:
                    merged = version if before is None else self._rules.merge(before, version)
                except Exception:  # noqa: BLE001  # whatever somebody's merge raised
                    reading.again.add(key)
                else:
                    reading.folded[key] = merged

    def refused(self, key: Hashable) -> None:
        """Let ``key`` be read again: a version that may be part of an answer will not be stored."""
        for reading in self.under_way:
            if key in reading.keys:
                reading.again.add(key)

    # Invalidation

    def begin(self, invalidation: Invalidation[E]) -> None:
        """Mark every call under way, and every later one, as overlapping with ``invalidation``."""
        self.invalidations.append(invalidation)
        for reading in self.under_way:
            reading.invalidations.append(invalidation)

    def end(self, invalidation: Invalidation[E], fates: Sequence[Fate]) -> None:
        """Stop marking calls, once these fates are known.

        A version that was accepted meanwhile may have been stored and deleted, and nobody knows of
        the former yet. Merged into a read, it would be remembered although the store has lost it.
        """
        self.invalidations.remove(invalidation)
        self._drop_settled()
        if fates:
            self._over.append((invalidation, fates))

    def _drop_settled(self) -> None:
        self._over = [
            (invalidation, fates)
            for invalidation, fates in self._over
            if not all(fate.known.is_set() for fate in fates)
        ]

    def close(self) -> None:
        """Wake up everyone who waits."""
        for reading in (*self._line, *self.under_way):
            reading.done.set()


def _take(answers: dict[Hashable, E | None], found: Mapping[Hashable, E]) -> Exception | None:
    """Add ``found`` to ``answers``; return the error if it is not a mapping."""
    try:
        answers.update(found)
    except Exception as error:  # noqa: BLE001  # whatever it was
        return error
    return None
