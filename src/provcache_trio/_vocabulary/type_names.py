"""What the type of entries is called, in files and in messages."""

from __future__ import annotations

import hashlib
from typing import Final, get_origin

from .entries import ProvcacheEntry

_MOST_NAME_CHARACTERS: Final = 1000


def name_of(entry_type: object) -> str:
    """Return the name of a type of entries: ``package.module.Class``, where it is a class."""
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
