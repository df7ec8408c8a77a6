"""The batcher: hands the head of the line to the writer when it is full or due."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import trio

from provcache_trio._vocabulary.failures import Failure

from .verdict import result_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from provcache_trio._vocabulary.protocols import E, Repository

    from .batch import Batch
    from .lifetime import Lifetime
    from .line import Line

    _Prepare: TypeAlias = Callable[[Sequence[E]], Awaitable[Sequence[E]]]


async def run_batcher(
    line: Line[E],
    channel: trio.MemorySendChannel[Batch[E]],
    repository: Repository[E],
    lifetime: Lifetime,
) -> None:
    """Send each batch once it is full, due or asked for, for as long as the queue lives.

    The channel has no buffer, so a send waits until the writer is free, and the batch goes
    on filling meanwhile.
    """
    prepare: _Prepare[E] | None = getattr(repository, "prepare", None)
    while True:
        batch = await _due_batch(line, lifetime)
        if prepare is not None and line.writing is not None and not line.can_grow(batch):
            await _prepare(batch, prepare, lifetime)
        await channel.send(batch)
        # Not before: until the writer wants it the batch can still fill.
        line.take(batch)


async def _prepare(batch: Batch[E], prepare: _Prepare[E], lifetime: Lifetime) -> None:
    """Prepare a batch that can't grow any more, while the store writes the one before."""
    entries = tuple(batch.entries.values())
    prepared = await result_of(lambda: prepare(entries), lifetime.scope)
    if not isinstance(prepared, Failure):  # if it is one, the writer will learn the same
        batch.prepared = entries, prepared


async def _due_batch(line: Line[E], lifetime: Lifetime) -> Batch[E]:
    while not line.batches:
        await line.bell.wait()  # without a deadline: an idle queue wakes nobody
    batch = line.batches[0]
    age = lifetime.clock() - batch.opened_at
    with trio.move_on_after(max(0.0, lifetime.options.flush_interval_seconds - age)):
        while not batch.due:
            await line.bell.wait()
    return batch
