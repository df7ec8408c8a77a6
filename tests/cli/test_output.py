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
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import trio
from rich.text import Text

from provcache_trio import StoreUnavailableError
from provcache_trio._cli import main
from provcache_trio._cli.ingest.job import Ingest
from provcache_trio._cli.input import Input
from provcache_trio._cli.output import OutputError, Stream, put_line
from provcache_trio._cli.progress import Progress
from provcache_trio._cli.running import attempt, carry_out
from provcache_trio._cli.terminal import Terminal, terminal_for

from tests.cli.support import (
    PROGRAM,
    MemoryTarget,
    drained,
    full_pipe,
    key_of,
    lines,
    on_terminal,
    pseudo_terminal,
    stored,
    without_progress,
)
from tests.support.installed import install
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.whole_process

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
        assert process.wait(timeout=HANG_SECONDS) == 0
    assert stored(path) == 20


@pytest.mark.parametrize(
    "command",
    [
        ["get", key_of(1), "--from", "{store}"],
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
    assert (done.returncode, done.stdout) == (3, "")
    assert without_progress(done.stderr) == f"provcache: {reason}\n"
    assert stored(store) == {"ingest": 20, "demo": 12}.get(command[0], 10)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_job_is_done_whatever_streams_are_closed(
    redirection: str, store: Path, tmp_path: Path
) -> None:
    entries = tmp_path / "more.jsonl"
    entries.write_bytes(lines(range(10, 20)) + b"bad\n")
    done = redirected(redirection, "ingest", entries, "--to", f"sqlite:{store}")
    assert done.returncode == (3 if ">&- 2>" in redirection else 1)
    complaint = "" if "2>" in redirection else f"provcache: line 11: {MALFORMED}\n"
    assert without_progress(done.stderr) == complaint
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
        assert process.wait(timeout=HANG_SECONDS) == 3
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
        assert process.wait(timeout=HANG_SECONDS) == 128 + number
    assert "          3 accepted\n" in out
    assert out.endswith(f"Stopped by {number.name}\n")
    assert stored(path) == 3


def wait_for_rows(path: Path) -> None:
    latest = time.monotonic() + HANG_SECONDS
    while not stored(path):
        assert time.monotonic() < latest
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
        assert process.wait(timeout=HANG_SECONDS) == 143
        assert process.stderr is not None
        assert without_progress(process.stderr.read().decode()) == ""


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
        assert process.wait(timeout=HANG_SECONDS) == 1
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
        speaking = threading.Thread(target=put_line, args=("heard", file))
        speaking.start()
        assert waits.wait(HANG_SECONDS)
        assert drained(reader, b"heard\n") == b"heard\n"
        speaking.join()


class Broken(io.StringIO):
    """A file in memory that takes nothing."""

    def write(self, _: str, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_only_standard_output_is_worth_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    put_line("lost", Broken())
    monkeypatch.setattr(sys, "stdout", Broken())
    with pytest.raises(OutputError, match=FULL):
        put_line("lost", sys.stdout)
    assert main(["--help"]) == 3


async def test_a_stream_that_has_failed_takes_everything_and_gives_room() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: ASYNC230, PTH123
        stream = Stream(full)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            with trio.fail_after(HANG_SECONDS):
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

        async def add_without_end() -> None:
            nonlocal added
            while True:
                await stream.room()
                stream.add(f"{added}\n")
                added += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            nursery.start_soon(add_without_end)
            await until(lambda: added >= 100)
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        assert 100 <= added <= 200  # what waits, and what the thread has taken
        seen: list[bytes] = []

        async def read() -> None:
            last = f"{added - 1}\n".encode()
            seen.append(await trio.to_thread.run_sync(drained, reader, last))

        with trio.fail_after(HANG_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await stream.flush()
    assert seen[0].split() == [b"%d" % number for number in range(added)]


@pytest.mark.parametrize("live", [False, True])
async def test_what_may_be_left_out_is_left_out_while_nobody_reads_and_the_rest_waits(
    live: bool,
) -> None:
    with full_pipe() as (_, file):
        progress = Progress(str, file)
        if live:
            progress._terminal = Terminal(file)
            progress._stream = progress._terminal.stream
        for _ in range(1000):
            progress.notice("again")
        with trio.move_on_after(0.05) as scope:
            await progress.report("a bad line")
        assert scope.cancelled_caught
        assert len(progress._stream._waiting) == 100
        progress.add_line("what must not be left out")
        assert len(progress._stream._waiting) == 101


async def test_everything_is_written_only_when_what_was_left_behind_is() -> None:
    with full_pipe() as (reader, file):
        stream = Stream(file)
        stream._turn.acquire()  # as a thread has it that a cancelled call left behind
        with trio.move_on_after(0.1) as scope:
            await stream.flush()
        stream._turn.release()
        assert scope.cancelled_caught
        stream.add("last\n")
        with trio.fail_after(HANG_SECONDS):
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
        terminal = Terminal(file)
        terminal.stream.add("in the way")
        terminal.stream._turn.acquire()
        with trio.move_on_after(0.5):
            await terminal.show(draw, pause=0.1)
        terminal.stream._turn.release()
    assert drawn == 0


async def test_complaints_come_after_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    class Speaking(Ingest):
        async def run(self, _: object) -> None:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailableError("text")

        def summary(self, _: object) -> list[str]:
            return ["result"]

        def complaints(self) -> list[str]:
            return ["a://b"]

    read, order = Stream.flush, list[str]()

    async def note(self: Stream) -> None:
        await read(self)
        order.append("out" if self._file is sys.stdout else "err")

    job = Speaking(Input("-"), MemoryTarget())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Stream, "flush", note)
        assert await carry_out(job) == 3
    assert capsys.readouterr() == (
        "result\n",
        "provcache: a:/...\nprovcache: memory: text\n",
    )
    assert order == ["err", "out", "err"]  # progress, results, complaints


async def test_output_that_fails_amid_the_work_is_an_error_of_its_own() -> None:
    async def work() -> None:
        await trio.lowlevel.checkpoint()
        raise OutputError(OSError(errno.EIO, "Input/output error"))

    with pytest.raises(OutputError, match=r"^standard output: Input/output error$"):
        await attempt(work, "")


@pytest.mark.parametrize(
    ("code", "is_failure"),
    [(None, False), (errno.EPIPE, False), (errno.EBADF, True), (errno.EIO, True)],
)
def test_a_summary_that_nobody_wanted_is_no_failure(code: int | None, is_failure: bool) -> None:
    results = Stream(io.StringIO())
    results.trouble = None if code is None else OSError(code, os.strerror(code))
    with pytest.raises(OutputError) if is_failure else nullcontext():
        results.check()


async def test_what_is_added_while_something_is_written_is_written_by_the_same_flush() -> None:
    reader, writer = os.pipe()
    has_begun, may_go_on = threading.Event(), threading.Event()

    class Held(io.TextIOWrapper):
        """Holds the thread up when it has taken what waits, and is about to write it."""

        def fileno(self) -> int:
            if threading.current_thread() is not threading.main_thread():
                has_begun.set()
                assert may_go_on.wait(HANG_SECONDS)
            return super().fileno()

    with io.FileIO(reader) as pipe, Held(io.BufferedWriter(io.FileIO(writer, "w"))) as file:
        stream = Stream(file)
        stream.add("first\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.flush)
            await until(has_begun.is_set)
            assert stream.is_idle
            stream.add("second\n")
            may_go_on.set()
        assert stream.is_idle
        assert pipe.read(100) == b"first\nsecond\n"


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
    with pseudo_terminal() as (_, file):
        assert (terminal_for(file) is not None) is draws


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
        to = f"sqlite:{tmp_path}/store.db"
        assert expected in on_terminal(*arguments, "--to", to, COLUMNS=columns)[1]
