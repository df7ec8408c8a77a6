"""The entries that are written, made anew from a few numbers in every process that needs them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from provcache_trio import DecisionDigest, ProvcacheEntry, ReplaySeed

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
USUAL_SEED: Final = ReplaySeed(
    feed_ids=("nvd-2026-w48", "ghsa-2026-w48", "osv-2026-w48"),
    rule_ids=("signed-by-release-key", "no-critical-cve", "sbom-complete"),
)
_ID_CHARACTERS: Final = 64


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is written into a table.

    Attributes:
        number: how many entries.
        conflicts: percent of them that are newer versions of rows.
        beforehand: those rows are there before; so every key comes once, and nothing can
            coalesce. If not, the entries themselves bring both versions, at a distance that
            is larger than what a queue holds, and ``conflicts`` is at most 50.
        seed_bytes: size of the replay seed; 0: the usual 0.15 KB.
    """

    number: int
    conflicts: int = 50
    beforehand: bool = False
    seed_bytes: int = 0

    @property
    def rows(self) -> int:
        """How many keys there are among the entries, so how many rows hold one in the end."""
        if self.beforehand:
            return self.number
        return self.number - self.number * self.conflicts // 100

    @property
    def last_since(self) -> datetime:
        """When the oldest entry was created that nothing later replaces."""
        return NOW + timedelta(microseconds=2 * self.number - self.rows)

    def keys(self) -> Iterable[int]:
        """Yield the number of each entry's key; negative: it is not there beforehand."""
        if self.beforehand:
            share = self.conflicts
            return (
                # Evenly among the others.
                index if (index + 1) * share // 100 > index * share // 100 else -1 - index
                for index in range(self.number)
            )
        return (index % self.rows for index in range(self.number))

    def before(self) -> list[ProvcacheEntry]:
        """Return what is in the table beforehand; it is kept, so don't change the list."""
        return _before(self.number if self.beforehand else 0, self.seed_bytes)

    def entries(self) -> list[ProvcacheEntry]:
        """Return the entries to write; they are kept, so don't change the list."""
        return _entries(self)


@lru_cache(maxsize=2)
def _before(number: int, seed_bytes: int) -> list[ProvcacheEntry]:
    return make_entries(range(number), 0, seed_bytes)


@lru_cache(maxsize=3)
def _entries(load: Load) -> list[ProvcacheEntry]:
    return make_entries(load.keys(), load.number, load.seed_bytes)


def make_entries(keys: Iterable[int], version: int, seed_bytes: int = 0) -> list[ProvcacheEntry]:
    """Return an entry for each of ``keys``, each newer than those before it.

    Args:
        keys: a key for each number.
        version: of the first one; the others take the versions that follow.
        seed_bytes: as in ``Load``.
    """

    def digest(value: int | str) -> str:
        return f"sha256:{sha256(str(value).encode()).hexdigest()}"

    return [
        ProvcacheEntry(
            veri_key=digest(key),
            decision=DecisionDigest(
                verdict_hash=digest(f"verdict {number}"),
                proof_root=digest(f"proof {number}"),
                replay_seed=_seed(number, seed_bytes) if seed_bytes else USUAL_SEED,
                trust_score=number % 101,
            ),
            policy_hash=digest(4),
            signer_set_hash=digest(5),
            feed_epoch="2026-W48",
            created_at=NOW + timedelta(microseconds=number),
            expires_at=NOW + timedelta(days=7, microseconds=number),
        )
        for number, key in enumerate(keys, version)
    ]


def _seed(number: int, size: int) -> ReplaySeed:
    """Return a seed whose ids take ``size`` bytes that don't compress much."""
    digits = random.Random(number).randbytes((size + 1) // 2).hex()
    ids = [digits[at : at + _ID_CHARACTERS] for at in range(0, size, _ID_CHARACTERS)]
    return ReplaySeed(feed_ids=tuple(ids[::2]), rule_ids=tuple(ids[1::2]))
