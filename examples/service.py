"""A TCP service that records its decisions behind its answers.

    python service.py cache.db 8765

One JSON object a line comes in, one line goes out::

    {"source_hash": "sha256:...", "trust_score": 90}                -> accepted <veri_key>
    {"source_hash": "sha256:...", "trust_score": 90, "wait": true}  -> ok <veri_key>

``accepted`` comes at once: the entry will be in the file when the service has ended in order.
``ok`` comes when the entry is in the file. SIGTERM and SIGINT end the service in order.
"""

from __future__ import annotations

import datetime as dt
import logging
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from provcache_trio import (
    DecisionDigest,
    DrainTimeoutError,
    EntryRejectedError,
    ProvcacheEntry,
    ReplaySeed,
    WriteBehindOptions,
    WriteBehindQueue,
    build_veri_key,
    open_write_behind_queue,
)
from provcache_trio.sqlite import open_sqlite_repository

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

# An orchestrator sends SIGKILL 30 s after SIGTERM. This adds up to 25 s.
REPLY_SECONDS = 3.0
HANG_UP_SECONDS = 2.0
OPTIONS = WriteBehindOptions(drain_timeout_seconds=20.0)

LONGEST_LINE = 4096
HASH = "sha256:" + 64 * "0"  # stands for the inputs that this example does not have


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a client sends."""

    source_hash: str
    trust_score: int
    wait: bool = False


def decide(request: Request) -> ProvcacheEntry:
    """Make the entry that is worth caching; a real service computes it at great expense."""
    now = dt.datetime.now(dt.UTC)
    window = f"{now:%G-W%V}"
    return ProvcacheEntry(
        veri_key=build_veri_key(
            source_hash=request.source_hash,
            sbom_hash=HASH,
            vex_hashes=[],
            policy_hash=HASH,
            signer_set_hash=HASH,
            time_window=window,
        ),
        decision=DecisionDigest(
            verdict_hash=HASH,
            proof_root=HASH,
            replay_seed=ReplaySeed(),
            trust_score=request.trust_score,
        ),
        policy_hash=HASH,
        signer_set_hash=HASH,
        feed_epoch=window,
        created_at=now,
        expires_at=now + dt.timedelta(days=7),
    )


async def answer(queue: WriteBehindQueue[ProvcacheEntry], line: bytes) -> str:
    """Record what ``line`` asks for, and return the reply."""
    try:
        request = msgspec.json.decode(line, type=Request)
        entry = decide(request)
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        return f"error {type(error).__name__}"
    if not request.wait:
        await queue.enqueue(entry)  # waits while the queue is full: the client feels it
        return f"accepted {entry.veri_key}"
    try:
        await queue.persist(entry)
    except EntryRejectedError:
        return f"rejected {entry.veri_key}"
    return f"ok {entry.veri_key}"


async def handle(queue: WriteBehindQueue[ProvcacheEntry], stream: trio.SocketStream) -> None:
    """Answer one client until it hangs up or the service ends."""
    rest = b""
    try:
        async for chunk in stream:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                reply = await answer(queue, line)
                with trio.fail_after(REPLY_SECONDS, shield=True):  # whole, or not at all
                    await stream.send_all(f"{reply}\n".encode())
            if len(rest) > LONGEST_LINE:
                break
    except (trio.BrokenResourceError, trio.TooSlowError):
        pass  # the client is gone, or does not read; what it was told stays true
    finally:
        with trio.move_on_after(HANG_UP_SECONDS, shield=True):
            await hang_up(stream)


async def hang_up(stream: trio.SocketStream) -> None:
    """End the connection so that the client can read every reply.

    Closing a socket that has unread input resets the connection, which can overtake replies.
    """
    try:
        await stream.send_eof()
        async for _ in stream:
            pass
    except trio.BrokenResourceError:
        pass


async def cancel_on_signal(signals: AsyncIterable[int], scope: trio.CancelScope) -> None:
    """Turn the first signal into what trio ends everything with."""
    async for _ in signals:
        scope.cancel()


def save(path: Path, entries: Iterable[object]) -> None:
    """Append ``entries`` to a file, as JSON lines, for whoever writes them later."""
    with path.open("ab") as file:
        for entry in entries:
            file.write(msgspec.json.encode(entry) + b"\n")


async def serve(path: Path, port: int) -> None:
    """Serve on ``port`` until a signal comes, then write what was accepted."""
    # Around everything, so that a second signal can't kill the program while it drains.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            # This order is the point. Blocks are left from the last to the first: the handlers
            # end, so nobody enqueues; then the queue drains; then the file is closed.
            async with (
                open_sqlite_repository(path) as repository,
                open_write_behind_queue(repository, OPTIONS) as queue,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope)
                listeners: list[trio.SocketListener] = await nursery.start(
                    partial(trio.serve_tcp, partial(handle, queue), port, host="127.0.0.1")
                )
                print(f"listening on port {listeners[0].socket.getsockname()[1]}", flush=True)
        except DrainTimeoutError as error:
            save(path.with_suffix(".undelivered"), error.undelivered)
            raise
        print(f"written: {queue.metrics().total_persisted}", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(serve, Path(sys.argv[1]), int(sys.argv[2]))
