"""``provcache top``: what it makes of numbers, how it asks, and how it leaves a terminal."""

from __future__ import annotations

import base64
import fcntl
import http.server
import io
import math
import os
import pty
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
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pyte
import pytest
import trio
import trustme
from hypothesis import given, strategies as st
from rich.console import Console

from provcache_trio import open_write_behind_queue
from provcache_trio._cli import main
from provcache_trio._cli.text import OutputError
from provcache_trio._cli.top import source as _top_status
from provcache_trio._cli.top.screen import draw
from provcache_trio._cli.top.source import LastError, Metrics, NoAnswerError, Queue, Source, decode
from provcache_trio._cli.top.terminal import Terminal, stop_this_process
from provcache_trio._cli.top.views import Screen, watch_queues
from provcache_trio._cli.top.watch import History, Pace, Sample, Watch, pace
from provcache_trio._cli.top.words import bars, in_one_line, last_error, short, span, step_for
from provcache_trio._cli.urls import MisuseError
from provcache_trio.status import StatusApp
from provcache_trio.testing import MemoryRepository

from tests.items import Item

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from pathlib import Path

BEGINNING = datetime(2026, 11, 25, 12, tzinfo=UTC)


def metrics(seconds: float = 0, **changes: Any) -> Metrics:  # noqa: ANN401  # any field's
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
    return Metrics(**values | changes)


def queue(seconds: float = 0, *, name: str = "default", **changes: Any) -> Queue:  # noqa: ANN401
    """Return a queue; ``changes`` are its own fields or those of its metrics."""
    own = {
        each: changes.pop(each) for each in ("ready", "reason", "dead_letters") if each in changes
    }
    summary = changes.pop("summary", "Entries are accepted and written; none is waiting.")
    own.setdefault("ready", True)
    return Queue(name=name, summary=summary, metrics=metrics(seconds, **changes), **own)


def document(*queues: Queue, version: int = 1, **more: object) -> bytes:
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
    with trio.fail_after(10):
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
        await StatusApp(real)(scope, receive, send)
    (found,) = decode(sent[1]["body"]).queues
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
    for mangle, call in ((body, decode), (answer, _top_status._body)):
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
    with pytest.raises(NoAnswerError) as caught, trio.fail_after(10):
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
    monkeypatch.setattr(_top_status, "_TIMEOUT", 0.1)
    async with answering(b"HTTP/1.1 200 OK\r\n", silent=True) as url:
        assert await reason_of(url) == "nothing came within 0.1 s"


async def test_a_silent_server_holds_up_no_cancellation_and_no_thread() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n", silent=True) as url:
        before = set(threading.enumerate())
        started = time.monotonic()
        with trio.move_on_after(0.1) as scope:
            await Source(url).fetch()
        assert scope.cancelled_caught
        assert time.monotonic() - started < 1
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
    assert _top_status._reason(unknown) == "Name or service not known"
    assert _top_status._reason(ssl.SSLError()) == "TLS failed"
    assert _top_status._reason(trio.BrokenResourceError()) == "the connection broke"
    group = OSError("all attempts to connect failed")
    refused = ConnectionRefusedError(111, "about a secret address")
    group.__cause__ = ExceptionGroup("", [refused, refused, OSError(101, "x")])
    assert _top_status._reason(group) == f"{os.strerror(111)}; {os.strerror(101)}"


# Rates and charts


def history_of(*samples: tuple[float, int, int, int, int]) -> History:
    """Return a history of (seconds, enqueued, persisted, batches, depth)."""
    history = History()
    for seconds, enqueued, persisted, batches, depth in samples:
        history.add(
            metrics(
                seconds,
                total_enqueued=enqueued,
                total_persisted=persisted,
                total_batches=batches,
                current_queue_depth=depth,
            )
        )
    return history


def test_the_first_answer_tells_no_pace() -> None:
    assert history_of((0, 5, 4, 3, 1)).pace() == Pace(depth=1)


def test_the_pace_is_that_of_the_last_five_seconds() -> None:
    history = history_of(
        (0, 0, 0, 0, 0), (2, 1000, 1000, 1, 9), (4, 1040, 1020, 2, 8), (8, 1080, 1080, 5, 7)
    )
    assert history.pace() == Pace(7, 80 / 6, 80 / 6, 20)


def test_the_pace_over_a_gap_is_the_mean_of_it() -> None:
    history = history_of((0, 0, 0, 0, 0), (100, 500, 200, 2, 0))
    assert history.pace() == Pace(0, 5, 2, 100)


def test_a_program_that_was_started_again_makes_no_negative_rate() -> None:
    history = history_of(
        (0, 900, 900, 9, 0), (1, 1000, 1000, 10, 0), (2, 20, 10, 1, 3), (3, 40, 30, 2, 0)
    )
    assert history.pace() == Pace(0, (100 + 20) / 2, (100 + 20) / 2, (100 + 20) / 2)
    assert history_of((0, 9, 9, 9, 0), (1, 0, 0, 0, 0)).pace() == Pace(0)


@given(st.lists(st.tuples(*[st.integers(0, 2**63 - 1)] * 4), min_size=1, max_size=20))
def test_no_pace_is_ever_negative(counts: list[tuple[int, int, int, int]]) -> None:
    samples = [Sample(second, *numbers) for second, numbers in enumerate(counts)]
    found = pace(0, pairwise(samples))
    assert all(value is None or 0 <= value < math.inf for value in (found.accepted, found.written))


def test_the_same_answer_again_changes_nothing() -> None:
    history = history_of((0, 0, 0, 0, 0), (1, 10, 10, 1, 0), (1, 10, 10, 1, 0))
    assert history.pace() == Pace(0, 10, 10, 10)


def test_a_clock_that_was_put_back_begins_anew() -> None:
    history = history_of((50, 0, 0, 0, 0), (51, 10, 10, 1, 0), (9, 20, 20, 2, 4))
    assert history.pace() == Pace(4)
    assert history.columns(2, 5) == [Pace(), Pace(4)]


def test_a_column_tells_the_mean_pace_and_the_deepest_line_of_its_seconds() -> None:
    history = history_of(
        (0, 0, 0, 0, 5), (1, 10, 0, 0, 9), (2, 30, 40, 2, 1), (3, 40, 60, 3, 2), (8, 90, 60, 3, 0)
    )
    assert history.columns(6, 2) == [
        Pace(),
        Pace(9, 10, 0, None),
        Pace(2, 15, 30, 20),
        Pace(),
        Pace(),
        Pace(0, 10, 0, None),
    ]
    assert history.columns(1, 2) == [Pace(0, 10, 0, None)]


def test_every_column_has_two_samples_and_a_chart_two_minutes() -> None:
    assert [step_for(width, 1) for width in (200, 60, 59, 12, 1)] == [2, 2, 5, 10, 120]
    assert step_for(60, 60) == 120
    assert step_for(1, 3600) == 7200


def test_bars_show_what_is_high() -> None:
    assert bars([], 1) == [""]
    assert bars([None, 0, 0.0], 2) == ["   ", "   "]
    assert bars([7, 3, 0.001, None], 1) == ["▇▃▁ "]
    assert bars([15, 8, 4], 2) == ["▇  ", "██▄"]
    assert bars([2**63, 2**62], 1) == ["▇▄"]


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
    assert last_error(queue(last_error=later), now) == "Odd\\x1b[31m 0 µs ago"


# What is drawn


async def watched(*bodies: bytes, trouble: str = "") -> Watch:
    """Return what is known after these answers."""
    watch = Watch(Source("http://127.0.0.1:9464"), 1)
    for body in bodies:
        async with answering(b"HTTP/1.1 200 OK\r\n\r\n" + body) as url:
            watch.source = Source(url)
            await watch.ask()
            assert watch.trouble == ""
    watch.trouble = trouble
    return watch


def drawn(watch: Watch, width: int, height: int) -> list[str]:
    """Return the lines of a screen, as they are seen."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, color_system=None)
    console.print(draw(watch, width, height))
    return file.getvalue().splitlines()


def growing(name: str, seconds: int, **changes: Any) -> Queue:  # noqa: ANN401
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


async def test_a_panel_has_charts_and_every_number() -> None:
    watch = await watched(*(document(growing("default", second)) for second in range(11)))
    screen = "\n".join(drawn(watch, 80, 14))
    assert re.search(r"provcache top  http://127.0.0.1:\d+ +\d\d:\d\d:\d\d", screen)
    assert "default  ● running" in screen
    assert "Entries are accepted and written; none is waiting." in screen
    assert re.search(r"in line +▃▆▇ +5,000 │", screen)
    assert re.search(r"accepted/s +▁▅▇ +15,000 │", screen)
    assert re.search(r"written/s +▇▇▇ +500 │", screen)
    assert re.search(r"batch size +▇▇▇ +500 │", screen)
    assert re.search(r"in flight 250 +oldest 125 ms +retries 0 +dead letters 0", screen)
    assert "callers waiting 0" in screen
    assert "last error none" in screen
    assert " q quits   charts: the last 4 min, 5 s a column" in screen
    assert "peak 5,000 │" in "\n".join(drawn(watch, 80, 24))


async def test_what_is_wrong_is_told_in_words() -> None:
    watch = await watched(document(queue(**FAILING, total_failed=12, dead_letters=5)))
    screen = "\n".join(drawn(watch, 80, 24))
    assert "default  ▲ waiting, not ready" in screen
    assert "7 entries wait for it." in screen
    assert "last error ConnectionRefusedError (08006) 9.0 s ago, next try in 3.2 s" in screen
    assert "dead letters 12 (5 kept)" in screen
    assert "not ready: " not in screen  # the sentence says it


async def test_a_reason_that_the_sentence_does_not_tell_is_told() -> None:
    reason = "the journal can't be written"
    watch = await watched(document(queue(ready=False, reason=reason)))
    assert any(f"│ not ready: {reason} " in line for line in drawn(watch, 80, 24))


async def test_charts_are_as_tall_as_there_is_room() -> None:
    watch = await watched(*(document(growing("default", second)) for second in range(3)))
    lines = [
        len([line for line in drawn(watch, 80, rows) if "█" in line]) for rows in (14, 20, 24, 60)
    ]
    assert lines == [0, 4, 8, 12]


async def test_more_queues_than_panels_fit_get_a_line_each() -> None:
    names = ["calm", "failing", "strange"]
    answers = [
        document(
            growing("calm", second),
            queue(second, name="failing", **FAILING),
            queue(second, name="strange", state="pondering deeply"),
        )
        for second in (1, 2)
    ]
    watch = await watched(*answers)
    lines = drawn(watch, 80, 24)
    assert re.match(r" queue +state +in line +oldest +written/s +letters$", lines[1])
    assert re.match(r" calm +● running +1,000 +\S*[▁-▇]+ +125 ms +500 +0$", lines[2])
    assert re.match(r" failing +▲ waiting +0 +0 µs +0 +0$", lines[3])
    assert lines[4].strip() == FAILING["reason"]
    assert "next try in 3.2 s" in lines[5]
    assert re.match(r" strange +\? ponderi… +0 ", lines[6])
    assert lines[-1].strip() == "q quits"
    low = drawn(watch, 80, 6)  # no room for more about those that are not ready
    assert [line.split()[0] for line in low[2:5]] == names


async def test_where_not_even_lines_fit_those_not_ready_come_first() -> None:
    queues = [queue(name=f"queue-{number}") for number in range(40)]
    watch = await watched(document(*queues, queue(name="failing", **FAILING)))
    lines = drawn(watch, 60, 8)
    assert [line.split()[0] for line in lines[2:6]] == ["failing", "queue-0", "queue-1", "queue-2"]
    assert lines[6].strip() == "and 37 more"
    assert len(lines) == 8


async def test_queues_of_the_same_name_have_their_own_history() -> None:
    watch = await watched(
        *(document(growing("twin", second), queue(second, name="twin")) for second in (1, 2))
    )
    first, second = (history.pace() for _, history in watch.rows)
    assert (first.written, second.written) == (500, 0)


async def test_a_program_without_queues_and_one_that_was_never_reached_are_told_apart() -> None:
    assert " no queue is open" in [
        line.rstrip() for line in drawn(await watched(document()), 80, 24)
    ]
    lines = drawn(await watched(trouble="Connection refused"), 80, 24)
    assert re.match(r" ▲ no answer for [\d.]+ (µs|ms): Connection refused", lines[1])
    assert lines[2].strip() == "no answer yet"


def coloured(watch: Watch) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=80, height=24, force_terminal=True, color_system="standard", no_color=False
    )
    console.print(draw(watch, 80, 24))
    return file.getvalue()


async def test_colours_tell_what_is_well_and_what_is_not() -> None:
    assert "\x1b[32m● running\x1b[0m" in coloured(await watched(document(queue())))
    seen = coloured(await watched(document(queue(**FAILING))))
    assert "\x1b[1;31m▲ waiting\x1b[0m\x1b[1;31m, not ready\x1b[0m" in seen


async def test_old_numbers_stay_and_say_how_old_they_are() -> None:
    watch = await watched(document(queue(**FAILING)), trouble="Connection refused")
    seen = coloured(watch)
    assert f"(the numbers are of {watch.answered})" in seen
    assert "ConnectionRefusedError" in seen
    _, _, panel = seen.partition("╭")
    assert set(re.findall(r"\x1b\[([0-9;]+)m", panel)) == {"0", "2"}  # nothing but grey
    assert re.search(r"\x1b\[2m[^\x1b]*▲ waiting", panel)


HOSTILE = "\x1b[2J[bold red]\u202e[/]\n" + "漢" * 50


@pytest.mark.parametrize("queues", [0, 1, 3, 12, 200])
@pytest.mark.parametrize("trouble", ["", "Connection refused" * 20])
async def test_a_screen_is_filled_exactly_whatever_its_size_and_content(
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
    for width in (24, 25, 39, 40, 59, 60, 80, 133, 250):
        for height in (8, 24, 60):
            lines = drawn(watch, width, height)
            assert len(lines) == height
            assert max(pyte_width(line) for line in lines) <= width
            text = "".join(lines)
            assert text.isprintable()


async def test_a_screen_that_is_too_narrow_says_so() -> None:
    assert drawn(await watched(document(queue())), 8, 24) == ["too nar…"]


def pyte_width(line: str) -> int:
    return sum(pyte.screens.wcwidth(char) for char in line)


def test_a_line_tells_the_same() -> None:
    now = BEGINNING + timedelta(seconds=9)
    assert in_one_line(queue(), Pace(0), now) == (
        "default: running, ready, in line 0, in flight 0, oldest 0 µs, dead letters 0, "
        "last error none. Entries are accepted and written; none is waiting."
    )
    busy = queue(**FAILING | {"reason": None, "summary": "Sum\x1bmary."})
    assert in_one_line(busy, Pace(0, 10, 2000, 500), now) == (
        "default: waiting, not ready (no reason given), in line 0, in flight 0, oldest 0 µs, "
        "accepted 10/s, written 2,000/s, batches of 500, dead letters 0, "
        "last error ConnectionRefusedError (08006) 9.0 s ago, next try in 3.2 s. Sum\\x1bmary."
    )


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
        with trio.fail_after(10):
            status = await call(writer)
        writer.close()
        return status, reader.read()


async def test_once_prints_every_queue_and_the_status_tells_whether_all_are_ready(
    program: Program,
) -> None:
    once = partial(watch_queues, program.url, keys=None, once=True)
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
    assert await told(partial(watch_queues, secret, keys=None, once=True)) == (3, "")
    assert capsys.readouterr().err == f"provcache: {url}: Connection refused\n"


async def test_json_is_what_came_but_for_what_a_terminal_might_obey(program: Program) -> None:
    hostile = queue(name="\x1b[2J\x9b\u202e漢\x7f", **FAILING)
    odd = '"more": "\x1b\U0001f600",\r "deep": ' + "[" * 500 + "]" * 500 + ', "in_flight"'
    program.body = document(hostile).replace(b'"in_flight"', odd.encode().replace(b"\x1b", b"x"))
    status, text = await told(
        partial(watch_queues, program.url, keys=None, once=True, as_json=True)
    )
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
        assert await watch_queues(program.url, writer, None, once=True, as_json=as_json) == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"as_json": True}, "--json goes with --once"),
        ({"interval": 0.01}, "--interval is 0.1 to 3600 seconds"),
        ({"interval": math.nan}, "--interval is"),
        ({"url": "localhost"}, "a status page is named by its URL"),
    ],
)
async def test_what_makes_no_sense_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MisuseError, match=complaint):
        await watch_queues(
            **{"url": "http://127.0.0.1", "file": sys.stdout, "keys": None, **options}
        )


async def test_in_a_pipe_there_is_a_line_for_each_queue_again_and_again(program: Program) -> None:
    program.body = document(queue(name="one"), queue(name="two"))
    with pipe() as (reader, writer):
        lines: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(watch_queues, program.url, writer, None, interval=0.1))
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
    with pipe() as (reader, writer), trio.fail_after(10):
        reader.close()
        assert await watch_queues(program.url, writer, None) == 0


@pytest.mark.parametrize("once", [False, True])
async def test_a_disk_that_is_full_is_told(program: Program, once: bool) -> None:
    with (
        open("/dev/full", "w", encoding="utf-8") as file,  # noqa: ASYNC230, PTH123
        pytest.raises(OutputError, match="No space left on device"),
    ):
        await watch_queues(program.url, file, None, once=once)


async def test_a_pager_that_takes_nothing_holds_up_no_signal(program: Program) -> None:
    program.body = document(*(queue(name=f"{n}" * 100) for n in range(1000)))
    with pipe() as (_, writer), trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                await eventually(lambda: bool(program.asked))
                await trio.sleep(0.2)
                signal.raise_signal(signal.SIGTERM)

            nursery.start_soon(end)
            assert await watch_queues(program.url, writer, None) == 143


# On a terminal


class Glass:
    """A pseudo-terminal, the side that people see; ``files`` is the other side."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self.fd, self._other = pty.openpty()
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self.resize(width, height)
        self.file = open(self._other, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # a descriptor
        self.keys = open(os.dup(self._other), encoding="utf-8")  # noqa: PTH123, SIM115
        self.before = termios.tcgetattr(self._other)
        self.everything = b""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._other, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)

    def look(self, seconds: float = 0) -> str:
        """Take what was drawn until now, and return what is on the screen."""
        while select.select([self.fd], [], [], seconds)[0]:
            try:
                drawn = os.read(self.fd, 65536)
            except OSError:  # the other side was closed
                break
            self.everything += drawn
            self._stream.feed(drawn)
        return "\n".join(self.screen.display)

    async def until(self, pattern: str) -> str:
        """Wait until the screen shows something, and return it all."""
        await eventually(lambda: re.search(pattern, self.look()) is not None)
        return self.look()

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    @property
    def untouched_keys(self) -> int:
        """How many keys were not read yet."""
        (count,) = struct.unpack("i", fcntl.ioctl(self._other, termios.FIONREAD, bytes(4)))
        return int(count)

    @property
    def taken(self) -> bool:
        """Whether the alternate screen is shown, without cursor, and keys have no echo."""
        self.look()
        _, _, _, flags, _, _, characters = termios.tcgetattr(self._other)
        return (
            self.everything.rfind(b"\x1b[?1049h") > self.everything.rfind(b"\x1b[?1049l")
            and self.screen.cursor.hidden
            and not flags & (termios.ECHO | termios.ICANON)
            and characters[termios.VMIN] == 0  # no read waits: Ctrl-C takes back what was typed
        )

    @property
    def clean(self) -> bool:
        """Whether everything is as it was."""
        self.look()
        return (
            self.everything.count(b"\x1b[?1049h") == self.everything.count(b"\x1b[?1049l") > 0
            and self.everything.rfind(b"\x1b[?1049h") < self.everything.rfind(b"\x1b[?1049l")
            and not self.screen.cursor.hidden
            and termios.tcgetattr(self._other) == self.before
        )

    def hang_up(self) -> None:
        os.close(self.fd)
        self.fd = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        self.file.close()
        self.keys.close()
        os.close(self.fd)


@pytest.fixture
def glass(monkeypatch: pytest.MonkeyPatch) -> Generator[Glass]:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    glass = Glass()
    yield glass
    glass.close()


@asynccontextmanager
async def running(program: Program, glass: Glass, status: int) -> AsyncGenerator[None]:
    """Run the command in the block; it has to end with ``status`` and leave things clean."""

    async def run() -> None:
        found.append(await watch_queues(program.url, glass.file, glass.keys, interval=0.1))

    found: list[int] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await glass.until("running")
            assert glass.taken
            yield
    assert found == [status]


async def test_q_ends_it(program: Program, glass: Glass) -> None:
    async with running(program, glass, 0):
        glass.type(b"x\x1b[A")  # which do nothing
        await eventually(lambda: not glass.untouched_keys)
        glass.type(b"q")
    assert glass.clean


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda it: it.name
)
async def test_a_signal_ends_it(number: signal.Signals, program: Program, glass: Glass) -> None:
    async with running(program, glass, 128 + number):
        signal.raise_signal(number)
    assert glass.clean


async def test_when_the_server_goes_away_the_numbers_stay_and_it_goes_on_asking(
    program: Program, glass: Glass
) -> None:
    async with running(program, glass, 0):
        program.stop()
        shown = await glass.until("no answer for .*: Connection refused")
        assert "last error none" in shown
        program.body = document(queue(name="again"))
        program.start()
        assert "no answer" not in await glass.until("again")
        program.stop()
        await glass.until("no answer")
        glass.type(b"Q")
    assert glass.clean


async def test_how_long_there_is_no_answer_goes_on_while_it_waits_for_one(
    glass: Glass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_top_status, "_TIMEOUT", 0.1)
    async with answering(b"", silent=True) as url, trio.open_nursery() as nursery:
        nursery.start_soon(partial(watch_queues, url, glass.file, glass.keys, interval=0.1))
        await glass.until("no answer for .* ms: nothing came within 0.1 s")
        monkeypatch.setattr(_top_status, "_TIMEOUT", 60)
        await glass.until(r"no answer for [12]\.\d s: nothing came")
        nursery.cancel_scope.cancel()
    assert glass.clean


async def test_it_follows_the_size_of_the_screen(program: Program, glass: Glass) -> None:
    async with running(program, glass, 0):
        glass.resize(50, 20)
        signal.raise_signal(signal.SIGWINCH)
        await glass.until(r"(?m)^╭─ default .*╮$")
        assert re.search(r"(?m)^ q quits", glass.look().splitlines()[-1])
        glass.type(b"q")
    assert glass.clean


async def test_a_terminal_that_does_not_know_its_size_is_taken_for_a_usual_one(
    program: Program, glass: Glass
) -> None:
    fcntl.ioctl(glass.file, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    async with running(program, glass, 0):
        assert re.search(r"(?m)^╭─ default .*╮$", glass.look())
        glass.type(b"q")


async def test_without_colours_it_says_the_same(
    program: Program, glass: Glass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with running(program, glass, 0):
        glass.type(b"q")
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-9]|9[0-7])", glass.everything)


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("plain", "")])
async def test_a_terminal_gets_lines_if_it_can_not_draw_or_they_are_asked_for(
    name: str, value: str, program: Program, glass: Glass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(watch_queues, program.url, glass.file, glass.keys, plain=name == "plain")
        )
        await glass.until("default: running")
        nursery.cancel_scope.cancel()
    assert b"\x1b" not in glass.everything


async def test_keys_that_are_no_terminal_are_left_alone(program: Program, glass: Glass) -> None:
    with pipe() as (reader, writer):
        writer.write("q")
        writer.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_queues, program.url, glass.file, reader)
            await glass.until("running")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert reader.read(1) == "q"
    assert glass.clean


async def test_it_ends_when_the_terminal_is_closed(program: Program, glass: Glass) -> None:
    async with running(program, glass, 129):
        glass.hang_up()


async def test_it_ends_when_the_terminal_is_closed_while_it_is_stopped(
    program: Program, glass: Glass
) -> None:
    watch = Watch(Source(program.url), 0.1)
    screen = Screen(watch, Terminal(glass.file, glass.keys, glass.hang_up))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(screen.run)
            await glass.until("running")
            signal.raise_signal(signal.SIGTSTP)
    assert screen.status == 129


async def test_a_terminal_that_takes_nothing_gets_its_echo_back_within_a_second(
    program: Program, glass: Glass
) -> None:
    program.body = document(*(queue(name=f"{number}running") for number in range(20)))
    async with running(program, glass, 143):
        termios.tcflow(glass.file, termios.TCOOFF)  # Ctrl-S
        await trio.sleep(0.3)
        started = trio.current_time()
        signal.raise_signal(signal.SIGTERM)
    assert trio.current_time() - started < 5
    assert termios.tcgetattr(glass.file) == glass.before
    termios.tcflow(glass.file, termios.TCOON)
    await glass.until("")


async def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(
    program: Program, glass: Glass
) -> None:
    seen: list[bool] = []

    def stop() -> None:
        glass.look(0.1)
        seen.append(glass.clean)
        glass.screen.reset()

    watch = Watch(Source(program.url), 0.1)
    screen = Screen(watch, Terminal(glass.file, glass.keys, stop))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(screen.run)
            await glass.until("running")
            signal.raise_signal(signal.SIGTSTP)
            await eventually(lambda: bool(seen))
            await glass.until("running")
            assert glass.taken
            glass.type(b"q")
    assert seen == [True]
    assert glass.clean


def test_stopping_this_process_is_what_the_signal_does_by_default() -> None:
    before = signal.getsignal(signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])
    try:
        stop_this_process()
        assert signal.SIGTSTP in signal.sigpending()
        signal.raise_signal(signal.SIGCONT)  # which takes it back
        assert signal.SIGTSTP not in signal.sigpending()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTSTP])
    assert signal.getsignal(signal.SIGTSTP) is before


# As a program of its own

PROGRAM = """
import os, sys
if "--login" in sys.argv:
    sys.argv.remove("--login")
    os.login_tty(os.dup(0))  # so that Ctrl-C is a signal
from provcache_trio._cli import main
sys.exit(main(["top", *sys.argv[1:]]))
"""


@contextmanager
def start(glass: Glass, *arguments: str) -> Generator[subprocess.Popen[bytes]]:
    """Run the program on a terminal; it does not outlive the block."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=glass.keys,
        stdout=glass.file,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUTF8": "1"},
        process_group=None if "--login" in arguments else 0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(glass: Glass, pattern: str) -> None:
    deadline = time.monotonic() + 20
    while not re.search(pattern, glass.look(0.05)):
        assert time.monotonic() < deadline, glass.look()


def end_of(process: subprocess.Popen[bytes], glass: Glass) -> tuple[int, bytes]:
    """Return its status and what it complained of, while somebody looks at the terminal."""
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        glass.look(0.05)
    assert process.stderr is not None
    return process.wait(timeout=0), process.stderr.read()


@pytest.mark.parametrize(
    ("act", "status"),
    [
        ("q", 0),
        ("\x03", 130),
        ("\x1c", 131),
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
    ],
    ids=repr,
)
def test_the_program_leaves_the_terminal_as_it_was(
    act: str | signal.Signals, status: int, program: Program, glass: Glass
) -> None:
    login = ["--login"] if act in ("\x03", "\x1c") else []
    with start(glass, *login, program.url) as process:
        wait_for(glass, "● running")
        assert glass.taken
        if isinstance(act, str):
            glass.type(act.encode())
        else:
            process.send_signal(act)
        assert end_of(process, glass) == (status, b"")
    assert glass.clean
    assert b"Traceback" not in glass.everything


def test_the_program_leaves_it_so_after_its_server_died(program: Program, glass: Glass) -> None:
    with start(glass, program.url) as process:
        wait_for(glass, "● running")
        program.stop()
        wait_for(glass, "no answer for .*: Connection refused")
        glass.type(b"q")
        assert end_of(process, glass) == (0, b"")
    assert glass.clean


def test_the_program_ends_with_its_terminal(program: Program, glass: Glass) -> None:
    with start(glass, "--login", program.url) as process:
        wait_for(glass, "● running")
        glass.hang_up()
        assert process.stderr is not None
        assert (process.wait(timeout=10), process.stderr.read()) == (129, b"")


def test_the_program_stops_for_the_shell_and_goes_on(program: Program, glass: Glass) -> None:
    with start(glass, program.url) as process:
        wait_for(glass, "● running")
        process.send_signal(signal.SIGTSTP)
        deadline = time.monotonic() + 10
        while not os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)[1]):
            assert time.monotonic() < deadline
            glass.look(0.05)
        assert glass.clean
        process.send_signal(signal.SIGCONT)
        glass.screen.reset()
        wait_for(glass, "● running")
        assert glass.taken
        glass.type(b"q")
        assert end_of(process, glass) == (0, b"")
    assert glass.clean


def test_the_command_is_there(program: Program, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["top", program.url, "--once"]) == 0
    assert capfd.readouterr().out.startswith("default: running, ready, ")
    assert main(["top", program.url, "--once", "--json"]) == 0
    assert decode(capfd.readouterr().out.encode()).queues[0].name == "default"
    assert main(["top", "http://user:secret@"]) == 2
    assert main(["top", program.url, "--json"]) == 2
    assert main(["top", f"http://user:secret@127.0.0.1:{free_port()}", "--once"]) == 3
    assert "secret" not in capfd.readouterr().err
