"""``provcache get`` and ``provcache stats``: what a store holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from .stores import Target


async def entry_as_json(target: Target, key: object) -> str | None:
    """Return the entry of ``key`` in one line of JSON, or None: there is none.

    The line is ASCII: other characters are escaped, so that no terminal obeys one and no
    encoding lacks one.

    Raises:
        StoreError: the store can't be read, or there is none.
    """
    async with target.open_existing() as store:
        found = await store.get_many([key])
    entry = found.get(key)
    return None if entry is None else json.dumps(plain(entry), separators=(",", ":"))


def plain(entry: object) -> object:
    """Return what the JSON of an entry, of any type, decodes to."""
    return msgspec.json.decode(msgspec.json.encode(entry))


async def store_facts(target: Target) -> dict[str, int]:
    """Return how many entries a store holds, and what else is cheaply known.

    Raises:
        StoreError: the store can't be read, or there is none.
        OSError: it went away.
    """
    async with target.open_existing() as store:
        entries = await store.count()
    return {"entries": entries, **await target.facts()}
