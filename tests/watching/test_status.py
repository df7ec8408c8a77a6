"""The status endpoint: what it answers, and that its server never gets in the program's way."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import hypercorn.asyncio
import hypercorn.trio
import msgspec
import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware

from provcache_trio import (
    EntryRejectedError,
    QueueState,
    WriteBehindMetrics,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.status import StatusApp, _server as module, open_status_server
from provcache_trio.status._connection import serve_connection
from provcache_trio.status._hosts import AllowedHosts
from provcache_trio.status._page import load_page
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, items
from tests.support.shown import CACHE, LOOK, Shown
from tests.support.tasks import queue_tasks
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from trio.testing import MockClock

    from provcache_trio.status._app import Message

PATHS = ("/", "/livez", "/readyz", "/metrics", "/status.json")
MESSAGE = "what nobody may see"
ANY_HOST = AllowedHosts("203.0.113.1", "status.example", ())


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


@pytest.fixture
async def some_metrics(store: MemoryRepository[Item]) -> WriteBehindMetrics:
    async with open_write_behind_queue(store) as queue:
        return queue.metrics()


class Still(NamedTuple):
    """A queue that does not change."""

    name: str
    now: WriteBehindMetrics

    def metrics(self) -> WriteBehindMetrics:
        return self.now


class Broken(NamedTuple):
    name: str

    def metrics(self) -> WriteBehindMetrics:
        raise LookupError(MESSAGE)


# At protocol level


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


async def ask(
    app: StatusApp,
    path: str,
    method: str = "GET",
    root: str | None = "",
    headers: list[tuple[bytes, bytes]] | None = None,
) -> Reply:
    """Ask the app as an ASGI server would."""
    scope = {"type": "http", "method": method, "path": path, "headers": headers or []}
    if root is not None:
        scope["root_path"] = root
    sent: list[Message] = []

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        raise AssertionError("nothing is read from the client")

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await app(scope, receive, send)
    start, body = sent
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    names = [name.decode() for name, _ in start["headers"]]
    assert len(set(names)) == len(names)
    values = [value.decode() for _, value in start["headers"]]
    return Reply(start["status"], dict(zip(names, values, strict=True)), body["body"])


async def test_livez_answers_200_whatever_the_queues_do(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    app = StatusApp()
    assert (await ask(app, "/livez")).status == 200
    store.crash_next(3)
    with pytest.raises(Exception, match="gave up"):
        async with open_write_behind_queue(store) as queue:
            app.add(queue)
            await queue.persist(Item("a"))
    reply = await ask(app, "/livez")
    assert (reply.status, reply.text) == (200, "alive\n")


async def test_readyz_answers_503_while_there_is_no_queue() -> None:
    reply = await ask(StatusApp(), "/readyz")
    assert reply.status == 503
    assert reply.text == "not ready\nno queue is open yet, or any more\n"


async def test_readyz_answers_503_while_the_store_is_away(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store) as queue:
        app = StatusApp(queue)
        ready = await ask(app, "/readyz")
        assert (ready.status, ready.text) == (200, "ready\n")
        store.down()
        await queue.enqueue(Item("a"))
        await trio.sleep(1)
        waiting = await ask(app, "/readyz")
        store.up()
        await queue.flush()
        assert (await ask(app, "/readyz")).status == 200
    assert waiting.status == 503
    assert waiting.text == (
        "not ready\nqueue 'default': the store can't be reached, or needs a person\n"
    )


async def test_readyz_answers_503_while_any_queue_drains_or_is_closed(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()

    async def look_at_the_drain() -> None:
        await trio.sleep(1)
        draining = await ask(app, "/readyz")
        store.resume()
        assert draining.status == 503
        assert draining.text == (
            "not ready\nqueue 'one': it is draining and takes no more entries\n"
        )

    async with (
        open_write_behind_queue(MemoryRepository[Item](), name="other") as other,
        trio.open_nursery() as nursery,
    ):
        async with open_write_behind_queue(store, name="one") as queue:
            app = StatusApp(queue, other)
            assert (await ask(app, "/readyz")).status == 200
            await queue.enqueue(Item("b"))
            nursery.start_soon(look_at_the_drain)
        closed = await ask(app, "/readyz")
        assert closed.text == "not ready\nqueue 'one': it is closed and takes no more entries\n"
        app.remove(queue)
        assert (await ask(app, "/readyz")).status == 200


async def test_readyz_answers_503_while_the_dead_letter_sink_holds_the_writer_up(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.reject("a", "b")
    letters = MemoryDeadLetters[Item]()
    letters.down()
    options = WriteBehindOptions(batch_size=1)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        app = StatusApp(queue)
        await queue.enqueue_many(items("ab"))
        await trio.sleep(1)
        reply = await ask(app, "/readyz")
        assert reply.status == 503
        assert "a background task crashed, or the dead letter sink fails" in reply.text
        status = json.loads((await ask(app, "/status.json")).body)["queues"][0]
        assert status["state"] == "paused"
        assert "; 2 entries are kept" in status["summary"]
        letters.up()
        await queue.flush()
        assert (await ask(app, "/readyz")).status == 200


@pytest.mark.parametrize(("durable", "status"), [(None, 200), (True, 200), (False, 503)])
async def test_readyz_answers_503_when_there_is_a_journal_that_does_not_work(
    some_metrics: WriteBehindMetrics, durable: bool | None, status: int
) -> None:
    running = msgspec.structs.replace(some_metrics, state=QueueState.RUNNING, durable=durable)
    reply = await ask(StatusApp(Still("one", running)), "/readyz")
    assert reply.status == status
    assert ("would not survive a crash" in reply.text) == (status == 503)


async def test_a_name_cannot_forge_a_line_of_readyz(some_metrics: WriteBehindMetrics) -> None:
    closed = msgspec.structs.replace(some_metrics, state=QueueState.CLOSED)
    reply = await ask(StatusApp(Still("one\nready", closed)), "/readyz")
    assert reply.text.splitlines()[1:] == [
        "queue 'one\\nready': it is closed and takes no more entries"
    ]


async def test_status_json_tells_everything_about_every_queue(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.down()
    async with (
        open_write_behind_queue(store, name="one") as first,
        open_write_behind_queue(MemoryRepository[Item](), name="two") as second,
    ):
        app = StatusApp(first)
        app.add(second, dead_letters=lambda: 7)
        await first.enqueue(Item("a"))
        await trio.sleep(1)
        reply = await ask(app, "/status.json")
        status = json.loads(reply.body)
        metrics = json.loads(msgspec.json.encode(first.metrics()))
        store.up()
    assert reply.headers["content-type"] == "application/json"
    assert status.keys() == {"version", "time", "queues"}
    assert status["version"] == 1
    age = datetime.now(UTC) - datetime.fromisoformat(status["time"])
    assert abs(age.total_seconds()) < 60
    one, two = status["queues"]
    assert one.keys() == two.keys()
    assert one.keys() == {
        "name",
        "state",
        "summary",
        "ready",
        "reason",
        "metrics",
        "dead_letters",
        "cache",
        "stream",
    }
    assert one["cache"] is one["stream"] is None
    assert (one["name"], one["state"], one["ready"]) == ("one", "waiting", False)
    assert one["reason"] == "the store can't be reached, or needs a person"
    assert one["dead_letters"] is None
    assert one["metrics"].keys() == metrics.keys() == set(WriteBehindMetrics.__struct_fields__)
    assert one["metrics"]["total_enqueued"] == 1
    assert one["metrics"]["last_error"]["error_class"] == "StoreUnavailableError"
    assert (two["name"], two["state"], two["ready"]) == ("two", "running", True)
    assert (two["reason"], two["dead_letters"]) == (None, 7)


async def test_status_json_has_a_queue_s_cache_and_stream(
    some_metrics: WriteBehindMetrics,
) -> None:
    app = StatusApp(
        Shown(some_metrics, "all", cache=CACHE, stream="s", look=LOOK),
        Shown(some_metrics, "unknown", stream="s"),
    )
    known, unknown = json.loads((await ask(app, "/status.json")).body)["queues"]
    assert known["cache"] == msgspec.to_builtins(CACHE)
    assert known["stream"] == {"stream": "s", "look": msgspec.to_builtins(LOOK)}
    assert (unknown["cache"], unknown["stream"]) == (None, {"stream": "s", "look": None})
    assert (known["ready"], unknown["ready"]) == (True, True)  # it says nothing about the queue
    scraped = (await ask(app, "/metrics")).text
    assert 'provcache_stream_messages{queue="all",stream="s"} 1200' in scraped
    assert 'provcache_cache_lookups_total{queue="all",result="miss"} 7' in scraped


@pytest.mark.parametrize("answer", [None, 0, LookupError])
async def test_a_count_of_dead_letters_that_is_not_known_is_null(
    some_metrics: WriteBehindMetrics, answer: int | type[LookupError] | None
) -> None:
    def count() -> int | None:
        if isinstance(answer, type):
            raise answer(MESSAGE)
        return answer

    app = StatusApp()
    app.add(Still("one", some_metrics), dead_letters=count)
    told = json.loads((await ask(app, "/status.json")).body)["queues"][0]["dead_letters"]
    assert told == (answer if answer == 0 else None)


@pytest.mark.parametrize(
    ("state", "fields", "summary"),
    [
        ("running", {}, "Entries are accepted and written; none is waiting."),
        (
            "running",
            {"in_flight": 1, "oldest_pending_seconds": 0.25},
            "Entries are accepted and written; 1 entry is on the way, the oldest for 250 ms.",
        ),
        (
            "running",
            {"in_flight": 2, "oldest_pending_seconds": 1.25},
            "Entries are accepted and written; 2 entries are on the way, the oldest for 1.2 s.",
        ),
        (
            "running",
            {"current_queue_depth": 1000, "in_flight": 234, "oldest_pending_seconds": 90.0},
            "Entries are accepted and written; 1,234 entries are on the way, the oldest for 2 min.",
        ),
        (
            "running",
            {"recovering": True, "in_flight": 2, "oldest_pending_seconds": 5400.0},
            "A journal is replayed; 2 entries are on the way, the oldest for 1.5 h.",
        ),
        (
            "running",
            {"in_flight": 2, "oldest_pending_seconds": 40.0, "call_seconds": 29.9},
            "Entries are accepted and written; 2 entries are on the way, the oldest for 40.0 s.",
        ),
        (
            "running",
            {"in_flight": 2, "oldest_pending_seconds": 40.0, "call_seconds": 30.0},
            (
                "Entries are accepted and written; 2 entries are on the way, the oldest for "
                "40.0 s. A call of the store has not returned for 30.0 s."
            ),
        ),
        (
            "waiting",
            {"in_flight": 1},
            (
                "The store can't be reached, or needs a person; 1 entry waits for it, and it is "
                "tried again without end."
            ),
        ),
        (
            "paused",
            {"in_flight": 2},
            (
                "Nothing is written, because a background task crashed or the dead letter sink "
                "fails; 2 entries are kept until that is over."
            ),
        ),
        (
            "draining",
            {"current_queue_depth": 2},
            "No more entries are accepted; 2 entries are left to write.",
        ),
        ("closed", {}, "The queue has ended, and nothing was left behind."),
        (
            "closed",
            {"total_abandoned": 2},
            (
                "The queue has ended; 2 entries that are not known to be stored went back to the "
                "program."
            ),
        ),
        (
            "closed",
            {"total_abandoned": 2, "total_kept": 2},
            (
                "The queue has ended; 2 entries that are not known to be stored stayed in the "
                "journal, or went back to the stream."
            ),
        ),
    ],
)
async def test_the_summary_says_in_one_sentence_what_the_queue_does(
    some_metrics: WriteBehindMetrics, state: str, fields: dict[str, Any], summary: str
) -> None:
    metrics = msgspec.structs.replace(some_metrics, state=QueueState(state), **fields)
    reply = await ask(StatusApp(Still("one", metrics)), "/status.json")
    assert json.loads(reply.body)["queues"][0]["summary"] == summary


async def test_nothing_of_an_entry_or_a_message_is_served(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.fail_next(lambda: OSError("password=sesame"), times=3)
    store.fail_next(EntryRejectedError("sesame"))
    async with open_write_behind_queue(store) as queue:
        app = StatusApp(queue)
        await queue.enqueue(Item("sesame"))
        for _ in range(30):
            for path in PATHS:
                assert "sesame" not in (await ask(app, path)).text
            await trio.sleep(0.05)


@pytest.mark.parametrize(
    "accept",
    [
        b"application/openmetrics-text;version=x",
        b"application/openmetrics-text;version=9;escaping=",
        b"text/plain;version=1.x.0",
        b"text/plain;version=1.0.0;version=",
        b";;;=,\xff/\x00;q=\xe9",
    ],
)
async def test_an_accept_header_that_is_malformed_gets_an_answer_all_the_same(
    accept: bytes, some_metrics: WriteBehindMetrics
) -> None:
    app = StatusApp(Still("one", some_metrics))
    reply = await ask(app, "/metrics", headers=[(b"accept", accept)])
    assert reply.status == 200
    assert 'provcache_write_behind_enqueued_total{queue="one"} 0' in reply.text


async def test_metrics_are_in_the_format_that_the_client_prefers(
    store: MemoryRepository[Item],
) -> None:
    async with (
        open_write_behind_queue(store, name="one") as first,
        open_write_behind_queue(store, name="two") as second,
    ):
        app = StatusApp(first, second)
        plain = await ask(app, "/metrics")
        prefers = [(b"accept", b"application/openmetrics-text; version=1.0.0"), (b"accept", b"*/*")]
        open_metrics = await ask(app, "/metrics", headers=prefers)
    assert plain.status == open_metrics.status == 200
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")
    for name in ("one", "two"):
        assert f'"{name}"' in plain.text
        assert f'"{name}"' in open_metrics.text


@pytest.mark.parametrize("missing", ["prometheus_client", "provcache_trio.prometheus"])
async def test_metrics_say_what_to_install(
    missing: str, some_metrics: WriteBehindMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "provcache_trio.status._exposition", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    reply = await ask(StatusApp(Still("one", some_metrics)), "/metrics")
    assert reply.status == 501
    assert reply.text == "not available: install provcache-trio[prometheus]\n"


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
async def test_every_answer_may_be_neither_kept_nor_guessed_about_nor_embedded(
    path: str, some_metrics: WriteBehindMetrics
) -> None:
    reply = await ask(StatusApp(Still("one", some_metrics)), path)
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    policy = reply.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert int(reply.headers["content-length"]) == len(reply.body)


@pytest.mark.parametrize("path", PATHS)
async def test_head_answers_as_get_does_but_for_the_body(
    path: str, some_metrics: WriteBehindMetrics
) -> None:
    app = StatusApp(Still("one", some_metrics))
    got, head = await ask(app, path), await ask(app, path, "HEAD")
    assert (head.status, head.body) == (got.status, b"")
    if path != "/status.json":  # which holds the time
        assert head.headers == got.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
async def test_other_methods_are_refused(method: str) -> None:
    for path in PATHS:
        reply = await ask(StatusApp(), path, method)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/livez/", "/LIVEZ", "//", "/page.css", "/../livez", "/nothing"])
async def test_other_paths_are_not_found(path: str) -> None:
    for method in ("GET", "POST"):
        reply = await ask(StatusApp(), path, method)
        assert reply.status == 404
        assert "allow" not in reply.headers


@pytest.mark.parametrize(
    ("root", "path", "status"),
    [
        (None, "/livez", 200),
        ("/internal/queue", "/internal/queue/livez", 200),
        ("/internal/queue/", "/internal/queue/livez", 200),
        ("/internal/queue", "/livez", 200),  # some frameworks take the mount's path off
        ("/internal/queue", "/internal/queue/", 200),
        ("/internal/queue", "/internal/queue", 200),
        ("/internal/queue", "", 200),
        ("/internal/queue", "/internal/queuelivez", 404),
        ("/livez", "/livez/nothing", 404),
        ("/live", "/livez", 200),  # already taken off
    ],
)
async def test_it_can_be_mounted_anywhere(root: str | None, path: str, status: int) -> None:
    assert (await ask(StatusApp(), path, root=root)).status == status


async def test_queues_come_and_go_while_it_runs(some_metrics: WriteBehindMetrics) -> None:
    one, two = Still("one", some_metrics), Still("two", some_metrics)

    async def names() -> list[str]:
        return [
            queue["name"] for queue in json.loads((await ask(app, "/status.json")).body)["queues"]
        ]

    app = StatusApp(one)
    app.add(two)
    assert await names() == ["one", "two"]
    namesake = Still("one", some_metrics)
    with pytest.raises(ValueError, match="there is another queue 'one' already"):
        app.add(namesake)
    app.remove(namesake)  # was never there
    app.add(one)  # once more is no other
    assert await names() == ["one", "two"]
    app.remove(one)
    app.remove(one)
    assert await names() == ["two"]
    app.add(namesake)
    assert await names() == ["two", "one"]


async def test_a_queue_that_is_added_again_gets_another_count_of_dead_letters(
    some_metrics: WriteBehindMetrics,
) -> None:
    one = Still("one", some_metrics)
    app = StatusApp(one)
    app.add(one, dead_letters=lambda: 7)
    (report,) = json.loads((await ask(app, "/status.json")).body)["queues"]
    assert report["dead_letters"] == 7


async def test_a_server_s_start_and_end_are_agreed_to() -> None:
    messages: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        return messages.pop(0)

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message["type"])

    await StatusApp()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    await StatusApp()({"type": "websocket"}, receive, send)
    assert sent[2:] == ["websocket.close"]
    with pytest.raises(NotImplementedError, match="only HTTP"):
        await StatusApp()({"type": "telepathy"}, receive, send)


def test_the_page_loads_nothing_and_holds_no_handler() -> None:
    html = load_page().html.decode()
    assert "{{" not in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    for sign in ("src=", "@import", "url(", " style=", " onclick", "innerHTML", "eval("):
        assert sign not in html, sign


@pytest.mark.whole_process
def test_the_app_needs_no_extra() -> None:
    program = (
        "import sys; sys.modules.update(h11=None, prometheus_client=None, hypercorn=None)\n"
        "from provcache_trio.status import StatusApp, open_status_server\n"
        "StatusApp()\n"
        "try: open_status_server()\n"
        "except ModuleNotFoundError as error: assert error.name == 'h11'\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


# Served for real


async def fetch(url: str, path: str, method: str = "GET") -> Reply:
    """Ask a server, over a connection of its own."""
    target = urlsplit(url)
    assert target.hostname is not None
    assert target.port is not None
    line = f"{method} {target.path.rstrip('/')}{path} HTTP/1.1"
    request = f"{line}\r\nHost: {target.netloc}\r\nConnection: close\r\n\r\n"
    return parse(await exchange(target.port, request.encode(), target.hostname))


async def exchange(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    with trio.fail_after(HANG_SECONDS):
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(request)
            return b"".join([part async for part in stream])


def parse(raw: bytes) -> Reply:
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    return Reply(int(line.split()[1]), {name.lower(): headers[name] for name in headers}, body)


async def test_a_program_without_a_server_serves_every_path(store: MemoryRepository[Item]) -> None:
    async with open_status_server() as server, open_write_behind_queue(store) as queue:
        assert server.url == f"http://127.0.0.1:{server.port}/"
        server.app.add(queue)
        for path in PATHS:
            got, head = await fetch(server.url, path), await fetch(server.url, path, "HEAD")
            assert (got.status, head.status) == (200, 200)
            assert (len(got.body), head.body) == (int(got.headers["content-length"]), b"")
            assert got.headers["connection"] == "close"
            assert got.headers["date"].endswith("GMT")
        assert (await fetch(server.url, "/livez?verbose")).status == 200
        assert (await fetch(server.url, "/nothing")).status == 404
        assert (await fetch(server.url, "/livez", "POST")).status == 405


def configured() -> Config:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None  # else hypercorn sets up a handler of its own
    config.graceful_timeout = 0.1
    return config


async def test_it_is_mounted_in_a_server_on_trio(store: MemoryRepository[Item]) -> None:
    async with open_write_behind_queue(store) as queue:
        app: Any = TrioDispatcherMiddleware({"/internal/queue": StatusApp(queue)})
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            serve = partial(hypercorn.trio.serve, app, configured(), shutdown_trigger=done.wait)
            (url,) = await nursery.start(serve)
            await look_at_all(f"{url}/internal/queue/")
            done.set()


async def test_it_is_served_below_a_path_by_a_server_on_asyncio_in_another_thread(
    store: MemoryRepository[Item],
) -> None:
    async with open_write_behind_queue(store) as queue:
        app: Any = StatusApp(queue)
        config = configured()
        config.root_path = "/internal/queue"
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        config.bind = [f"fd://{listening.detach()}"]
        done = threading.Event()

        async def ended() -> None:
            while not done.is_set():  # noqa: ASYNC110  # a thread's event
                await asyncio.sleep(0.01)

        def run() -> None:
            asyncio.run(hypercorn.asyncio.serve(app, config, shutdown_trigger=ended))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, run)
            try:
                await look_at_all(f"http://127.0.0.1:{port}/internal/queue/")
            finally:
                done.set()


async def look_at_all(url: str) -> None:
    for path in PATHS:
        assert (await fetch(url, path)).status == 200, path
    assert (await fetch(url, "/livez", "POST")).status == 405
    status = json.loads((await fetch(url, "/status.json")).body)
    assert [queue["name"] for queue in status["queues"]] == ["default"]


async def test_the_server_answers_during_the_drain_though_the_scope_around_it_is_cancelled(
    store: MemoryRepository[Item],
) -> None:
    store.stall()
    seen: list[Reply] = []

    async def look(url: str) -> None:
        with trio.CancelScope(shield=True):
            seen.append(await fetch(url, "/readyz"))
        store.resume()

    with trio.CancelScope() as scope:
        async with (
            open_status_server() as server,
            trio.open_nursery() as nursery,
            open_write_behind_queue(store) as queue,
        ):
            server.app.add(queue)
            await queue.enqueue(Item("a"))
            scope.cancel()
            nursery.start_soon(look, server.url)
    assert [reply.text for reply in seen] == [
        "not ready\nqueue 'default': it is draining and takes no more entries\n"
    ]
    assert list(store.rows) == ["a"]


async def test_leaving_waits_for_no_client(
    some_metrics: WriteBehindMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SECONDS", 10 * HANG_SECONDS)
    # More than the system takes off our hands.
    app = StatusApp(Still("x" * 20_000_000, some_metrics))
    async with AsyncExitStack() as stack:
        leaving = stack.enter_context(trio.CancelScope())
        async with open_status_server(app) as server:
            requests = (
                b"",
                b"GET / HTTP/1.1\r\nHost:",
                b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
            )
            clients = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in requests]
            for client, request in zip(clients, requests, strict=True):
                await stack.enter_async_context(client)
                await client.send_all(request)
            *_, greedy = clients
            await greedy.receive_some(1)  # and no more
            await trio.testing.wait_all_tasks_blocked(0.05)
            leaving.deadline = trio.current_time() + HANG_SECONDS
        assert not leaving.cancel_called
        received = 1
        with suppress(trio.BrokenResourceError):
            while part := await greedy.receive_some():
                received += len(part)
        assert received < 20_000_000


async def test_leaving_passes_on_what_the_block_raised_and_leaves_no_task() -> None:
    error = LookupError("the body's")
    with pytest.raises(LookupError) as info:
        async with open_status_server() as server:
            assert queue_tasks() != []
            raise error
    assert info.value is error
    assert error.__context__ is None
    assert queue_tasks() == []
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", server.port)


def test_ctrl_c_while_leaving_is_no_group() -> None:
    async def main() -> None:
        async with open_status_server():
            interrupt = partial(signal.raise_signal, signal.SIGINT)
            trio.lowlevel.current_trio_token().run_sync_soon(interrupt)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


async def test_entering_says_what_is_wrong_with_the_address() -> None:
    async with open_status_server() as server:
        with pytest.raises(OSError, match="in use"):
            await open_status_server(port=server.port).__aenter__()
    # A server that follows at once gets the port.
    async with open_status_server(port=server.port):
        pass
    for host in ("192.0.2.1", "127.0.0.1:80"):
        with pytest.raises(OSError):  # noqa: PT011  # whatever the system says
            await open_status_server(host=host).__aenter__()


async def test_a_server_is_entered_once() -> None:
    opening = open_status_server()
    async with opening:
        with pytest.raises(RuntimeError, match="once"):
            await opening.__aenter__()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"app": []}, "TypeError: app must be a StatusApp, not list"),
        ({"host": None}, "TypeError: host must be a str, not NoneType"),
        ({"host": ""}, "ValueError: host must not be empty"),
        ({"port": "80"}, "TypeError: port must be an int, not str"),
        ({"port": True}, "TypeError: port must be an int, not bool"),
        ({"port": -1}, "ValueError: port must be 0 to 65535"),
        ({"port": 65536}, "ValueError: port must be 0 to 65535"),
        ({"allowed_hosts": "a"}, "TypeError: allowed_hosts must be an iterable of str, not str"),
        ({"allowed_hosts": 1}, "TypeError: allowed_hosts must be an iterable of str, not int"),
        ({"allowed_hosts": [1]}, "TypeError: each of allowed_hosts must be a str, not int"),
        ({"allowed_hosts": [""]}, "ValueError: each of allowed_hosts must not be empty"),
    ],
)
def test_arguments_are_checked_before_anything_is_opened(
    arguments: dict[str, Any], error: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as info:
        open_status_server(**arguments)
    assert f"{info.type.__name__}: {info.value}" == error


def can_use_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("host", "told"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])  # noqa: S104
async def test_the_url_of_a_server_that_listens_everywhere_works(host: str, told: str) -> None:
    if host == "::" and not can_use_ipv6():
        pytest.skip("no IPv6")
    async with open_status_server(host=host) as server:
        assert server.url == f"http://{told}:{server.port}/"
        assert (await fetch(server.url, "/livez")).status == 200


async def test_a_name_may_be_given() -> None:
    async with open_status_server(host="localhost") as server:
        assert (await fetch(server.url, "/livez")).status == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),  # somebody tries TLS
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),  # without Host
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + 40_000 * b"y" + b"\r\n\r\n", 431),
        (b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n1", 405),
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
        (
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            200,
        ),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20, 200),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ],
)
async def test_no_request_breaks_the_server(request_: bytes, status: int) -> None:
    async with open_status_server() as server:
        assert parse(await exchange(server.port, request_)).status == status
        assert (await fetch(server.url, "/livez")).status == 200


async def test_a_client_that_goes_away_breaks_nothing() -> None:
    async with open_status_server() as server:
        for request in (b"", b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            for _ in range(5):
                client = socket.create_connection(("127.0.0.1", server.port))
                # Closing it resets the connection.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.send(request)
                await trio.testing.wait_all_tasks_blocked(0.01)
                client.close()
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as silent:
            await silent.send_eof()
            assert await silent.receive_some() == b""
        assert (await fetch(server.url, "/livez")).status == 200


async def test_a_client_that_is_gone_when_the_answer_is_sent_is_no_error() -> None:
    client, stream = trio.testing.memory_stream_pair()
    await client.send_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await client.aclose()
    await serve_connection(StatusApp(), ANY_HOST, stream)


async def test_a_client_that_never_closes_is_left_after_a_second(autojump_clock: MockClock) -> None:
    client, stream = trio.testing.memory_stream_pair()
    await client.send_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nand more")
    await serve_connection(StatusApp(), ANY_HOST, stream)
    assert trio.current_time() == 1
    assert parse(bytes(await client.receive_some())).status == 200


async def test_a_request_has_five_seconds_and_a_connection_ten(mock_clock: MockClock) -> None:
    assert module.MOST_SECONDS == 10
    client, stream = trio.testing.memory_stream_pair()
    async with open_status_server() as server, trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, server.app, ANY_HOST, stream)
        for beginning in (b"GET /livez HTTP/1.1\r\n", b"Host: localhost\r\n"):
            await client.send_all(beginning)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(2.4)
            await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.3)
        reply = parse(bytes(await client.receive_some()))
        assert (reply.status, reply.text) == (
            408,
            "the request was not complete after 5 seconds\n",
        )
        await client.aclose()
        # One that takes nothing of its answer is closed all the same.
        silent = await trio.open_tcp_stream("127.0.0.1", server.port)
        await trio.testing.wait_all_tasks_blocked(0.05)
        mock_clock.jump(5.1)
        assert b" 408 " in await silent.receive_some()
        mock_clock.jump(5)
        await silent.aclose()


async def test_a_probe_is_answered_though_two_hundred_connections_are_held_open() -> None:
    assert module.MOST_CONNECTIONS == 50
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
    async with open_status_server() as server, AsyncExitStack() as stack:
        held: list[trio.SocketStream] = []
        for number in range(200):
            client = await trio.open_tcp_stream("127.0.0.1", server.port)
            held.append(await stack.enter_async_context(client))
            # Silent, too slow, or content with an answer that it does not close after.
            await client.send_all((b"", head, head + b"\r\n")[number % 3])
        with trio.fail_after(module.MOST_SECONDS / 4):
            assert (await fetch(server.url, "/livez")).status == 200
        # The one that came first was closed first, and the last are still there.
        with suppress(trio.BrokenResourceError):
            assert await held[0].receive_some() == b""
        await held[199].send_all(b"\r\n")
        assert b" 200 " in await held[199].receive_some()


@pytest.mark.parametrize(
    ("host", "allowed", "asked_for", "status"),
    [
        ("127.0.0.1", (), "127.0.0.1:{port}", 200),
        ("127.0.0.1", (), "LOCALHOST.:{port}", 200),
        ("127.0.0.1", (), "127.0.0.2", 200),
        ("127.0.0.1", (), "[::1]:{port}", 200),
        ("127.0.0.1", (), "rebound.example", 421),
        ("127.0.0.1", (), "localhost.rebound.example", 421),
        ("127.0.0.1", (), "203.0.113.9", 421),
        ("127.0.0.1", (), "[::1", 200),
        ("127.0.0.1", ("Proxy.example",), "proxy.example:8443", 200),
        ("127.0.0.1", ("proxy.example",), "rebound.example", 421),
        ("localhost", (), "localhost", 200),
        ("0.0.0.0", (), "pod.example", 200),  # noqa: S104
        ("0.0.0.0", ("pod.example",), "pod.example", 200),  # noqa: S104
        ("0.0.0.0", ("pod.example",), "203.0.113.9:80", 200),  # noqa: S104  # no name, so no DNS
        ("0.0.0.0", ("pod.example",), "rebound.example", 421),  # noqa: S104
    ],
)
async def test_only_names_that_are_this_server_s_are_served(
    host: str, allowed: tuple[str, ...], asked_for: str, status: int
) -> None:
    async with open_status_server(host=host, allowed_hosts=allowed) as server:
        name = asked_for.format(port=server.port)
        request = f"GET /status.json HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
        reply = parse(await exchange(server.port, request))
    assert reply.status == status
    assert ("allowed_hosts" in reply.text) == (status == 421)


async def test_a_queue_that_raises_costs_one_answer_and_its_message_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_status_server(StatusApp(Broken("one"))) as server:
        assert (
            await exchange(server.port, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        )
        assert (await fetch(server.url, "/livez")).status == 200
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("provcache_trio", logging.ERROR)
    assert record.getMessage().startswith("status server could not answer: LookupError\n")
    assert "metrics" in record.getMessage()
    assert MESSAGE not in caplog.text


async def test_a_server_that_fails_is_logged_and_the_block_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listeners: list[trio.SocketListener] = []
    listen = trio.open_tcp_listeners

    async def remember(port: int, *, host: str) -> list[trio.SocketListener]:
        listeners.extend(found := await listen(port, host=host))
        return found

    monkeypatch.setattr(trio, "open_tcp_listeners", remember)
    async with open_status_server() as server:
        assert (await fetch(server.url, "/livez")).status == 200
        listeners[0].socket.close()
        await trio.testing.wait_all_tasks_blocked()
    (record,) = caplog.records
    assert record.getMessage().startswith("status server ended: ClosedResourceError\n")


async def test_a_server_that_finds_no_descriptor_free_waits_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = trio.Event()
    accept = trio.SocketListener.accept

    async def look(listener: trio.SocketListener) -> trio.SocketStream:
        try:
            return await accept(listener)
        except OSError:
            refused.set()
            raise

    monkeypatch.setattr(trio.SocketListener, "accept", look)
    async with open_status_server() as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        with client:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest_free = client.fileno() + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                await refused.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            client.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.settimeout(HANG_SECONDS)
            reply = await trio.to_thread.run_sync(client.recv, 100)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
