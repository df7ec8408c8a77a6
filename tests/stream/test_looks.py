"""What is known of a stream: who looks, how often, and what is shown when a look fails."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from provcache_trio import (
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.nats import _looks as module
from provcache_trio.nats._looks import Looks
from provcache_trio.nats._servers import read_access
from provcache_trio.nats._stream import ConsumerInfo, State, StreamConfig, StreamInfo, names_of
from provcache_trio.prometheus import QueueCollector
from provcache_trio.testing import MemoryRepository

from tests.support.bridges import BRIDGES, threads_left
from tests.support.entries import entry
from tests.support.nats import MEGABYTE, run_nats_server
from tests.support.streams import Stream, stream
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from provcache_trio.nats import Relay, StreamLook, StreamRepository

__all__ = ["stream"]  # a fixture

BEGINNING = datetime(2026, 11, 25, 12, tzinfo=UTC)
QUICK = WriteBehindOptions(retry_base_seconds=0.02, retry_cap_seconds=0.05)


def answers(messages: int = 3, max_bytes: int = 1000) -> tuple[StreamInfo, ConsumerInfo]:
    state = State(messages=messages, bytes=700, first_ts=BEGINNING)
    config = StreamConfig(max_bytes=max_bytes)
    stream = StreamInfo(config=config, state=state, ts=BEGINNING + timedelta(seconds=90))
    return stream, ConsumerInfo(num_ack_pending=2, num_redelivered=1, num_pending=1)


class Servers:
    """Stands for the servers: what they answer, and when they were asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answer: Callable[[], object] = answers
        self.looks = Looks(read_access("nats://n1"), names_of("decisions"))

    async def run(self, _call: object, /) -> Any:  # noqa: ANN401  # what a test says
        self.asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        return self.answer()

    def look(self) -> StreamLook:
        metrics = self.looks.metrics()
        assert metrics is not None
        assert metrics.look is not None
        return metrics.look


@pytest.fixture
def servers() -> Servers:
    return Servers()


async def test_a_look_is_due_every_ten_seconds_and_reading_it_asks_nobody(
    servers: Servers, autojump_clock: MockClock
) -> None:
    assert servers.looks.metrics() is None
    with trio.move_on_after(25):
        await servers.looks.run(servers.run)
    assert servers.asked == [0, 10, 20]
    seen = servers.looks.metrics()
    assert seen is not None
    assert seen.stream == "decisions"
    look = servers.look()
    assert (look.messages, look.bytes, look.max_bytes) == (3, 700, 1000)
    assert (look.oldest_seconds, look.ack_pending, look.redelivered) == (90, 2, 1)
    assert (look.age_seconds, look.current) == (5, True)
    assert len(servers.asked) == 3


async def test_a_stream_without_a_limit_and_without_messages_says_so(
    servers: Servers, autojump_clock: MockClock
) -> None:
    servers.answer = lambda: answers(0, -1)
    with trio.move_on_after(1):
        await servers.looks.run(servers.run)
    look = servers.look()
    assert (look.messages, look.max_bytes, look.oldest_seconds) == (0, None, 0)


async def test_what_was_not_seen_for_thirty_seconds_is_no_longer_current(
    servers: Servers, autojump_clock: MockClock
) -> None:
    def fail() -> object:
        raise StoreUnavailableError("gone")

    with trio.move_on_after(1):
        await servers.looks.run(servers.run)
    servers.answer = fail
    with trio.move_on_after(29):
        await servers.looks.run(servers.run)
    assert (servers.look().age_seconds, servers.look().current) == (30, True)
    await trio.sleep(0.5)
    assert (servers.look().messages, servers.look().current) == (3, False)


async def test_a_look_that_hangs_is_cut_off_after_five_seconds(
    servers: Servers, autojump_clock: MockClock
) -> None:
    class Hanging(Servers):
        async def run(self, _call: object, /) -> Any:  # noqa: ANN401  # likewise
            self.asked.append(trio.current_time())
            await trio.sleep_forever()

    hanging = Hanging()
    with trio.move_on_after(40):
        await hanging.looks.run(hanging.run)
    assert hanging.asked == [0, 15, 30]
    seen = hanging.looks.metrics()
    assert seen is not None
    assert seen.look is None


async def test_a_look_that_is_refused_is_repeated_once_a_minute(
    servers: Servers, autojump_clock: MockClock
) -> None:
    def refuse() -> object:
        raise StoreMisconfiguredError("denied")

    servers.answer = refuse
    with trio.move_on_after(130):
        await servers.looks.run(servers.run)
    assert servers.asked == [0, 60, 120]


@pytest.mark.parametrize(
    ("error", "level", "name"),
    [
        (StoreUnavailableError("x", error_class="TimeoutError"), logging.INFO, "TimeoutError"),
        (StoreMisconfiguredError("x", error_class="Denied\n"), logging.WARNING, "Denied\\n"),
        (LookupError("of ours"), logging.INFO, "LookupError"),
    ],
    ids=["away", "denied", "ours"],
)
async def test_failing_looks_end_nothing_and_are_logged_once(
    error: Exception,
    level: int,
    name: str,
    servers: Servers,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> object:
        raise error

    caplog.set_level(logging.INFO)
    for answer in (fail, answers, fail):
        servers.answer = answer
        with trio.move_on_after(25):
            await servers.looks.run(servers.run)
    failed, again, failed_again = caplog.records
    assert failed.message == failed_again.message
    assert failed.message == (
        f"stream decisions: what it holds can't be read, and is missing in metrics: {name}"
    )
    assert (failed.levelno, again.levelno) == (level, logging.INFO)
    assert again.message == "stream decisions: what it holds is known again"
    assert "of ours" not in caplog.text


# Real servers


def look_now(shown: Relay[Any] | StreamRepository[Any]) -> StreamLook:
    metrics = shown.stream_metrics()
    assert metrics is not None
    assert metrics.look is not None
    return metrics.look


async def look_of(shown: Relay[Any] | StreamRepository[Any], **expected: object) -> StreamLook:
    """Wait until the last look has these values, and return it."""

    def is_so() -> bool:
        metrics = shown.stream_metrics()
        if metrics is None or metrics.look is None:
            return False
        return expected.items() <= msgspec.structs.asdict(metrics.look).items()

    await until(is_so)
    return look_now(shown)


@pytest.mark.whole_process
async def test_a_producer_that_watches_sees_what_its_stream_holds(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.05)
    async with (
        stream.repository() as repository,
        open_write_behind_queue(repository) as queue,
        trio.open_nursery() as nursery,
    ):
        assert queue.stream_metrics() is repository.stream_metrics() is None
        nursery.start_soon(repository.watch)
        empty = await look_of(repository, messages=0)
        assert (empty.oldest_seconds, empty.bytes, empty.ack_pending) == (0, 0, 0)
        assert empty.max_bytes == 64 * MEGABYTE
        for number in range(3):
            await queue.persist(entry(number))
        waiting = await look_of(repository, messages=3)
        assert waiting.bytes > 3 * 500
        assert (waiting.ack_pending, waiting.current) == (0, True)
        await until(lambda: look_now(repository).oldest_seconds > waiting.oldest_seconds)
        shown = queue.stream_metrics()
        assert shown is not None
        assert shown.stream == stream.name
        nursery.cancel_scope.cancel()
    assert threads_left() == []


@pytest.mark.whole_process
async def test_a_relay_sees_what_it_holds_and_what_came_again(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.05)
    store: MemoryRepository[Any] = MemoryRepository()
    store.stall()
    await stream.put([entry(0)], [entry(1)], [entry(2)])
    async with stream.relay(store, WriteBehindOptions(drain_timeout_seconds=0)) as relay:
        held = await look_of(relay, messages=3, ack_pending=3)
        assert held.redelivered == 0
        samples = [one for family in QueueCollector(relay).collect() for one in family.samples]
        assert {one.name: one.value for one in samples}["provcache_stream_messages"] == 3
    async with stream.relay(store) as relay, stream.repository() as repository:
        await look_of(relay, ack_pending=3, redelivered=3)
        report = await repository.check()
        assert (report.messages, report.ack_pending, report.redelivered) == (3, 3, 3)
        assert report.oldest_seconds > held.oldest_seconds > 0
        store.resume()
        done = await look_of(relay, messages=0, ack_pending=0)
        assert done.oldest_seconds == 0
    assert len(store.rows) == 3
    assert threads_left() == []


@pytest.mark.whole_process
async def test_looking_ends_when_the_stream_is_closed(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.05)
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await repository.watch()
            ended.set()

        ended = trio.Event()
        async with stream.repository() as repository:
            nursery.start_soon(watch)
            await look_of(repository, messages=0)
        nursery.cancel_scope.deadline = trio.current_time() + 30
        await ended.wait()
    assert threads_left() == []


# What a relay needs, and no more.
LEAST = """authorization { users = [ { user: "all", password: "x" }
    { user: "relay", password: "x", permissions: { publish: [
        "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.MSG.NEXT.>", "$JS.ACK.>" ] } } ] }"""


@pytest.mark.whole_process
async def test_a_relay_that_may_not_look_does_its_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.05)
    with run_nats_server(LEAST) as server:
        here = Stream(server, BRIDGES[0])
        await here.create(user="all", password="x")  # noqa: S106  # of this server alone
        store: MemoryRepository[Any] = MemoryRepository()
        async with (
            here.relay(store, QUICK, user="relay", password="x") as relay,  # noqa: S106
            here.repository(user="all", password="x") as repository,  # noqa: S106
        ):
            await until(lambda: "what it holds can't be read" in caplog.text)
            for number in range(20):
                await repository.upsert_many([entry(number)])
            await until(lambda: len(store.rows) == 20)
            assert relay.metrics().last_error is None
            seen = relay.stream_metrics()
            assert seen is not None
            assert seen.look is None
    assert caplog.text.count("DeniedError") == 1
