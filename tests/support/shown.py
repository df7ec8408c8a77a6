"""A queue of fixed numbers, with a cache and a stream, as whatever shows queues sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from provcache_trio.cache import CacheMetrics
from provcache_trio.nats import StreamLook, StreamMetrics

if TYPE_CHECKING:
    from provcache_trio import WriteBehindMetrics

# Every number occurs once.
CACHE = CacheMetrics(
    hits_memory=101,
    hits_pending=11,
    hits_store=31,
    misses=7,
    computations=5,
    shared_waits=3,
    errors=2,
    entries=97,
)
LOOK = StreamLook(
    age_seconds=3.5,
    current=True,
    messages=1200,
    bytes=900_000,
    max_bytes=1_000_000,
    oldest_seconds=61.5,
    ack_pending=128,
    redelivered=4,
)
STALE = msgspec.structs.replace(LOOK, age_seconds=400.0, current=False)
UNLIMITED = msgspec.structs.replace(LOOK, max_bytes=None)


class Shown:
    """A queue that changes only where a test does it.

    Args:
        metrics: its own.
        name: its name.
        cache: of the cache over it.
        stream: the name of its stream; None: it has none.
        look: what that held.
    """

    def __init__(
        self,
        metrics: WriteBehindMetrics,
        name: str = "q",
        *,
        cache: CacheMetrics | None = None,
        stream: str | None = None,
        look: StreamLook | None = None,
    ) -> None:
        self.name = name
        self._metrics = metrics
        self.cache = cache
        self._stream = None if stream is None else StreamMetrics(stream=stream, look=look)

    def metrics(self) -> WriteBehindMetrics:
        return self._metrics

    def cache_metrics(self) -> CacheMetrics | None:
        return self.cache

    def stream_metrics(self) -> StreamMetrics | None:
        return self._stream
