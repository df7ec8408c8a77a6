"""Stand-ins for a store and for a dead letter sink."""

from __future__ import annotations

import copy
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic

import trio

from provcache_trio._vocabulary import values
from provcache_trio._vocabulary.checks import check_int, check_moment
from provcache_trio._vocabulary.entries import merge_or_replace
from provcache_trio._vocabulary.errors import EntryRejectedError, StoreUnavailableError
from provcache_trio._vocabulary.merging import is_less

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from datetime import datetime

    # Only checkers see the default (Python's own TypeVar has it from 3.13 on), so that
    # ``MemoryRepository()`` is one of ProvcacheEntry.
    from typing_extensions import TypeVar

    from provcache_trio._vocabulary.entries import ProvcacheEntry
    from provcache_trio._vocabulary.fields import TableField
    from provcache_trio._vocabulary.protocols import DeadLetter
    from provcache_trio._vocabulary.table import Table
    from provcache_trio._vocabulary.values import Codec

    E = TypeVar("E", default=ProvcacheEntry)
else:
    from typing import TypeVar

    E = TypeVar("E")
T = TypeVar("T")


class RepositoryCrash(BaseException):
    """Raised by ``crash_next``: not an answer of a store, but a crash of the calling task."""


class _Scripted:
    """The orders that both stand-ins take, beforehand or while they are in use.

    Attributes:
        latency_seconds: how long every call takes, in seconds of trio's clock.
    """

    def __init__(self, latency_seconds: float) -> None:
        self.latency_seconds = latency_seconds
        self._failures: deque[Callable[[], BaseException]] = deque()
        self._is_down = False
        self._resumed = trio.Event()
        self._resumed.set()

    def fail_next(self, error: BaseException | Callable[[], BaseException], times: int = 1) -> None:
        """Make the next ``upsert_many`` or ``put_many`` calls raise ``error``, storing nothing.

        Each call carries out one such order, in the order given; while it is down, they wait.

        Args:
            error: an exception, of which each call raises a copy; or a class or function that
                makes one.
            times: how many calls fail.
        """
        make = (lambda: _copy_of(error)) if isinstance(error, BaseException) else error
        self._failures.extend([make] * times)

    def lose_next_answer(self, times: int = 1) -> None:
        """Make the next such calls store everything, then raise StoreUnavailableError."""
        self.fail_next(_answer_lost, times)

    def crash_next(self, times: int = 1) -> None:
        """Make the next such calls raise ``RepositoryCrash``, storing nothing."""
        self.fail_next(RepositoryCrash, times)

    def down(self) -> None:
        """Make every call raise StoreUnavailableError, until ``up``."""
        self._is_down = True

    def up(self) -> None:
        """Answer again, after ``down``."""
        self._is_down = False

    def stall(self) -> None:
        """Make every call wait, those under way included, until ``resume``."""
        if self._resumed.is_set():
            self._resumed = trio.Event()

    def resume(self) -> None:
        """Let the calls go on, after ``stall``."""
        self._resumed.set()

    async def _arrive(self) -> None:
        # A checkpoint even if it is 0.
        await trio.sleep(self.latency_seconds)
        while not self._resumed.is_set():
            await self._resumed.wait()
        if self._is_down:
            raise StoreUnavailableError("the store is down, as the test asked")

    async def _write(self, store: Callable[[], T]) -> T:
        await self._arrive()
        make = self._failures.popleft() if self._failures else None
        if make is not None and make is not _answer_lost:
            raise make()
        result = store()
        if make is not None:
            raise make()
        return result


class MemoryRepository(_Scripted, Generic[E]):
    """A repository that keeps its rows in a dict.

    Args:
        key: returns the key of an entry; by default its ``veri_key``.
        merge: called as ``merge(stored, arriving)``; returns the entry to store. By default
            ``merge_entries`` for a ``ProvcacheEntry``; any other entry is replaced.
        table: gives both, as for the built-in repositories. Without ``check_values`` it stores
            even what SQLite or PostgreSQL would refuse.
        check_values: whether to refuse, with a ``table``, entries of another type and values that
            neither SQLite nor PostgreSQL stores in a column that was made for the field: of another
            type, a naive datetime, a Decimal that is not finite. What a column of yours declares, such as
            a length or a scale, only a real store checks.
        latency_seconds: see the attribute.
        reject_with_index: whether an ``EntryRejectedError`` has the entry's position, as with
            some stores.

    Attributes:
        rows: what is stored, by key. A test may change it.
        calls: the entries of every ``upsert_many`` call, in the order in which the calls began,
            whatever their outcome.
        persisted: the entries of every call that returned; a batch whose answer was lost is not
            among them, though its rows are stored.
        in_calls: how many ``upsert_many`` calls are under way now.
        max_in_calls: the largest number of calls that were under way at once.
        latency_seconds: how long every call takes, in seconds of trio's clock.
        reject_with_index: see above.
        table: see above, or None.
    """

    def __init__(
        self,
        *,
        key: Callable[[E], Hashable] | None = None,
        merge: Callable[[E, E], E] | None = None,
        table: Table[E] | None = None,
        check_values: bool = False,
        latency_seconds: float = 0.0,
        reject_with_index: bool = False,
    ) -> None:
        super().__init__(latency_seconds)
        if check_values and table is None:
            raise TypeError("check_values needs a table")
        self._codecs = _codecs_of(table) if check_values and table is not None else None
        if table is not None:
            key, merge = key or table.key, merge or table.merge
        self.table: Table[E] | None = table
        self.rows: dict[Hashable, E] = {}
        self.calls: list[tuple[E, ...]] = []
        self.persisted: list[tuple[E, ...]] = []
        self.in_calls: int = 0
        self.max_in_calls: int = 0
        self.reject_with_index = reject_with_index
        # Not the parameter's default, from which checkers would infer a wrong E.
        self._key: Callable[[E], Hashable] = attrgetter("veri_key") if key is None else key
        self._merge = merge_or_replace if merge is None else merge
        self._rejected: set[Hashable] = set()

    def reject(self, *keys: Hashable) -> None:
        """Refuse every batch with one of ``keys``, by EntryRejectedError, until ``accept``."""
        self._rejected.update(keys)

    def accept(self, *keys: Hashable) -> None:
        """Take ``keys`` again, after ``reject``."""
        self._rejected.difference_update(keys)

    async def upsert_many(self, entries: Sequence[E], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``.

        Returns:
            How many rows were added or changed.

        Raises:
            StoreUnavailableError: it is down, or lost its answer.
            EntryRejectedError: an entry's key was given to ``reject``, or a value does not fit.
            BaseException: what ``fail_next`` or ``crash_next`` asked for.
        """
        batch = tuple(entries)
        self.calls.append(batch)
        self.in_calls += 1
        self.max_in_calls = max(self.max_in_calls, self.in_calls)
        try:
            changed = await self._write(lambda: self._store(batch))
        finally:
            self.in_calls -= 1
        self.persisted.append(batch)
        return changed

    async def get_many(self, keys: Iterable[Hashable]) -> dict[Hashable, E]:
        """Return the stored entries of ``keys``, expired ones too, by key.

        Raises:
            StoreUnavailableError: it is down.
        """
        await self._arrive()
        return {key: self.rows[key] for key in keys if key in self.rows}

    async def count(self) -> int:
        """Return how many entries are stored.

        Raises:
            StoreUnavailableError: it is down.
        """
        await self._arrive()
        return len(self.rows)

    async def delete_many(self, keys: Iterable[Hashable]) -> int:
        """Delete the entries of ``keys`` and return how many there were.

        Raises:
            StoreUnavailableError: it is down.
        """
        await self._arrive()
        doomed = self.rows.keys() & set(keys)
        for key in doomed:
            del self.rows[key]
        return len(doomed)

    async def delete_where(self, *, before: object = None, **equals: object) -> int:
        """Delete the entries whose fields have these values, and return how many there were.

        Args:
            before: delete only versions whose ``newer`` field (of a ``ProvcacheEntry``
                ``created_at``) has a smaller value.
            equals: values by field name; at least one.

        Raises:
            TypeError: there is no condition, or ``before`` is given and no field is ``newer``.
            ValueError: there is no such field.
            StoreUnavailableError: it is down.
        """
        if not equals:
            raise TypeError("delete_where needs at least one field=value")
        newer = "created_at"
        if self.table is not None:
            for name in equals:
                self.table.field(name)
            if self.table.newer_field is not None:
                newer = self.table.newer_field.name
            elif before is not None:
                raise TypeError(f"before: table {self.table.name!r} was declared without newer=")
        await self._arrive()
        doomed = [
            key
            for key, entry in self.rows.items()
            if all(getattr(entry, name) == value for name, value in equals.items())
            and (before is None or is_less(getattr(entry, newer), before))
        ]
        for key in doomed:
            del self.rows[key]
        return len(doomed)

    async def delete_expired(self, now: datetime, limit: int) -> int:
        """Delete the entries whose ``expires_at`` has come, those that expired first first.

        Args:
            now: aware; an entry that expires at this very instant has expired.
            limit: most entries to delete, 1 to 2**63 - 1.

        Returns:
            How many were deleted.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: ``now`` is naive, or ``limit`` is out of its range.
            StoreUnavailableError: it is down.
        """
        check_moment("now", now)
        check_int("limit", limit, at_least=1)
        await self._arrive()
        field = None if self.table is None else self.table.expires_field
        name = "expires_at" if field is None else field.name
        expires = {
            key: at for key, entry in self.rows.items() if (at := _moment(entry, name)) is not None
        }
        doomed = sorted((key for key in expires if expires[key] <= now), key=expires.__getitem__)
        for key in doomed[:limit]:
            del self.rows[key]
        return len(doomed[:limit])

    async def check(self) -> None:
        """Raise unless it would answer.

        Raises:
            StoreUnavailableError: it is down.
        """
        await self._arrive()

    def _store(self, batch: tuple[E, ...]) -> int:
        updates: dict[Hashable, E] = {}
        for index, entry in enumerate(batch):
            self._check(index, entry)
            key = self._key(entry)
            if key in self._rejected:
                raise EntryRejectedError(
                    "the store refused an entry, as the test asked",
                    index=index if self.reject_with_index else None,
                )
            stored = updates.get(key, self.rows.get(key))
            updates[key] = entry if stored is None else self._merge(stored, entry)
        changed = sum(key not in self.rows or self.rows[key] != updates[key] for key in updates)
        self.rows.update(updates)
        return changed

    def _check(self, index: int, entry: E) -> None:
        table = self.table
        if table is None or self._codecs is None:
            return
        is_one = type(entry) is table.entry_type
        error = values.refusal(table, self._codecs, entry) if is_one else None
        if error is not None or not is_one:
            error = error or values.wrong_type(table, entry)
            error.index = index
            raise error


class MemoryDeadLetters(_Scripted, Generic[E]):
    """A dead letter sink that keeps its letters in a list.

    Args:
        latency_seconds: see the attribute.

    Attributes:
        letters: every letter taken, in order; a letter whose answer was lost comes again.
        latency_seconds: how long every call takes, in seconds of trio's clock.
    """

    def __init__(self, *, latency_seconds: float = 0.0) -> None:
        super().__init__(latency_seconds)
        self.letters: list[DeadLetter[E]] = []

    async def put_many(self, letters: Sequence[DeadLetter[E]], /) -> None:
        """Take every letter, or none; see ``DeadLetterSink.put_many``.

        Raises:
            StoreUnavailableError: it is down, or lost its answer.
            BaseException: what ``fail_next`` or ``crash_next`` asked for.
        """
        taken = tuple(letters)
        await self._write(lambda: self.letters.extend(taken))


def _codecs_of(table: Table[Any]) -> dict[str, Codec]:
    """Return codecs whose ``encode`` refuses what no store takes, by field."""
    return {field.name: _codec_of(field) for field in table.fields}


def _codec_of(field: TableField) -> Codec:
    if field.members is not None:
        codec = values.of_members(field)
    elif field.kind == "JSON":
        codec = values.document(field.annotation)
    else:
        check = _CHECKS[field.kind]
        codec = values.Codec(check, check)
    return values.or_null(codec) if field.optional else codec


_CHECKS: Final[dict[str, Callable[[object], object]]] = {
    "str": values.text,
    "int": values.integer(64),
    "float": values.real,
    "bool": values.boolean,
    "bytes": values.blob,
    "UUID": values.uuid,
    "Decimal": values.decimal,
    "datetime": values.moment,
    "date": values.day,
    "time": values.clock,
    "timedelta": values.duration,
}


def _copy_of(error: BaseException) -> BaseException:
    """Return a copy of ``error``, without calling its ``__init__`` if that needs more arguments."""
    try:
        return copy.copy(error)
    except TypeError:
        # It has keyword-only arguments.
        twin = type(error).__new__(type(error), *error.args)
        twin.__dict__.update(error.__dict__)
        return twin


def _moment(entry: object, name: str) -> datetime | None:
    moment: datetime | None = getattr(entry, name)
    return moment


def _answer_lost() -> StoreUnavailableError:
    return StoreUnavailableError("the answer was lost, as the test asked")
