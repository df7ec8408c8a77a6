"""Describes where a queue's entries are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provcache_trio import QueueState

from .text import counted

if TYPE_CHECKING:
    from provcache_trio import WriteBehindMetrics


def places_of(metrics: WriteBehindMetrics) -> list[tuple[int, str]]:
    """Return the number of accepted entries in each place; each entry is in exactly one."""
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
    """Describe the state of a queue, for a line of progress."""
    state = metrics.state
    return [
        f"in line {metrics.current_queue_depth:,}",
        f"in flight {metrics.in_flight:,}",
        f"persisted {metrics.total_persisted:,}",
        f"{state} ({last_error(metrics)})" if state is QueueState.WAITING else state,
    ]


def last_error(metrics: WriteBehindMetrics) -> str:
    """Name the last error of the store, or return "" if there was none."""
    return "" if metrics.last_error is None else metrics.last_error.error_class
