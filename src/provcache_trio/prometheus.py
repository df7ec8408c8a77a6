"""Prometheus metrics of queues, and of their caches and streams. Needs the extra ``prometheus``.

::

    from prometheus_client import REGISTRY

    collector = QueueCollector()
    REGISTRY.register(collector)
    async with open_write_behind_queue(repository) as queue:
        collector.add(queue)
        ...

A cache over the queue, and a stream that the queue writes to or takes from, are exported with it.

When Prometheus asks, everything is read from memory, in the thread that answers: ``queue.metrics()``,
``queue.cache_metrics()``, ``queue.stream_metrics()``. The label ``queue`` is the queue's name,
``stream`` the stream's. No key, and nothing else of an entry, becomes a label.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from ._vocabulary.faces import needing_extra
from ._vocabulary.metrics import FLUSHES, LOOKUPS, QueueState
from ._vocabulary.observed import cache_of, stream_of

with needing_extra("prometheus", "prometheus_client"):
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from prometheus_client.core import Metric

    from ._vocabulary.metrics import CacheMetrics, Histogram, StreamMetrics, WriteBehindMetrics
    from ._vocabulary.protocols import ObservedQueue

__all__ = ["QueueCollector"]

_QUEUE: Final = "provcache_write_behind_"
_CACHE: Final = "provcache_cache_"
_STREAM: Final = "provcache_stream_"


class _Number(NamedTuple):
    """A metric of one number: its name, the field that it is read from, and its meaning."""

    name: str
    field: str
    about: str


_COUNTERS: Final = (
    _Number("enqueued", "total_enqueued", "Entries accepted."),
    _Number("recovered", "total_recovered", "Entries taken over from a journal or a stream."),
    _Number("persisted", "total_persisted", "Entries that the store acknowledged."),
    _Number("coalesced", "total_coalesced", "Entries replaced in line by a newer version."),
    _Number("failed", "total_failed", "Entries dead-lettered."),
    _Number("abandoned", "total_abandoned", "Entries handed back at the end."),
    _Number("kept", "total_kept", "Abandoned entries that a journal or a stream still has."),
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
_CACHE_COUNTERS: Final = (
    _Number("computations", "computations", "Computations that get_or_compute began."),
    _Number("shared_waits", "shared_waits", "Keys that somebody else was reading or computing."),
    _Number("errors", "errors", "Reads and computations that failed."),
)
_STREAM_GAUGES: Final = (
    _Number("messages", "messages", "Messages in the stream."),
    _Number("bytes", "bytes", "Size of all messages in the stream."),
    _Number("max_bytes", "max_bytes", "Size at which the stream is full; missing without a limit."),
    _Number("oldest_seconds", "oldest_seconds", "Age of the oldest message; 0 when there is none."),
    _Number("ack_pending", "ack_pending", "Messages that relays hold, not acknowledged yet."),
    _Number("redelivered", "redelivered", "Held messages that were delivered more than once."),
)


class _Snapshot(NamedTuple):
    """A queue and what belongs to it, at one moment."""

    queue: WriteBehindMetrics
    cache: CacheMetrics | None
    stream: StreamMetrics | None


class QueueCollector(Collector):
    """Exports queues to Prometheus, with their caches and streams.

    Register it with a ``CollectorRegistry``.

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
        snapshots = {
            name: _Snapshot(queue.metrics(), cache_of(queue), stream_of(queue))
            for name, queue in tuple(self._queues.items())
        }
        return iter(_families(snapshots))


def _families(snapshots: Mapping[str, _Snapshot]) -> list[Metric]:
    queues = {name: one.queue for name, one in snapshots.items()}
    caches = {name: one.cache for name, one in snapshots.items() if one.cache is not None}
    streams = {name: one.stream for name, one in snapshots.items() if one.stream is not None}
    return [
        *(_numbers(CounterMetricFamily, _QUEUE, number, queues) for number in _COUNTERS),
        *(_numbers(GaugeMetricFamily, _QUEUE, number, queues) for number in _GAUGES),
        *(_histogram(number, queues) for number in _HISTOGRAMS),
        _flushes(queues),
        _states(queues),
        _durable(queues),
        _errors(queues),
        _lookups(caches),
        *(_numbers(CounterMetricFamily, _CACHE, number, caches) for number in _CACHE_COUNTERS),
        _numbers(
            GaugeMetricFamily,
            _CACHE,
            _Number("entries", "entries", "Keys that memory holds."),
            caches,
        ),
        *_stream_families(streams),
    ]


def _numbers(
    family_of: type[CounterMetricFamily | GaugeMetricFamily],
    prefix: str,
    number: _Number,
    snapshots: Mapping[str, object],
) -> Metric:
    family = family_of(prefix + number.name, number.about, labels=["queue"])
    for name, metrics in snapshots.items():
        family.add_metric([name], getattr(metrics, number.field))
    return family


def _histogram(number: _Number, snapshots: Mapping[str, WriteBehindMetrics]) -> Metric:
    family = HistogramMetricFamily(_QUEUE + number.name, number.about, labels=["queue"])
    for name, metrics in snapshots.items():
        seen: Histogram = getattr(metrics, number.field)
        family.add_metric([name], list(_cumulative(seen)), seen.sum)
    return family


def _cumulative(histogram: Histogram) -> Iterator[tuple[str, float]]:
    count = 0
    for bound, seen in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        count += seen
        yield ("+Inf" if bound == float("inf") else repr(bound)), count


def _flushes(snapshots: Mapping[str, WriteBehindMetrics]) -> Metric:
    family = CounterMetricFamily(
        _QUEUE + "flushes", "Batches handed to the writer.", labels=["queue", "reason"]
    )
    for name, metrics in snapshots.items():
        for reason, field in FLUSHES.items():
            family.add_metric([name, reason], getattr(metrics, field))
    return family


def _states(snapshots: Mapping[str, WriteBehindMetrics]) -> Metric:
    family = GaugeMetricFamily(
        _QUEUE + "state", "1 for the state that the queue is in.", labels=["queue", "state"]
    )
    for name, metrics in snapshots.items():
        for state in QueueState:
            family.add_metric([name, state], float(metrics.state is state))
    return family


def _durable(snapshots: Mapping[str, WriteBehindMetrics]) -> Metric:
    family = GaugeMetricFamily(
        _QUEUE + "durable",
        "Whether accepted entries survive a crash; missing without a journal.",
        labels=["queue"],
    )
    for name, metrics in snapshots.items():
        if metrics.durable is not None:
            family.add_metric([name], float(metrics.durable))
    return family


def _errors(snapshots: Mapping[str, WriteBehindMetrics]) -> Metric:
    family = GaugeMetricFamily(
        _QUEUE + "last_error_timestamp_seconds",
        "When the store or the dead letter sink last raised an error; missing before the first.",
        labels=["queue", "error_class", "sqlstate"],
    )
    for name, metrics in snapshots.items():
        error = metrics.last_error
        if error is not None:
            labels = [name, error.error_class, error.sqlstate or ""]
            family.add_metric(labels, error.at.timestamp())
    return family


def _lookups(snapshots: Mapping[str, CacheMetrics]) -> Metric:
    family = CounterMetricFamily(
        _CACHE + "lookups",
        "Keys that were looked for, by where they were found.",
        labels=["queue", "result"],
    )
    for name, metrics in snapshots.items():
        for result, field in LOOKUPS.items():
            family.add_metric([name, result], getattr(metrics, field))
    return family


def _stream_families(snapshots: Mapping[str, StreamMetrics]) -> Iterator[Metric]:
    """Yield the stream's families; what is not known of now is missing rather than old."""
    labels = ["queue", "stream"]
    up = GaugeMetricFamily(
        _STREAM + "up", "Whether the stream could be looked at within 30 seconds.", labels=labels
    )
    looks = {
        (name, metrics.stream): metrics.look
        for name, metrics in snapshots.items()
        if metrics.look is not None and metrics.look.current
    }
    for name, metrics in snapshots.items():
        up.add_metric([name, metrics.stream], float((name, metrics.stream) in looks))
    yield up
    for number in _STREAM_GAUGES:
        family = GaugeMetricFamily(_STREAM + number.name, number.about, labels=labels)
        for key, look in looks.items():
            value: float | None = getattr(look, number.field)
            if value is not None:
                family.add_metric(key, value)
        yield family
