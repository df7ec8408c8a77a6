"""The batcher: sends the head of the line to the writer when it is full or due."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Generic, TypeAlias

import trio

from provcache_trio._vocabulary.failures import Failure
from provcache_trio._vocabulary.protocols import E

from .calls import Call
from .verdict import result_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from provcache_trio._vocabulary.protocols import Repository

    from .batch import Batch
    from .calls import Calls
    from .lifetime import Lifetime
    from .line import Line

    _Prepare: TypeAlias = Callable[[Sequence[E]], Awaitable[Sequence[E]]]

_MOST_CUT_OFF: Final = 3


class Preparation(Generic[E]):
    """Lets a repository prepare the next batch while the store writes the last one.

    It must never delay the writer: a ``prepare`` that is still running when the writer is
    free is cancelled, and after three such cancellations in a row it is not called again.
    """

    def __init__(self, repository: Repository[E], calls: Calls, lifetime: Lifetime) -> None:
        self._prepare: _Prepare[E] | None = getattr(repository, "prepare", None)
        self._name = f"{type(repository).__qualname__}.prepare"
        self._calls = calls
        self._lifetime = lifetime
        # Cancelled calls in a row.
        self._cut_off = 0

    async def prepare(self, batch: Batch[E], line: Line[E]) -> None:
        """Prepare ``batch``, the head of ``line``, if it can't grow and has to wait."""
        prepare = self._prepare
        if prepare is None or line.writing is None or line.can_grow(batch):
            return
        entries = tuple(batch.entries.values())
        with trio.CancelScope() as scope, Call(self._calls, self._name):
            line.preparing = scope
            prepared = await result_of(lambda: prepare(entries), self._lifetime.scope)
            # An exception is ignored: the writer will see the same one.
            if not isinstance(prepared, Failure):
                batch.prepared = entries, prepared
        line.preparing = None
        if scope.cancel_called:
            self._note_cut_off()
        else:
            self._cut_off = 0

    def _note_cut_off(self) -> None:
        self._cut_off += 1
        if self._cut_off == _MOST_CUT_OFF:
            self._prepare = None
            self._lifetime.log(
                logging.WARNING,
                "%s did not return before the writer was free, three times in a row: "
                "it is not called any more, and batches are prepared when they are written",
                self._name,
                call=self._name,
            )


async def run_batcher(
    line: Line[E],
    channel: trio.MemorySendChannel[Batch[E]],
    preparation: Preparation[E],
    lifetime: Lifetime,
) -> None:
    """Send each batch once it is full, due or asked for, for as long as the queue lives.

    The channel has no buffer, so a send waits until the writer is free, and the batch goes
    on filling meanwhile.
    """
    while True:
        batch = await _due_batch(line, lifetime)
        await preparation.prepare(batch, line)
        await channel.send(batch)
        # Only now: until the writer is free, the batch can still fill.
        line.take(batch)


async def _due_batch(line: Line[E], lifetime: Lifetime) -> Batch[E]:
    while not line.batches:
        # Without a deadline, so that an idle queue wakes nobody.
        await line.bell.wait()
    batch = line.batches[0]
    # At full load each batch is due, and a scope costs a tenth of writing one.
    if not batch.due:
        age = lifetime.clock() - batch.opened_at
        with trio.move_on_after(max(0.0, lifetime.options.flush_interval_seconds - age)):
            while not batch.due:
                await line.bell.wait()
    return batch
