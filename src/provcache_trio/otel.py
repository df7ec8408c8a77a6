"""OpenTelemetry, through its API only. Needs the extra ``otel``, and does nothing without an SDK.

::

    async with open_write_behind_queue(repository, telemetry=OpenTelemetry()) as queue:
        ...

Instruments, each with the attribute ``provcache.queue.name``; those of a stream have
``provcache.stream.name``, too:

===============================================  ====================  =========================
``provcache.write_behind.queue_size``            gauge                 entries in line
``provcache.write_behind.in_flight``             gauge                 entries with the writer
``provcache.write_behind.oldest_pending_age``    gauge, s              age of the oldest batch
``provcache.write_behind.call_age``              gauge, s              age of the oldest call of the
                                                                       store that is under way
``provcache.write_behind.state``                 gauge                 1 for ``state``, 0 for others
``provcache.write_behind.durable``               gauge                 1 if the journal can be
                                                                       written, else 0; missing
                                                                       without a journal
``provcache.write_behind.producers_waiting``     gauge                 tasks that wait for room
``provcache.write_behind.refused``               counter               calls of ``enqueue_nowait``
                                                                       that found no room
``provcache.write_behind.accepted``              counter               entries, by ``source``:
                                                                       enqueue, recovery (from a
                                                                       journal or a stream)
``provcache.write_behind.entries``               counter               by ``outcome``: ok, unchanged
                                                                       (of those ok), retry, failed,
                                                                       coalesced, abandoned, kept
                                                                       (of those abandoned)
``provcache.write_behind.flushes``               counter               batches, by ``reason``
``provcache.write_behind.flush.duration``        histogram, s          successful calls
``provcache.write_behind.persisted_age``         histogram, s          age of a batch when persisted
``provcache.cache.lookups``                      counter               keys, by ``result``: memory,
                                                                       pending, store, miss
``provcache.cache.computations``                 counter               that ``get_or_compute`` began
``provcache.cache.shared_waits``                 counter               keys that somebody else was
                                                                       reading or computing
``provcache.cache.errors``                       counter               failed reads, computations
``provcache.cache.entries``                      gauge                 keys that memory holds
``provcache.stream.up``                          gauge                 1 if it could be looked at
                                                                       within 30 s, else 0
``provcache.stream.messages``                    gauge                 messages in the stream
``provcache.stream.size``                        gauge, By             size of all of them
``provcache.stream.max_size``                    gauge, By             size at which it is full
``provcache.stream.oldest_age``                  gauge, s              age of the oldest message
``provcache.stream.ack_pending``                 gauge                 messages that relays hold
``provcache.stream.redelivered``                 gauge                 those of them that were
                                                                       delivered more than once
``db.client.operation.duration``                 histogram, s          every call, per the semantic
                                                                       conventions of databases
===============================================  ====================  =========================

Each batch is a span ``provcache.write_behind.flush``, the root of a trace of its own, with links
to the spans in which its entries were enqueued. It is the current span while the store is called,
so what asyncpg's instrumentation records becomes its child.

Spans and attributes name errors by class and SQLSTATE, and hold no message, key or entry.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NamedTuple, cast, final

from ._vocabulary.faces import needing_extra
from ._vocabulary.metrics import FLUSHES, LOOKUPS, Histogram, QueueState
from ._vocabulary.observed import cache_of, stream_of

with needing_extra("otel", "opentelemetry"):
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

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from ._vocabulary.failures import Failure
    from ._vocabulary.metrics import FlushReason, StreamLook
    from ._vocabulary.protocols import ObservedQueue

__all__ = ["OpenTelemetry"]

_VERSION: Final = version("provcache-trio")
_QUEUE: Final = "provcache.queue.name"
_STREAM: Final = "provcache.stream.name"
_PREFIX: Final = "provcache.write_behind."
_CACHE_PREFIX: Final = "provcache.cache."
_STREAM_PREFIX: Final = "provcache.stream."
_OUTCOMES: Final = {
    "ok": "total_persisted",
    "unchanged": "total_unchanged",
    "retry": "total_retries",
    "failed": "total_failed",
    "coalesced": "total_coalesced",
    "abandoned": "total_abandoned",
    "kept": "total_kept",
}
_SOURCES: Final = {"enqueue": "total_enqueued", "recovery": "total_recovered"}
_REFUSED: Final = "total_refused"
_CACHE_COUNTERS: Final = ("computations", "shared_waits", "errors")
# Fields of ``WriteBehindMetrics`` and of ``CacheMetrics``; none has the name of another.
_SUMMED: Final = (
    *_OUTCOMES.values(),
    *_SOURCES.values(),
    _REFUSED,
    *FLUSHES.values(),
    *LOOKUPS.values(),
    *_CACHE_COUNTERS,
)


class _Queues(NamedTuple):
    """Open queues, and the sums of the counters of closed ones, by name.

    Replaced as a whole: a reader in another thread never sees a queue in neither.
    """

    open: Mapping[str, tuple[ObservedQueue, ...]]
    past: Mapping[str, Mapping[str, int]]


@final
class OpenTelemetry:
    """Exports what queues do; pass it to ``open_write_behind_queue`` as ``telemetry``.

    One may serve any number of queues; those of one name are added up. Counters go on where
    the last queue of that name left them. A cache over a queue, and a stream that a queue writes to
    or takes from, are exported with it.

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
            ("producers_waiting", "producers_waiting", "{task}"),
        ):
            meter.create_observable_gauge(_PREFIX + name, [self._gauge(field)], unit)
        meter.create_observable_gauge(f"{_PREFIX}state", [self._states])
        meter.create_observable_gauge(f"{_PREFIX}durable", [self._durable])
        for name, label, fields, unit in (
            ("entries", "outcome", _OUTCOMES, "{entry}"),
            ("accepted", "source", _SOURCES, "{entry}"),
            ("refused", None, {"": _REFUSED}, "{call}"),
            ("flushes", "reason", FLUSHES, "{batch}"),
        ):
            counter = self._counter(label, fields)
            meter.create_observable_counter(_PREFIX + name, [counter], unit)
        self._make_instruments_of_caches(meter)
        self._make_instruments_of_streams(meter)

    def _make_instruments_of_caches(self, meter: metrics.Meter) -> None:
        lookups = self._counter("result", LOOKUPS)
        meter.create_observable_counter(f"{_CACHE_PREFIX}lookups", [lookups], "{key}")
        for field, unit in zip(_CACHE_COUNTERS, ("{computation}", "{key}", "{error}"), strict=True):
            counter = self._counter(None, {"": field})
            meter.create_observable_counter(_CACHE_PREFIX + field, [counter], unit)
        meter.create_observable_gauge(f"{_CACHE_PREFIX}entries", [self._cache_entries], "{key}")

    def _make_instruments_of_streams(self, meter: metrics.Meter) -> None:
        meter.create_observable_gauge(f"{_STREAM_PREFIX}up", [self._streams_up])
        for name, field, unit in (
            ("messages", "messages", "{message}"),
            ("size", "bytes", "By"),
            ("max_size", "max_bytes", "By"),
            ("oldest_age", "oldest_seconds", "s"),
            ("ack_pending", "ack_pending", "{message}"),
            ("redelivered", "redelivered", "{message}"),
        ):
            observe = self._stream_gauge(field)
            meter.create_observable_gauge(_STREAM_PREFIX + name, [observe], unit)

    # What the queue calls; see ``Telemetry``.

    def opened(self, queue: ObservedQueue, store: str | None) -> None:
        """Export a queue from now on."""
        open_, past = self._queues
        name = queue.name
        if store is not None:
            self._stores[name] = store
        self._queues = _Queues({**open_, name: (*open_.get(name, ()), queue)}, past)

    def closed(self, queue: ObservedQueue) -> None:
        """Keep the last values of a queue's counters."""
        open_, past = self._queues
        name = queue.name
        last, before = _counts_of(queue), past.get(name, {})
        left = tuple(one for one in open_[name] if one is not queue)
        sums = {field: before.get(field, 0) + count for field, count in last.items()}
        self._queues = _Queues({**open_, name: left}, {**past, name: {**before, **sums}})

    def producer(self) -> Hashable | None:
        """Return the ids of the current span, or None if there is none."""
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
                    values = [getattr(one.metrics(), field) for one in queues]
                    yield Observation(combine(values), {_QUEUE: queue})

        return observe

    def _states(self, _: CallbackOptions) -> Iterator[Observation]:
        for queue, queues in self._queues.open.items():
            states = [one.metrics().state for one in queues]
            for state in QueueState:
                if states:
                    yield Observation(states.count(state), {_QUEUE: queue, "state": state})

    def _durable(self, _: CallbackOptions) -> Iterator[Observation]:
        for queue, queues in self._queues.open.items():
            durable = [one.metrics().durable for one in queues]
            if known := [one for one in durable if one is not None]:
                yield Observation(int(all(known)), {_QUEUE: queue})

    def _counter(
        self, label: str | None, fields: Mapping[str, str]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """Return what observes counters, each ``label`` of which has a field; without one, one field."""

        def observe(_: CallbackOptions) -> Iterator[Observation]:
            open_, past = self._queues
            for queue, queues in open_.items():
                counts = [past.get(queue, {}), *(_counts_of(one) for one in queues)]
                for value, field in fields.items():
                    known = [one[field] for one in counts if field in one]
                    if known:  # a queue may have no cache
                        labels = {} if label is None else {label: value}
                        yield Observation(sum(known), {_QUEUE: queue, **labels})

        return observe

    def _cache_entries(self, _: CallbackOptions) -> Iterator[Observation]:
        for queue, queues in self._queues.open.items():
            caches = [cache for one in queues if (cache := cache_of(one)) is not None]
            if caches:
                yield Observation(sum(cache.entries for cache in caches), {_QUEUE: queue})

    def _streams(self) -> Iterator[tuple[dict[str, str], StreamLook | None]]:
        """Yield the attributes of each stream, and what it holds now, if that is known."""
        found: dict[tuple[str, str], StreamLook | None] = {}
        for queue, queues in self._queues.open.items():
            for one in queues:
                stream = stream_of(one)
                if stream is not None:
                    look = stream.look if stream.look is not None and stream.look.current else None
                    # Several queues of one name see the same stream, but not each at every moment.
                    found[queue, stream.stream] = look or found.get((queue, stream.stream))
        for (queue, name), look in found.items():
            yield {_QUEUE: queue, _STREAM: name}, look

    def _streams_up(self, _: CallbackOptions) -> Iterator[Observation]:
        for attributes, look in self._streams():
            yield Observation(int(look is not None), attributes)

    def _stream_gauge(self, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for attributes, look in self._streams():
                value: float | None = None if look is None else getattr(look, field)
                if value is not None:
                    yield Observation(value, attributes)

        return observe


def _counts_of(queue: ObservedQueue) -> dict[str, int]:
    """Return the counters of a queue and, if it has one, of its cache, by field."""
    snapshots = (queue.metrics(), cache_of(queue))
    return {
        field: getattr(snapshot, field)
        for snapshot in snapshots
        for field in _SUMMED
        if hasattr(snapshot, field)
    }


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
            # A crash of ours, or the end of the drain. Without the message, which may quote an entry.
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
        """Record how many entries become dead letters; one is enough to fail the span."""
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
