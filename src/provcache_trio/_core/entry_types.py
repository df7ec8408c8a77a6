"""The check that repository, journal and dead letters are for the same type of entries."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations
from typing import Any, get_origin, is_typeddict

from provcache_trio._vocabulary.type_names import name_of


def check_entry_types(**parts: object) -> None:
    """Raise unless all parts that state a type of entries agree.

    A part states it by its attribute ``entry_type``, or by that of its ``table``. Two classes agree
    if they are equal or one is a subclass of the other. Types that are not plain classes, such as
    unions, are not compared.

    Args:
        parts: the parts, by the names of their arguments.

    Raises:
        TypeError: two of them do not agree.
    """
    stated = [(name, kind) for name, part in parts.items() if (kind := _stated_by(part))]
    for (one, kind), (other, another) in combinations(stated, 2):
        if not _agree(kind, another):
            raise TypeError(
                f"{one} is for entries of type {name_of(kind)}, and {other} for "
                f"{name_of(another)}: give each of them the same entry_type"
            )


def _stated_by(part: object) -> type | None:
    table: object = getattr(part, "table", None)
    kind: object = getattr(part, "entry_type", getattr(table, "entry_type", None))
    if not isinstance(kind, type) or kind is Any or get_origin(kind) or is_typeddict(kind):
        return None
    return kind


def _agree(one: type, other: type) -> bool:
    # Some classes, such as protocols, can't be asked.
    with suppress(TypeError):
        return issubclass(one, other) or issubclass(other, one)
    return True
