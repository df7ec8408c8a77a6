"""OpenTelemetry, through its API only. Needs the extra ``otel``, and does nothing without an SDK.

::

    async with open_write_behind_queue(repository, telemetry=OpenTelemetry()) as queue:
        ...

Instruments, each with the attribute ``provcache.queue.name``:

===============================================  ====================  =========================
``provcache.write_behind.queue_size``            gauge                 entries in line
``provcache.write_behind.in_flight``             gauge                 entries with the writer
``provcache.write_behind.oldest_pending_age``    gauge, s              age of the oldest batch
``provcache.write_behind.call_age``              gauge, s              age of the oldest call of the
                                                                       store that is under way
``provcache.write_behind.state``                 gauge                 1 for ``state``, 0 for others
``provcache.write_behind.entries``               counter               by ``outcome``: ok, retry,
                                                                       failed, coalesced, abandoned
``provcache.write_behind.flushes``               counter               batches, by ``reason``
``provcache.write_behind.flush.duration``        histogram, s          successful calls
``provcache.write_behind.persisted_age``         histogram, s          age of a batch when persisted
``db.client.operation.duration``                 histogram, s          every call, per the semantic
                                                                       conventions of databases
===============================================  ====================  =========================

Each batch is a span ``provcache.write_behind.flush``, the root of a trace of its own, with links
to the spans in which its entries were enqueued. It is the current span while the store is called,
so what asyncpg's instrumentation records becomes its child.

Spans and attributes name errors by class and SQLSTATE, and hold no message, key or entry.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast, final

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from ._vocabulary.metrics import FLUSHES, Histogram, QueueState, WriteBehindMetrics

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from ._vocabulary.failures import Failure
    from ._vocabulary.metrics import FlushReason

__all__ = ["OpenTelemetry"]

_VERSION: Final = version("provcache-trio")
_QUEUE: Final = "provcache.queue.name"
_PREFIX: Final = "provcache.write_behind."
_OUTCOMES: Final = {
    "ok": "total_persisted",
    "retry": "total_retries",
    "failed": "total_failed",
    "coalesced": "total_coalesced",
    "abandoned": "total_abandoned",
}


Metrics: TypeAlias = Callable[[], WriteBehindMetrics]


class _Queues(NamedTuple):
    """What is open, and what the counters of the queues that are over came to, by name.

    Replaced as a whole: a reader in another thread never sees a queue in neither.
    """

    open: Mapping[str, tuple[Metrics, ...]]
    past: Mapping[str, Mapping[str, int]]


@final
class OpenTelemetry:
    """Exports what queues do; pass it to ``open_write_behind_queue`` as ``telemetry``.

    One may serve any number of queues; those of one name are added up. Counters go on where
    the last queue of that name left them.

    Args:
        tracer_provider: makes the spans; by default the global one.
        meter_provider: makes the instruments; by default the global one.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("provcache_trio", _VERSION, tracer_provider)
        self._queues = _Queues({}, {})
        self._stores: dict[str, str] = {}
        self._make_instruments(metrics.get_meter("provcache_trio", _VERSION, meter_provider))

    def _make_instruments(self, meter: metrics.Meter) -> None:
        bounds = Histogram().bounds

        def histogram(name: str) -> metrics.Histogram:
            return meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=bounds)

        self.flush_duration: metrics.Histogram = histogram(f"{_PREFIX}flush.duration")
        self.persisted_age: metrics.Histogram = histogram(f"{_PREFIX}persisted_age")
        self.operation_duration: metrics.Histogram = histogram("db.client.operation.duration")
        for name, field, unit in (
            ("queue_size", "current_queue_depth", "{entry}"),
            ("in_flight", "in_flight", "{entry}"),
            ("oldest_pending_age", "oldest_pending_seconds", "s"),
            ("call_age", "call_seconds", "s"),
        ):
            meter.create_observable_gauge(_PREFIX + name, [self._gauge(field)], unit)
        meter.create_observable_gauge(f"{_PREFIX}state", [self._states])
        entries, flushes = self._counter("outcome", _OUTCOMES), self._counter("reason", FLUSHES)
        meter.create_observable_counter(f"{_PREFIX}entries", [entries], "{entry}")
        meter.create_observable_counter(f"{_PREFIX}flushes", [flushes], "{batch}")

    # What the queue calls; see ``_telemetry``.

    def opened(self, queue: str, metrics: Metrics, store: str | None) -> None:
        """Show a queue from now on."""
        open_, past = self._queues
        if store is not None:
            self._stores[queue] = store
        self._queues = _Queues({**open_, queue: (*open_.get(queue, ()), metrics)}, past)

    def closed(self, queue: str, metrics: Metrics) -> None:
        """Keep what the counters of a queue came to."""
        open_, past = self._queues
        last, before = metrics(), past.get(queue, {})
        left = tuple(one for one in open_[queue] if one != metrics)
        sums = {
            field: before.get(field, 0) + getattr(last, field)
            for field in (*_OUTCOMES.values(), *FLUSHES.values())
        }
        self._queues = _Queues({**open_, queue: left}, {**past, queue: sums})

    def producer(self) -> Hashable | None:
        """Return the current span's ids, or None if there is none."""
        current = trace.get_current_span().get_span_context()
        if not current.is_valid:
            return None
        return (current.trace_id, current.span_id, int(current.trace_flags))

    def flush(
        self, queue: str, reason: FlushReason, entries: int, producers: Collection[Hashable]
    ) -> _Flush:
        """Return the span of a batch, to be entered."""
        span: Span = INVALID_SPAN
        with suppress(Exception):  # of somebody's span processor
            span = self._tracer.start_span(
                f"{_PREFIX}flush",
                context=Context(),  # not below whatever was current where the queue was opened
                kind=SpanKind.CLIENT,
                links=[_link(cast("tuple[int, int, int]", producer)) for producer in producers],
                attributes={
                    _QUEUE: queue,
                    f"{_PREFIX}batch.size": entries,
                    f"{_PREFIX}flush.reason": reason,
                },
            )
        return _Flush(self, queue, self._stores.get(queue), span)

    # What readers call, in their own threads

    def _gauge(self, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        combine = max if field.endswith("_seconds") else sum

        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for queue, queues in self._queues.open.items():
                if queues:
                    values = [getattr(metrics(), field) for metrics in queues]
                    yield Observation(combine(values), {_QUEUE: queue})

        return observe

    def _states(self, _: CallbackOptions) -> Iterator[Observation]:
        for queue, queues in self._queues.open.items():
            states = [metrics().state for metrics in queues]
            for state in QueueState:
                if states:
                    yield Observation(states.count(state), {_QUEUE: queue, "state": state})

    def _counter(
        self, label: str, fields: Mapping[str, str]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            open_, past = self._queues
            for queue, queues in open_.items():
                snapshots = [metrics() for metrics in queues]
                for value, field in fields.items():
                    count = sum(getattr(one, field) for one in snapshots)
                    count += past.get(queue, {}).get(field, 0)
                    yield Observation(count, {_QUEUE: queue, label: value})

        return observe


def _link(producer: tuple[int, int, int]) -> Link:
    trace_id, span_id, flags = producer
    return Link(SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(flags)))


@final
class _Flush:
    """The span of one batch, current while it is entered."""

    def __init__(
        self, instruments: OpenTelemetry, queue: str, store: str | None, span: Span
    ) -> None:
        self._instruments = instruments
        self._span = span
        self._queue = {_QUEUE: queue}
        self._operation = {"db.operation.name": "upsert_many", **self._queue}
        if store is not None:
            self._operation["db.system.name"] = store
        self._last_failure: Failure | None = None
        self._refused = False

    def __enter__(self) -> _Flush:
        self._token: Token[Context] = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        context.detach(self._token)
        if kind is not None:
            # A crash of ours, or the end of the drain. No message: it may quote an entry.
            self._fail(kind.__qualname__, None)
        elif self._refused and self._last_failure is not None:
            self._fail(self._last_failure.error_class, self._last_failure.sqlstate)
        with suppress(Exception):  # likewise
            self._span.end()

    def called(
        self, *, entries: int, seconds: float, age_seconds: float, failure: Failure | None
    ) -> None:
        """Record one call of the store."""
        instruments = self._instruments
        if failure is None:
            instruments.operation_duration.record(seconds, self._operation)
            instruments.flush_duration.record(seconds, self._queue)
            instruments.persisted_age.record(age_seconds, self._queue)
            return
        names = _names(failure.error_class, failure.sqlstate)
        instruments.operation_duration.record(seconds, {**self._operation, **names})
        self._span.add_event("call failed", {**names, f"{_PREFIX}batch.size": entries})
        self._last_failure = failure

    def refused(self, entries: int) -> None:
        """Record how many entries become dead letters: any fails the span."""
        if entries:
            self._refused = True
            self._span.set_attribute(f"{_PREFIX}batch.refused", entries)

    def _fail(self, error_class: str, sqlstate: str | None) -> None:
        names = _names(error_class, sqlstate)
        self._span.set_attributes(names)
        self._span.set_status(Status(StatusCode.ERROR, " ".join(names.values())))


def _names(error_class: str, sqlstate: str | None) -> dict[str, str]:
    names = {"error.type": error_class}
    if sqlstate is not None:
        names["db.response.status_code"] = sqlstate
    return names
