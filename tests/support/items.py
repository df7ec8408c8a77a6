"""The smallest entry that a queue takes, and what the core's tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provcache_trio import WriteBehindMetrics, WriteBehindQueue


class Item(msgspec.Struct, frozen=True):
    """A key and a version."""

    veri_key: str
    version: int = 0


def items(keys: Iterable[object], version: int = 0) -> list[Item]:
    """Return one item per key."""
    return [Item(str(key), version) for key in keys]


def balance(metrics: WriteBehindMetrics) -> int:
    """Return 0 when every accepted entry is accounted for."""
    return (
        metrics.total_enqueued
        + metrics.total_recovered
        - metrics.total_persisted
        - metrics.total_coalesced
        - metrics.total_failed
        - metrics.total_abandoned
        - metrics.current_queue_depth
        - metrics.in_flight
    )


def assert_settled(queue: WriteBehindQueue[Item], **expected: int) -> None:
    """Check that nothing is open and that the named counters are as told."""
    metrics = queue.metrics()
    assert balance(metrics) == 0
    assert metrics.current_queue_depth == metrics.in_flight == 0
    for counter, value in expected.items():
        assert getattr(metrics, f"total_{counter}") == value, counter
