"""What people would pick instead, each with a store that costs nothing.

Every function returns the seconds from the first item until all of them were handed to the
store, and raises AssertionError if that got fewer. All run on asyncio or threads, as they do
where they are used; none does for an entry all that the queue does (see docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from benchmarks.stores import Item

BATCH: Final = 500
ROOM: Final = 10_000


class Counter:
    """A store that counts what it got."""

    def __init__(self) -> None:
        self.count = 0

    async def write(self, batch: list[Item]) -> None:
        """Take a batch."""
        await asyncio.sleep(0)
        self.count += len(batch)


def on_asyncio(work: Coroutine[Any, Any, float]) -> float:
    """Return what ``work`` returns, run on a plain loop."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(work)


async def divided(
    items: list[Item], producers: int, produce: Callable[[list[Item]], Awaitable[None]]
) -> None:
    """Let so many tasks bring their share."""
    await asyncio.gather(*(produce(items[number::producers]) for number in range(producers)))


def by_hand(items: list[Item], producers: int = 1) -> float:
    """Time an ``asyncio.Queue`` and the loop that everybody writes."""

    async def main() -> float:
        queue: asyncio.Queue[Item] = asyncio.Queue(ROOM)
        store = Counter()

        async def consume() -> None:
            while store.count < len(items):
                batch = [await queue.get()]
                while len(batch) < BATCH and not queue.empty():
                    batch.append(queue.get_nowait())
                await store.write(batch)

        async def produce(share: list[Item]) -> None:
            for item in share:
                await queue.put(item)

        began = perf_counter()
        consumer = asyncio.create_task(consume())
        await divided(items, producers, produce)
        await consumer
        return perf_counter() - began

    return on_asyncio(main())


def flushq(items: list[Item], policy: str, producers: int = 1) -> float:
    """Time flushq with one of its policies, "natural" or "interval"."""
    module: Any = importlib.import_module("flushq")

    async def main() -> float:
        store = Counter()
        chosen = (
            module.NaturalPolicy(BATCH) if policy == "natural" else module.IntervalPolicy(1, BATCH)
        )
        began = perf_counter()
        async with module.FlushQueue(store.write, chosen, max_queue_size=ROOM) as queue:

            async def produce(share: list[Item]) -> None:
                for item in share:
                    await queue.enqueue(item)

            await divided(items, producers, produce)
            while queue._queue.qsize():  # noqa: ASYNC110, SLF001  # else the rest is one batch
                await asyncio.sleep(0)
        # It may drop the batch that it is writing when it is left, so the count is not checked.
        return perf_counter() - began

    return on_asyncio(main())


def async_batcher(items: list[Item]) -> float:
    """Time async-batcher; its callers wait for the result, so they come in crowds."""
    module: Any = importlib.import_module("async_batcher.batcher")
    store = Counter()

    class Batcher(module.AsyncBatcher):  # type: ignore[misc,no-any-unimported]  # it is Any
        async def process_batch(self, batch: list[Item]) -> None:
            await store.write(batch)

    async def main() -> float:
        batcher = Batcher(max_batch_size=BATCH)
        began = perf_counter()
        for start in range(0, len(items), BATCH):
            await asyncio.gather(*map(batcher.process, items[start : start + BATCH]))
        seconds = perf_counter() - began
        await batcher.stop()
        if store.count != len(items):
            raise AssertionError("async-batcher lost entries")
        return seconds

    return on_asyncio(main())


def batch_span_processor(items: list[Item]) -> float:
    """Time OpenTelemetry's processor of spans, whose thread takes the items."""
    export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
    sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
    trace: Any = importlib.import_module("opentelemetry.trace")
    context = trace.SpanContext(1, 1, is_remote=False, trace_flags=trace.TraceFlags(1))
    exported = 0

    class Exporter(export.SpanExporter):  # type: ignore[misc,no-any-unimported]  # it is Any
        def export(self, spans: Any) -> object:  # noqa: ANN401  # no types without the package
            nonlocal exported
            exported += len(spans)
            return export.SpanExportResult.SUCCESS

    # It drops what it has no room for, so it gets room for all.
    processor = export.BatchSpanProcessor(
        Exporter(), max_queue_size=len(items), max_export_batch_size=BATCH
    )
    spans = [sdk.ReadableSpan(name=item.veri_key, context=context) for item in items]
    began = perf_counter()
    for span in spans:
        processor.on_end(span)
    processor.force_flush()
    seconds = perf_counter() - began
    processor.shutdown()
    if exported != len(items):
        raise AssertionError("the span processor lost entries")
    return seconds


def confluent_kafka(items: list[Item]) -> float:
    """Time the producer of Kafka, in C, into the broker that it mocks in its own process."""
    module: Any = importlib.import_module("confluent_kafka")
    producer = module.Producer(
        {"test.mock.num.brokers": 1, "log_level": 0, "queue.buffering.max.messages": len(items)}
    )
    producer.list_topics(timeout=10)
    began = perf_counter()
    for item in items:
        producer.produce("benchmark", key=item.veri_key, value=b"")
    left = producer.flush(60)
    seconds = perf_counter() - began
    if left:
        raise AssertionError("the mocked broker did not get everything")
    return seconds


# By name: the module that it needs, and how to time it.
PEERS: Final[dict[str, tuple[str, Callable[[list[Item]], float]]]] = {
    "asyncio.Queue by hand": ("asyncio", by_hand),
    "flushq, natural": ("flushq", lambda items: flushq(items, "natural")),
    "flushq, interval": ("flushq", lambda items: flushq(items, "interval")),
    "async-batcher": ("async_batcher", async_batcher),
    "BatchSpanProcessor": ("opentelemetry.sdk", batch_span_processor),
    "confluent-kafka, mocked": ("confluent_kafka", confluent_kafka),
}


def here(module: str) -> str:
    """Return why ``module`` can't be used, or an empty string."""
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  # flushq is a SyntaxError below 3.12
        version = ".".join(map(str, sys.version_info[:2]))
        return f"{module} can't be imported on {version} ({type(error).__name__})"
    return ""
