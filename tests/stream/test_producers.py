"""A stream as the repository of a queue, on one server."""

from __future__ import annotations

import ssl
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trustme

from provcache_trio import (
    EntryRejectedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    Table,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.nats import create_stream, open_stream_repository

from tests.support.bridges import BRIDGES, each_bridge, threads_left
from tests.support.entries import entry
from tests.support.nats import MEGABYTE, nats_server, run_nats_server, unused_stream
from tests.support.servers import unused_port
from tests.support.streams import Stream, ask, stream
from tests.support.tables import Reading
from tests.support.waiting import until, without_a_hang

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path

    from provcache_trio._asyncio.bridge import BridgeKind

__all__ = ["stream"]  # a fixture

pytestmark = pytest.mark.whole_process

SECRET = "s3cr3t/%40"  # noqa: S105  # of a server of the test's own
NEWER = Table(Reading, "reading", key=("sensor", "hour"), newer="version")
NEWEST = Table(Reading, "reading", key=("sensor", "hour"))
KEEPING = Table(
    Reading, "reading", key=("sensor", "hour"), newer="version", merge={"first": "keep"}
)


@contextmanager
def raises(kind: type[StoreError], match: str) -> Generator[None]:
    """Expect an error of this very class, that quotes no secret."""
    with pytest.raises(kind, match=match) as caught:
        yield
    assert type(caught.value) is kind
    assert "s3cr3t" not in repr(caught.value) + str(caught.value.__dict__)
    assert caught.value.__cause__ is None


async def test_what_a_queue_persisted_is_in_the_stream_in_one_message_a_batch(
    stream: Stream,
) -> None:
    options = WriteBehindOptions(batch_size=10)
    async with (
        stream.repository() as repository,
        open_write_behind_queue(repository, options) as queue,
    ):
        await queue.enqueue_many(map(entry, range(30)))
        await queue.flush()
        assert queue.metrics().total_persisted == 30
        assert (await repository.check()).messages == 3


async def test_upsert_many_returns_how_many_entries_there_are(stream: Stream) -> None:
    async with stream.repository() as repository:
        assert await repository.upsert_many([entry(1), entry(2)]) == 2
        assert await repository.upsert_many([entry(1), entry(2)]) == 2
        prepared = await repository.prepare([entry(3)])
        assert list(prepared) == [entry(3)]
        assert await repository.upsert_many(prepared) == 1
        report = await repository.check()
        assert (report.messages, report.replicas, report.current) == (3, 1, 1)
        assert report.bytes < report.max_bytes == 64 * MEGABYTE


async def test_a_batch_that_exceeds_what_the_server_takes_is_several_messages() -> None:
    with run_nats_server("max_payload: 8192") as server:
        stream = Stream(server, BRIDGES[0])
        await stream.create()
        async with stream.repository() as repository:
            assert await repository.upsert_many([entry(number) for number in range(20)]) == 20
            assert (await repository.check()).messages > 1
        before = stream.messages()
        async with stream.repository(table=NEWER) as repository:
            with pytest.raises(EntryRejectedError, match="too large") as caught:
                await repository.upsert_many([Reading("a", 1, 1), Reading("x" * 8192, 1, 1)])
            assert caught.value.index == 1
        assert stream.messages() == before


@pytest.fixture
async def two_servers() -> AsyncGenerator[tuple[Stream, str]]:
    """Give a stream, and the URL of another server with one of that name that takes only small messages."""
    with run_nats_server("max_payload: 8192") as small:
        large = Stream(nats_server(), BRIDGES[0])
        await large.create()
        await create_stream(small.url, large.name, max_bytes=MEGABYTE, replicas=1)
        yield large, small.url


async def test_an_entry_that_is_too_large_for_one_server_goes_to_another(
    two_servers: tuple[Stream, str],
) -> None:
    large, small = two_servers
    fits, fits_elsewhere, too_large = (Reading("x" * size, 1, 1) for size in (1, 8192, MEGABYTE))
    async with open_stream_repository([small, large.url], large.name, table=NEWER) as repository:
        await repository.upsert_many([fits])
        assert large.messages() == 0
        await repository.upsert_many([fits, fits_elsewhere])
        assert large.messages() == 1
        for _ in range(2):  # once the servers' limits are known, too
            with pytest.raises(EntryRejectedError, match="too large") as caught:
                await repository.upsert_many([fits, too_large])
            assert caught.value.index == 1
        assert repository._session._turn == 2  # both were tried once
        await repository._run(repository._session.close)
        assert await repository._run(repository._session.leave_for_larger)


async def test_an_entry_that_no_server_takes_is_refused_after_each_was_asked_once(
    two_servers: tuple[Stream, str],
) -> None:
    large, small = two_servers
    too_large = Reading("x" * MEGABYTE, 1, 1)
    async with open_stream_repository([small, large.url], large.name, table=NEWER) as repository:
        for _ in range(2):
            with pytest.raises(EntryRejectedError, match="too large"):
                await repository.upsert_many([too_large])
            assert repository._session._turn == 2


async def test_a_full_stream_is_unavailable_and_keeps_what_it_has(stream: Stream) -> None:
    small = Stream(stream.server, stream.bridge)
    await small.create(max_bytes=8192)
    async with small.repository() as repository:
        with raises(StoreUnavailableError, "full"):
            for number in range(20):
                await repository.upsert_many([entry(number)])
        before = small.messages()
        assert before > 0
        with raises(StoreUnavailableError, "full"):
            await repository.upsert_many(list(map(entry, range(9))))
        assert small.messages() == before


async def test_without_a_stream_a_person_is_needed(stream: Stream) -> None:
    async with open_stream_repository(
        stream.url, unused_stream(), bridge=stream.bridge
    ) as repository:
        for call in (repository.check(), repository.upsert_many([entry(1)])):
            with raises(StoreMisconfiguredError, "no such stream"):
                await call


async def test_without_a_server_the_stream_is_unavailable() -> None:
    url = f"nats://127.0.0.1:{unused_port()},127.0.0.1:{unused_port()}"
    async with open_stream_repository(url, "nowhere") as repository:
        for _ in range(2):
            with raises(StoreUnavailableError, "connecting"):
                await repository.upsert_many([entry(1)])


async def test_a_server_that_is_down_is_passed_over(stream: Stream) -> None:
    servers = [f"nats://127.0.0.1:{unused_port()}", stream.url]
    async with open_stream_repository(servers, stream.name, bridge=stream.bridge) as repository:
        assert await repository.upsert_many([entry(1)]) == 1


async def test_a_server_that_needs_a_person_is_passed_over_and_logged_once(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    with run_nats_server('authorization { token: "s3cr3t" }') as server:
        async with open_stream_repository(
            [server.url, stream.url], stream.name, bridge=stream.bridge
        ) as repository:
            for number in range(4):
                assert await repository.upsert_many([entry(number)]) == 1
                await repository._run(repository._session.close)
            place = server.url.removeprefix("nats://")
            logged = f"connecting to {place}: access was refused; another server is used"
            assert caplog.text.count(logged) == 1
            server.settings = ""
            server.reload()
            for _ in range(2):  # whichever server it is that is next
                await repository._run(repository._session.close)
                with suppress(StoreMisconfiguredError):  # the other has no such stream
                    await repository.upsert_many([entry(5)])
            server.settings = 'authorization { token: "s3cr3t" }'
            server.reload()
            for _ in range(2):
                await repository._run(repository._session.close)
                await repository.upsert_many([entry(6)])
            assert caplog.text.count(logged) == 2  # it was well meanwhile


async def test_create_stream_changes_nothing_the_second_time(stream: Stream) -> None:
    before = {name: stream.detail()[name] for name in ("config", "created")}
    await stream.create()
    assert {name: stream.detail()[name] for name in ("config", "created")} == before
    config, consumer = before["config"], stream.consumer()["config"]
    assert (config["retention"], config["discard"], config["storage"], config["max_age"]) == (
        "workqueue",
        "new",
        "file",
        0,
    )
    assert (consumer["ack_policy"], consumer["max_deliver"], consumer["ack_wait"]) == (
        "explicit",
        -1,
        30_000_000_000,
    )


async def test_a_stream_or_consumer_with_other_settings_needs_a_person(stream: Stream) -> None:
    both = f"max_bytes is {stream.detail()['config']['max_bytes']}, not {MEGABYTE}"
    with raises(StoreMisconfiguredError, f"the stream is there, with other settings: {both}$"):
        await stream.create(max_bytes=MEGABYTE)
    both = "ack_wait is 30 s, not 31 s"
    with raises(StoreMisconfiguredError, f"consumer is there, with other settings: {both}$"):
        await stream.create(ack_wait_seconds=31)
    with raises(StoreMisconfiguredError, "single server.*--replicas 1"):
        await create_stream(
            stream.url, unused_stream(), max_bytes=MEGABYTE, replicas=3, bridge=stream.bridge
        )


async def test_too_little_room_needs_a_person(stream: Stream) -> None:
    other = Stream(stream.server, stream.bridge)
    with raises(StoreMisconfiguredError, "too little room"):
        await other.create(max_bytes=2**50)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("discard", "old"), ("max_age", 10**12), ("max_msgs", 5), ("subjects", ["elsewhere.>"])],
)
async def test_check_names_a_setting_that_would_lose_entries(setting: str, value: object) -> None:
    stream = Stream(nats_server(), BRIDGES[0])
    await stream.create()
    async with stream.repository() as repository:
        config = {**stream.detail()["config"], setting: value}
        subject = f"$JS.API.STREAM.UPDATE.{stream.name}"
        await ask(repository, subject, msgspec.json.encode(config))
        with raises(StoreMisconfiguredError, setting):
            await repository.check()


async def test_check_and_relay_refuse_a_consumer_that_gives_up() -> None:
    stream = Stream(nats_server(), BRIDGES[0])
    await stream.create()
    async with stream.repository() as repository:
        config = {**stream.consumer()["config"], "max_deliver": 3}
        body = {"stream_name": stream.name, "config": config}
        subject = f"$JS.API.CONSUMER.DURABLE.CREATE.{stream.name}.relay"
        await ask(repository, subject, msgspec.json.encode(body))
        with raises(StoreMisconfiguredError, "max_deliver"):
            await repository.check()


async def test_check_learns_from_the_monitoring_page_whether_the_server_syncs_always(
    stream: Stream,
) -> None:
    page = stream.server.monitor_url
    async with stream.repository() as repository:
        assert (await repository.check()).sync_always is None
        assert (await repository.check(monitor_url=page)).sync_always is True
        assert (await repository.check(monitor_url=[f"{page}/"])).sync_always is True
        with raises(StoreUnavailableError, "monitoring page"):
            await repository.check(monitor_url=f"http://127.0.0.1:{unused_port()}")
        for url in ("ftp://n1", "n1:8222", "http://", "http://me@n1"):
            with pytest.raises(ValueError, match="monitor_url"):
                await repository.check(monitor_url=url)


async def test_check_reports_a_server_that_does_not_sync_always() -> None:
    with run_nats_server(sync="2m") as server:
        stream = Stream(server, BRIDGES[0])
        await stream.create()
        async with stream.repository() as repository:
            with raises(StoreMisconfiguredError, "sync_interval: always"):
                await repository.check(monitor_url=server.monitor_url)


# Who may come in


USERS = f"""
    {{ user: "a user", password: "{SECRET}" }}
    {{ user: "reader", password: "r", permissions: {{ publish: "$JS.API.STREAM.INFO.>" }} }}
"""
AUTHORIZATION = f"authorization {{ users = [ {USERS} ] }}\n"


async def test_user_and_password_come_from_the_url_or_from_arguments() -> None:
    with run_nats_server(AUTHORIZATION) as server:
        place = server.url.removeprefix("nats://")
        url = f"nats://a%20user:s3cr3t%2F%2540@{place}"
        await create_stream(url, "mine", max_bytes=MEGABYTE, replicas=1)
        async with open_stream_repository(url, "mine") as repository:
            await repository.check()
        async with open_stream_repository(
            server.url, "mine", user="a user", password=SECRET
        ) as repository:
            await repository.upsert_many([entry(1)])
        wrong: tuple[dict[str, Any], ...] = (
            {"user": "a user", "password": "s3cr3t"},
            {"token": "s3cr3t"},
            {},
        )
        for arguments in wrong:
            async with open_stream_repository(server.url, "mine", **arguments) as repository:
                with raises(StoreMisconfiguredError, "access was refused"):
                    await repository.upsert_many([entry(1)])


@each_bridge
async def test_what_is_not_permitted_needs_a_person_at_once(bridge: BridgeKind) -> None:
    with run_nats_server(AUTHORIZATION) as server:
        async with open_stream_repository(
            server.url,
            "mine",
            user="reader",
            password="r",  # noqa: S106
            publish_timeout_seconds=3600,
            bridge=bridge,
        ) as repository:
            with without_a_hang(), raises(StoreMisconfiguredError, "access was refused"):
                await repository.upsert_many([entry(1)])


async def test_a_token_comes_from_the_url_or_from_an_argument() -> None:
    with run_nats_server('authorization { token: "s3cr3t" }') as server:
        place = server.url.removeprefix("nats://")
        await create_stream(f"nats://s3cr3t@{place}", "mine", max_bytes=MEGABYTE, replicas=1)
        async with open_stream_repository(server.url, "mine", token="s3cr3t") as repository:  # noqa: S106
            await repository.check()


async def test_a_server_that_is_too_busy_to_let_us_in_is_unavailable() -> None:
    with run_nats_server('authorization { token: "s3cr3t", timeout: 0.000001 }') as server:
        async with open_stream_repository(server.url, "mine", token="s3cr3t") as repository:  # noqa: S106
            for _ in range(5):
                with raises(StoreUnavailableError, "connecting"):
                    await repository.check()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def tls_settings(authority: trustme.CA, folder: Path) -> str:
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return f'tls {{ cert_file: "{folder}/cert.pem", key_file: "{folder}/key.pem" }}\n'


@each_bridge
async def test_tls_is_spoken_with_whom_it_trusts(
    authority: trustme.CA, tmp_path: Path, bridge: BridgeKind, caplog: pytest.LogCaptureFixture
) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with run_nats_server(tls_settings(authority, tmp_path) + AUTHORIZATION) as server:
        who: dict[str, Any] = {"user": "a user", "password": SECRET, "bridge": bridge}
        await create_stream(server.url, "mine", max_bytes=MEGABYTE, replicas=1, tls=trusting, **who)
        async with open_stream_repository(server.url, "mine", tls=trusting, **who) as repository:
            await repository.upsert_many([entry(1)])
            await repository.check()
        strange = server.url.replace("nats:", "tls:")
        for url in (strange, server.url):  # trusts nobody of the test's, or knows of no TLS
            async with open_stream_repository(url, "mine", **who) as repository:
                with raises(
                    StoreMisconfiguredError, r"TLS that both .* \(unable to get local issuer"
                ):
                    await repository.check()
        who["password"] = "wrong"  # noqa: S105  # of no server
        async with open_stream_repository(server.url, "mine", tls=trusting, **who) as repository:
            with raises(StoreMisconfiguredError, "access"):
                await repository.check()
    assert "eof_received" not in caplog.text


@each_bridge
async def test_nothing_is_sent_without_tls_where_it_is_wanted(bridge: BridgeKind) -> None:
    with run_nats_server(AUTHORIZATION) as server:
        url = server.url.replace("nats:", "tls:")
        whoever: tuple[dict[str, Any], ...] = ({"user": "a user", "password": SECRET}, {})
        for who in whoever:
            async with open_stream_repository(url, "mine", bridge=bridge, **who) as repository:
                with raises(StoreMisconfiguredError, "the server speaks no TLS|access"):
                    await repository.check()
        assert server.page("varz")["in_msgs"] == 0


async def test_credentials_that_are_not_there_need_a_person(stream: Stream) -> None:
    async with open_stream_repository(
        stream.url, stream.name, credentials="/nowhere/x.creds", bridge=stream.bridge
    ) as repository:
        with raises(StoreMisconfiguredError, "credentials"):
            await repository.check()


# Arguments


@pytest.mark.parametrize(
    ("servers", "arguments", "kind"),
    [
        ("n1", {}, ValueError),
        ("http://n1", {}, ValueError),
        ("nats://", {}, ValueError),
        ("nats://n1/stream", {}, ValueError),
        ("nats://n1:port", {}, ValueError),
        ("nats://[::1", {}, ValueError),
        ("nats://n1,,n2", {}, ValueError),
        ([], {}, ValueError),
        (["nats://n1", 3], {}, TypeError),
        (3, {}, TypeError),
        ("nats://n1", {"user": "x"}, ValueError),
        ("nats://n1", {"token": "x", "credentials": "y"}, ValueError),
        ("nats://n1", {"password": 3}, TypeError),
        ("nats://n1", {"tls": True}, TypeError),
        ("nats://n1", {"stream": "a.b"}, ValueError),
        ("nats://n1", {"stream": 3}, TypeError),
        ("nats://n1", {"bridge": "x"}, ValueError),
        ("nats://n1", {"publish_timeout_seconds": 0}, ValueError),
        ("nats://n1", {"table": Reading}, TypeError),
        ("nats://n1", {"table": NEWEST}, ValueError),
        ("nats://n1", {"table": KEEPING}, ValueError),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_opened(
    servers: str, arguments: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        open_stream_repository(servers, **{"stream": "s", **arguments})


@pytest.mark.parametrize(
    "arguments",
    [{"max_bytes": 0}, {"replicas": 6}, {"ack_wait_seconds": 0.5}, {"stream": "a b"}],
)
async def test_create_stream_refuses_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        await create_stream("nats://n1", **{"stream": "s", "max_bytes": 1, **arguments})


# Its life


async def test_a_closed_stream_says_so_and_leaves_nothing_behind(stream: Stream) -> None:
    async with stream.repository() as repository:
        await repository.upsert_many([entry(1)])
        clients = stream.server.page("connz")["num_connections"]
        assert clients >= 1
    with pytest.raises(trio.ClosedResourceError):
        await repository.upsert_many([entry(1)])
    assert threads_left() == []


async def test_leaving_cuts_off_calls_of_other_tasks(stream: Stream) -> None:
    async with trio.open_nursery() as nursery:  # noqa: SIM117  # it has to end later
        async with stream.repository(publish_timeout_seconds=3600) as repository:
            # Nobody answers there: it is no request.
            silent = f"$JS.ACK.{stream.name}.relay.1.99.99.1.0"

            async def call() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await repository._run(
                        lambda: repository._session.use(
                            lambda one: one.request(silent, b"", 3600), "a test"
                        )
                    )

            nursery.start_soon(call)
            await until(lambda: repository._calls._under_way and repository._session.current)
    assert threads_left() == []


async def test_a_cancelled_call_ends_at_once(stream: Stream) -> None:
    async with stream.repository() as repository:
        await repository.check()
        with trio.move_on_after(0) as scope:
            await repository.upsert_many([entry(1)])
        assert scope.cancelled_caught
        assert await repository.upsert_many([entry(1)]) == 1
