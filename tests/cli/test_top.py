"""``provcache top``: what it makes of numbers, how it asks, and how it leaves a terminal."""

from __future__ import annotations

import base64
import http.server
import io
import math
import os
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import h11
import msgspec
import pytest
import trio
import trustme
from hypothesis import given, strategies as st
from rich.cells import cell_len
from rich.console import Console

from provcache_trio import open_write_behind_queue
from provcache_trio._cli import main
from provcache_trio._cli.misuse import MisuseError
from provcache_trio._cli.output import OutputError
from provcache_trio._cli.top import source as source_module
from provcache_trio._cli.top.document import (
    CacheNumbers,
    LastError,
    NoAnswerError,
    QueueNumbers,
    QueueStatus,
    StreamLook,
    StreamStatus,
    decode,
)
from provcache_trio._cli.top.source import Exchange, Source
from provcache_trio._cli.top.table import draw
from provcache_trio._cli.top.views import watch_queues
from provcache_trio._cli.top.watch import History, Pace, Watch
from provcache_trio._cli.top.words import in_one_line, last_error, short, span, volume
from provcache_trio.status import StatusApp
from provcache_trio.testing import MemoryRepository

from tests.cli.support import PROGRAM, pseudo_terminal
from tests.support.items import Item
from tests.support.shown import CACHE as SHOWN_CACHE, LOOK as SHOWN_LOOK, Shown
from tests.support.waiting import HANG_SECONDS, without_a_hang

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from pathlib import Path

HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"

BEGINNING = datetime(2026, 11, 25, 12, tzinfo=UTC)


def metrics(seconds: float = 0, **changes: Any) -> QueueNumbers:  # noqa: ANN401  # any field's
    values: dict[str, Any] = {
        "state": "running",
        "timestamp": BEGINNING + timedelta(seconds=seconds),
        "total_enqueued": 0,
        "total_persisted": 0,
        "total_failed": 0,
        "total_retries": 0,
        "total_batches": 0,
        "current_queue_depth": 0,
        "in_flight": 0,
        "producers_waiting": 0,
        "oldest_pending_seconds": 0.0,
    }
    return QueueNumbers(**values | changes)


def queue(seconds: float = 0, *, name: str = "default", **changes: Any) -> QueueStatus:  # noqa: ANN401
    """Return a queue; ``changes`` are its own fields or those of its metrics."""
    own = {
        each: changes.pop(each)
        for each in ("ready", "reason", "dead_letters", "cache", "stream")
        if each in changes
    }
    summary = changes.pop("summary", "Entries are accepted and written; none is waiting.")
    own.setdefault("ready", True)
    return QueueStatus(name=name, summary=summary, metrics=metrics(seconds, **changes), **own)


def document(*queues: QueueStatus, version: int = 1, **more: object) -> bytes:
    content = {"version": version, "time": BEGINNING + timedelta(seconds=9), "queues": queues}
    return msgspec.json.encode(content | more)


FAILING: dict[str, Any] = {
    "state": "waiting",
    "ready": False,
    "reason": "the store can't be reached, or needs a person",
    "summary": "The store can't be reached, or needs a person; 7 entries wait for it.",
    "last_error": LastError("ConnectionRefusedError", BEGINNING, "08006"),
    "next_try_in_seconds": 3.25,
}


# A program with a status page


class Program:
    """A server that answers with ``body``, as long as it runs."""

    def __init__(self, body: bytes = b"", port: int = 0) -> None:
        self.body = body
        self.status = 200
        self.asked: list[tuple[str, str | None]] = []
        program = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                program.asked.append((self.path, self.headers["Authorization"]))
                self.send_response(program.status, "\x1b[31mown words")
                self.end_headers()
                self.wfile.write(program.body)

            def log_message(self, *_: object) -> None:
                pass

        self._handler = Handler
        self._server: http.server.ThreadingHTTPServer | None = None
        self.port = port
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None


@pytest.fixture
def program() -> Generator[Program]:
    program = Program(document(queue()))
    yield program
    program.stop()


@asynccontextmanager
async def answering(answer: bytes, *, silent: bool = False) -> AsyncGenerator[str]:
    """Yield the URL of a server that sends ``answer`` to everyone, and then closes or is silent."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        if silent:
            await trio.sleep_forever()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(HANG_SECONDS):
        while not condition():  # noqa: ASYNC110  # another program, or thread, makes it true
            await trio.sleep(0.01)


# The document


async def test_what_a_real_queue_reports_is_understood() -> None:
    sent: list[Any] = []

    async def send(message: object) -> None:  # noqa: ASYNC124  # ASGI's
        sent.append(message)

    async def receive() -> dict[str, Any]:  # noqa: ASYNC124  # ASGI's
        raise AssertionError("unreachable")

    repository: MemoryRepository[Item] = MemoryRepository()
    async with open_write_behind_queue(repository, name="real") as real:
        await real.enqueue(Item("a"))
        scope = {"type": "http", "method": "GET", "path": "/status.json", "headers": []}
        full = Shown(real.metrics(), cache=SHOWN_CACHE, stream="s", look=SHOWN_LOOK)
        await StatusApp(real, full)(scope, receive, send)
    found, shown = decode(sent[1]["body"]).queues
    assert (shown.cache, shown.stream) == (
        CACHE,
        StreamStatus("s", LOOK),
    )
    assert (found.cache, found.stream) == (None, None)
    assert (found.name, found.ready, found.metrics.total_enqueued) == ("real", True, 1)
    assert found.metrics.timestamp.utcoffset() == timedelta(0)


def test_a_newer_server_may_tell_more() -> None:
    body = document(queue(state="pondering"), more=1)
    body = body.replace(b'"in_flight"', b'"unheard_of":{"a":[1]},"in_flight"')
    assert decode(body).queues[0].metrics.state == "pondering"


def test_another_version_of_the_format_is_refused_by_name() -> None:
    with pytest.raises(NoAnswerError, match=r"its status is of version 2; this command knows 1"):
        decode(b'{"version": 2, "anything": "else"}')


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "truncated"),
        (document(queue()).replace(b"default", b"\xff"), "no UTF-8"),
        (b'{"version": 1, "x": ' + b"[" * 1_000_000, "too deep"),
        (b'{"version": 1}', "missing required field"),
        (document(queue()).replace(b'"in_flight":0', b'"in_flight":-1'), r"in_flight`"),
        (document(queue()).replace(b'"in_flight":0', b'"in_flight":1' + b"0" * 30), r"in_flight`"),
        (document(queue()).replace(b"12:00:00Z", b"12:00:00"), "timestamp"),
    ],
    ids=range(7),
)
def test_what_is_no_status_is_told_without_its_content(body: bytes, reason: str) -> None:
    with pytest.raises(NoAnswerError, match=rf"what it sent is no status document: .*{reason}"):
        decode(body)


@given(st.binary(max_size=30), st.integers(0, 600), st.integers(0, 600))
def test_no_bytes_raise_anything_else(noise: bytes, begin: int, length: int) -> None:
    body = document(queue(**FAILING))
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n" + body
    request = h11.Request(method="GET", target="/", headers=[("Host", "h")])
    for mangle, call in ((body, decode), (answer, Exchange(request).take)):
        with suppress(NoAnswerError):
            call(mangle[:begin] + noise + mangle[begin + length :])


# Asking


async def test_it_asks_below_the_url_and_tells_who_asks(program: Program) -> None:
    source = Source(f"http://me:se%20cret@127.0.0.1:{program.port}/pre fix/")
    await source.fetch()
    token = base64.b64encode(b"me:se cret").decode()
    assert program.asked == [("/pre%20fix/status.json", f"Basic {token}")]
    assert source.label == f"http://127.0.0.1:{program.port}/pre%20fix"


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("http://Status.Example/", "http://status.example"),
        ("https://user@[::1]:8443/a/", "https://[::1]:8443/a"),
        ("http://bücher.example", "http://xn--bcher-kva.example"),
    ],
)
def test_the_label_is_the_url_without_secrets(url: str, label: str) -> None:
    assert Source(url).label == label


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:9464",
        "ftp://secret",
        "http://",
        "http://host:secret",
        "http://[::1",
        "http://a..b",
        "http://ho\x1bst",
        "http://host/?secret",
        "http://host/#secret",
        "http://user:se#cret@host",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(MisuseError) as caught:
        Source(url)
    assert "secret" not in str(caught.value)
    assert "cret@" not in str(caught.value)


async def reason_of(url: str) -> str:
    with pytest.raises(NoAnswerError) as caught, trio.fail_after(HANG_SECONDS):
        await Source(url).fetch()
    return str(caught.value)


async def test_nobody_listening_is_told_in_the_words_of_the_system() -> None:
    assert await reason_of(f"http://127.0.0.1:{free_port()}") == "Connection refused"
    assert await reason_of(f"http://localhost:{free_port()}") == "Connection refused"


async def test_a_status_other_than_200_is_told_in_words_of_ours(program: Program) -> None:
    program.status = 404
    assert await reason_of(program.url) == "it answered 404 Not Found"
    program.status = 799
    assert await reason_of(program.url) == "it answered 799"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "it closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "its answer is cut off, or no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}", "its answer is cut off, or no HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n{}",
            "its answer is cut off",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (4 << 20), "what it sent is longer than 4 MiB"),
    ],
    ids=range(5),
)
async def test_what_is_no_answer_is_told(answer: bytes, reason: str) -> None:
    async with answering(answer) as url:
        assert reason in await reason_of(url)


async def test_an_answer_in_chunks_is_understood() -> None:
    body = document(queue(name="chunky"))
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) as url:
        found, came = await Source(url).fetch()
    assert (found.queues[0].name, came) == ("chunky", body)


async def test_a_connection_that_breaks_is_told() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        assert await reason_of(f"http://127.0.0.1:{port}") == "Connection reset by peer"
        nursery.cancel_scope.cancel()


async def test_a_server_that_goes_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_TIMEOUT", 0.1)
    async with answering(b"HTTP/1.1 200 OK\r\n", silent=True) as url:
        assert await reason_of(url) == "nothing came within 0.1 s"


async def test_a_silent_server_holds_up_no_cancellation_and_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source_module, "_TIMEOUT", 3600)
    async with answering(b"HTTP/1.1 200 OK\r\n", silent=True) as url:
        before = set(threading.enumerate())
        with without_a_hang(), trio.move_on_after(0.1) as scope:
            await Source(url).fetch()
        assert scope.cancelled_caught
        assert set(threading.enumerate()) <= before


@pytest.fixture
async def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[str]:
    """Yield the URL of a server with a certificate that the environment says to trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n" + document(queue(name="secret")))
            await stream.transport_stream.aclose()  # as many do: without a word
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1")
        )
        port = listeners[0].transport_listener.socket.getsockname()[1]
        yield f"https://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def test_tls_is_spoken(secure: str) -> None:
    found, _ = await Source(secure).fetch()
    assert found.queues[0].name == "secret"


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    secure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    reason = await reason_of(secure)
    assert reason.startswith("its certificate is not trusted: ")


async def test_a_server_without_tls_is_told(program: Program) -> None:
    assert "SSL" in await reason_of(program.url.replace("http:", "https:"))


def test_what_says_nothing_is_told_all_the_same() -> None:
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert source_module._reason(unknown) == "Name or service not known"
    assert source_module._reason(ssl.SSLError()) == "TLS failed"
    assert source_module._reason(trio.BrokenResourceError()) == "the connection broke"
    group = OSError("all attempts to connect failed")
    refused = ConnectionRefusedError(111, "about a secret address")
    group.__cause__ = ExceptionGroup("", [refused, refused, OSError(101, "x")])
    assert source_module._reason(group) == f"{os.strerror(111)}; {os.strerror(101)}"


# Rates


def history_of(*samples: tuple[float, int, int, int]) -> History:
    """Return a history of (seconds, enqueued, persisted, batches)."""
    history = History()
    for seconds, enqueued, persisted, batches in samples:
        history.add(
            metrics(
                seconds,
                total_enqueued=enqueued,
                total_persisted=persisted,
                total_batches=batches,
            )
        )
    return history


def test_the_first_answer_tells_no_pace() -> None:
    assert history_of((0, 5, 4, 3)).pace() == Pace()


def test_the_pace_is_that_of_the_last_five_seconds() -> None:
    history = history_of((0, 0, 0, 0), (2, 1000, 1000, 1), (4, 1040, 1020, 2), (8, 1080, 1080, 5))
    assert history.pace() == Pace(80 / 6, 80 / 6, 20)


def test_the_pace_over_a_gap_is_the_mean_of_it() -> None:
    assert history_of((0, 0, 0, 0), (100, 500, 200, 2)).pace() == Pace(5, 2, 100)


def test_a_program_that_was_started_again_makes_no_negative_rate() -> None:
    history = history_of((0, 900, 900, 9), (1, 1000, 1000, 10), (2, 20, 10, 1), (3, 40, 30, 2))
    assert history.pace() == Pace((100 + 20) / 2, (100 + 20) / 2, (100 + 20) / 2)
    assert history_of((0, 9, 9, 9), (1, 0, 0, 0)).pace() == Pace()


@given(st.lists(st.tuples(*[st.integers(0, 2**63 - 1)] * 3), min_size=1, max_size=20))
def test_no_pace_is_ever_negative(counts: list[tuple[int, int, int]]) -> None:
    found = history_of(*((second, *numbers) for second, numbers in enumerate(counts))).pace()
    assert all(value is None or 0 <= value < math.inf for value in (found.accepted, found.written))


def test_the_same_answer_again_changes_nothing() -> None:
    assert history_of((0, 0, 0, 0), (1, 10, 10, 1), (1, 10, 10, 1)).pace() == Pace(10, 10, 10)


def test_a_clock_that_was_put_back_begins_anew() -> None:
    assert history_of((50, 0, 0, 0), (51, 10, 10, 1), (9, 20, 20, 2)).pace() == Pace()


def test_a_history_keeps_no_more_than_a_pace_needs() -> None:
    history = history_of(*((second, second, second, second) for second in range(1000)))
    assert len(history._samples) == 6
    assert history.pace() == Pace(1, 1, 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.25, "0.2"),
        (9.0, "9"),
        (10.4, "10"),
        (999_999, "999,999"),
        (999_999.6, "1 M"),
        (1_234_567, "1.23 M"),
        (999_600_000, "1 G"),
        (2**63 - 1, "9.22 E"),
        (1e22, "1e+22"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "500 ms"), (119, "119.0 s"), (120, "2 min"), (7200, "2 h"), (1e6, "12 d")],
)
def test_long_times_have_large_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_the_last_error_is_told_with_its_age_and_the_next_try() -> None:
    now = BEGINNING + timedelta(seconds=9)
    assert last_error(queue(), now) == "none"
    assert last_error(queue(next_try_in_seconds=0.5), now) == "next try in 500 ms"
    told = last_error(queue(**FAILING), now)
    assert told == "ConnectionRefusedError (08006) 9.0 s ago, next try in 3.2 s"
    later = LastError("Odd\x1b[31m", now + timedelta(days=1))
    assert last_error(queue(last_error=later), now) == "Odd\x1b[31m 0 µs ago"


# What is drawn


async def watched(*bodies: bytes, trouble: str = "") -> Watch:
    """Return what is known after these answers."""
    watch = Watch(Source("http://127.0.0.1:9464"))
    for body in bodies:
        async with answering(b"HTTP/1.1 200 OK\r\n\r\n" + body) as url:
            watch.source = Source(url)
            await watch.ask()
            assert watch.trouble == ""
    watch.trouble = trouble
    return watch


def drawn(watch: Watch, width: int = 80) -> list[str]:
    """Return the lines of a screen, as they are seen."""
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None)
    console.print(draw([watch], console))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def growing(name: str, seconds: int, **changes: Any) -> QueueStatus:  # noqa: ANN401
    return queue(
        seconds,
        name=name,
        total_enqueued=1000 * seconds**2,
        total_persisted=500 * seconds,
        total_batches=seconds,
        current_queue_depth=500 * seconds,
        in_flight=250,
        oldest_pending_seconds=0.125,
        **changes,
    )


async def test_the_table_has_every_number() -> None:
    watch = await watched(*(document(growing("default", second)) for second in range(11)))
    head, titles, row, *about = drawn(watch)
    assert re.fullmatch(r"provcache top  http://127.0.0.1:\d+  \d\d:\d\d:\d\d", head)
    assert re.split(r" {2,}| (?=in|old|acc|wri|batch|let)", titles) == [
        *("queue", "state", "in line", "in flight", "oldest"),
        *("accepted/s", "written/s", "batch", "letters"),
    ]
    assert row.split() == [
        *("default", "running", "5,000", "250", "125", "ms", "15,000", "500", "500", "0"),
    ]
    assert " ".join(about) == (
        "default: ready, 0 retries, 0 callers waiting, dead letters 0, last error none. Entries "
        "are accepted and written; none is waiting."
    )


async def test_what_is_wrong_is_told_in_words() -> None:
    failing = queue(**FAILING, total_failed=12, dead_letters=5, total_retries=9)
    _, _, row, *about = drawn(await watched(document(failing)))
    assert row.split()[:2] == ["default", "waiting"]
    assert row.endswith(" 12")
    assert " ".join(about) == (
        "default: not ready (the store can't be reached, or needs a person), 9 retries, 0 callers "
        "waiting, dead letters 12 (5 kept), last error ConnectionRefusedError (08006) 9.0 s ago, "
        "next try in 3.2 s. The store can't be reached, or needs a person; 7 entries wait for it."
    )


async def test_those_that_are_not_ready_come_first() -> None:
    queues = [
        queue(name="calm"),
        queue(name="failing", **FAILING),
        queue(name="strange", state="pondering deeply"),
    ]
    lines = drawn(await watched(document(*queues)), 100)
    assert [line.split()[0] for line in lines[2:5]] == ["failing", "calm", "strange"]
    assert lines[4].split()[1] == "pondering…"


async def test_a_narrow_terminal_gets_lines() -> None:
    watch = await watched(document(queue(**FAILING)))
    ((only, pace),) = watch.queues
    text = in_one_line(only, pace, watch.document.time)
    assert " ".join(drawn(watch, 79)[1:]) == text


async def test_queues_of_the_same_name_have_their_own_history() -> None:
    watch = await watched(
        *(document(growing("twin", second), queue(second, name="twin")) for second in (1, 2))
    )
    first, second = (pace for _, pace in watch.queues)
    assert (first.written, second.written) == (500, 0)


async def test_a_program_without_queues_and_one_that_was_never_reached_are_told_apart() -> None:
    assert drawn(await watched(document()))[1:] == ["no queue is open"]
    lines = drawn(await watched(trouble="Connection refused"))
    assert re.fullmatch(r"no answer for [\d.]+ (µs|ms): Connection refused", lines[1])
    assert lines[2:] == ["no answer yet"]


def coloured(watch: Watch) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=80, force_terminal=True, color_system="standard", no_color=False
    )
    console.print(draw([watch], console))
    return file.getvalue()


async def test_colours_tell_what_is_well_and_what_is_not() -> None:
    assert "\x1b[32mrunning\x1b[0m" in coloured(await watched(document(queue())))
    seen = coloured(await watched(document(queue(**FAILING, total_failed=1))))
    assert "\x1b[1;31mwaiting\x1b[0m" in seen
    assert re.search(r"\x1b\[1;31m +1\x1b\[0m", seen)


async def test_old_numbers_stay_and_say_how_old_they_are() -> None:
    failing = document(queue(**FAILING, total_failed=1))
    watch = await watched(failing, trouble="Connection refused")
    seen = coloured(watch)
    assert f"(the numbers are of {watch.answered})" in seen.replace("\n", " ")
    assert "ConnectionRefusedError" in seen
    _, _, table = seen.partition("queue")
    assert set(re.findall(r"\x1b\[([0-9;]+)m", table)) == {"0", "2"}  # nothing but grey


HOSTILE = "\x1b[2J[bold red]\u202e[/]\n" + "漢" * 50


@pytest.mark.parametrize("queues", [0, 1, 3, 200])
@pytest.mark.parametrize("trouble", ["", "Connection refused" * 20])
async def test_a_screen_is_no_wider_than_it_is_whatever_its_content(
    queues: int, trouble: str
) -> None:
    hostile = partial(queue, summary=HOSTILE * 2, ready=False, reason=HOSTILE, state=HOSTILE)
    error = LastError(HOSTILE, BEGINNING - timedelta(days=700000), HOSTILE)
    many: dict[str, Any] = {
        "current_queue_depth": 2**63 - 1,
        "oldest_pending_seconds": 1e12,
        "last_error": error,
    }
    watch = await watched(
        *(
            document(*(hostile(second, name=f"{n}{HOSTILE}", **many) for n in range(queues)))
            for second in range(2)
        ),
        trouble=trouble,
    )
    for width in (20, 39, 79, 80, 133):
        lines = drawn(watch, width)
        assert max(map(cell_len, lines)) <= width
        assert "".join(lines).isprintable()


def test_a_line_tells_the_same() -> None:
    now = BEGINNING + timedelta(seconds=9)
    assert in_one_line(queue(), Pace(), now) == (
        "default: running, ready, in line 0, in flight 0, oldest 0 µs, dead letters 0, "
        "last error none. Entries are accepted and written; none is waiting."
    )
    busy = queue(**FAILING | {"reason": None, "summary": "Sum\x1bmary."})
    assert in_one_line(busy, Pace(10, 2000, 500), now) == (
        "default: waiting, not ready (no reason given), in line 0, in flight 0, oldest 0 µs, "
        "accepted 10/s, written 2,000/s, batches of 500, dead letters 0, "
        "last error ConnectionRefusedError (08006) 9.0 s ago, next try in 3.2 s. Sum\\x1bmary."
    )


# Caches and streams


# As the status page's JSON carries them.
CACHE = msgspec.convert(msgspec.to_builtins(SHOWN_CACHE), CacheNumbers)
LOOK = msgspec.convert(msgspec.to_builtins(SHOWN_LOOK), StreamLook)
STREAM = "1,200 messages, 900 kB of 1 MB (90 %), oldest 61.5 s, 128 held by relays, 4 redelivered"


def last_words(**parts: Any) -> str:  # noqa: ANN401  # a cache, a stream
    """Return what a line has of a cache and a stream."""
    line = in_one_line(queue(**parts), Pace(), BEGINNING)
    return line.removesuffix(". Entries are accepted and written; none is waiting.").partition(
        "last error none, "
    )[2]


def test_a_line_has_the_cache_and_the_stream() -> None:
    both = last_words(cache=CACHE, stream=StreamStatus("decisions", LOOK))
    cache = "cache: 95 % found, 5 computed, 2 failed, 97 in memory"
    assert both == f"{cache}, stream decisions: {STREAM}"
    unused = CacheNumbers(0, 0, 0, 0, 0, 0, 0)
    assert last_words(cache=unused) == "cache: - % found, 0 computed, 0 failed, 0 in memory"


@pytest.mark.parametrize(
    ("look", "text"),
    [
        (None, "stream s: not known"),
        (
            msgspec.structs.replace(LOOK, age_seconds=400, current=False),
            f"stream s: not seen for 7 min, then {STREAM}",
        ),
        (
            msgspec.structs.replace(LOOK, max_bytes=None, bytes=5e13, messages=1),
            ("stream s: 1 message, 50 TB, oldest 61.5 s, 128 held by relays, 4 redelivered"),
        ),
    ],
    ids=["unknown", "stale", "unlimited"],
)
def test_what_is_not_known_of_a_stream_is_not_made_up(look: StreamLook | None, text: str) -> None:
    assert last_words(stream=StreamStatus("s", look)) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (10_500_000, "10.5 MB"), (9.996e9, "10 GB")],
)
def test_volumes_have_the_unit_that_fits(count: float, text: str) -> None:
    assert volume(count) == text


def test_the_pace_of_a_cache_is_that_of_the_last_seconds() -> None:
    history = History()
    for second, (hits, misses) in enumerate([(100, 900), (190, 910), (280, 920)]):
        numbers = CacheNumbers(hits, 0, 0, misses, 0, 0, 0)
        history.add(metrics(second), numbers)
    assert (history.pace().lookups, history.pace().hit_share) == (100, 0.9)
    history.add(metrics(3), CacheNumbers(1, 0, 0, 0, 0, 0, 0))  # started again
    assert history.pace().hit_share == 0.9
    line = in_one_line(queue(cache=CACHE), history.pace(), BEGINNING)
    assert "cache: 90 % found of 100 keys/s, 5 computed" in line


def test_a_relay_accepts_what_it_takes_over() -> None:
    history = History()
    for second in range(2):
        history.add(metrics(second, total_recovered=500 * second))
    assert history.pace().accepted == 500


async def test_the_table_has_a_line_for_a_cache_and_for_a_stream() -> None:
    full = queue(cache=CACHE, stream=StreamStatus("decisions\x1b", LOOK))
    lines = drawn(await watched(document(full)), 140)
    assert lines[-2:] == [
        "default: cache: 95 % found, 5 computed, 2 failed, 97 in memory",
        f"default: stream decisions\\x1b: {STREAM}",
    ]


# Several programs


async def test_several_programs_are_told_apart_by_their_instance() -> None:
    first = await watched(document(queue(name="relay"), queue(name="failing", **FAILING)))
    second = await watched(document(queue(name="relay")))
    one, two = first.source.instance, second.source.instance
    file = io.StringIO()
    console = Console(file=file, width=120, color_system=None)
    console.print(draw([first, second], console))
    head, titles, *rows = file.getvalue().splitlines()
    assert head.startswith("provcache top  2 programs  ")
    assert titles.split()[:3] == ["instance", "queue", "state"]
    assert [row.split()[:3] for row in rows[:3]] == [
        [one, "failing", "waiting"],
        [one, "relay", "running"],
        [two, "relay", "running"],
    ]
    assert any(row.startswith(f"{two} relay: ready, ") for row in rows)
    second.trouble = "Connection refused"
    narrow = Console(file=(file := io.StringIO()), width=79, color_system=None)
    narrow.print(draw([first, second], narrow))
    text = " ".join(file.getvalue().split())
    assert f"{two}: no answer for" in text
    assert f"{one} relay: running, ready" in text


async def test_once_prints_what_answers_and_names_what_does_not(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Program(document(queue(name="other")))
    once = partial(watch_queues, [program.url, other.url], once=True)
    here, there = (url.removeprefix("http://") for url in (program.url, other.url))
    try:
        status, text = await told(once)
        assert status == 0
        assert [line.split(",")[0] for line in text.splitlines()] == [
            f"{here} default: running",
            f"{there} other: running",
        ]
        other.body = document()
        assert (await told(once))[0] == 1
    finally:
        other.stop()
    status, text = await told(once)
    assert (status, text.splitlines()[0].split(",")[0]) == (3, f"{here} default: running")
    assert capsys.readouterr().err == f"provcache: {other.url}: Connection refused\n"


# The command


@contextmanager
def pipe() -> Generator[tuple[io.TextIOWrapper, io.TextIOWrapper]]:
    """Yield both ends of a pipe."""
    reading, writing = os.pipe()
    with (
        open(reading, encoding="utf-8") as reader,  # noqa: PTH123  # a descriptor
        open(writing, "w", encoding="utf-8") as writer,  # noqa: PTH123
    ):
        yield reader, writer


async def told(call: Callable[[io.TextIOWrapper], Awaitable[int]]) -> tuple[int, str]:
    """Return the status of a command that prints into a pipe, and what it printed."""
    with pipe() as (reader, writer):
        with trio.fail_after(HANG_SECONDS):
            status = await call(writer)
        writer.close()
        return status, reader.read()


async def test_once_prints_every_queue_and_the_status_tells_whether_all_are_ready(
    program: Program,
) -> None:
    once = partial(watch_queues, [program.url], once=True)
    program.body = document(queue(name="one"), queue(name="two"))
    status, text = await told(once)
    assert status == 0
    assert [line.split(",")[0] for line in text.splitlines()] == ["one: running", "two: running"]
    program.body = document(queue(name="one"), queue(name="two", **FAILING))
    status, text = await told(once)
    assert status == 1
    assert text.splitlines()[1].startswith("two: waiting, not ready (the store can't be reached")
    program.body = document()  # as /readyz has it
    assert await told(once) == (1, "no queue is open\n")


async def test_once_tells_an_unreachable_server_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    secret = url.replace("//", "//user:secret@")
    assert await told(partial(watch_queues, [secret], once=True)) == (3, "")
    assert capsys.readouterr().err == f"provcache: {url}: Connection refused\n"


async def test_json_is_what_came_but_for_what_a_terminal_might_obey(program: Program) -> None:
    hostile = queue(name="\x1b[2J\x9b\u202e漢\x7f", **FAILING)
    odd = '"more": "\x1b\U0001f600",\r "deep": ' + "[" * 500 + "]" * 500 + ', "in_flight"'
    program.body = document(hostile).replace(b'"in_flight"', odd.encode().replace(b"\x1b", b"x"))
    status, text = await told(partial(watch_queues, [program.url], once=True, as_json=True))
    assert status == 1
    assert text.endswith("}\n")
    assert text.rstrip("\n").isprintable()
    assert text.isascii()
    assert msgspec.json.decode(text) == msgspec.json.decode(program.body)
    assert " 0.0" not in text  # numbers are as they came
    assert '"oldest_pending_seconds":0.0' in text


@pytest.mark.parametrize("as_json", [False, True])
async def test_once_has_a_status_when_nobody_reads(program: Program, as_json: bool) -> None:
    program.body = document(queue(**FAILING))
    with pipe() as (reader, writer):
        reader.close()
        assert await watch_queues([program.url], writer, once=True, as_json=as_json) == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"as_json": True}, "--json goes with --once"),
        ({"interval": 0.01}, "--interval is 0.1 to 3600 seconds"),
        ({"interval": math.nan}, "--interval is"),
        ({"urls": ["localhost"]}, "a status page is named by its URL"),
        ({"urls": []}, "a status page is named by its URL"),
        ({"urls": ["http://a", "http://b"], "once": True, "as_json": True}, "give one URL"),
    ],
)
async def test_what_makes_no_sense_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MisuseError, match=complaint):
        await watch_queues(**{"urls": ["http://127.0.0.1"], "file": sys.stdout, **options})


async def test_in_a_pipe_there_is_a_line_for_each_queue_again_and_again(program: Program) -> None:
    program.body = document(queue(name="one"), queue(name="two"))
    with pipe() as (reader, writer):
        lines: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(watch_queues, [program.url], writer, interval=0.1))
            lines += [await trio.to_thread.run_sync(reader.readline) for _ in range(6)]
            program.stop()
            while not lines[-1].startswith("no answer"):
                lines.append(await trio.to_thread.run_sync(reader.readline))
            assert re.fullmatch(r"no answer for .*: Connection refused\n", lines[-1])
            program.start()
            while not lines[-1].startswith("two"):
                lines.append(await trio.to_thread.run_sync(reader.readline))
            nursery.cancel_scope.cancel()
    assert [line.split(":")[0] for line in lines[:6]] == ["one", "two"] * 3


async def test_it_ends_when_nobody_reads_the_lines(program: Program) -> None:
    with pipe() as (reader, writer), trio.fail_after(HANG_SECONDS):
        reader.close()
        assert await watch_queues([program.url], writer) == 0


@pytest.mark.parametrize("once", [False, True])
async def test_a_disk_that_is_full_is_told(program: Program, once: bool) -> None:
    with (
        open("/dev/full", "w", encoding="utf-8") as file,  # noqa: ASYNC230, PTH123
        pytest.raises(OutputError, match="No space left on device"),
    ):
        await watch_queues([program.url], file, once=once)


async def test_a_pager_that_takes_nothing_holds_up_no_signal(program: Program) -> None:
    program.body = document(*(queue(name=f"{n}" * 100) for n in range(1000)))
    with pipe() as (_, writer), trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                await eventually(lambda: bool(program.asked))
                await trio.sleep(0.2)
                signal.raise_signal(signal.SIGTERM)

            nursery.start_soon(end)
            assert await watch_queues([program.url], writer) == 143


# On a terminal


class Glass:
    """A terminal; ``seen`` is everything that came there."""

    def __init__(self, ours: int, file: io.TextIOWrapper) -> None:
        self.file = file
        self.seen = b""
        self._ours = ours
        self._before = termios.tcgetattr(file)

    def look(self, seconds: float = 0) -> str:
        """Take what was drawn until now, and return the last picture."""
        while select.select([self._ours], [], [], seconds)[0]:
            self.seen += os.read(self._ours, 65536)
        return self.seen.decode(errors="replace").rpartition("provcache top")[2]

    async def until(self, pattern: str) -> str:
        """Wait until the last picture shows something, and return it."""
        await eventually(lambda: re.search(pattern, self.look()) is not None)
        return self.look()

    @property
    def clean(self) -> bool:
        """Whether the cursor is back, and nothing else was touched."""
        self.look()
        return (
            self.seen.count(HIDE_CURSOR) == self.seen.count(SHOW_CURSOR) > 0
            and self.seen.rfind(HIDE_CURSOR) < self.seen.rfind(SHOW_CURSOR)
            and termios.tcgetattr(self.file) == self._before
        )

    def hang_up(self) -> None:
        os.close(self._ours)


@pytest.fixture
def glass(draws: None, monkeypatch: pytest.MonkeyPatch) -> Generator[Glass]:
    monkeypatch.setenv("COLUMNS", "100")
    with pseudo_terminal(100) as (ours, file):
        yield Glass(ours, file)


@asynccontextmanager
async def running(program: Program, glass: Glass, status: int) -> AsyncGenerator[None]:
    """Run the command in the block, which has to make it end with ``status``."""

    async def run() -> None:
        found.append(await watch_queues([program.url], glass.file, interval=0.1))

    found: list[int] = []
    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await glass.until("running")
            yield
    assert found == [status]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda it: it.name
)
async def test_a_signal_ends_it(number: signal.Signals, program: Program, glass: Glass) -> None:
    async with running(program, glass, 128 + number):
        signal.raise_signal(number)
    assert glass.clean


async def test_when_the_server_goes_away_the_numbers_stay_and_it_goes_on_asking(
    program: Program, glass: Glass
) -> None:
    async with running(program, glass, 143):
        program.stop()
        shown = await glass.until("(?s)no answer for .*: Connection refused.*last error none")
        assert "running" in shown
        program.body = document(queue(name="again"))
        program.start()
        assert "no answer" not in await glass.until("again")
        signal.raise_signal(signal.SIGTERM)
    assert glass.clean


async def test_how_long_there_is_no_answer_goes_on_while_it_waits_for_one(
    glass: Glass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_TIMEOUT", 0.1)
    async with answering(b"", silent=True) as url, trio.open_nursery() as nursery:
        nursery.start_soon(partial(watch_queues, [url], glass.file, interval=0.1))
        await glass.until("no answer for .* ms: nothing came within 0.1 s")
        monkeypatch.setattr(source_module, "_TIMEOUT", 60)
        await glass.until(r"no answer for [\d.]+ s: nothing came")
        nursery.cancel_scope.cancel()
    assert glass.clean


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
async def test_a_terminal_gets_lines_if_it_can_not_draw_or_they_are_asked_for(
    name: str, value: str, program: Program, glass: Glass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_queues, [program.url], glass.file)
        await glass.until("default: running")
        nursery.cancel_scope.cancel()
    assert b"\x1b" not in glass.seen


async def test_it_ends_when_the_terminal_is_closed(program: Program, glass: Glass) -> None:
    async with running(program, glass, 129):
        glass.hang_up()


async def test_a_terminal_that_takes_nothing_holds_up_no_signal_for_long(
    program: Program, glass: Glass
) -> None:
    program.body = document(*(queue(name=f"{number}running") for number in range(20)))
    async with running(program, glass, 143):
        termios.tcflow(glass.file, termios.TCOOFF)  # Ctrl-S
        asked = len(program.asked)
        await eventually(lambda: len(program.asked) > asked + 2)  # so it draws, in vain
        started = trio.current_time()
        signal.raise_signal(signal.SIGTERM)
    assert trio.current_time() - started < 5
    termios.tcflow(glass.file, termios.TCOON)
    await eventually(lambda: glass.clean)


# As a program of its own

LOGIN = """
import os, runpy
os.login_tty(os.dup(0))  # so that Ctrl-C is a signal
runpy.run_module("provcache_trio", run_name="__main__")
"""


@pytest.mark.whole_process
@pytest.mark.parametrize(
    ("act", "status"), [("\x03", 130), (signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=repr
)
def test_the_program_leaves_the_terminal_as_it_was(
    act: str | signal.Signals, status: int, program: Program, glass: Glass
) -> None:
    command = [sys.executable, "-c", LOGIN] if isinstance(act, str) else PROGRAM
    with subprocess.Popen(
        [*command, "top", program.url],
        stdin=glass.file,
        stdout=glass.file,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUTF8": "1"},
    ) as process:
        deadline = time.monotonic() + HANG_SECONDS
        while "running" not in glass.look(0.05):
            assert time.monotonic() < deadline
        if isinstance(act, str):
            os.write(glass._ours, act.encode())
        else:
            process.send_signal(act)
        while process.poll() is None and time.monotonic() < deadline:
            glass.look(0.05)
        assert process.stderr is not None
        assert (process.wait(timeout=0), process.stderr.read()) == (status, b"")
    assert glass.clean
    assert b"Traceback" not in glass.seen


def test_the_command_is_there(program: Program, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["top", program.url, "--once"]) == 0
    assert capfd.readouterr().out.startswith("default: running, ready, ")
    assert main(["top", program.url, "--once", "--json"]) == 0
    assert decode(capfd.readouterr().out.encode()).queues[0].name == "default"
    assert main(["top", "http://user:secret@"]) == 2
    assert main(["top", program.url, "--json"]) == 2
    assert main(["top", f"http://user:secret@127.0.0.1:{free_port()}", "--once"]) == 3
    assert "secret" not in capfd.readouterr().err
