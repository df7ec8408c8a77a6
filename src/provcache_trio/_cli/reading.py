"""``provcache get`` and ``provcache stats``: reading from a store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from .stores import Target


async def entry_as_json(target: Target, key: object) -> str | None:
    """Return the entry of ``key`` in one line of JSON, or None if there is none.

    The line is ASCII with escapes, so that it holds no control sequences, and every encoding can
    write it.

    Raises:
        StoreError: the store can't be read, or does not exist.
    """
    async with target.open_existing() as store:
        found = await store.get_many([key])
    entry = found.get(key)
    return None if entry is None else json.dumps(plain(entry), separators=(",", ":"))


def plain(entry: object) -> object:
    """Return an entry of any type as plain values, as its JSON decodes."""
    return msgspec.json.decode(msgspec.json.encode(entry))


async def store_facts(target: Target) -> dict[str, int]:
    """Return the number of entries in a store, and other facts that are cheap to read.

    Raises:
        StoreError: the store can't be read, or does not exist.
        OSError: the store was removed meanwhile.
    """
    async with target.open_existing() as store:
        entries = await store.count()
    return {"entries": entries, **await target.facts()}
