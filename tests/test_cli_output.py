"""What becomes of a command whose output nobody takes, or that can't be written."""

from __future__ import annotations

import errno
import io
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, TextIO

import pytest
import trio
from rich.text import Text

from provcache_trio._cli import main
from provcache_trio._cli.demo.job import Demo
from provcache_trio._cli.demo.screen import PlainLines
from provcache_trio._cli.ending import check_output, complaint, finish
from provcache_trio._cli.ingest.job import Ingest
from provcache_trio._cli.ingest.source import Input
from provcache_trio._cli.progress import LiveProgress, PlainProgress
from provcache_trio._cli.running import attempt
from provcache_trio._cli.stores import SqliteTarget
from provcache_trio._cli.stream import Stream
from provcache_trio._cli.terminal import Canvas, canvas_for
from provcache_trio._cli.text import OutputError, say

from tests.installed import install
from tests.test_cli_ingest import key, lines, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

PROGRAM = (sys.executable, "-m", "provcache_trio")
FULL = "standard output: No space left on device"
CLOSED = "standard output: it is closed"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with ten entries."""
    source = tmp_path / "entries.jsonl"
    source.write_bytes(lines(range(10)))
    path = tmp_path / "store.db"
    assert main(["ingest", str(source), "--to", f"sqlite:{path}"]) == 0
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site-packages"
    install(site, "good-1.0", {"good/a.py": b"a"})
    return site


def redirected(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program as a shell does, with what is redirected there."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM, *map(str, arguments)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def full_pipe() -> Generator[tuple[int, TextIO]]:
    """Yield both ends of a pipe that takes nothing more until it is read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    with open(writer, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
        try:
            yield reader, file
        finally:
            os.close(reader)  # which ends a thread that still writes


def drained(reader: int, until: bytes) -> bytes:
    """Read on to where ``until`` has come; return what is none of the filling."""
    seen = b""
    while until not in seen:
        seen += os.read(reader, 65536)
    return seen.lstrip(b".")


# The output fails


def test_a_progress_line_that_can_not_be_written_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    arguments = [*PROGRAM, "ingest", "-", "--to", f"sqlite:{path}"]
    with (
        open("/dev/full", "w", encoding="utf-8") as full,  # noqa: PTH123
        subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=full
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(lines(range(10)))
        process.stdin.flush()
        time.sleep(1.8)  # the first line of progress comes after a second
        process.stdin.write(lines(range(10, 20)))
        process.stdin.close()
        assert process.stdout.read().startswith(b"20 lines read, ")
        assert process.wait(timeout=30) == 0
    assert stored(path) == 20


@pytest.mark.parametrize(
    "command",
    [
        ["get", key(1), "--from", "{store}"],
        ["stats", "--from", "{store}"],
        ["init", "--to", "{store}"],
        ["ingest", "{entries}", "--to", "{store}"],
        ["demo", "--to", "{store}", "--paths", "{site}"],
        ["--help"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize(
    ("redirection", "reason"), [(">/dev/full", FULL), (">&-", CLOSED)], ids=["full", "closed"]
)
def test_an_output_that_takes_nothing_is_told_once_the_work_is_done(
    command: list[str], redirection: str, reason: str, store: Path, site: Path
) -> None:
    entries = store.with_name("entries.jsonl")
    entries.write_bytes(lines(range(10, 20)))
    names = {"store": f"sqlite:{store}", "entries": entries, "site": site}
    done = redirected(redirection, *(word.format(**names) for word in command))
    # Who closes it does not want to be told how a job ended.
    wanted = reason is FULL or command[0] not in {"init", "ingest", "demo"}
    assert (done.returncode, done.stdout) == (3 if wanted else 0, "")
    assert done.stderr == (f"provcache: {reason}\n" if wanted else "")
    assert stored(store) == {"ingest": 20, "demo": 12}.get(command[0], 10)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_job_is_done_whatever_streams_are_closed(
    redirection: str, store: Path, tmp_path: Path
) -> None:
    entries = tmp_path / "more.jsonl"
    entries.write_bytes(lines(range(10, 20)) + b"bad\n")
    done = redirected(redirection, "ingest", entries, "--to", f"sqlite:{store}")
    assert done.returncode == 1
    assert done.stderr == ("" if "2>" in redirection else f"provcache: line 11: {MALFORMED}\n")
    assert stored(store) == 20  # nothing was written into the file as if it were the terminal
    assert redirected(redirection, "get", "x", "--from", "x").returncode == 2


MALFORMED = "JSON is malformed: invalid character (byte 0)"


def test_standard_input_that_is_closed_is_told(store: Path) -> None:
    done = redirected("<&-", "ingest", "-", "--to", f"sqlite:{store}")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "provcache: standard input: it is closed\n"


def in_child(work: Callable[[], int]) -> int:
    """Do ``work`` in a forked child, and return its exit status."""
    child = os.fork()
    if not child:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_closed_descriptors_are_taken_before_a_file_can_be(store: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"

    def work() -> int:
        for descriptor in range(3):
            os.close(descriptor)
        sys.stdin = sys.stdout = sys.stderr = None
        status = main(["stats", "--from", f"sqlite:{store}"])
        report.write_text(os.readlink("/dev/fd/0") + os.readlink("/dev/fd/1"))  # noqa: PTH115
        return status

    assert in_child(work) == 3
    assert report.read_text() == 2 * os.devnull


def test_a_terminal_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    with subprocess.Popen(
        [*PROGRAM, "ingest", "-", "--to", f"sqlite:{path}"],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,  # so no SIGHUP either
    ) as process:
        os.close(theirs)
        assert process.stdin is not None
        process.stdin.write(lines(range(10)))
        process.stdin.flush()
        while b"10 lines, 0 bad" not in os.read(ours, 65536):
            pass
        os.close(ours)
        time.sleep(0.3)  # it draws, in vain
        process.stdin.write(lines(range(10, 20)))
        process.stdin.close()
        assert process.wait(timeout=30) == 3
    assert stored(path) == 20


@pytest.mark.parametrize("words", [["--help"], ["ingest", "--help"]], ids=" ".join)
def test_help_that_nobody_reads_on_is_no_failure(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*PROGRAM, *words], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


# Nobody reads


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_an_ingest_whose_complaints_nobody_reads(
    number: signal.Signals, tmp_path: Path
) -> None:
    source, path = tmp_path / "bad.jsonl", tmp_path / "store.db"
    source.write_bytes(lines(range(3)) + b"bad\n" * 20_000)
    assert main(["init", "--to", f"sqlite:{path}"]) == 0
    with (
        full_pipe() as (_, writer),
        subprocess.Popen(
            [*PROGRAM, "ingest", str(source), "--all-errors", "--to", f"sqlite:{path}"],
            stdout=subprocess.PIPE,
            stderr=writer,
        ) as process,
    ):
        wait_for_rows(path)
        process.send_signal(number)
        assert process.stdout is not None
        out = process.stdout.read().decode()
        assert process.wait(timeout=10) == 128 + number
    assert "          3 accepted\n" in out
    assert out.endswith(f"Stopped by {number.name}\n")
    assert stored(path) == 3


def wait_for_rows(path: Path) -> None:
    until = time.monotonic() + 30
    while not stored(path):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_signal_ends_a_demo_whose_output_nobody_reads(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    assert main(["init", "--to", f"sqlite:{path}"]) == 0
    with (
        full_pipe() as (_, writer),
        subprocess.Popen(
            [*PROGRAM, "demo", "--to", f"sqlite:{path}", "--paths", str(site)],
            stdout=writer,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        wait_for_rows(path)
        time.sleep(0.5)  # now it waits, to tell how it ended
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 143
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_every_complaint_comes_in_its_order_however_slowly_it_is_read(tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_bytes(b"bad\n" * 3000)
    reader, writer = os.pipe()
    with subprocess.Popen(
        [*PROGRAM, "ingest", str(source), "--all-errors", "--to", f"sqlite:{tmp_path}/store.db"],
        stdout=writer,
        stderr=writer,
    ) as process:
        os.close(writer)
        time.sleep(1)
        with open(reader, encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
            told = file.read().splitlines()
        assert process.wait(timeout=30) == 1
    numbers = [int(line.split()[2][:-1]) for line in told if line.startswith("provcache: line ")]
    assert numbers == list(range(1, 3001))
    summary = next(at for at, line in enumerate(told) if line.startswith("3,000 lines read, "))
    assert not any(line.startswith("provcache:") for line in told[summary:])


# What they are made of


def test_a_descriptor_that_does_not_block_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    wait = select.select

    def note_and_wait(*of: object) -> object:
        waits.set()
        return wait(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(select, "select", note_and_wait)
    with full_pipe() as (reader, file):
        os.set_blocking(file.fileno(), False)
        speaking = threading.Thread(target=say, args=("heard", file))
        speaking.start()
        assert waits.wait(10)
        assert drained(reader, b"heard\n") == b"heard\n"
        speaking.join()


class Broken(io.StringIO):
    """A file in memory that takes nothing."""

    def write(self, _: str, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_only_standard_output_is_worth_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    say("lost", Broken())
    monkeypatch.setattr(sys, "stdout", Broken())
    with pytest.raises(OutputError, match=FULL):
        say("lost", sys.stdout)
    assert main(["--help"]) == 3


async def test_a_stream_that_has_failed_takes_everything_and_gives_room() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: ASYNC230, PTH123
        stream = Stream(full)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            with trio.fail_after(10):
                for _ in range(1000):
                    await stream.room()
                    stream.add("lost\n")
            nursery.cancel_scope.cancel()
        assert stream.trouble is not None
        assert stream.trouble.errno == errno.ENOSPC


async def test_whoever_waits_for_room_can_be_cancelled_and_what_was_added_is_not_lost() -> None:
    with full_pipe() as (reader, file):
        stream = Stream(file)
        added = 0
        with trio.move_on_after(0.2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.run)
                while True:
                    await stream.room()
                    stream.add(f"{added}\n")
                    added += 1
        assert 100 <= added <= 200  # what waits, and what the thread has taken
        seen: list[bytes] = []

        async def read() -> None:
            last = f"{added - 1}\n".encode()
            seen.append(await trio.to_thread.run_sync(drained, reader, last))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await stream.flush()
    assert seen[0].split() == [b"%d" % number for number in range(added)]


@pytest.mark.parametrize("kind", ["plain", "live", "demo"])
async def test_what_may_be_left_out_is_left_out_while_nobody_reads_and_the_rest_waits(
    kind: str, tmp_path: Path
) -> None:
    target = SqliteTarget(tmp_path / "store.db")
    job = Ingest(Input("-"), target)
    with full_pipe() as (_, file):
        watcher: PlainProgress | LiveProgress | PlainLines
        if kind == "plain":
            watcher = PlainProgress(job, file)
            stream = watcher._stream
        elif kind == "live":
            canvas = Canvas(file)
            watcher, stream = LiveProgress(job, canvas), canvas.stream
        else:
            watcher = PlainLines(Demo([], target), file)
            stream = watcher.stream
        for _ in range(1000):
            watcher.notice("again")
        if not isinstance(watcher, PlainLines):
            with trio.move_on_after(0.05) as scope:
                await watcher.report("a bad line")
            assert scope.cancelled_caught
        assert len(stream._waiting) == 100


async def test_everything_is_written_only_when_what_was_left_behind_is() -> None:
    with full_pipe() as (reader, file):
        stream = Stream(file)
        stream._turn.acquire()  # as a thread has it that a cancelled call left behind
        with trio.move_on_after(0.1) as scope:
            await stream.flush()
        stream._turn.release()
        assert scope.cancelled_caught
        stream.add("last\n")
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, drained, reader, b"last\n")
                await stream.flush()


async def test_nothing_is_drawn_while_the_terminal_takes_nothing() -> None:
    drawn = 0

    def draw() -> Text:
        nonlocal drawn
        drawn += 1
        return Text("picture")

    with full_pipe() as (_, file):
        canvas = Canvas(file)
        canvas.stream.add("in the way")
        canvas.stream._turn.acquire()
        with trio.move_on_after(0.5):
            await canvas.show(draw, transient=True)
        canvas.stream._turn.release()
    assert drawn == 1  # the last, for the end


async def test_complaints_come_after_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    results = Stream(sys.stdout)
    results.add("result\n")
    await finish(results, [complaint("a://b"), complaint("text", "postgresql://host/db")])
    assert capsys.readouterr() == (
        "result\n",
        "provcache: a:/...\nprovcache: postgresql://host/db: text\n",
    )


async def test_output_that_fails_amid_the_work_is_an_error_of_its_own() -> None:
    async def work() -> None:
        await trio.lowlevel.checkpoint()
        raise OutputError(OSError(errno.EIO, "Input/output error"))

    with pytest.raises(OutputError, match=r"^standard output: Input/output error$"):
        await attempt(work, lambda _: None)


@pytest.mark.parametrize(
    ("code", "is_failure"),
    [(None, False), (errno.EPIPE, False), (errno.EBADF, False), (errno.EIO, True)],
)
def test_a_summary_that_nobody_wanted_is_no_failure(code: int | None, is_failure: bool) -> None:
    results = Stream(io.StringIO())
    results.trouble = None if code is None else OSError(code, os.strerror(code))
    with pytest.raises(OutputError) if is_failure else nullcontext():
        check_output(results)


# Narrow terminals


@pytest.mark.parametrize(
    ("columns", "draws"), [("0", False), ("1", False), ("19", False), ("20", True)]
)
def test_what_is_too_narrow_to_draw_on_gets_plain_lines(
    columns: str, draws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", columns)
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
        assert (canvas_for(file) is not None) is draws
    os.close(ours)


@pytest.mark.parametrize("columns", ["0", "1"])
def test_nothing_is_lost_on_a_terminal_that_says_it_has_no_width(
    columns: str, tmp_path: Path, site: Path
) -> None:
    source = tmp_path / "entries.jsonl"
    source.write_bytes(lines(range(3)) + b"bad\n")
    for arguments, expected in (
        (["ingest", str(source)], f"provcache: line 4: {MALFORMED}\r\n"),
        (["demo", "--paths", str(site)], "Every entry accounted for\r\n"),
    ):
        assert expected in on_terminal(columns, *arguments, "--to", f"sqlite:{tmp_path}/store.db")


def on_terminal(columns: str, *arguments: str) -> str:
    """Run the program on a terminal, and return what came there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", "COLUMNS": columns}
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        output = b""
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.05)[0]:
                output += os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
    return output.decode()
