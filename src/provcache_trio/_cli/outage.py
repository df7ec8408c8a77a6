"""Ends a job whose store stays away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from provcache_trio import QueueState, StoreUnavailableError

from .accounting import last_error

if TYPE_CHECKING:
    from provcache_trio import WriteBehindMetrics
    from provcache_trio._vocabulary.protocols import ObservedQueue


class Outage:
    """Ends a job whose store has been away, or has needed a person, for too long.

    Args:
        give_up_after: the limit in seconds; may be inf.

    Attributes:
        scope: the cancel scope that the job runs in.
        queue: the job's queue, once it is open; until then no store counts as away.
        why: why the job was ended, or "".
    """

    def __init__(self, give_up_after: float) -> None:
        self.scope = trio.CancelScope()
        self.queue: ObservedQueue | None = None
        self.why = ""
        self._give_up_after = give_up_after

    @property
    def metrics(self) -> WriteBehindMetrics | None:
        """The queue's metrics, also after its exit; None before it was opened."""
        return None if self.queue is None else self.queue.metrics()

    async def watch(self) -> None:
        """Run beside the job, and cancel its scope when the time is up."""
        last_well = trio.current_time()
        while not self.why:
            await trio.sleep(min(1, self._give_up_after / 10))
            metrics = self.metrics
            if metrics is None or metrics.state is not QueueState.WAITING:
                last_well = trio.current_time()
            elif trio.current_time() - last_well >= self._give_up_after:
                after = f"given up after {self._give_up_after:g} s"
                self.why = f"{after} without the store ({last_error(metrics)})"
                self.scope.cancel()

    def check(self, detail: str = "") -> None:
        """Raise StoreUnavailableError if the job was ended; ``detail`` is added to the message."""
        if self.why:
            raise StoreUnavailableError(f"{self.why}{detail}")
