"""How a job is watched: the panel on a terminal, the lines in a pipe, and which of them."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import pytest
import trio
from rich.console import ConsoleDimensions
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio._cli.demo.job import Demo, Phase
from provcache_trio._cli.demo.screen import LivePanel, PlainLines, make_screen
from provcache_trio._cli.demo.summary import Line, Tone
from provcache_trio._cli.stores import SqliteTarget
from provcache_trio._cli.terminal import Canvas
from provcache_trio._cli.text import counted, duration, printable, size, sparkline
from provcache_trio.testing import MemoryRepository

from tests.installed import install

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from provcache_trio._cli.stores import Store

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture
def job(tmp_path: Path) -> Demo:
    site = tmp_path / "site-packages"
    install(site, "good-1.0", {f"good/{n}.py": b"" for n in range(40)})
    return Demo([site], SqliteTarget(tmp_path / "demo.db"))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[int, io.TextIOWrapper]]:
    """Return a pseudo-terminal of 60 columns: the side that reads, and a file."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 60, 0, 0))
    with open(writer, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
        yield reader, file
    os.close(reader)


def as_seen(output: str) -> list[str]:
    """Return every line that was drawn, one frame after the other, without its colours."""
    output = re.sub(r"\x1b\[[0-9]*A", "\n", output)  # up, to draw the next frame
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r", "").split("\n")


def panel_on(file: io.StringIO, job: Demo, width: int) -> LivePanel:
    canvas = Canvas(file)
    canvas.console.size = ConsoleDimensions(width, 50)
    return LivePanel(job, canvas)


async def drawn_with(job: Demo, *, width: int) -> tuple[LivePanel, io.StringIO]:
    """Run the job and draw it once it is done."""
    file = io.StringIO()
    panel = panel_on(file, job, width)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(panel.run)
        await job.run()
        nursery.cancel_scope.cancel()
    await panel.stream.flush()
    return panel, file


@pytest.mark.parametrize("width", [60, 80, 200])
async def test_the_panel_fits_its_terminal_and_shows_the_last_numbers(
    job: Demo, width: int
) -> None:
    _, file = await drawn_with(job, width=width)
    lines = [line for line in as_seen(file.getvalue()) if line]
    assert {len(line) for line in lines} == {min(width - 2, 78)}  # room for a ^C
    last = "\n".join(lines[lines.index(lines[-1]) - 8 :])
    for expected in ("done", "41 of 41 files", "rate", "in flight", "oldest pending", "closed"):
        assert expected in last
    assert re.search(r"persisted +41 ", last)
    assert re.search(r"in line [ ▁-█]+0 ", last)


async def test_the_cursor_is_given_back(job: Demo) -> None:
    _, file = await drawn_with(job, width=60)
    output = file.getvalue()
    assert output.index(HIDE_CURSOR) < output.rindex(SHOW_CURSOR)
    assert output.count(HIDE_CURSOR) == output.count(SHOW_CURSOR)


class OutOfReach:
    """A target whose store, after a look at it, does not answer until it is told to."""

    label = "nowhere"

    def __init__(self) -> None:
        self.repository = MemoryRepository()
        self.repository.down()

    def open(self) -> AbstractAsyncContextManager[Store]:
        return nullcontext(cast("Store", self.repository))  # it is one of any key

    def scratch(self) -> AbstractAsyncContextManager[Store]:
        return self.open()


async def test_the_panel_shows_notices_and_a_store_that_does_not_answer(
    job: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.target = target = OutOfReach()
    monkeypatch.setattr(target.repository, "check", trio.lowlevel.checkpoint)
    file = io.StringIO()
    panel = panel_on(file, job, 60)
    panel.notice("SIGTERM: writing")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(panel.run)
            nursery.start_soon(job.run)
            while "next try in" not in file.getvalue():  # noqa: ASYNC110  # no event tells it
                await trio.sleep(0.005)
            target.repository.up()
            while job.phase is not Phase.DONE:  # noqa: ASYNC110  # likewise
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    await panel.stream.flush()
    seen = as_seen(file.getvalue())
    assert any("write failed: StoreUnavailableError, next try in" in line for line in seen)
    assert any("SIGTERM: writing" in line for line in seen)
    assert any(line.endswith(" waiting ─╯") for line in seen)


async def test_the_summary_wraps_what_matters_and_cuts_what_does_not() -> None:
    file = io.StringIO()
    panel = panel_on(file, Demo([], OutOfReach()), 40)
    long = "[bold]" + "word " * 10
    panel.summary([Line("Title", Tone.TITLE), Line(long, Tone.BAD), Line(long, Tone.QUIET)])
    await panel.stream.flush()
    lines = as_seen(file.getvalue())
    assert lines[0] == "Title"
    assert [line.rstrip() for line in lines[1:3]] == [
        "  [bold]word word word word word word",
        "  word word word word",
    ]
    assert lines[3].startswith("  [bold]word")
    assert lines[3].endswith("…")
    assert lines[4:] == [""]


async def test_plain_lines_come_once_a_second(job: Demo, mock_clock: MockClock) -> None:
    output = io.BytesIO()
    lines = PlainLines(job, io.TextIOWrapper(output, encoding="utf-8", write_through=True))

    def told() -> list[str]:
        return output.getvalue().decode().splitlines()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lines.run)
        await wait_all_tasks_blocked()
        assert told() == [
            f"provcache demo: holding installed files against RECORD, into {job.target.label}"
        ]
        mock_clock.jump(0.9)
        await wait_all_tasks_blocked()
        assert len(told()) == 1
        mock_clock.jump(0.1)
        await wait_all_tasks_blocked()
        assert told()[1:] == ["reading every RECORD: 0 of 0 files"]
        await job.run()
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert len(told()) == 3
        assert re.fullmatch(
            r"done: 41 of 41 files, [\d,]+ files/s, in line 0, in flight 0, persisted 41, "
            r"oldest pending 0 µs, closed",
            told()[2],
        )
        nursery.cancel_scope.cancel()


async def test_plain_lines_print_what_the_encoding_can_not(job: Demo) -> None:
    output = io.BytesIO()
    file = io.TextIOWrapper(output, encoding="ascii", write_through=True)
    lines = PlainLines(job, file)
    lines.notice("5 µs")
    await lines.stream.flush()
    assert output.getvalue() == b"5 \\xb5s\n"


async def test_plain_lines_go_on_in_silence_when_nobody_reads(job: Demo) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123  # a descriptor
        lines = PlainLines(job, file)
        lines.notice("one")
        await lines.stream.flush()
        lines.summary([Line("two", Tone.TITLE), Line("three")])
        await lines.stream.flush()
    assert isinstance(lines.stream.trouble, BrokenPipeError)


# Which of them


def test_a_terminal_gets_the_panel(job: Demo, terminal: tuple[int, io.TextIOWrapper]) -> None:
    assert isinstance(make_screen(job, terminal[1], plain=False), LivePanel)


@pytest.mark.parametrize(
    ("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "unknown")]
)
def test_a_terminal_that_should_not_or_can_not_gets_plain_lines(
    variable: str,
    value: str,
    job: Demo,
    terminal: tuple[int, io.TextIOWrapper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    assert isinstance(make_screen(job, terminal[1], plain=False), PlainLines)


def test_plain_lines_can_be_asked_for(job: Demo, terminal: tuple[int, io.TextIOWrapper]) -> None:
    assert isinstance(make_screen(job, terminal[1], plain=True), PlainLines)


def test_a_terminal_that_has_no_bars_gets_plain_lines(
    job: Demo, terminal: tuple[int, io.TextIOWrapper]
) -> None:
    terminal[1].reconfigure(encoding="ascii")
    assert isinstance(make_screen(job, terminal[1], plain=False), PlainLines)


def test_a_pipe_gets_plain_lines_whatever_the_environment_wants(
    job: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert isinstance(make_screen(job, file, plain=False), PlainLines)


def test_on_a_real_terminal_the_program_draws_and_leaves_it_clean(
    job: Demo, terminal: tuple[int, io.TextIOWrapper]
) -> None:
    reader, file = terminal
    before = termios.tcgetattr(file)
    arguments = ["demo", "--to", f"sqlite:{job.target.label}", "--paths", str(job.places[0])]
    with subprocess.Popen(
        [sys.executable, "-m", "provcache_trio", *arguments],
        stdin=file,
        stdout=file,
        stderr=file,
        env={**os.environ, "PYTHONUTF8": "1"},
    ) as process:
        output = b""
        while process.poll() is None or select.select([reader], [], [], 0)[0]:
            if select.select([reader], [], [], 0.05)[0]:
                output += os.read(reader, 65536)
        assert process.returncode == 0
    drawn = output.decode()
    assert any(line.startswith("╭─ provcache demo ─") for line in as_seen(drawn))
    assert drawn.rindex(HIDE_CURSOR) < drawn.rindex(SHOW_CURSOR)
    assert "Every entry accounted for" in drawn
    assert "Traceback" not in drawn
    assert termios.tcgetattr(file) == before
    assert max(map(len, as_seen(drawn))) <= 60


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


def test_a_sparkline_shows_the_last_values_against_the_highest_of_them() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([0, 0], 10) == "  "
    assert sparkline([1, 0, 1, 8, 4], 4) == " ▁█▄"
    assert sparkline([1000, 8, 1], 2) == "█▁"
