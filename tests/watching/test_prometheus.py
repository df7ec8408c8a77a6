"""Prometheus: a scrape shows what ``metrics()`` returns, and no more."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.request import urlopen

import msgspec
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from provcache_trio import (
    QueueState,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.prometheus import QueueCollector
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, items
from tests.support.shown import CACHE, LOOK, STALE, UNLIMITED, Shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from trio.testing import MockClock

    from provcache_trio import WriteBehindMetrics, WriteBehindQueue
    from provcache_trio.nats import StreamLook

OPTIONS = WriteBehindOptions(queue_capacity=5, batch_size=2, flush_interval_seconds=1)


@contextmanager
def served(registry: CollectorRegistry) -> Generator[Callable[[], str]]:
    """Serve what ``registry`` has in another thread, and give what a scrape gets."""
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        yield lambda: urlopen(url).read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Scrape:
    """What a scrape got: ``values[queue, name, the other labels]``, names without prefix.

    The prefix is ``provcache_write_behind_``, or just ``provcache_`` of a cache and a stream.
    """

    def __init__(self, text: str) -> None:
        self.values: dict[tuple[str, str, tuple[str, ...]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                queue = sample.labels.pop("queue")
                name = sample.name.removeprefix("provcache_")
                assert name != sample.name
                name = name.removeprefix("write_behind_")
                key = (queue, name, tuple(sample.labels.values()))
                assert key not in self.values
                self.values[key] = sample.value

    def of(self, queue: str, name: str) -> dict[str, float]:
        """Return the values of one metric by its only other label."""
        return {
            labels[0]: value
            for (its_queue, its_name, labels), value in self.values.items()
            if (its_queue, its_name) == (queue, name)
        }


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def busy() -> AsyncGenerator[WriteBehindQueue[Item]]:
    """A queue that has done everything, and whose store has gone away."""
    store = MemoryRepository[Item](latency_seconds=0.25)
    store.reject("poison")
    async with open_write_behind_queue(store, OPTIONS, name="busy") as queue:
        await queue.enqueue_many([*items("abcab"), Item("poison")])
        await queue.flush()
        store.down()
        await queue.enqueue_many(items("defghij"))
        await trio.sleep(3)
        with pytest.raises(trio.WouldBlock):
            queue.enqueue_nowait(Item("k"))
        yield queue
        store.up()


@pytest.mark.one_lane
async def test_a_scrape_shows_every_counter_and_gauge(  # noqa: ASYNC124  # its fixture is async
    autojump_clock: MockClock, busy: WriteBehindQueue[Item], registry: CollectorRegistry
) -> None:
    registry.register(QueueCollector(busy))
    with served(registry) as scrape:
        seen = Scrape(scrape())
    metrics = busy.metrics()
    assert metrics.total_persisted > 0
    expected = {
        "enqueued_total": metrics.total_enqueued,
        "recovered_total": 0,
        "persisted_total": metrics.total_persisted,
        "coalesced_total": metrics.total_coalesced,
        "failed_total": 1,
        "abandoned_total": 0,
        "kept_total": 0,
        "retries_total": metrics.total_retries,
        "batches_total": metrics.total_batches,
        "unchanged_total": metrics.total_unchanged,
        "refused_total": 1,
        "queue_depth": metrics.current_queue_depth,
        "in_flight": metrics.in_flight,
        "producers_waiting": 0,
        "oldest_pending_seconds": metrics.oldest_pending_seconds,
        "call_seconds": metrics.call_seconds,
        "flush_seconds_sum": metrics.flush_seconds.sum,
        "flush_seconds_count": metrics.total_batches,
        "age_seconds_sum": metrics.age_seconds.sum,
        "age_seconds_count": metrics.total_batches,
    }
    assert {name: seen.values["busy", name, ()] for name in expected} == expected
    assert metrics.last_error is not None
    error = ("busy", "last_error_timestamp_seconds", ("StoreUnavailableError", ""))
    assert seen.values[error] == metrics.last_error.at.timestamp()
    assert ("busy", "durable", ()) not in seen.values  # there is no journal


@pytest.mark.one_lane
async def test_a_scrape_shows_states_reasons_and_buckets_by_label(  # noqa: ASYNC124  # likewise
    autojump_clock: MockClock, busy: WriteBehindQueue[Item], registry: CollectorRegistry
) -> None:
    registry.register(QueueCollector(busy))
    with served(registry) as scrape:
        seen = Scrape(scrape())
    metrics = busy.metrics()
    assert seen.of("busy", "state") == {
        state: float(state is QueueState.WAITING) for state in QueueState
    }
    assert seen.of("busy", "flushes_total") == {
        "full": metrics.flushes_full,
        "due": metrics.flushes_due,
        "requested": metrics.flushes_requested,
        "drain": 0,
    }
    buckets = {
        float(bound): count for bound, count in seen.of("busy", "flush_seconds_bucket").items()
    }
    assert list(buckets) == [*metrics.flush_seconds.bounds, math.inf]
    assert buckets[0.1] == 0
    assert buckets[0.25] == buckets[math.inf] == metrics.total_batches


async def test_several_queues_are_told_apart_by_name(registry: CollectorRegistry) -> None:
    collector = QueueCollector()
    registry.register(collector)
    with served(registry) as scrape:
        assert Scrape(scrape()).values == {}
        async with (
            open_write_behind_queue(MemoryRepository[Item](), name="one") as one,
            open_write_behind_queue(MemoryRepository[Item](), name="two") as two,
        ):
            with collector.showing(one), collector.showing(two):
                one.enqueue_nowait(Item("a"))
                two.enqueue_nowait(Item("a"))
                two.enqueue_nowait(Item("b"))
                seen = Scrape(scrape())
    assert seen.values["one", "enqueued_total", ()] == 1
    assert seen.values["two", "enqueued_total", ()] == 2


async def test_nothing_of_an_entry_is_shown(
    autojump_clock: MockClock, registry: CollectorRegistry
) -> None:
    store = MemoryRepository[Item]()
    store.reject("secret")
    store.fail_next(StoreUnavailableError("secret", error_class="Gone", sqlstate="57P01"))
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue(Item("secret"))
        await queue.flush()
        registry.register(QueueCollector(queue))
        text = generate_latest(registry).decode()
    assert "secret" not in text
    assert "EntryRejectedError" in text


@pytest.mark.parametrize("durable", [True, False])
async def test_durability_is_shown_where_there_is_a_journal(
    durable: bool, registry: CollectorRegistry
) -> None:
    class Journalled:
        """As of a queue with a journal."""

        name = "journalled"

        def metrics(self) -> WriteBehindMetrics:
            return msgspec.structs.replace(queue.metrics(), durable=durable)

    async with open_write_behind_queue(MemoryRepository[Item]()) as queue:
        registry.register(QueueCollector(Journalled()))
        seen = Scrape(generate_latest(registry).decode())
    assert seen.values["journalled", "durable", ()] == durable


async def test_a_cache_is_shown_with_its_queue(registry: CollectorRegistry) -> None:
    async with open_write_behind_queue(MemoryRepository[Item]()) as queue:
        plain, cached = Shown(queue.metrics(), "plain"), Shown(queue.metrics(), cache=CACHE)
    registry.register(QueueCollector(plain, cached))
    seen = Scrape(generate_latest(registry).decode())
    assert seen.of("q", "cache_lookups_total") == {
        "memory": 101,
        "pending": 11,
        "store": 31,
        "miss": 7,
    }
    expected = {
        "cache_computations_total": 5,
        "cache_shared_waits_total": 3,
        "cache_errors_total": 2,
        "cache_entries": 97,
    }
    assert {name: seen.values["q", name, ()] for name in expected} == expected
    assert not [name for queue, name, _ in seen.values if queue == "plain" and "cache" in name]


STREAM = {
    "stream_messages": 1200,
    "stream_bytes": 900_000,
    "stream_max_bytes": 1_000_000,
    "stream_oldest_seconds": 61.5,
    "stream_ack_pending": 128,
    "stream_redelivered": 4,
}


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (LOOK, {"stream_up": 1, **STREAM}),
        (UNLIMITED, {"stream_up": 1, **STREAM} | {"stream_max_bytes": None}),
        (STALE, {"stream_up": 0}),
        (None, {"stream_up": 0}),
    ],
    ids=["current", "unlimited", "stale", "unknown"],
)
async def test_a_stream_is_shown_as_far_as_it_is_known_now(
    look: StreamLook | None, expected: dict[str, float | None], registry: CollectorRegistry
) -> None:
    async with open_write_behind_queue(MemoryRepository[Item]()) as queue:
        shown = Shown(queue.metrics(), stream="decisions", look=look)
    registry.register(QueueCollector(shown))
    seen = Scrape(generate_latest(registry).decode()).values
    found = {name: value for (_, name, labels), value in seen.items() if labels == ("decisions",)}
    assert found == {name: value for name, value in expected.items() if value is not None}


async def test_two_queues_of_one_name_are_refused_and_one_may_follow_another() -> None:
    collector = QueueCollector()
    async with open_write_behind_queue(MemoryRepository[Item]()) as first:
        collector.add(first)
        collector.add(first)  # once more is no other
        async with open_write_behind_queue(MemoryRepository[Item]()) as second:
            with pytest.raises(ValueError, match="another queue 'default' already"):
                collector.add(second)
            collector.remove(second)  # was never there
            collector.remove(first)
            with collector.showing(second):
                second.enqueue_nowait(Item("a"))
                [family] = [one for one in collector.collect() if one.name.endswith("enqueued")]
                assert [sample.value for sample in family.samples] == [1]
            [family] = [one for one in collector.collect() if one.name.endswith("enqueued")]
            assert family.samples == []


async def test_registering_reads_no_queue_and_names_every_metric(
    registry: CollectorRegistry,
) -> None:
    async with open_write_behind_queue(MemoryRepository[Item]()) as queue:
        collector = QueueCollector(queue)
        described = list(collector.describe())
        collected = list(collector.collect())
        assert [one.name for one in described] == [one.name for one in collected]
        assert [one.samples for one in described] == [[]] * len(described)
        registry.register(collector)
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            registry.register(QueueCollector())
