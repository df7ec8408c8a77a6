"""What a queue reports of each batch to an exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable
    from contextlib import AbstractContextManager

    from .failures import Failure
    from .metrics import FlushReason
    from .protocols import ObservedQueue


class Telemetry(Protocol):
    """Implemented by ``provcache_trio.otel.OpenTelemetry``; no method may raise or wait.

    Counters are not reported here; exporters read ``metrics()``.
    """

    def opened(self, queue: ObservedQueue, store: str | None) -> None:
        """Note that a queue was opened, and what kind of store it has."""
        ...

    def closed(self, queue: ObservedQueue) -> None:
        """Note that a queue was closed; its metrics are the last ones."""
        ...

    def producer(self) -> Hashable | None:
        """Return an identity of the producer that is running now, or None."""
        ...

    def flush(
        self, queue: str, reason: FlushReason, entries: int, producers: Collection[Hashable]
    ) -> AbstractContextManager[FlushTelemetry]:
        """Return a context for writing a batch, entered in the task that writes it."""
        ...


class FlushTelemetry(Protocol):
    """Gets reports about one batch while it is being written."""

    def called(
        self, *, entries: int, seconds: float, age_seconds: float, failure: Failure | None
    ) -> None:
        """Note one ``upsert_many`` call: how long it took, how old the batch was, how it ended."""
        ...

    def refused(self, entries: int) -> None:
        """Note how many entries of the batch become dead letters."""
        ...
