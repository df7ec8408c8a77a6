"""What a relay takes, writes, acknowledges and gives back, on one server."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio

from provcache_trio import (
    QueueState,
    Table,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.nats import open_relay
from provcache_trio.nats._puller import number_in
from provcache_trio.nats._removal import take_out
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.bridges import BRIDGES, threads_left
from tests.support.entries import by_key, entry, key_of
from tests.support.nats import MEGABYTE, run_nats_server
from tests.support.streams import Stream, ask, stream
from tests.support.tables import Reading
from tests.support.waiting import until, without_a_hang

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from provcache_trio import ProvcacheEntry

__all__ = ["stream"]  # a fixture

pytestmark = pytest.mark.whole_process

NEWER = Table(Reading, "reading", key=("sensor", "hour"), newer="version")
QUICK = WriteBehindOptions(retry_base_seconds=0.02, retry_cap_seconds=0.05)
SLOW = WriteBehindOptions(drain_timeout_seconds=0)
ENTRIES = [entry(number) for number in range(1000)]


class Stepwise:
    """A store that waits before each call until that is allowed."""

    def __init__(self) -> None:
        self.allowed = trio.Semaphore(0)
        self.rows: dict[str, ProvcacheEntry] = {}

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
        await self.allowed.acquire()
        self.rows.update(by_key(entries))
        return len(entries)


async def test_everything_in_the_stream_comes_into_the_store_and_leaves_the_stream(
    stream: Stream,
) -> None:
    await stream.put(ENTRIES[:600], ENTRIES[600:], [entry(1, hit_count=5)])
    store: MemoryRepository[Any] = MemoryRepository()
    async with stream.relay(store) as relay:
        await stream.until_empty()
        metrics = relay.metrics()
    assert store.rows == by_key([*ENTRIES, entry(1, hit_count=5)])
    assert metrics.total_recovered == 1001
    assert metrics.total_enqueued == 0
    assert metrics.total_persisted + metrics.total_coalesced == 1001
    assert relay.undelivered == ()
    assert relay.name == "relay"
    assert repr(relay) == "<Relay 'relay' closed, 0 in line, 0 in flight>"
    assert threads_left() == []


async def test_what_comes_later_is_taken_at_once(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    async with stream.relay(store), stream.repository() as repository:
        for one in ENTRIES[:5]:
            await repository.upsert_many([one])
            await until(partial(store.rows.__contains__, one.veri_key))
    assert len(store.rows) == 5


async def test_hops_add_up_from_a_queue_to_the_store(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    async with stream.relay(store) as relay, stream.repository() as repository:
        async with open_write_behind_queue(repository) as queue:
            await queue.enqueue_many(ENTRIES)
        await stream.until_empty()
    assert queue.metrics().total_persisted == 1000 <= relay.metrics().total_recovered
    assert store.rows == by_key(ENTRIES)


async def test_a_table_goes_through_the_stream(stream: Stream) -> None:
    readings = [Reading("a", hour, 1, first="x") for hour in range(20)]
    later = Reading("a", 3, 2)
    store: MemoryRepository[Any] = MemoryRepository(table=NEWER)
    async with stream.repository(table=NEWER) as repository:
        assert repository.table is NEWER
        for batch in ([later], readings):
            await repository.upsert_many(batch)
    async with stream.relay(store):
        await stream.until_empty()
    assert set(store.rows.values()) == {*readings, later} - {readings[3]}


async def test_two_relays_share_a_stream(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    async with stream.relay(store) as one, stream.relay(store, name="other") as other:
        await stream.put(*([each] for each in ENTRIES[:300]))
        await stream.until_empty()
    assert store.rows == by_key(ENTRIES[:300])
    assert one.metrics().total_recovered + other.metrics().total_recovered == 300


# When it is acknowledged: a relay that has ended has sent each acknowledgement that it ever will


async def test_a_message_is_acknowledged_only_when_its_last_entry_is_persisted(
    stream: Stream,
) -> None:
    store = Stepwise()
    await stream.put(ENTRIES[:15])
    slow = WriteBehindOptions(batch_size=10, drain_timeout_seconds=0)
    async with stream.relay(store, slow) as relay:
        await until(lambda: relay.metrics().in_flight == 10)
        store.allowed.release()
        await until(lambda: relay.metrics().total_persisted == 10)
    assert relay.metrics().total_persisted == 10
    assert stream.messages() == 1
    store.allowed.release()
    async with stream.relay(store):
        await stream.until_empty()
    assert store.rows == by_key(ENTRIES[:15])


async def test_while_the_store_is_away_nothing_is_acknowledged(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.down()
    await stream.put(ENTRIES[:5], ENTRIES[5:10])
    async with stream.relay(store, SLOW) as relay:
        await until(lambda: relay.metrics().state is QueueState.WAITING)
        await until(lambda: relay.metrics().total_retries > 0)
    assert stream.messages() == 2
    store.up()
    async with stream.relay(store):
        await stream.until_empty()
    assert store.rows == by_key(ENTRIES[:10])


async def test_an_entry_that_another_took_the_place_of_is_done_when_that_one_is(
    stream: Stream,
) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.stall()
    async with stream.relay(store, SLOW) as relay:
        await stream.put([entry(0)])
        await until(lambda: relay.metrics().in_flight == 1)
        await stream.put([entry(1)], [entry(1, hit_count=7)], [entry(1, hit_count=3)])
        await until(lambda: relay.metrics().total_coalesced == 2)
    assert stream.messages() == 4
    store.resume()
    async with stream.relay(store):
        await stream.until_empty()
    assert store.rows[key_of(1)].hit_count == 7


async def test_a_refused_entry_is_acknowledged_only_when_its_letter_is_kept(
    stream: Stream,
) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.reject(key_of(3))
    letters: MemoryDeadLetters[Any] = MemoryDeadLetters()
    letters.down()
    async with stream.relay(store, SLOW, dead_letters=letters):
        await stream.put(ENTRIES[:5])
        await until(lambda: len(store.rows) == 4)
        await until(lambda: not stream.consumer()["num_pending"])
    assert stream.messages() == 1  # the sink failed: the letter is nowhere else
    letters.up()
    async with stream.relay(store, dead_letters=letters) as relay:
        await stream.until_empty()
        assert relay.metrics().total_failed == 1
    assert [letter.key for letter in letters.letters] == [key_of(3)]


async def test_without_a_sink_a_refused_entry_is_logged_and_acknowledged(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.reject(key_of(3))
    async with stream.relay(store) as relay:
        await stream.put(ENTRIES[:5])
        await stream.until_empty()
        assert relay.metrics().total_failed == 1
    assert f"its payload is gone: {key_of(3)}" in caplog.text


async def test_letters_go_to_a_file(stream: Stream, tmp_path: Path) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.reject(key_of(3))
    async with open_dead_letters(tmp_path / "dead.db") as letters:
        async with stream.relay(store, dead_letters=letters):
            await stream.put(ENTRIES[:5])
            await stream.until_empty()
        assert await letters.count() == 1


async def test_held_messages_are_extended_for_as_long_as_it_takes(stream: Stream) -> None:
    hasty = Stream(stream.server, stream.bridge)
    await hasty.create(ack_wait_seconds=1)
    store: MemoryRepository[Any] = MemoryRepository()
    store.stall()
    # If this fails, the store is still stalled, and the exit need not wait long for it.
    options = WriteBehindOptions(batch_size=2, queue_capacity=4, drain_timeout_seconds=1)
    other: MemoryRepository[Any] = MemoryRepository()
    heard: dict[bytes, list[float]] = {}

    async def each_is_extended(times: int) -> None:
        wanted = [len(heard.get(b"%d" % number, [])) + times for number in range(1, 31)]
        await until(
            lambda: all(len(heard.get(b"%d" % n, [])) >= w for n, w in enumerate(wanted, 1))
        )

    async with hasty.relay(store, options) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(hasty.note_extensions, heard)
        began = trio.current_time()
        # More than the queue takes: some arrive, and wait there.
        await hasty.put(*([each] for each in ENTRIES[:30]))
        await until(lambda: relay.metrics().current_queue_depth == 4)
        async with hasty.relay(other) as second:
            await each_is_extended(4)
            redelivered, taken = hasty.consumer()["num_redelivered"], second.metrics()
            await each_is_extended(1)
        gaps = (b - a for times in heard.values() for a, b in pairwise([began, *times]))
        # If the machine stood still for longer than the server waits, anything may have come again.
        if max(gaps) < 0.9:
            assert (redelivered, taken.total_recovered) == (0, 0)
        store.resume()
        await hasty.until_empty()
        nursery.cancel_scope.cancel()
    assert {**store.rows, **other.rows} == by_key(ENTRIES[:30])


async def test_a_message_that_comes_again_is_held_once(stream: Stream) -> None:
    hasty = Stream(stream.server, stream.bridge)
    await hasty.create(ack_wait_seconds=1)
    store: MemoryRepository[Any] = MemoryRepository()
    store.stall()
    async with hasty.relay(store) as relay:
        await hasty.put(ENTRIES[:3])
        await until(lambda: relay.metrics().in_flight == 3)
        relay._source._puller.ack_wait_seconds = 3600
        held = relay._source._held
        first = f"$JS.ACK.{hasty.name}.relay.1."
        await until(lambda: not held[1].reply.startswith(first))  # the second, or a later one
        store.resume()
        await hasty.until_empty()
        assert relay.metrics().total_recovered == 3


# The memory that it takes


async def test_no_more_is_taken_than_the_queue_has_room_for(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.stall()
    options = WriteBehindOptions(batch_size=50, queue_capacity=100)
    await stream.put(ENTRIES[:500], ENTRIES[500:])
    async with stream.relay(store, options) as relay:
        await until(lambda: relay.metrics().current_queue_depth == 100)
        for _ in range(20):
            await trio.sleep(0.005)
            metrics = relay.metrics()
            assert metrics.current_queue_depth <= 100
            assert metrics.in_flight <= 50
        store.resume()
        await stream.until_empty()
    assert store.rows == by_key(ENTRIES)


# How it ends


async def test_what_could_not_be_written_is_given_back_at_once(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.stall()
    other: MemoryRepository[Any] = MemoryRepository()
    options = WriteBehindOptions(batch_size=10, queue_capacity=20, drain_timeout_seconds=0)
    await stream.put(*(ENTRIES[at : at + 5] for at in range(0, 100, 5)))
    async with stream.relay(store, options) as relay:
        await until(lambda: relay.metrics().current_queue_depth == 20)
    metrics = relay.metrics()
    assert metrics.total_abandoned == len(relay.undelivered) > 0
    assert metrics.total_kept == metrics.total_abandoned
    assert stream.messages() == 20
    with without_a_hang():  # else it would take as long as ack_wait
        async with stream.relay(other):
            with trio.fail_after(15):
                await stream.until_empty()
    assert other.rows == by_key(ENTRIES[:100])


async def test_a_cancelled_scope_drains_and_raises_no_timeout(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository(latency_seconds=0.05)
    await stream.put(*(ENTRIES[at : at + 100] for at in range(0, 1000, 100)))
    with trio.CancelScope() as scope:
        async with stream.relay(store, WriteBehindOptions(batch_size=100)) as relay:
            await until(lambda: relay.metrics().total_persisted)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    metrics = relay.metrics()
    assert metrics.total_recovered == metrics.total_persisted == len(store.rows)
    assert metrics.total_abandoned == 0
    # The server takes an acknowledged message out in its own time.
    await until(lambda: stream.messages() == 10 - len(store.rows) // 100)


async def test_untouched_messages_go_back_while_it_still_drains(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.stall()
    other: MemoryRepository[Any] = MemoryRepository()
    options = WriteBehindOptions(batch_size=1, queue_capacity=1)
    await stream.put(*([each] for each in ENTRIES[:20]))
    async with stream.relay(other) as second, trio.open_nursery() as nursery:
        await until(lambda: len(other.rows) == 20)
        closing = trio.Event()

        async def first() -> None:
            async with stream.relay(store, options) as relay:
                await until(lambda: relay.metrics().current_queue_depth == 1)
                await closing.wait()

        nursery.start_soon(first)
        await stream.put(*([each] for each in ENTRIES[20:60]))
        await until(lambda: store.calls)
        closing.set()
        await until(lambda: stream.messages() <= 2)
        assert not store.rows
        store.resume()
        await stream.until_empty()
    assert {**store.rows, **other.rows} == by_key(ENTRIES[:60])
    assert second.undelivered == ()


async def test_a_relay_of_a_stream_that_is_not_there_waits_for_a_person(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    missing = Stream(stream.server, stream.bridge)
    store: MemoryRepository[Any] = MemoryRepository()
    async with missing.relay(store, QUICK) as relay:
        await until(lambda: relay.metrics().state is QueueState.WAITING)
        error = relay.metrics().last_error
        assert error is not None
        assert error.error_class == f"stream {missing.name}: JetStream 10059"
        named = f"stream {missing.name} at 127.0.0.1:{missing.server.port}: there is no such stream"
        assert f"store misconfigured, entries are kept until a person mends it: {named}" in (
            caplog.text
        )
        await missing.create()
        await until(lambda: relay.metrics().state is QueueState.RUNNING)
        await missing.put(ENTRIES[:3])
        await missing.until_empty()
    assert store.rows == by_key(ENTRIES[:3])


async def test_a_relay_that_loses_its_connection_makes_another(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    async with stream.relay(store) as relay:
        await stream.put(ENTRIES[:3])
        await stream.until_empty()
        connection = relay._source._puller.session.current
        assert connection is not None
        connection._client._transport._bare_io_writer.transport.abort()
        await until(lambda: connection.lost)
        await stream.put(ENTRIES[3:6])
        await stream.until_empty()
    assert store.rows == by_key(ENTRIES[:6])


async def test_a_crash_of_the_queue_gives_everything_back(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.crash_next(3)
    await stream.put(ENTRIES[:5])
    with pytest.raises(WriteBehindCrashedError) as caught:
        async with stream.relay(store):
            await trio.sleep_forever()
    assert len(caught.value.undelivered) == 5
    assert stream.messages() == 1
    async with stream.relay(store):
        with trio.fail_after(15):
            await stream.until_empty()
    assert store.rows == by_key(ENTRIES[:5])


async def test_the_exception_of_the_block_comes_out_as_it_is(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with stream.relay(store):
            raise error
    assert caught.value is error
    assert threads_left() == []


# What it can't read


async def test_a_message_that_cannot_be_read_stops_the_relay_until_it_is_gone(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    await stream.put(ENTRIES[:3])
    await stream.put_raw(b'{"provcache":9,"of":"x","count":1}\n{}\n')
    await stream.put(ENTRIES[3:6])
    async with stream.relay(store, QUICK) as relay:
        await until(lambda: relay.metrics().state is QueueState.WAITING)
        await until(lambda: len(store.rows) == 3)
        await until(lambda: stream.messages() == 2)
        assert "message 2 of stream" in caplog.text
        assert "format 9 is not known here" in caplog.text
        assert "provcache relay --from … --skip 2 --into FILE" in caplog.text
        assert caplog.text.count("can't be read") == 1
        # Everything else goes back: a newer relay may know all of it.
        await until(lambda: stream.consumer()["num_waiting"] == 0)
        assert store.rows == by_key(ENTRIES[:3])
        async with stream.repository() as repository:
            await ask(repository, f"$JS.API.STREAM.MSG.DELETE.{stream.name}", b'{"seq": 2}')
        with trio.fail_after(15):  # else it would take as long as ack_wait
            await stream.until_empty()
        await until(lambda: relay.metrics().state is QueueState.RUNNING)
    assert store.rows == by_key(ENTRIES[:6])


async def test_a_message_that_is_larger_than_the_server_takes_by_now_is_no_hindrance() -> None:
    with run_nats_server() as server:
        server.most_bytes = 16 * MEGABYTE
        server.reload()
        here = Stream(server, BRIDGES[0])
        await here.create()
        rows = [Reading(sensor, 1, 1) for sensor in ("a", 9 * MEGABYTE * "b", "c")]
        async with here.repository(table=NEWER) as repository:
            for row in rows:
                await repository.upsert_many([row])
        await here.put_raw(9 * MEGABYTE * b"?")
        server.most_bytes = MEGABYTE
        server.reload()
        store: MemoryRepository[Any] = MemoryRepository(table=NEWER)
        async with here.relay(store, QUICK) as relay:
            await until(lambda: "UnreadableMessage 4" in str(relay.metrics().last_error))
            kept: list[bytes] = []
            await take_out(server.url, here.name, 4, kept.append)
            await here.until_empty()
        assert set(store.rows.values()) == set(rows)
        assert list(map(len, kept)) == [9 * MEGABYTE]


async def test_what_a_table_cannot_read_is_not_thrown_away(stream: Stream) -> None:
    await stream.put(ENTRIES[:3])
    store: MemoryRepository[Any] = MemoryRepository(table=NEWER)
    async with stream.relay(store) as relay:
        await until(lambda: relay.metrics().state is QueueState.WAITING)
    assert stream.messages() == 1


# Arguments


def test_a_relay_refuses_what_depends_on_an_order_that_is_not_kept() -> None:
    newest: Table[Reading] = Table(Reading, "reading", key=("sensor", "hour"))
    with pytest.raises(ValueError, match="newer"):
        open_relay("nats://n1", "s", MemoryRepository(table=newest))


def test_a_relay_refuses_dead_letters_of_other_entries() -> None:
    class Letters(MemoryDeadLetters[Any]):
        entry_type = Reading

    store: MemoryRepository[Any] = MemoryRepository()
    with pytest.raises(TypeError, match="dead_letters"):
        open_relay("nats://n1", "s", store, dead_letters=Letters())


def test_the_sequence_of_a_message_is_found_in_every_form_of_its_reply() -> None:
    assert number_in("$JS.ACK.s.relay.1.42.7.1760000000.0") == 42
    assert number_in("$JS.ACK.hub.hash.s.relay.1.42.7.1760000000.0") == 42
    assert number_in("$JS.ACK.hub.hash.s.relay.1.42.7.1760000000.0.token") == 42
