"""The whole way at scale: what was enqueued is what the file holds, row for row."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from provcache_trio import DecisionDigest, ProvcacheEntry, ReplaySeed, open_write_behind_queue
from provcache_trio.sqlite import open_sqlite_repository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HASH = "sha256:" + 64 * "a"


def made(number: int) -> ProvcacheEntry:
    """Return the entry of that number, every field of which tells it from the others."""
    digest = f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"
    return ProvcacheEntry(
        veri_key=digest,
        decision=DecisionDigest(
            verdict_hash=digest,
            proof_root=HASH,
            replay_seed=ReplaySeed(feed_ids=(f"feed-{number}",)),
            trust_score=number % 101,
        ),
        policy_hash=HASH,
        signer_set_hash=digest,
        feed_epoch=str(number),
        created_at=NOON + timedelta(microseconds=number),
        expires_at=NOON + timedelta(days=1, microseconds=number),
        hit_count=number,
    )


@pytest.mark.heavy
async def test_a_million_distinct_entries_are_exactly_those_rows(
    tmp_path: Path, counts: Callable[[int, int], int]
) -> None:
    many = counts(100_000, 1_000_000)
    async with open_sqlite_repository(tmp_path / "cache.db") as repository:
        async with open_write_behind_queue(repository) as queue:
            assert await queue.enqueue_many(map(made, range(many))) == many
        metrics = queue.metrics()
        assert metrics.total_enqueued == metrics.total_persisted == many
        assert metrics.total_unchanged == 0
        assert await repository.count() == many
        for start in range(0, many, 1000):
            expected = {entry.veri_key: entry for entry in map(made, range(start, start + 1000))}
            assert await repository.get_many(expected) == expected
