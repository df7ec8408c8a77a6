"""The type of entries, and its name in files and messages."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, cast, get_origin

from .entries import ProvcacheEntry
from .table import Table

if TYPE_CHECKING:
    from .protocols import E

_MOST_NAME_CHARACTERS: Final = 1000


def name_of(entry_type: object) -> str:
    """Return the name of a type of entries; for a class ``package.module.Class``."""
    if entry_type is ProvcacheEntry:
        return "provcache_trio.ProvcacheEntry"
    qualname: object = getattr(entry_type, "__qualname__", None)
    if get_origin(entry_type) is None and qualname is not None:
        name = f"{entry_type.__module__}.{qualname}"
    else:
        name = repr(entry_type)
    if len(name) <= _MOST_NAME_CHARACTERS:
        return name
    return f"{name[: _MOST_NAME_CHARACTERS - 65]} {hashlib.sha256(name.encode()).hexdigest()}"


def class_of(entry_type: type[E] | Table[E] | None) -> type[E]:
    """Return the given type, that of a given table, or ``ProvcacheEntry`` for None."""
    if isinstance(entry_type, Table):
        return entry_type.entry_type
    return cast("type[E]", ProvcacheEntry if entry_type is None else entry_type)
