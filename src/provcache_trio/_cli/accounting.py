"""Where a queue's entries are, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provcache_trio import QueueState

from .text import counted

if TYPE_CHECKING:
    from provcache_trio import WriteBehindMetrics


def places_of(metrics: WriteBehindMetrics) -> list[tuple[int, str]]:
    """Return where accepted entries are, each of them in one place: how many, and where."""
    batches = counted(metrics.total_batches, "batch", "batches")
    return [
        (metrics.total_persisted, f"persisted in {batches}, {metrics.total_unchanged:,} unchanged"),
        (metrics.total_coalesced, "coalesced"),
        (metrics.total_failed, "dead-lettered"),
        (metrics.total_abandoned, "abandoned"),
        (metrics.current_queue_depth, "in line"),
        (metrics.in_flight, "in flight"),
    ]


def in_words(metrics: WriteBehindMetrics) -> list[str]:
    """Return how a queue is doing, for a line of progress."""
    state = metrics.state
    return [
        f"in line {metrics.current_queue_depth:,}",
        f"in flight {metrics.in_flight:,}",
        f"persisted {metrics.total_persisted:,}",
        f"{state} ({last_error(metrics)})" if state is QueueState.WAITING else state,
    ]


def last_error(metrics: WriteBehindMetrics) -> str:
    """Return what the store raised last, in a word; empty if it never did."""
    return "" if metrics.last_error is None else metrics.last_error.error_class
