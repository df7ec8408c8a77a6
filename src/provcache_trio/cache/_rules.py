"""What a cache needs to know about its entries: key, merge, expiry, and what invalidates them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, cast

from provcache_trio._vocabulary.columns import condition_of
from provcache_trio._vocabulary.entries import ProvcacheEntry
from provcache_trio._vocabulary.protocols import E
from provcache_trio._vocabulary.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

_TICK: Final = timedelta(microseconds=1)


class Rules(Generic[E]):
    """The rules of one kind of entries.

    Args:
        table: the ``table`` of the repository, if it has one.
        key: returns the key of an entry.
        merge: returns the merge of an older version and a newer one.
        wall_clock: the argument of ``open_cache``; None means the system clock.
    """

    def __init__(
        self,
        table: object,
        key: Callable[[E], Hashable],
        merge: Callable[[E, E], E],
        wall_clock: Callable[[], datetime] | None,
    ) -> None:
        self.table: Table[E] | None = cast("Table[E]", table) if isinstance(table, Table) else None
        self.key: Callable[[E], Hashable] = key
        self.merge: Callable[[E, E], E] = merge
        self._wall_clock = wall_clock
        self.is_system_time: bool = wall_clock is None
        field = None if self.table is None else self.table.expires_field
        self._expires: str | None = None if field is None else field.name

    def check_key(self, key: object) -> None:
        """Raise TypeError for a list in the place of a tuple."""
        if isinstance(key, list) and self.table is not None and len(self.table.key_fields) > 1:
            fields = self.table.key_fields
            wanted = ", ".join(field.name for field in fields)
            raise TypeError(f"a key of {len(fields)} fields is a tuple ({wanted}), not a list")

    def now(self) -> datetime:
        """Return the time of the wall clock, or the system time if the given clock fails."""
        if self._wall_clock is not None:
            try:
                return self._wall_clock().astimezone(UTC)
            except Exception:  # noqa: BLE001, S110  # whatever somebody's clock raised
                pass
        return datetime.now(UTC)

    def expiry(self, entry: E) -> datetime | None:
        """Return when ``entry`` expires; None if never, or if its time is one that the store refuses."""
        if self.table is None:
            return entry.expires_at if isinstance(entry, ProvcacheEntry) else None
        if self._expires is None:
            return None
        at: object = getattr(entry, self._expires, None)
        if not isinstance(at, datetime) or at.utcoffset() is None:
            return None
        return at

    def is_live(self, entry: E, now: datetime) -> bool:
        """Return whether ``entry`` has not expired; at the instant that it names, it has."""
        # The usual case, without the cost of a call.
        if self.table is None and isinstance(entry, ProvcacheEntry):
            return entry.expires_at > now
        at = self.expiry(entry)
        return at is None or at > now

    # Invalidation

    def check_conditions(self, equals: Mapping[str, object]) -> None:
        """Raise unless entries can be invalidated by fields with these values.

        Raises:
            TypeError: there is no condition, or a value has another type than its field.
            ValueError: there is no such field, or entries can't be invalidated by it.
        """
        if not equals:
            raise TypeError("invalidate_where needs at least one field=value")
        for name, value in equals.items():
            if self.table is None:
                condition_of(name, value)
            elif self.table.field(name).kind == "JSON":
                raise TypeError(f"{name} is stored as JSON, so it can't be compared")

    def cut(self) -> datetime | None:
        """Return the time before which versions are invalidated now; None: all versions are."""
        if self.table is not None:
            newer = self.table.newer_field
            if newer is None or newer.kind != "datetime":
                return None
        # A version that is dated now exists already.
        return self.now() + _TICK


class Invalidation(Generic[E]):
    """One call of ``invalidate_where``, kept for the reads and computations that it overlaps with.

    Args:
        number: its number, from 1, in the order in which invalidations begin.
        equals: the values that fields must have.
    """

    __slots__ = ("_equals", "number")

    def __init__(self, number: int, equals: Mapping[str, object]) -> None:
        self.number: int = number
        self._equals = tuple(equals.items())

    def matches(self, entry: E) -> bool:
        """Return whether ``entry`` has these values, or can't be compared: forgetting it does no harm."""
        try:
            return all(getattr(entry, name) == value for name, value in self._equals)
        except Exception:  # noqa: BLE001  # whatever comparing somebody's values raises
            return True


def any_matches(invalidations: list[Invalidation[E]], *entries: Any) -> bool:  # noqa: ANN401  # E or None
    """Return whether one of ``invalidations`` matches one of ``entries``; None matches none."""
    return any(
        invalidation.matches(entry)
        for invalidation in invalidations
        for entry in entries
        if entry is not None
    )
