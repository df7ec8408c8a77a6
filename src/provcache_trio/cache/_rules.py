"""What a cache has to know of its entries: how they merge, when they expire, what they are."""

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
        table: what the repository says of itself, if it does.
        key: reads the key of an entry.
        merge: makes one entry of an older version and a newer one.
        wall_clock: what ``open_cache`` was given; None: the system's.
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

    def now(self) -> datetime:
        """Return the wall clock's time; the system's, should the given one fail."""
        if self._wall_clock is not None:
            try:
                return self._wall_clock().astimezone(UTC)
            except Exception:  # noqa: BLE001, S110  # whatever somebody's clock raised
                pass
        return datetime.now(UTC)

    def expiry(self, entry: E) -> datetime | None:
        """Return when ``entry`` expires, or None: never, or the store will refuse what it says."""
        if self.table is None:
            return entry.expires_at if isinstance(entry, ProvcacheEntry) else None
        if self._expires is None:
            return None
        at: object = getattr(entry, self._expires, None)
        if not isinstance(at, datetime) or at.utcoffset() is None:
            return None
        return at

    def is_live(self, entry: E, now: datetime) -> bool:
        """Return whether ``entry`` has not expired; it has at the very instant that it says."""
        if self.table is None and isinstance(entry, ProvcacheEntry):  # the usual one: no call
            return entry.expires_at > now
        at = self.expiry(entry)
        return at is None or at > now

    # Invalidation

    def check_conditions(self, equals: Mapping[str, object]) -> None:
        """Raise unless entries can have fields with these values.

        Raises:
            TypeError: there is no condition, or a value is none of its field.
            ValueError: there is no such field, or none that entries may be invalidated by.
        """
        if not equals:
            raise TypeError("at least one field=value is needed")
        for name, value in equals.items():
            if self.table is None:
                condition_of(name, value)
            elif self.table.field(name).kind == "JSON":
                raise TypeError(f"{name} is stored as JSON, so it can't be compared")

    def cut(self) -> datetime | None:
        """Return what versions have to be older than to be invalidated now; None: all are."""
        if self.table is not None:
            newer = self.table.newer_field
            if newer is None or newer.kind != "datetime":
                return None
        return self.now() + _TICK  # a version that is dated now is there now


class Invalidation(Generic[E]):
    """One call of ``invalidate_where``, while it lasts and for those whom it overtook.

    Args:
        number: invalidations are numbered from 1 in the order in which they begin.
        equals: values of fields.
    """

    __slots__ = ("_equals", "number")

    def __init__(self, number: int, equals: Mapping[str, object]) -> None:
        self.number: int = number
        self._equals = tuple(equals.items())

    def matches(self, entry: E) -> bool:
        """Return whether ``entry`` has these values; to forget one more is no harm."""
        try:
            return all(getattr(entry, name) == value for name, value in self._equals)
        except Exception:  # noqa: BLE001  # whatever comparing somebody's values raises
            return True


def any_matches(invalidations: list[Invalidation[E]], *entries: Any) -> bool:  # noqa: ANN401  # E or None
    """Return whether one of ``invalidations`` is about one of ``entries``; None is none."""
    return any(
        invalidation.matches(entry)
        for invalidation in invalidations
        for entry in entries
        if entry is not None
    )
