"""``provcache get`` and ``provcache stats``: what a store holds."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

import msgspec

from .urls import MisuseError

if TYPE_CHECKING:
    from .stores import Target

_is_key: Final = re.compile(r"sha256:[0-9a-f]{64}").fullmatch


def check_key(key: str) -> None:
    """Raise MisuseError unless ``key`` has the form of a VeriKey."""
    if not _is_key(key):
        raise MisuseError("a VeriKey is 'sha256:' and 64 lower-case hex digits")


async def entry_as_json(target: Target, key: str) -> str | None:
    """Return the entry of ``key`` in one line of JSON, or None: there is none.

    The line is ASCII: other characters are escaped, so that no terminal obeys one and no
    encoding lacks one.

    Raises:
        StoreError: the store can't be read, or there is none.
    """
    async with target.open_existing() as store:
        found = await store.get_many([key])
    entry = found.get(key)
    return None if entry is None else json.dumps(msgspec.to_builtins(entry), separators=(",", ":"))


async def store_facts(target: Target) -> dict[str, int]:
    """Return how many entries a store holds, and what else is cheaply known.

    Raises:
        StoreError: the store can't be read, or there is none.
        OSError: it went away.
    """
    async with target.open_existing() as store:
        entries = await store.count()
    return {"entries": entries, **await target.facts()}
