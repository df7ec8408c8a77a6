"""Prometheus metrics of queues. Needs the extra ``prometheus``.

::

    from prometheus_client import REGISTRY

    collector = QueueCollector()
    REGISTRY.register(collector)
    async with open_write_behind_queue(repository) as queue:
        collector.add(queue)
        ...

Everything is read from ``queue.metrics()`` when Prometheus asks, in whatever thread answers it.
The label ``queue`` is the queue's name. No key, and nothing else of an entry, becomes a label.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from ._vocabulary.metrics import FLUSHES, QueueState

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from prometheus_client.core import Metric

    from ._vocabulary.metrics import Histogram, WriteBehindMetrics
    from ._vocabulary.protocols import ObservedQueue

__all__ = ["QueueCollector"]

_PREFIX: Final = "provcache_write_behind_"


class _Number(NamedTuple):
    """A metric of one number: its name, the field of ``WriteBehindMetrics``, and its meaning."""

    name: str
    field: str
    about: str


_COUNTERS: Final = (
    _Number("enqueued", "total_enqueued", "Entries accepted."),
    _Number("recovered", "total_recovered", "Entries taken over from a journal."),
    _Number("persisted", "total_persisted", "Entries that the store acknowledged."),
    _Number("coalesced", "total_coalesced", "Entries replaced in line by a newer version."),
    _Number("failed", "total_failed", "Entries dead-lettered."),
    _Number("abandoned", "total_abandoned", "Entries handed back at the end."),
    _Number("retries", "total_retries", "Entries tried again."),
    _Number("batches", "total_batches", "Calls of the store that succeeded."),
    _Number("unchanged", "total_unchanged", "Persisted entries that changed nothing."),
    _Number("refused", "total_refused", "Calls of enqueue_nowait that found no room."),
)
_GAUGES: Final = (
    _Number("queue_depth", "current_queue_depth", "Entries in line."),
    _Number("in_flight", "in_flight", "Entries handed to the writer or to the dead letter sink."),
    _Number("producers_waiting", "producers_waiting", "Tasks that wait for room."),
    _Number("oldest_pending_seconds", "oldest_pending_seconds", "Age of the oldest batch."),
    _Number("call_seconds", "call_seconds", "Age of the oldest call of the store under way."),
)
_HISTOGRAMS: Final = (
    _Number("flush_seconds", "flush_seconds", "Time that a successful call of the store took."),
    _Number("age_seconds", "age_seconds", "Age of a batch when the store had it, or a part."),
)


class QueueCollector(Collector):
    """Exports queues to Prometheus; register it with a ``CollectorRegistry``.

    Args:
        queues: the first queues to export; see ``add``.

    Raises:
        ValueError: two queues have the same name.
    """

    def __init__(self, *queues: ObservedQueue) -> None:
        self._queues: dict[str, ObservedQueue] = {}
        for queue in queues:
            self.add(queue)

    def add(self, queue: ObservedQueue) -> None:
        """Export ``queue`` too, also after it was closed, until it is removed.

        Raises:
            ValueError: another queue of that name is exported.
        """
        if self._queues.setdefault(queue.name, queue) is not queue:
            raise ValueError(f"there is another queue {queue.name!r} already")

    def remove(self, queue: ObservedQueue) -> None:
        """Stop exporting ``queue``; no effect if it is not exported."""
        if self._queues.get(queue.name) is queue:
            del self._queues[queue.name]

    @contextmanager
    def showing(self, queue: ObservedQueue) -> Generator[None]:
        """Export ``queue`` for the length of a ``with`` block.

        Raises:
            ValueError: another queue of that name is exported.
        """
        self.add(queue)
        try:
            yield
        finally:
            self.remove(queue)

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values; see ``prometheus_client``."""
        return iter(_families({}))

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of every queue; see ``prometheus_client``. From any thread."""
        snapshots = {name: queue.metrics() for name, queue in tuple(self._queues.items())}
        return iter(_families(snapshots))


def _families(snapshots: dict[str, WriteBehindMetrics]) -> list[Metric]:
    families: list[Metric] = []
    for number in _COUNTERS:
        counter = CounterMetricFamily(_PREFIX + number.name, number.about, labels=["queue"])
        for name, metrics in snapshots.items():
            counter.add_metric([name], getattr(metrics, number.field))
        families.append(counter)
    for number in _GAUGES:
        gauge = GaugeMetricFamily(_PREFIX + number.name, number.about, labels=["queue"])
        for name, metrics in snapshots.items():
            gauge.add_metric([name], getattr(metrics, number.field))
        families.append(gauge)
    for number in _HISTOGRAMS:
        histogram = HistogramMetricFamily(_PREFIX + number.name, number.about, labels=["queue"])
        for name, metrics in snapshots.items():
            seen: Histogram = getattr(metrics, number.field)
            histogram.add_metric([name], list(_cumulative(seen)), seen.sum)
        families.append(histogram)
    return [
        *families,
        _flushes(snapshots),
        _states(snapshots),
        _durable(snapshots),
        _errors(snapshots),
    ]


def _cumulative(histogram: Histogram) -> Iterator[tuple[str, float]]:
    count = 0
    for bound, seen in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        count += seen
        yield ("+Inf" if bound == float("inf") else repr(bound)), count


def _flushes(snapshots: dict[str, WriteBehindMetrics]) -> Metric:
    family = CounterMetricFamily(
        _PREFIX + "flushes", "Batches handed to the writer.", labels=["queue", "reason"]
    )
    for name, metrics in snapshots.items():
        for reason, field in FLUSHES.items():
            family.add_metric([name, reason], getattr(metrics, field))
    return family


def _states(snapshots: dict[str, WriteBehindMetrics]) -> Metric:
    family = GaugeMetricFamily(
        _PREFIX + "state", "1 for the state that the queue is in.", labels=["queue", "state"]
    )
    for name, metrics in snapshots.items():
        for state in QueueState:
            family.add_metric([name, state], float(metrics.state is state))
    return family


def _durable(snapshots: dict[str, WriteBehindMetrics]) -> Metric:
    family = GaugeMetricFamily(
        _PREFIX + "durable",
        "Whether accepted entries survive a crash; missing without a journal.",
        labels=["queue"],
    )
    for name, metrics in snapshots.items():
        if metrics.durable is not None:
            family.add_metric([name], float(metrics.durable))
    return family


def _errors(snapshots: dict[str, WriteBehindMetrics]) -> Metric:
    family = GaugeMetricFamily(
        _PREFIX + "last_error_timestamp_seconds",
        "When the store or the dead letter sink last raised an error; missing before the first.",
        labels=["queue", "error_class", "sqlstate"],
    )
    for name, metrics in snapshots.items():
        error = metrics.last_error
        if error is not None:
            labels = [name, error.error_class, error.sqlstate or ""]
            family.add_metric(labels, error.at.timestamp())
    return family
