"""ProvcacheEntries as tests make them: one for each number."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from provcache_trio import DecisionDigest, ProvcacheEntry, ReplaySeed

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


def key_of(number: object) -> str:
    return f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"


def entry(number: object = 0, **changes: object) -> ProvcacheEntry:
    plain = ProvcacheEntry(
        veri_key=key_of(number),
        decision=DecisionDigest(
            verdict_hash=key_of(f"verdict {number}"),
            proof_root=key_of(f"proof {number}"),
            replay_seed=ReplaySeed(feed_ids=("nvd",), rule_ids=("r1", "r2")),
            trust_score=90,
        ),
        policy_hash=key_of(f"policy {number}"),
        signer_set_hash=key_of(f"signers {number}"),
        feed_epoch="2026-W48",
        created_at=NOW,
        expires_at=NOW + DAY,
    )
    # Constructed, as ``structs.replace`` does not check or normalise in every msgspec.
    return ProvcacheEntry(**{**msgspec.structs.asdict(plain), **changes})


def by_key(entries: Iterable[ProvcacheEntry]) -> dict[str, ProvcacheEntry]:
    return {one.veri_key: one for one in entries}
