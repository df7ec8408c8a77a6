"""How a job is watched: one line on a terminal, lines in a pipe, and which of them."""

from __future__ import annotations

import io
import os
import termios
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio._cli.ingest.job import Ingest
from provcache_trio._cli.input import Input
from provcache_trio._cli.progress import Progress
from provcache_trio._cli.text import counted, duration, printable, size

from tests.cli.support import MemoryTarget, line, on_terminal, pseudo_terminal
from tests.support.installed import install
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def in_memory(encoding: str = "utf-8") -> tuple[io.BytesIO, io.TextIOWrapper]:
    output = io.BytesIO()
    return output, io.TextIOWrapper(output, encoding=encoding, write_through=True)


@pytest.fixture(autouse=True)
def no_progress() -> None:
    """Show it: that is what these tests are about."""


# In a pipe


async def test_in_a_pipe_plain_lines_come_after_a_second_and_then_less_and_less_often(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    source = tmp_path / "entries.jsonl"
    source.write_bytes(line(1) + b"bad")
    output, file = in_memory()
    job = Ingest(Input(str(source)), MemoryTarget())
    progress = Progress(job.where, file)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(progress.run)
        await wait_all_tasks_blocked()
        mock_clock.jump(0.9)
        await wait_all_tasks_blocked()
        assert output.getvalue() == b""
        mock_clock.jump(0.1)
        await wait_all_tasks_blocked()
        assert output.getvalue() == b"provcache: 0 lines, 0 bad\n"
        await job.run(progress)
        assert output.getvalue().splitlines()[1:] == [
            b"provcache: line 2: JSON is malformed: invalid character (byte 0)"
        ]
        mock_clock.jump(1.9)
        await wait_all_tasks_blocked()
        assert output.getvalue().count(b"\n") == 2
        mock_clock.jump(0.1)
        await wait_all_tasks_blocked()
        assert output.getvalue().splitlines()[2:] == [
            b"provcache: 2 lines, 1 bad, in line 0, in flight 0, persisted 1, closed"
        ]
        for _ in range(3600):
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        assert output.getvalue().count(b"\n") in range(60, 70)
        nursery.cancel_scope.cancel()


async def test_plain_lines_print_what_the_encoding_can_not() -> None:
    output, file = in_memory("ascii")
    progress = Progress(str, file)
    progress.notice("5 µs")
    await progress.finish()
    assert output.getvalue() == b"provcache: 5 \\xb5s\n"


async def test_lines_go_on_in_silence_when_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123  # a descriptor
        progress = Progress(str, file)
        for text in ("one", "two"):
            progress.notice(text)
            await progress.finish()
    assert isinstance(progress._stream.trouble, BrokenPipeError)


# On a terminal


@pytest.mark.whole_process
@pytest.mark.parametrize("command", ["ingest", "demo"])
def test_on_a_terminal_one_line_changes_and_the_terminal_is_left_clean(
    command: str, tmp_path: Path
) -> None:
    install(tmp_path / "site", "good-1.0", {f"good/{n}.py": b"" for n in range(40)})
    (tmp_path / "entries.jsonl").write_bytes(line(1) + b"bad\n")
    arguments, status, seen = {
        "ingest": (
            [str(tmp_path / "entries.jsonl")],
            1,
            [
                "0 lines, 0 bad",
                "provcache: line 2: JSON is malformed: invalid character (byte 0)\r\n",
                "2 lines read, ",
            ],
        ),
        "demo": (
            ["--paths", str(tmp_path / "site")],
            0,
            ["reading every RECORD: 0 of 0 files", "Every entry accounted for\r\n"],
        ),
    }[command]
    found, drawn = on_terminal(command, *arguments, "--to", f"sqlite:{tmp_path}/store.db")
    assert found == status
    places = [drawn.index(text) for text in seen]
    assert places == sorted(places)
    assert drawn.count(HIDE_CURSOR) == drawn.count(SHOW_CURSOR) == 1
    assert drawn.index(HIDE_CURSOR) < drawn.index(SHOW_CURSOR)
    assert "Traceback" not in drawn


async def test_what_the_terminal_shows_is_one_line_that_is_cut_and_goes_away(
    draws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    with pseudo_terminal() as (ours, file):
        before = termios.tcgetattr(file)
        progress = Progress(lambda: "where it is, in a line that is too long", file)
        seen = b""

        async def until(text: bytes) -> None:
            nonlocal seen
            while text not in seen:
                seen += await trio.to_thread.run_sync(os.read, ours, 65536)

        with trio.fail_after(HANG_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(progress.run)
                await until("where it is, in a line that i…".encode())
                await progress.report("a bad [bold]line[/bold]")
                await until(b"provcache: a bad [bold]line[/bold]\r\n")
                nursery.cancel_scope.cancel()
            await progress.finish()
            await until(b"\x1b[2K")
        assert termios.tcgetattr(file) == before
    assert b"too long" not in seen


# Which of them


def is_live(progress: Progress) -> bool:
    return progress._terminal is not None


def test_a_terminal_gets_a_line_that_changes(draws: None) -> None:
    with pseudo_terminal() as (_, file):
        assert is_live(Progress(str, file))


@pytest.mark.parametrize(
    ("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "unknown")]
)
def test_a_terminal_that_should_not_or_can_not_gets_plain_lines(
    variable: str, value: str, draws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pseudo_terminal() as (_, file):
        assert not is_live(Progress(str, file))


def test_a_terminal_that_has_no_ellipsis_gets_plain_lines(draws: None) -> None:
    with pseudo_terminal() as (_, file):
        file.reconfigure(encoding="ascii")
        assert not is_live(Progress(str, file))


def test_a_pipe_gets_plain_lines_whatever_the_environment_wants(
    draws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_live(Progress(str, in_memory()[1]))


# Words and numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 µs"), (9.4e-6, "9 µs"), (0.00123, "1.23 ms"), (0.25, "250 ms"), (61.26, "61.3 s")],
)
def test_durations_have_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_have_a_noun() -> None:
    assert counted(1, "row") == "1 row"
    assert counted(2000, "row") == "2,000 rows"
    assert counted(0, "entry", "entries") == "0 entries"
    assert size(1_234_567) == "1.2 MB"


def test_names_are_printable_whatever_they_hold() -> None:
    assert printable("ü\x1b[31m\n\udcff\u202e") == "ü\\x1b[31m\\n\\udcff\\u202e"
