"""The smallest program: one decision, written behind into the SQLite file cache.db."""

import datetime as dt

import trio

from provcache_trio import DecisionDigest, ProvcacheEntry, ReplaySeed, open_write_behind_queue
from provcache_trio.sqlite import open_sqlite_repository

HASH = "sha256:" + 64 * "0"  # yours come from build_veri_key() and your inputs


async def main() -> None:
    decision = DecisionDigest(
        verdict_hash=HASH, proof_root=HASH, replay_seed=ReplaySeed(), trust_score=90
    )
    now = dt.datetime.now(dt.UTC)
    entry = ProvcacheEntry(
        veri_key=HASH,
        decision=decision,
        policy_hash=HASH,
        signer_set_hash=HASH,
        feed_epoch="2026-W48",
        created_at=now,
        expires_at=now + dt.timedelta(days=7),
    )
    async with (
        open_sqlite_repository("cache.db") as repository,
        open_write_behind_queue(repository) as queue,
    ):
        await queue.enqueue(entry)
    print(f"{queue.metrics().total_persisted} written to cache.db")


trio.run(main)
