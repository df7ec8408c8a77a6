"""OpenTelemetry: what the real SDK gets of a queue."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import StatusCode

from provcache_trio import (
    DrainTimeoutError,
    QueueState,
    StoreUnavailableError,
    TransientStoreError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.cache import open_cache
from provcache_trio.otel import OpenTelemetry
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from tests.support.bridges import each_bridge
from tests.support.entries import NOW, entry, key_of
from tests.support.items import Item, items
from tests.support.sdk import Sdk, points_of, sdk
from tests.support.servers import postgres, unused_schema
from tests.support.shown import LOOK, STALE, UNLIMITED, Shown
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan
    from trio.testing import MockClock

    from provcache_trio._asyncio.bridge import BridgeKind

__all__ = ["sdk"]  # a fixture

SECRET = "s3cr3t"  # noqa: S105  # in entries and messages; what nothing may show
OPTIONS = WriteBehindOptions(batch_size=3, flush_interval_seconds=1, drain_timeout_seconds=5)


def assert_nothing_secret(spans: Sequence[ReadableSpan]) -> None:
    for span in spans:
        assert SECRET not in span.to_json()


# Spans


@pytest.mark.one_lane
async def test_a_batch_is_a_span_of_its_own_that_links_to_those_of_its_producers(
    sdk: Sdk, autojump_clock: MockClock
) -> None:
    store = MemoryRepository[Item]()
    with sdk.tracer.start_as_current_span("start-up"):
        opening = open_write_behind_queue(store, OPTIONS, name="q", telemetry=sdk.telemetry)
        queue = await opening.__aenter__()
    with sdk.tracer.start_as_current_span("first") as first:
        await queue.enqueue(Item("a"))
        await queue.enqueue(Item("b"))
    with sdk.tracer.start_as_current_span("second") as second:
        queue.enqueue_nowait(Item("a", 2))
    with sdk.tracer.start_as_current_span("third") as third:
        await queue.enqueue_many([Item("a", 3), Item("b", 3)])
    await queue.enqueue(Item(SECRET))  # outside of any span
    await trio.sleep(5)
    await opening.__aexit__(None, None, None)
    [flush] = sdk.flushes()
    assert flush.parent is None
    assert [link.context.span_id for link in flush.links] == [
        first.get_span_context().span_id,
        second.get_span_context().span_id,
        third.get_span_context().span_id,
    ]
    assert flush.links[0].context.trace_flags.sampled
    assert flush.attributes == {
        "provcache.queue.name": "q",
        "provcache.write_behind.batch.size": 3,
        "provcache.write_behind.flush.reason": "full",
    }
    assert flush.status.status_code is StatusCode.UNSET
    assert_nothing_secret(sdk.flushes())


@pytest.mark.one_lane
async def test_a_producer_that_waits_for_room_is_linked_too(
    sdk: Sdk, autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(queue_capacity=1, batch_size=1)
    store = MemoryRepository[Item]()
    store.stall()
    async with open_write_behind_queue(store, options, telemetry=sdk.telemetry) as queue:
        await queue.enqueue_many(items("ab"))

        async def produce() -> None:
            with sdk.tracer.start_as_current_span("waits") as span:
                spans.append(span.get_span_context().span_id)
                await queue.enqueue(Item("c"))

        spans: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            await trio.sleep(1)
            assert queue.metrics().producers_waiting == 1
            store.resume()
    assert [[link.context.span_id for link in one.links] for one in sdk.flushes()] == [
        [],
        [],
        spans,
    ]


@pytest.mark.one_lane
async def test_producers_of_a_batch_that_joined_another_are_linked_too(
    sdk: Sdk, autojump_clock: MockClock
) -> None:
    store = MemoryRepository[Item]()
    store.stall()
    spans: list[int] = []
    async with (
        open_write_behind_queue(store, telemetry=sdk.telemetry) as queue,
        trio.open_nursery() as nursery,
    ):
        for key in "abc":
            with sdk.tracer.start_as_current_span(key) as span:
                spans.append(span.get_span_context().span_id)
                await queue.enqueue(Item(key))
            nursery.start_soon(queue.flush)
            await trio.sleep(0.001)
        store.resume()
    assert [[link.context.span_id for link in one.links] for one in sdk.flushes()] == [
        spans[:1],
        spans[1:],
    ]


@pytest.mark.one_lane
async def test_a_span_keeps_as_many_links_as_spans_do(sdk: Sdk, autojump_clock: MockClock) -> None:
    store = MemoryRepository[Item]()
    async with open_write_behind_queue(store, telemetry=sdk.telemetry) as queue:
        for version in range(200):  # of a hot key, in a batch that does not fill
            with sdk.tracer.start_as_current_span("request"):
                await queue.enqueue(Item("hot", version))
        line = queue._lanes.lines[0]
        assert line.open is not None
        assert len(line.open.producers) == 128
    [flush] = sdk.flushes()
    assert len(flush.links) == 128


@pytest.mark.one_lane
async def test_a_failed_call_is_an_event_and_only_what_is_given_up_is_an_error(
    sdk: Sdk, autojump_clock: MockClock
) -> None:
    store = MemoryRepository[Item]()
    store.reject(SECRET)
    async with open_write_behind_queue(store, OPTIONS, telemetry=sdk.telemetry) as queue:
        store.fail_next(TransientStoreError(SECRET, error_class="Deadlock", sqlstate="40P01"))
        await queue.persist(Item("a"))
        await queue.enqueue_many([Item("b"), Item(SECRET)])
        await queue.flush()
    retried, refused = sdk.flushes()
    assert retried.status.status_code is StatusCode.UNSET
    assert [(one.name, dict(one.attributes or {})) for one in retried.events] == [
        (
            "call failed",
            {
                "error.type": "Deadlock",
                "db.response.status_code": "40P01",
                "provcache.write_behind.batch.size": 1,
            },
        )
    ]
    assert refused.status.status_code is StatusCode.ERROR
    assert refused.status.description == "EntryRejectedError"
    assert refused.attributes is not None
    assert refused.attributes["error.type"] == "EntryRejectedError"
    assert refused.attributes["provcache.write_behind.batch.refused"] == 1
    assert_nothing_secret(sdk.flushes())


async def test_a_batch_that_is_handed_back_is_an_error(sdk: Sdk, autojump_clock: MockClock) -> None:
    store = MemoryRepository[Item]()
    store.down()
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(store, OPTIONS, telemetry=sdk.telemetry) as queue:
            await queue.enqueue(Item(SECRET))
    [flush] = sdk.flushes()
    assert flush.status.status_code is StatusCode.ERROR
    assert flush.status.description == "Cancelled"
    assert_nothing_secret(sdk.flushes())


async def test_a_crash_of_ours_ends_its_span_without_the_message(
    sdk: Sdk, autojump_clock: MockClock
) -> None:
    class Crash(BaseException):
        """Nothing that anybody handles."""

    store = MemoryRepository[Item]()
    store.fail_next(Crash(SECRET))
    async with open_write_behind_queue(store, OPTIONS, telemetry=sdk.telemetry) as queue:
        await queue.persist(Item("a"))
    crashed, written = sdk.flushes()
    assert crashed.status.status_code is StatusCode.ERROR
    assert crashed.attributes is not None
    assert str(crashed.attributes["error.type"]).endswith("Crash")
    assert written.status.status_code is StatusCode.UNSET
    assert_nothing_secret(sdk.flushes())


async def test_a_span_processor_that_raises_stops_nothing(
    sdk: Sdk, autojump_clock: MockClock
) -> None:
    class Raising(SpanProcessor):
        def on_start(self, *_: object, **__: object) -> None:
            if raises_at == "start":
                raise ValueError(SECRET)

        def on_end(self, *_: object) -> None:
            if raises_at == "end":
                raise ValueError(SECRET)

    sdk.tracers.add_span_processor(Raising())
    store = MemoryRepository[Item]()
    async with open_write_behind_queue(store, telemetry=sdk.telemetry) as queue:
        for raises_at in ("start", "end"):
            await queue.persist(Item(raises_at))
    assert set(store.rows) == {"start", "end"}


# The current span, in the store


@each_bridge
async def test_asyncpg_is_called_in_the_span_of_the_batch(bridge: BridgeKind, sdk: Sdk) -> None:
    seen: list[int] = []

    async def look(*_: object) -> None:  # noqa: ASYNC124
        seen.append(trace.get_current_span().get_span_context().span_id)

    async with open_postgres_repository(
        postgres().dsn, schema=unused_schema(), create=True, bridge=bridge
    ) as store:

        class Looking:
            """A repository whose calls look around on asyncio's side, too."""

            db_system_name = "postgresql"

            async def upsert_many(self, entries: Sequence[Any], /) -> int:
                await store._run(store._writers, look)
                return await store.upsert_many(entries)

        async with open_write_behind_queue(Looking(), telemetry=sdk.telemetry) as queue:
            await queue.persist(entry())
    [flush] = sdk.flushes()
    assert flush.context is not None
    assert seen == [flush.context.span_id]


async def test_calls_are_timed_as_the_conventions_for_databases_have_it(
    sdk: Sdk, tmp_path: Path
) -> None:
    async with (
        open_sqlite_repository(tmp_path / "cache.db") as lite,
        open_postgres_repository(postgres().dsn, schema=unused_schema(), create=True) as great,
        open_write_behind_queue(lite, name="lite", telemetry=sdk.telemetry) as one,
        open_write_behind_queue(great, name="great", telemetry=sdk.telemetry) as other,
    ):
        await one.persist(entry())
        await other.persist(entry())
        points = sdk.points("db.client.operation.duration")
    # Operation, system, queue
    assert sorted(points) == [
        ("upsert_many", "postgresql", "great"),
        ("upsert_many", "sqlite", "lite"),
    ]


# Metrics


@pytest.mark.one_lane
async def test_every_instrument_tells_what_metrics_tells(
    sdk: Sdk, autojump_clock: MockClock
) -> None:
    store = MemoryRepository[Item](latency_seconds=0.25)
    store.reject("poison")
    async with open_write_behind_queue(store, OPTIONS, name="q", telemetry=sdk.telemetry) as queue:
        await queue.enqueue_many([*items("abca"), Item("poison")])
        await queue.flush()
        store.down()
        await queue.enqueue_many(items("defgh"))
        await trio.sleep(3)
        metrics = queue.metrics()
        prefix = "provcache.write_behind."
        for name, value in (
            ("queue_size", metrics.current_queue_depth),
            ("in_flight", metrics.in_flight),
            ("oldest_pending_age", metrics.oldest_pending_seconds),
        ):
            assert value > 0
            assert {key: one.value for key, one in sdk.points(prefix + name).items()} == {
                ("q",): value
            }
        assert sdk.points(f"{prefix}call_age")["q",].value == metrics.call_seconds
        assert {key[1]: one.value for key, one in sdk.points(f"{prefix}state").items()} == {
            state: int(state is QueueState.WAITING) for state in QueueState
        }
        assert {key[0]: one.value for key, one in sdk.points(f"{prefix}entries").items()} == {
            "ok": metrics.total_persisted,
            "unchanged": 0,
            "retry": metrics.total_retries,
            "failed": 1,
            "coalesced": 1,
            "abandoned": 0,
            "kept": 0,
        }
        assert {key[1]: one.value for key, one in sdk.points(f"{prefix}accepted").items()} == {
            "enqueue": 10,
            "recovery": 0,
        }
        assert sdk.points(f"{prefix}durable") == {}
        assert {key[1]: one.value for key, one in sdk.points(f"{prefix}flushes").items()} == {
            "full": metrics.flushes_full,
            "due": metrics.flushes_due,
            "requested": metrics.flushes_requested,
            "drain": 0,
        }
        for name, told in (
            ("flush.duration", metrics.flush_seconds),
            ("persisted_age", metrics.age_seconds),
        ):
            point = sdk.points(prefix + name)["q",]
            assert tuple(point.bucket_counts) == told.counts
            assert tuple(point.explicit_bounds) == told.bounds
            assert point.sum == pytest.approx(told.sum)
        failed = sdk.points("db.client.operation.duration")[
            "upsert_many", "StoreUnavailableError", "q"
        ]
        assert failed.count > 0
        store.up()


async def test_a_cache_is_exported_with_its_queue_and_its_counters_go_on(
    sdk: Sdk, autojump_clock: MockClock
) -> None:
    def counts(name: str) -> dict[tuple[str, ...], int]:
        return {key: one.value for key, one in sdk.points(f"provcache.cache.{name}").items()}

    store = MemoryRepository()
    async with open_write_behind_queue(store, name="q", telemetry=sdk.telemetry) as queue:
        assert counts("lookups") == counts("errors") == counts("entries") == {}
        for turn in (1, 2):
            async with open_cache(queue, store, wall_clock=lambda: NOW) as cache:
                assert await cache.get(key_of(turn)) is None
                await cache.put(entry(turn))
                await cache.get(key_of(turn))
                await cache.get(key_of(turn))
                assert counts("entries") == {("q",): 1}
            assert counts("entries") == {("q",): 0}
            expected = {"miss": turn, "pending": turn, "memory": turn, "store": 0}
            assert counts("lookups") == {("q", how): count for how, count in expected.items()}
    assert counts("lookups")["q", "pending"] == 2
    assert counts("computations") == counts("shared_waits") == counts("errors") == {("q",): 0}
    assert counts("entries") == {}


async def test_a_stream_is_exported_as_far_as_it_is_known_now(sdk: Sdk) -> None:
    def values(name: str) -> dict[tuple[str, ...], float]:
        return {key: one.value for key, one in sdk.points(f"provcache.stream.{name}").items()}

    async with open_write_behind_queue(MemoryRepository[Item]()) as queue:
        metrics = queue.metrics()
    for one in (
        Shown(metrics, "plain"),
        Shown(metrics, stream="s", look=LOOK),
        Shown(metrics, stream="s", look=STALE),  # another relay of that name
        Shown(metrics, "stale", stream="s", look=STALE),
        Shown(metrics, "unknown", stream="s"),
        Shown(metrics, "unlimited", stream="s", look=UNLIMITED),
    ):
        sdk.telemetry.opened(one, None)
    known = {("q", "s"), ("unlimited", "s")}
    assert values("up") == dict.fromkeys(known, 1) | {("stale", "s"): 0, ("unknown", "s"): 0}
    for name, value in (
        ("messages", LOOK.messages),
        ("size", LOOK.bytes),
        ("oldest_age", LOOK.oldest_seconds),
        ("ack_pending", LOOK.ack_pending),
        ("redelivered", LOOK.redelivered),
    ):
        assert values(name) == dict.fromkeys(known, value)
    assert values("max_size") == {("q", "s"): LOOK.max_bytes}


async def test_counters_go_on_when_a_queue_is_opened_again_and_gauges_end_with_it(
    sdk: Sdk, autojump_clock: MockClock
) -> None:
    def persisted() -> int:
        value: int = sdk.points("provcache.write_behind.entries")["ok", "q"].value
        return value

    for turn in range(3):
        store = MemoryRepository[Item]()
        async with (
            open_write_behind_queue(store, name="q", telemetry=sdk.telemetry) as queue,
            open_write_behind_queue(store, name="q", telemetry=sdk.telemetry) as namesake,
        ):
            await queue.persist(Item("a"))
            await namesake.persist(Item("b"))
            assert persisted() == 4 * turn + 2
            await trio.sleep(1)
            await queue.enqueue(Item("c"))
            await trio.sleep(0.125)
            await namesake.enqueue(Item("d"))
            assert sdk.points("provcache.write_behind.queue_size")["q",].value == 2
            ages = sdk.points("provcache.write_behind.oldest_pending_age")
            assert ages["q",].value == pytest.approx(0.125)
            states = sdk.points("provcache.write_behind.state")
            assert states["q", "running"].value == 2
            await queue.flush()
            await namesake.flush()
            assert persisted() == 4 * turn + 4
            queue_size = sdk.points("provcache.write_behind.queue_size")
            assert queue_size["q",].value == 0
        assert persisted() == 4 * turn + 4
    assert sdk.points("provcache.write_behind.queue_size") == {}
    assert sdk.points("provcache.write_behind.state") == {}


class Exporter(MetricExporter):
    """Keeps what it gets, and tells in which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []
        self.enough = threading.Event()

    def export(self, metrics_data: MetricsData, *_: object, **__: object) -> MetricExportResult:
        points = points_of(metrics_data, "provcache.write_behind.entries")
        if points:
            self.seen.append((threading.current_thread().name, points["ok", "default"].value))
        if len(self.seen) > 3:
            self.enough.set()
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        del timeout_millis
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        del timeout_millis


async def test_the_sdk_s_own_thread_reads_counters_that_never_fall() -> None:
    exporter = Exporter()
    meters = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=5)])
    telemetry = OpenTelemetry(meter_provider=meters)
    count = 0
    while not exporter.enough.is_set():
        async with open_write_behind_queue(MemoryRepository[Item](), telemetry=telemetry) as queue:
            for number in range(300):
                await queue.persist(Item(str(number)))
        count += 300
    # A reading that takes longer than the interval is given up, the last one, too.
    await until(lambda: exporter.seen[-1][1] == count)
    meters.shutdown()
    threads = {thread for thread, _ in exporter.seen[:-1]}
    assert threading.main_thread().name not in threads
    values = [value for _, value in exporter.seen]
    assert values == sorted(values)


# Off


async def test_without_an_sdk_nothing_happens(autojump_clock: MockClock) -> None:
    store = MemoryRepository[Item]()
    store.fail_next(StoreUnavailableError("away"))
    store.reject("c")
    async with open_write_behind_queue(store, telemetry=OpenTelemetry()) as queue:
        await queue.enqueue_many(items("abc"))
        await queue.flush()
    assert set(store.rows) == {"a", "b"}
