"""What the repository, the journal and the dead letters say that entries are has to agree."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations
from typing import Any, get_origin, is_typeddict

from provcache_trio._vocabulary.type_names import name_of


def check_entry_types(**parts: object) -> None:
    """Raise unless all parts that state what entries are can be about the same ones.

    A part states it by an attribute ``entry_type``, or by that of its ``table``. Two classes agree
    if they are equal or one is a subclass of the other. What is no plain class, such as a union,
    is not compared.

    Args:
        parts: by the names of their arguments.

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
    with suppress(TypeError):  # a protocol, say, can't be asked
        return issubclass(one, other) or issubclass(other, one)
    return True
