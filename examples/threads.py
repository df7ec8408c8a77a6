"""Worker threads hash files, and record what they find through the queue.

    python threads.py cache.db FILE...

The queue belongs to trio's thread. ``trio.from_thread.run`` calls it from a thread that trio
started, and waits for room there, so that a slow store slows the threads down. A thread that
trio did not start passes ``trio_token=``, got from ``trio.lowlevel.current_trio_token()``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
from pathlib import Path

import trio

from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    ReplaySeed,
    WriteBehindQueue,
    build_veri_key,
    open_write_behind_queue,
)
from provcache_trio.sqlite import open_sqlite_repository

HASH = "sha256:" + 64 * "0"  # stands for the inputs that this example does not have
WORKERS = 4


def describe(path: Path) -> ProvcacheEntry:
    """Read a file and make its entry: blocking work, which must not run in trio's thread."""
    source_hash = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    now = dt.datetime.now(dt.UTC)
    return ProvcacheEntry(
        veri_key=build_veri_key(
            source_hash=source_hash,
            sbom_hash=HASH,
            vex_hashes=[],
            policy_hash=HASH,
            signer_set_hash=HASH,
            time_window="2026-W48",
        ),
        decision=DecisionDigest(
            verdict_hash=HASH, proof_root=source_hash, replay_seed=ReplaySeed(), trust_score=50
        ),
        policy_hash=HASH,
        signer_set_hash=HASH,
        feed_epoch="2026-W48",
        created_at=now,
        expires_at=now + dt.timedelta(days=7),
    )


def scan(queue: WriteBehindQueue[ProvcacheEntry], paths: list[Path]) -> None:
    """Record ``paths``; runs in a worker thread."""
    for path in paths:
        # Returns once the entry is accepted. If the task that waits for this thread is
        # cancelled, this raises trio.Cancelled: let it pass, and the thread ends.
        trio.from_thread.run(queue.enqueue, describe(path))


async def main(database: Path, paths: list[Path]) -> None:
    """Share ``paths`` among the threads and write what they find."""
    async with (
        open_sqlite_repository(database) as repository,
        open_write_behind_queue(repository) as queue,
        trio.open_nursery() as nursery,  # innermost: the threads end before the queue drains
    ):
        for first in range(WORKERS):
            nursery.start_soon(trio.to_thread.run_sync, scan, queue, paths[first::WORKERS])
    print(f"written: {queue.metrics().total_persisted}")


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
