"""Steps of merging two versions of one key: comparing values, and changing an entry."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import msgspec

if TYPE_CHECKING:
    from .fields import MergeRule

E = TypeVar("E")
# The value of a field of any type.
Value: TypeAlias = Any


def _instant(value: Value) -> Value:
    # Python compares two datetimes of one zone by their wall clocks, which go back once a year.
    if isinstance(value, datetime) and value.tzinfo is not UTC:
        return value.astimezone(UTC)
    return value


def is_less(one: Value, other: Value) -> bool:
    """Return whether ``one`` is less than ``other``; None is less than everything else."""
    if one is None or other is None:
        return one is None and other is not None
    return bool(_instant(one) < _instant(other))


def of_both(rule: MergeRule, mine: Value, other: Value) -> Value:
    """Return the greatest or least of two values; ``mine``, if they are equal."""
    if other is None:
        return mine
    if mine is None:
        return other
    less, more = (mine, other) if rule == "greatest" else (other, mine)
    return other if is_less(less, more) else mine


def changed_copy(entry: E, changes: dict[str, object]) -> E:
    # Not by the constructor: called once more, it might refuse or change a field.
    changed = copy.copy(entry)
    put = msgspec.structs.force_setattr if isinstance(changed, msgspec.Struct) else _put
    for name, value in changes.items():
        put(cast("Any", changed), name, value)
    return changed


def _put(entry: object, name: str, value: object) -> None:
    # Works for frozen classes, too.
    object.__setattr__(entry, name, value)
