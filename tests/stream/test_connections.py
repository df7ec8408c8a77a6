"""What becomes of a connection that is lost or silent, and of what was under way on it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from provcache_trio import (
    QueueState,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.nats import (
    StreamRepository,
    _puller as puller_module,
    create_stream,
    open_stream_repository,
)
from provcache_trio.nats._connection import Connection
from provcache_trio.nats._errors import ApiError
from provcache_trio.nats._looks import Looks
from provcache_trio.nats._messages import Codec
from provcache_trio.nats._puller import Message, Puller
from provcache_trio.nats._servers import read_access
from provcache_trio.nats._session import Answer, NoRespondersError
from provcache_trio.nats._source import StreamSource
from provcache_trio.nats._stream import (
    Cluster,
    Names,
    Replica,
    check_majority,
    keepers_of,
    names_of,
)
from provcache_trio.testing import MemoryRepository

from tests.support.bridges import BRIDGES, each_bridge, threads_left
from tests.support.entries import by_key, entry
from tests.support.nats import MEGABYTE, nats_server, run_nats_server
from tests.support.servers import unused_port
from tests.support.streams import Stream, ask, stream
from tests.support.waiting import HANG_SECONDS, until, without_a_hang

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence

    from nats.aio.client import Msg
    from trio.testing import MockClock

    from provcache_trio import ProvcacheEntry
    from provcache_trio._asyncio.bridge import BridgeKind
    from provcache_trio.nats import Relay

__all__ = ["stream"]  # a fixture

pytestmark = pytest.mark.whole_process

ENTRIES = [entry(number) for number in range(600)]
QUICK = WriteBehindOptions(retry_base_seconds=0.02, retry_cap_seconds=0.05)


@pytest.mark.parametrize("name", ["connect", "flush", "publish", "subscribe"])
def test_a_cancellation_that_nats_py_swallows_is_raised_all_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As its ``wait_for`` does on Python 3.11, now and then."""

    async def swallow(*_: object, **__: object) -> None:
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(HANG_SECONDS)

    async def call() -> None:
        task = asyncio.ensure_future(calls[name]())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = asyncio.Event()
    access = read_access("nats://127.0.0.1:1")
    connection = Connection()
    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "connect": lambda: Connection.open(access.servers[0], access, HANG_SECONDS),
        "flush": lambda: connection.settle(HANG_SECONDS),
        "publish": lambda: connection.publish("subject", b""),
        "subscribe": lambda: connection.subscribe("subject", connection._answer),
    }
    monkeypatch.setattr(f"nats.aio.client.Client.{name}", swallow)
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(call())


async def use(
    repository: StreamRepository[Any], work: Callable[[Connection], Awaitable[Any]]
) -> None:
    await repository._run(lambda: repository._session.use(work, "a test"))


async def on_its_side(relay: Relay[Any], change: Callable[[Puller], None]) -> None:
    """Have ``change`` done where a relay's puller lives, and the puller look at it."""

    async def there() -> None:  # noqa: ASYNC124  # a bridge runs coroutines
        change(relay._source._puller)
        relay._source._puller._news.set()

    await relay._source._bridge.run(there)


# A leader that a test plays


class Played(Names):
    """Names by which entries are published to the test, not to the stream."""

    @property
    def subject(self) -> str:
        return f"played.{self.stream}"


async def answer_as(
    leader: StreamRepository[Any], answer: Callable[[Connection, Msg], Awaitable[None]]
) -> None:
    """Have ``answer`` called with each message that is published by those names."""

    async def begin(connection: Connection) -> None:
        await connection.subscribe(leader._names.subject, partial(answer, connection))
        await connection.settle(HANG_SECONDS)

    await use(leader, begin)


async def test_what_a_former_leader_left_unanswered_is_published_to_the_next_one(
    stream: Stream,
) -> None:
    came: list[bytes] = []

    async def answer(connection: Connection, message: Msg) -> None:
        came.append(message.data)
        if len(came) == 1:
            advisory = f"$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{stream.name}"
            await connection.publish(advisory, b"{}")
        else:
            await connection.publish(message.reply, b'{"seq":1}')

    async with (
        stream.repository() as leader,
        stream.repository(publish_timeout_seconds=HANG_SECONDS) as repository,
    ):
        leader._names = repository._names = Played(stream.name)
        await answer_as(leader, answer)
        assert await repository.upsert_many([entry(1)]) == 1
    assert len(came) == 2
    assert came[0] == came[1]


@pytest.mark.parametrize("answers", [True, False], ids=["there", "no answer"])
async def test_while_a_leader_is_elected_publishing_waits_and_sends_only_what_is_unanswered(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    async def ask_in_vain(_: object, _connection: Connection) -> None:
        await asyncio.sleep(HANG_SECONDS)

    if not answers:
        monkeypatch.setattr(StreamRepository, "_demand_stream", ask_in_vain)
    tried: list[int] = []
    send_once = StreamRepository._send_once

    async def note(
        self: StreamRepository[Any], messages: Sequence[bytes], connection: Connection
    ) -> tuple[list[bytes], Exception | None]:
        left, why = await send_once(self, messages, connection)
        tried.append(len(left))
        return left, why

    came: list[bytes] = []

    async def answer(connection: Connection, message: Msg) -> None:
        came.append(message.data)
        if len(came) == 1:
            client: Any = connection._client
            await client.publish(message.reply, headers={"Status": "503"})
        else:
            await connection.publish(message.reply, b'{"seq":1}')

    monkeypatch.setattr(StreamRepository, "_send_once", note)
    async with (
        stream.repository() as leader,
        stream.repository(publish_timeout_seconds=HANG_SECONDS) as repository,
    ):
        leader._names = repository._names = Played(stream.name)
        with without_a_hang():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(repository.upsert_many, [entry(n) for n in range(3000)])
                await until(lambda: len(tried) > 1)
                messages = tried[0]
                assert set(tried) == {messages}
                await answer_as(leader, answer)
    assert (messages > 1, tried[-2:], len(came)) == (True, [1, 0], messages + 1)


@each_bridge
async def test_a_stream_without_a_leader_for_too_long_is_unavailable(bridge: BridgeKind) -> None:
    # To such a user, nobody answers at all.
    settings = "accounts { A { users = [ { user: a, password: a } ] } }"
    with run_nats_server(settings) as server:
        async with open_stream_repository(
            server.url,
            "mine",
            user="a",
            password="a",  # noqa: S106
            publish_timeout_seconds=0.2,
            bridge=bridge,
        ) as repository:
            with pytest.raises(StoreUnavailableError, match="nobody answers") as caught:
                await repository.upsert_many([entry(1)])
    assert not isinstance(caught.value, StoreMisconfiguredError)


@each_bridge
async def test_who_may_not_listen_to_advisories_may_publish(bridge: BridgeKind) -> None:
    denied = 'permissions: { subscribe: { deny: "$JS.EVENT.>" } }'
    settings = f"authorization {{ users = [ {{ user: a, password: a, {denied} }} ] }}"
    with run_nats_server(settings) as server:
        user: dict[str, Any] = {"user": "a", "password": "a", "bridge": bridge}
        await create_stream(server.url, "mine", max_bytes=MEGABYTE, replicas=1, **user)
        async with open_stream_repository(server.url, "mine", **user) as repository:
            for number in range(20):
                assert await repository.upsert_many([entry(number)]) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda one: one.request("x", b"", 5),
        lambda one: one.publish("x", b""),
        lambda one: one.settle(5),
    ],
    ids=["request", "publish", "settle"],
)
async def test_a_lost_connection_does_nothing_more(
    call: Callable[[Connection], Awaitable[Any]],
) -> None:
    here = Stream(nats_server(), BRIDGES[0])
    await here.create()
    async with here.repository() as repository:

        async def lose_it(one: Connection) -> None:
            await one._note(Exception("whatever it is"))
            assert not one.lost
            one._lose()
            await call(one)

        with pytest.raises(StoreUnavailableError, match="LostError"):
            await use(repository, lose_it)
        await repository.check()


# Defects


def undefined(*_: object) -> object:
    """Raise NameError, as a defect of ours would."""
    return eval("_no_name")  # noqa: S307  # no name of anything


async def test_a_defect_on_a_connection_that_works_is_no_outage(stream: Stream) -> None:
    async with stream.repository() as repository:

        async def work(_: Connection) -> None:  # noqa: ASYNC124  # is awaited
            undefined()

        async def lose_and_work(one: Connection) -> None:  # noqa: ASYNC124  # likewise
            one._lose()
            undefined()

        with pytest.raises(StoreError, match=r"a test: a defect .*: NameError at ") as caught:
            await use(repository, work)
        assert type(caught.value) is StoreError
        # Where the connection is lost, nats-py may raise anything.
        with pytest.raises(StoreUnavailableError, match="a test: NameError"):
            await use(repository, lose_and_work)
        await repository.check()


async def test_a_defect_while_connecting_blames_no_entry_and_needs_a_person(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "subscribe", undefined)
    async with stream.repository() as repository:
        with pytest.raises(
            StoreMisconfiguredError, match=r"connecting: a defect .*: NameError at "
        ):
            await repository.check()


async def test_a_producer_sends_less_at_once_where_there_is_no_memory(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = Codec.messages

    def fail_with_many(self: Codec[Any], lines: Any, most: int) -> Any:  # noqa: ANN401
        if len(lines) > 3:
            raise MemoryError
        return messages(self, lines, most)

    monkeypatch.setattr(Codec, "messages", fail_with_many)
    async with stream.repository() as repository:
        async with open_write_behind_queue(repository, QUICK) as queue:
            await queue.enqueue_many(ENTRIES[:20])
            with without_a_hang():
                await queue.flush()
        assert queue.metrics().total_persisted == 20


async def test_a_defect_of_a_relay_s_pulling_is_reported_at_once_and_loses_nothing(
    stream: Stream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stream.put(ENTRIES[:5])
    store: MemoryRepository[ProvcacheEntry] = MemoryRepository()
    monkeypatch.setattr(Puller, "_pull", undefined)
    async with stream.relay(store, QUICK) as relay:
        await until(lambda: relay.metrics().state is QueueState.WAITING)
        assert "store misconfigured" in caplog.text
        assert "NameError at " in caplog.text
        monkeypatch.undo()
        await stream.until_empty()
    assert store.rows == by_key(ENTRIES[:5])


async def test_a_defect_of_a_relay_s_answers_is_a_crash_after_which_they_are_sent(
    stream: Stream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is redelivered to it, so what it could not send has to be sent when it begins anew.
    patient = Stream(stream.server, stream.bridge)
    await patient.create(ack_wait_seconds=3600)
    await patient.put(ENTRIES[:5])
    store: MemoryRepository[ProvcacheEntry] = MemoryRepository()
    monkeypatch.setattr(puller_module, "_publish_all", undefined)
    async with patient.relay(store, QUICK):
        await until(lambda: "answers crashed: StoreError" in caplog.text)
        monkeypatch.undo()
        await patient.until_empty()
    assert store.rows == by_key(ENTRIES[:5])


async def test_what_waits_for_an_answer_learns_at_once_that_there_will_be_none(
    stream: Stream,
) -> None:
    async with stream.repository(publish_timeout_seconds=3600) as repository:
        silent = f"$JS.ACK.{stream.name}.relay.1.99.99.1.0"  # nobody answers there

        async def fails() -> None:
            with without_a_hang(), pytest.raises(StoreUnavailableError, match="LostError"):
                await use(repository, lambda one: one.request(silent, b"", 3600))

        async def lose(one: Connection) -> None:  # noqa: ASYNC124  # is awaited
            one._lose()
            one._lose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)
            nursery.start_soon(fails)
            session = repository._session
            await until(lambda: session.current is not None and len(session.current._waiting) == 2)
            await use(repository, lose)
        await repository.check()


async def test_an_answer_that_comes_too_late_is_nobodys(stream: Stream) -> None:
    async with stream.repository() as repository:

        async def late(one: Connection) -> None:
            await one.publish(f"{one._inbox}.999", b"")
            await one.settle(5)
            assert not one.lost

        await use(repository, late)


async def test_a_ping_that_is_answered_too_late_breaks_no_connection(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(connection: Connection) -> None:
        # As nats-py's own ``flush`` does when time is up.
        given_up: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        given_up.cancel()
        await connection._client._send_ping(given_up)
        await connection.settle(HANG_SECONDS)
        assert not connection.lost

    async with stream.repository() as repository:
        await use(repository, work)
    assert not caplog.records


async def test_a_server_that_does_not_answer_in_time_is_left(stream: Stream) -> None:
    async with stream.repository() as repository:
        await repository.check()
        before = repository._session.current
        silent = f"$JS.ACK.{stream.name}.relay.1.99.99.1.0"
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            await use(repository, lambda one: one.request(silent, b"", 0.01))
        await repository.check()
        assert before is not None
        assert before.lost
        assert repository._session.current is not before
        await repository._run(partial(repository._session.drop, before))  # for the second time
        await repository.check()


async def test_calls_that_come_at_once_share_a_connection(stream: Stream) -> None:
    async with stream.repository() as repository, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(repository.upsert_many, [entry(number)])
        await until(lambda: stream.messages() == 5)
        assert repository._session._turn == 1


async def test_what_needs_a_person_is_reported_whatever_else_is_down() -> None:
    with run_nats_server('authorization { token: "s3cr3t" }') as server:
        urls = [server.url, f"nats://127.0.0.1:{unused_port()}"]
        async with open_stream_repository(urls, "mine") as repository:
            for _ in range(2):
                with pytest.raises(StoreMisconfiguredError, match="access"):
                    await repository.check()


async def test_an_answer_that_is_not_known_needs_a_person(stream: Stream) -> None:
    class Odd(Answer, frozen=True, kw_only=True):
        seq: str

    async with stream.repository() as repository:
        subject = f"provcache.{stream.name}"
        with pytest.raises(StoreMisconfiguredError, match="not known"):
            await repository._run(lambda: repository._session.ask(subject, b"x", Odd))


async def test_a_stream_that_nobody_publishes_to_is_unavailable(stream: Stream) -> None:
    async with stream.repository() as repository:
        config = {**stream.detail()["config"], "subjects": [f"other.{stream.name}"]}
        subject = f"$JS.API.STREAM.UPDATE.{stream.name}"
        await ask(repository, subject, msgspec.json.encode(config))
        with pytest.raises(NoRespondersError):
            await repository.upsert_many([entry(1)])


async def test_a_relay_that_cannot_be_opened_leaves_nothing_behind(stream: Stream) -> None:
    opening: Any = stream.relay(MemoryRepository())
    opening._queue._entered = True
    with pytest.raises(RuntimeError, match="entered once"):
        await opening.__aenter__()
    assert threads_left() == []


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("no suitable peers for placement, peer offline", StoreUnavailableError),
        ("no suitable peers for placement, insufficient storage", StoreMisconfiguredError),
    ],
)
def test_a_server_that_is_offline_needs_no_person_where_too_few_servers_do(
    said: str, kind: type[StoreUnavailableError]
) -> None:
    assert type(ApiError(code=400, err_code=10005, description=said).meaning()) is kind


def test_a_majority_of_the_replicas_has_to_have_everything() -> None:
    late = 60 * 10**9
    for other, expected in (
        (Replica(name="n3", current=True), 3),
        (Replica(name="n3"), 2),
        (Replica(name="n3", current=True, offline=True), 2),
        (Replica(name="n3", current=True, active=late), 2),
    ):
        replicas = [Replica(name="n2", current=True), other]
        found = keepers_of(Cluster(leader="n1", replicas=replicas))
        assert found == (expected, {"n1", "n2", "n3"})
    assert keepers_of(None) == (1, set())
    check_majority(2, 3)
    for current, wanted in ((1, 3), (1, 2), (2, 4)):
        with pytest.raises(StoreUnavailableError, match=f"only {current} of {wanted}"):
            check_majority(current, wanted)


# A relay's


async def test_a_consumer_that_is_deleted_needs_a_person_and_then_it_goes_on(
    stream: Stream,
) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    async with stream.relay(store, QUICK) as relay, stream.repository() as repository:
        await until(lambda: stream.consumer()["num_waiting"])
        await ask(repository, f"$JS.API.CONSUMER.DELETE.{stream.name}.relay")
        await until(lambda: relay.metrics().state is QueueState.WAITING)
        await until(lambda: "10014" in str(relay.metrics().last_error))
        await stream.create()
        await until(lambda: relay.metrics().state is QueueState.RUNNING)
        await repository.upsert_many(ENTRIES[:3])
        await stream.until_empty()
    assert store.rows == by_key(ENTRIES[:3])


async def test_a_relay_that_nobody_answers_says_so_and_goes_on(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    async with stream.relay(store, QUICK) as relay:
        await until(lambda: stream.consumer()["num_waiting"])
        nobody = NoRespondersError("nobody", error_class="NoResponders")
        await on_its_side(relay, lambda puller: setattr(puller, "_failure", nobody))
        await until(lambda: "NoResponders" in str(relay.metrics().last_error))
        await until(lambda: relay.metrics().state is QueueState.RUNNING)
        await stream.put(ENTRIES[:3])
        await stream.until_empty()


async def test_what_a_relay_is_not_permitted_needs_a_person() -> None:
    users = """authorization { users = [ { user: "all", password: "x" }
        { user: "little", password: "x", permissions: { publish: "$JS.API.CONSUMER.INFO.>" } } ] }"""
    with run_nats_server(users) as server:
        here = Stream(server, BRIDGES[0])
        await here.create(user="all", password="x")  # noqa: S106
        store: MemoryRepository[Any] = MemoryRepository()
        who = {"user": "little", "password": "x"}
        async with here.relay(store, QUICK, **who) as relay:
            await until(lambda: "DeniedError" in str(relay.metrics().last_error))


@pytest.mark.parametrize("seconds", [0.05, 1.3])
async def test_a_pull_that_is_silent_is_made_anew(
    seconds: float, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller_module, "_SILENCE_SECONDS", seconds)
    store: MemoryRepository[Any] = MemoryRepository()
    async with stream.relay(store) as relay:
        await until(lambda: stream.consumer()["num_waiting"])
        await trio.sleep(1.5)
        await stream.put(ENTRIES[:3])
        await stream.until_empty()
        assert relay.metrics().total_persisted == 3


async def test_what_was_released_goes_to_another_relay(stream: Stream) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    other: MemoryRepository[Any] = MemoryRepository()
    async with stream.relay(store) as relay:
        await until(lambda: stream.consumer()["num_waiting"])
        await relay._source._bridge.run(relay._source._puller.release)
        await on_its_side(relay, lambda _: None)
        async with stream.relay(other):
            await stream.put(*([each] for each in ENTRIES[:150]))
            await stream.until_empty()
    assert (store.rows, other.rows) == ({}, by_key(ENTRIES[:150]))


async def test_where_nobody_answers_at_the_end_that_is_logged_and_nothing_hangs(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store: MemoryRepository[Any] = MemoryRepository()
    store.stall()
    options = WriteBehindOptions(drain_timeout_seconds=0)
    await stream.put(*([each] for each in ENTRIES[:150]))
    with without_a_hang():
        async with stream.relay(store, options) as relay:
            await until(lambda: relay.metrics().in_flight)
            monkeypatch.setattr(puller_module, "_PATIENCE", 0)
    assert "not given back, as no server could be told" in caplog.text
    assert stream.messages() == 150


async def test_where_nothing_is_left_at_the_end_nothing_is_logged(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with stream.relay(MemoryRepository()):
        await until(lambda: stream.consumer()["num_waiting"])

        async def fail(*_: object) -> None:  # noqa: ASYNC124  # is awaited
            raise StoreUnavailableError("away")

        monkeypatch.setattr(Puller, "finish", fail)
    assert "come again" not in caplog.text


async def test_a_server_that_is_away_for_a_moment_loses_nothing() -> None:
    with run_nats_server() as server:
        here = Stream(server, BRIDGES[0])
        await here.create(ack_wait_seconds=1)
        store: MemoryRepository[Any] = MemoryRepository()
        store.stall()
        await here.put(ENTRIES[:300], ENTRIES[300:])
        async with here.relay(store, QUICK) as relay:
            await until(lambda: relay.metrics().in_flight)
            await trio.to_thread.run_sync(server.end)
            await until(lambda: relay._source._puller.session.current is None)
            store.resume()
            await until(lambda: len(store.rows) == 600)
            await trio.sleep(0.5)  # it tries to answer, and to extend
            server.start()
            await until(server.is_ready)
            await here.until_empty()
            await trio.to_thread.run_sync(server.end)
        server.start()
        await until(server.is_ready)
    assert store.rows == by_key(ENTRIES)


async def test_a_stream_that_is_deleted_while_a_message_is_in_the_way_needs_a_person(
    stream: Stream,
) -> None:
    await stream.put_raw(b"?")
    async with (
        stream.relay(MemoryRepository(), QUICK) as relay,
        stream.repository() as repository,
    ):
        await until(lambda: "UnreadableMessage 1" in str(relay.metrics().last_error))
        await ask(repository, f"$JS.API.STREAM.DELETE.{stream.name}")
        await until(lambda: "JetStream 10059" in str(relay.metrics().last_error))


# What the source owns


def a_source() -> StreamSource[ProvcacheEntry]:
    access, names = read_access("nats://n1"), names_of("s")
    puller: Any = Puller(access, names)
    bridge: Any = None
    looks = Looks(access, names)
    return StreamSource(puller, Codec(None), bridge, looks, stream="s", relay="relay")


def test_what_comes_when_it_was_stopped_goes_back() -> None:
    source = a_source()
    source.stop()
    source._receive([Message(1, "here", b"")])
    assert (source._back, source._arrived) == (["here"], {})


async def test_who_was_stopped_takes_nothing_more(autojump_clock: MockClock) -> None:
    source = a_source()
    source.stop()
    with trio.move_on_after(3600) as scope:
        await source.take(1)
    assert scope.cancelled_caught


async def test_what_is_held_is_extended_again_when_nobody_could_be_told(
    autojump_clock: MockClock,
) -> None:
    told: list[bool] = []

    class Broken:
        """A bridge of which every other call fails."""

        async def run(self, _: object, /) -> None:
            await trio.lowlevel.checkpoint()
            told.append(len(told) % 2 == 1)
            if not told[-1]:
                raise StoreUnavailableError("no server")

    source = a_source()
    source._bridge = Broken()  # type: ignore[assignment]  # in its place
    with trio.move_on_after(10):
        await source._extend()
    assert told[:4] == [False, True, False, True]


async def test_messages_that_are_done_one_soon_after_the_other_are_acknowledged_together(
    autojump_clock: MockClock,
) -> None:
    sent: list[Sequence[str]] = []

    class Noting:
        """A bridge that notes what is to be sent."""

        async def run(self, call: partial[object], /) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(call.args[1])

    source = a_source()
    source._bridge = Noting()  # type: ignore[assignment]  # in its place
    source._receive([Message(number, f"reply {number}", b"") for number in range(4)])
    source._codec.decode = lambda _: iter([ENTRIES[:1]])  # type: ignore[method-assign, assignment]
    await source._decode()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source._answer)
        for number in range(3):
            source.settled([number])
            await trio.sleep(0.01)
        await trio.sleep(10)
        source.settled([3])
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert sent == [("reply 0", "reply 1", "reply 2"), ("reply 3",)]


async def test_what_is_given_back_while_it_is_decoded_is_not_held() -> None:
    source = a_source()

    def decode(_: bytes) -> Iterator[Sequence[ProvcacheEntry]]:
        source.stop()
        yield ENTRIES[:1]

    source._codec.decode = decode  # type: ignore[method-assign, assignment]
    source._receive([Message(1, "here", b"")])
    await source._decode()
    assert (source._back, source._held, len(source._ready)) == (["here"], {}, 0)


def test_many_answers_are_sent_in_steps_between_which_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(puller_module, "_SENT_IN_A_STEP", 2)
    sent: list[str] = []

    class Sending:
        """A connection that notes what it sends."""

        async def publish(self, subject: str, _: bytes) -> None:
            sent.append(subject)

    async def send() -> None:
        connection: Any = Sending()
        task = asyncio.ensure_future(
            puller_module._publish_all(connection, b"+ACK", ["a", "b", "c"])
        )
        await asyncio.sleep(0)
        assert sent == ["a", "b"]
        await task

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(send())
    assert sent == ["a", "b", "c"]
