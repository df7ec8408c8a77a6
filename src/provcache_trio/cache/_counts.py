"""The counters of a cache."""

from __future__ import annotations


class Counts:
    """Plain integers, each incremented where its event happens; see ``CacheMetrics``."""

    __slots__ = (
        "computations",
        "errors",
        "hits_memory",
        "hits_pending",
        "hits_store",
        "misses",
        "shared_waits",
    )

    def __init__(self) -> None:
        self.hits_memory: int = 0
        self.hits_pending: int = 0
        self.hits_store: int = 0
        self.misses: int = 0
        self.computations: int = 0
        self.shared_waits: int = 0
        self.errors: int = 0
