"""Search, guided by coverage, for bytes that are decoded to an entry which can't be stored.

    python -m tests.fuzz [-max_total_time=60] [other options of libFuzzer]

Ends with the bytes in a file ``crash-...`` when it has found some.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import atheris
import msgspec
import trio

with atheris.instrument_imports():
    from provcache_trio import ProvcacheEntry
    from provcache_trio.sqlite import open_sqlite_repository

if TYPE_CHECKING:
    from collections.abc import Callable

HASH = "sha256:" + "a" * 64
TIMES = ["2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]
TIMES += ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00"]


def document(data: atheris.FuzzedDataProvider) -> dict[str, object]:
    """Return what may be an entry: each field is right, nearly right, or anything."""

    def text() -> str:
        return data.ConsumeUnicode(data.ConsumeIntInRange(0, 300))

    def hash_() -> str:
        at = data.ConsumeIntInRange(0, 2 * len(HASH))  # mostly beyond its end: unchanged
        return HASH[:at] + text()[: at < len(HASH)] + HASH[at + 1 :]

    def number() -> int:
        return data.PickValueInList([0, 1, 100, 101, 2**63 - 1, 2**63, -1, data.ConsumeInt(9)])

    def moment() -> str:
        return data.PickValueInList([*TIMES, text()])

    def ids() -> list[str]:
        return [text() for _ in range(data.ConsumeIntInRange(0, 4))]

    def some(make: Callable[[], object]) -> object:
        return make() if data.ConsumeProbability() < 0.97 else data.PickValueInList([None, [], {}])

    return {
        "veri_key": some(hash_),
        "decision": {
            "digest_version": some(text),
            "verdict_hash": some(hash_),
            "proof_root": some(hash_),
            "replay_seed": {"feed_ids": some(ids), "rule_ids": some(ids)},
            "trust_score": some(number),
        },
        "policy_hash": some(hash_),
        "signer_set_hash": some(hash_),
        "feed_epoch": some(text),
        "created_at": some(moment),
        "expires_at": some(moment),
        "hit_count": some(number),
        "last_accessed_at": some(moment),
    }


def check(data: bytes) -> None:
    """Raise if an entry that can be decoded does not come back as it was."""
    provider = atheris.FuzzedDataProvider(data)
    # As escapes, lone surrogates are sent, too.
    line = data[1:] if provider.ConsumeBool() else json.dumps(document(provider)).encode()
    try:
        entry = msgspec.json.decode(line, type=ProvcacheEntry)
    except msgspec.DecodeError:  # ValidationError is one
        return
    if msgspec.json.decode(msgspec.json.encode(entry), type=ProvcacheEntry) != entry:
        raise AssertionError("it is not what it is encoded to")
    trio.run(there_and_back, entry)


async def there_and_back(entry: ProvcacheEntry) -> None:
    """Store ``entry`` and read it."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_sqlite_repository(Path(folder) / "cache.db") as repository:
            await repository.upsert_many([entry])
            found = await repository.get_many([entry.veri_key])
    if found != {entry.veri_key: entry}:
        raise AssertionError("it is not what was stored")


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
