"""What a queue may show besides its own metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .metrics import CacheMetrics, StreamMetrics
    from .protocols import ObservedQueue


def cache_of(queue: ObservedQueue) -> CacheMetrics | None:
    """Return the metrics of the cache over ``queue``; None if it never had one."""
    read: Callable[[], CacheMetrics | None] | None = getattr(queue, "cache_metrics", None)
    return None if read is None else read()


def store_name_of(repository: object) -> str:
    """Return what the log calls the store: its ``label``, else the class of the repository."""
    label: object = getattr(repository, "label", None)
    return label if isinstance(label, str) else type(repository).__name__


def stream_of(queue: ObservedQueue) -> StreamMetrics | None:
    """Return what is known of the stream behind ``queue``; None if nobody looks at one."""
    read: Callable[[], StreamMetrics | None] | None = getattr(queue, "stream_metrics", None)
    return None if read is None else read()
