"""Which of two versions of one key is kept: how values compare, and how an entry is changed."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import msgspec

if TYPE_CHECKING:
    from .fields import MergeRule

E = TypeVar("E")
Value: TypeAlias = Any  # of a field, of whatever type


def _instant(value: Value) -> Value:
    # Two datetimes of one zone are compared by their wall clocks, which go back once a year.
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
    # Both versions were made by their class; made once more, it might refuse or change a field.
    changed = copy.copy(entry)
    put = msgspec.structs.force_setattr if isinstance(changed, msgspec.Struct) else _put
    for name, value in changes.items():
        put(cast("Any", changed), name, value)
    return changed


def _put(entry: object, name: str, value: object) -> None:
    object.__setattr__(entry, name, value)  # also where it is frozen
