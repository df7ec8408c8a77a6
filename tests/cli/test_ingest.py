"""``provcache ingest``: lines, the job, the command, and how signals end it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from typing import IO, TYPE_CHECKING

import msgspec
import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import wait_all_tasks_blocked

from provcache_trio import DecisionDigest, ProvcacheEntry, WriteBehindOptions
from provcache_trio._cli import input as input_module, main
from provcache_trio._cli.ingest import job as job_module
from provcache_trio._cli.ingest.job import Ingest
from provcache_trio._cli.ingest.lines import BadLineError, LineReader
from provcache_trio._cli.input import LONGEST_LINE, Input, InputError, LineSplitter
from provcache_trio._cli.running import carry_out
from provcache_trio._cli.stores import SqliteTarget

from tests.cli.support import (
    PROGRAM,
    Impatient,
    MemoryTarget,
    entry,
    key_of,
    line,
    lines,
    send,
    standard_input,
    stored,
)
from tests.support.strategies import provcache_entries
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "entries.jsonl"


def ingest(source: Path | str, store: Path, *more: str) -> int:
    return main(["ingest", str(source), "--to", f"sqlite:{store}", *more])


# Lines


def split(chunks: Iterable[bytes], longest: int = 8) -> list[bytes | None]:
    splitter = LineSplitter(longest)
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [*found, *splitter.finish()]


@given(st.lists(st.text(alphabet="ab\n", max_size=12).map(str.encode)))
def test_where_a_chunk_ends_makes_no_difference(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert split(chunks) == [each if len(each) <= 8 else None for each in expected]


def test_a_line_that_is_too_long_is_not_held() -> None:
    splitter = LineSplitter(100)
    for _ in range(50):
        assert list(splitter.feed(b"x" * 60)) == []
        assert len(splitter._held) <= 100
    assert list(splitter.feed(b"\nnext\n")) == [None, b"next"]


# Entries


@given(provcache_entries())
def test_what_msgspec_encodes_is_read(entry: ProvcacheEntry) -> None:
    assert LineReader().read(msgspec.json.encode(entry)) == entry


@given(
    st.sampled_from([*ProvcacheEntry.__struct_fields__, *DecisionDigest.__struct_fields__]),
    st.sampled_from(['["s3cret"]', '{"s3cret": 7337}', "73.7e337", "s3cret", '"s3cret\x01"']),
)
def test_a_bad_line_is_told_without_its_content(field: str, value: str) -> None:
    parts = re.split(f'(?<="{field}":)', msgspec.json.encode(entry(1)).decode(), maxsplit=1)
    with pytest.raises(BadLineError, check=lambda error: error.__suppress_context__) as caught:
        LineReader().read(f"{parts[0]}{value},{parts[1]}".encode())
    assert not re.search("s3cret|337", str(caught.value))


NO_TIME = "Invalid RFC3339 encoded datetime"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "longer than 1,048,576 bytes"),
        (
            line(1).replace(b"12:00:00Z", b"23:59:60Z", 1),
            f"{NO_TIME} - at `$.created_at`; a leap second, :60, can't be stored: write :59",
        ),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `veri_key`"),
        (b"{", "Input data was truncated"),
        (b"entry", "JSON is malformed: invalid character (byte 0)"),
        (b'{"veri_key":1}', "Expected `str`, got `int` - at `$.veri_key`"),
        (b'{"veri_key":"\xff"}', "not UTF-8"),
        (b'{"x":' + b"[" * 100_000, "nested too deeply"),
        (
            line(1).replace(key_of(1).encode(), b"s3cret"),
            "veri_key must be 'sha256:' and 64 lower-case hex digits",
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_reason_names_what_is_wrong(content: bytes | None, reason: str) -> None:
    with pytest.raises(BadLineError, match=f"^{re.escape(reason)}$"):
        LineReader().read(content)


def test_the_longest_entry_fits_into_a_line() -> None:
    seeds = tuple("\x01" * 256 for _ in range(256))  # 64 KiB, and six times that in JSON
    longest = msgspec.json.encode(entry(1, feed_ids=seeds))
    assert 6 * 64 * 1024 < len(longest) < LONGEST_LINE / 2


# The command, in this process


def test_every_line_goes_in(source: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.write_bytes(lines([*range(600), 7]) + line(599, trust_score=2))
    assert ingest(source, store) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(
        rf"602 lines read, into {re.escape(str(store))}\n"
        r"        602 accepted\n"
        r"          0 bad\n"
        r"          0 blank\n"
        r"of those accepted\n"
        r"        60[012] persisted in \d batch(es)?, [01] unchanged\n"
        r"          [012] coalesced\n"
        r"          0 dead-lettered\n",
        out,
    )
    assert stored(store) == 600


@pytest.mark.one_lane
def test_a_second_time_changes_nothing(
    source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_bytes(lines(range(10)))
    assert ingest(source, store) == 0
    assert ingest(source, store) == 0
    assert "10 persisted in 1 batch, 10 unchanged" in capsys.readouterr().out
    assert stored(store) == 10


def test_bad_lines_are_told_by_number_and_skipped(
    source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_long = b'"' + b"s3cret" * 200_000 + b'"\n'
    source.write_bytes(line(1) + b'{"veri_key": "s3cret"}\n' + line(2) + too_long + line(3))
    assert ingest(source, store) == 1
    out, err = capsys.readouterr()
    assert err == (
        "provcache: line 2: Object missing required field `decision`\n"
        "provcache: line 4: longer than 1,048,576 bytes\n"
    )
    assert out.startswith("5 lines read, ")
    assert "          3 accepted\n          2 bad\n" in out
    assert stored(store) == 3


def test_after_twenty_bad_lines_they_are_only_counted(
    source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_bytes(b"s3cret\n" * 23 + line(1))
    assert ingest(source, store) == 1
    out, err = capsys.readouterr()
    told = err.splitlines()
    assert [each.split(":")[1] for each in told[:-1]] == [f" line {n}" for n in range(1, 21)]
    assert told[-1] == "provcache: 3 more bad lines; --all-errors tells each"
    assert "          1 accepted\n         23 bad\n" in out


def test_every_bad_line_is_told_to_whoever_asks(
    source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_bytes(b"s3cret\n" * 23)
    assert ingest(source, store, "--all-errors") == 1
    assert [each.split(":")[1] for each in capsys.readouterr().err.splitlines()] == [
        f" line {n}" for n in range(1, 24)
    ]


def test_strict_stops_at_the_first_bad_line_and_writes_what_came_before(
    source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_bytes(lines(range(3)) + b"bad\nbad\n" + lines(range(3, 2000)) + b"bad")
    assert ingest(source, store, "--strict") == 1
    out, err = capsys.readouterr()
    assert err == "provcache: line 4: JSON is malformed: invalid character (byte 0)\n"
    assert out.startswith("4 lines read, ")
    assert out.endswith("Stopped at the first bad line\n")
    assert stored(store) == 3


def test_strict_is_content_with_good_lines(source: Path, store: Path) -> None:
    source.write_bytes(lines(range(3)))
    assert ingest(source, store, "--strict") == 0


@pytest.mark.parametrize(
    ("content", "blank"),
    [
        (lines(range(3)).removesuffix(b"\n"), 0),
        (lines(range(3)).replace(b"\n", b"\r\n"), 0),
        (b"\n" + line(0) + b"\r\n" + line(1) + b" \t\n" + line(2) + b"\n", 4),
        (b"\xef\xbb\xbf" + lines(range(3)), 0),
        (b"\xef\xbb\xbf\n" + lines(range(3)), 1),
    ],
    ids=["no line feed at the end", "CRLF", "blank lines", "BOM", "BOM and blank line"],
)
def test_what_editors_do_to_a_file_is_no_trouble(
    content: bytes, blank: int, source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_bytes(content)
    assert ingest(source, store) == 0
    out, err = capsys.readouterr()
    assert (stored(store), err) == (3, "")
    assert f"{blank} blank" in out


def test_a_byte_order_mark_may_begin_every_line(source: Path, store: Path) -> None:
    source.write_bytes(line(0) + b"\xef\xbb\xbf" + line(1))  # two files that were put together
    assert ingest(source, store) == 0
    assert stored(store) == 2


@pytest.mark.parametrize(
    ("content", "what", "command"),
    [
        (gzip.compress(lines(range(3)), mtime=0), "compressed by gzip", "zcat"),
        (bz2.compress(lines(range(3))), "compressed by bzip2", "bzcat"),
        (lzma.compress(lines(range(3))), "compressed by xz", "xzcat"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "compressed by zstd", "zstdcat"),
        (lines(range(3)).decode().encode("utf-16"), "UTF-16", "iconv -f UTF-16 -t UTF-8"),
        (lines(range(3)).decode().encode("utf-16-le"), "UTF-16", "iconv -f UTF-16LE"),
        (lines(range(3)).decode().encode("utf-16-be"), "UTF-16", "iconv -f UTF-16BE"),
        (b"\n [" + line(0) + b"]", "one JSON array", "jq -c '.[]'"),
        (b"\x1e" + line(0), "JSON with record separators", r"tr -d '\036' <"),
        (line(0).replace(b"{", b"{ \r\n ", 1), "", "jq -c ."),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_an_input_that_is_no_lines_of_json_is_told_once_with_what_to_do(
    content: bytes,
    what: str,
    command: str,
    source: Path,
    store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source.write_bytes(content)
    assert ingest(source, store) == 3
    err = capsys.readouterr().err
    assert err.startswith(f"provcache: {source} ")
    assert what in err
    assert f": {command} " in err
    assert err.endswith("FILE | provcache ingest -\n")
    assert err.count("\n") == 1
    assert stored(store) == 0


def test_what_the_store_refuses_is_told_by_the_status(
    source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--to", f"sqlite:{store}"]) == 0
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(
            "CREATE TRIGGER t BEFORE INSERT ON provcache_entries WHEN NEW.trust_score = 99 "
            "BEGIN SELECT RAISE(ABORT, 's3cret'); END"
        )
    source.write_bytes(line(1) + line(2, trust_score=99) + line(3))
    assert ingest(source, store) == 1
    out, err = capsys.readouterr()
    assert "1 dead-lettered" in out
    # It is in the input.
    assert "dead-lettered" in err
    assert "payload is gone" not in err
    assert stored(store) == 2


def test_an_empty_input_makes_a_store(source: Path, store: Path) -> None:
    source.touch()
    assert ingest(source, store) == 0
    assert stored(store) == 0


def test_without_an_input_no_store_is_made(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest(tmp_path / "none", store) == 3
    assert capsys.readouterr() == ("", f"provcache: {tmp_path}/none: No such file or directory\n")
    assert ingest(tmp_path, store) == 3
    assert capsys.readouterr() == ("", f"provcache: {tmp_path}: Is a directory\n")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_can_not_be_used_is_told_in_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_bytes(line(1))
    assert ingest(source, tmp_path / "none" / "x.db") == 3
    assert capsys.readouterr() == (
        "",
        f"provcache: {tmp_path}/none/x.db: there is no directory {tmp_path}/none\n",
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-"], 'Command "ingest" parameter'),
        (["--to", "sqlite:x.db"], 'Command "ingest" parameter'),
        (["-", "--to", "x.db"], "a store is named by a URL: sqlite:PATH"),
        (["--strct", "--to", "sqlite:x.db"], "Unknown option: --strct"),
        (["-", "--strct", "--to", "sqlite:x.db"], "Unknown option: "),
    ],
    ids=str,
)
def test_misuse_ends_with_status_2(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ingest", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"provcache: {complaint}")
    assert list(tmp_path.iterdir()) == []


# Standard input


def test_a_hyphen_is_standard_input_which_stays_open(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standard_input(monkeypatch.setattr) as (reader, writer):
        os.write(writer, lines(range(3)))
        os.close(writer)
        assert ingest("-", store) == 0
        assert os.fstat(reader)
    assert stored(store) == 3


def test_a_closed_standard_input_is_told(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert ingest("-", store) == 3
    assert capsys.readouterr() == ("", "provcache: standard input: it is closed\n")


def test_an_input_that_can_not_be_read_is_told_and_what_came_before_is_written(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with standard_input(monkeypatch.setattr) as (reader, writer):
        os.set_blocking(reader, False)
        os.write(writer, lines(range(3)))
        assert ingest("-", store) == 3
    out, err = capsys.readouterr()
    assert err == "provcache: standard input: it is in non-blocking mode\n"
    assert "3 accepted" in out
    assert stored(store) == 3


async def test_an_error_while_reading_names_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123
        monkeypatch.setattr(sys, "stdin", file)
        source = Input("-")
        await source.open()
        with pytest.raises(InputError, match=r"^standard input: Bad file descriptor$"):
            await source.read()
        source.close()


async def test_a_read_that_is_left_behind_keeps_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with standard_input(monkeypatch.setattr):
        source = Input("-")
        await source.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.read)
            await until_in_use(source)
            nursery.cancel_scope.cancel()
        source.close()
        assert source._file is not None
        assert not source._file.closed


async def test_a_file_is_closed_though_its_thread_ended_as_it_was_left(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go_on = Input._read, threading.Event()

    def wait(self: Input) -> bytes | None:
        go_on.wait()
        return read(self)

    monkeypatch.setattr(Input, "_read", wait)
    await trio.Path(source).write_bytes(b"{}")
    one = Input(str(source))
    await one.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.read)
        await until_in_use(one)
        go_on.set()
        end = time.monotonic() + HANG_SECONDS
        while one._in_use and time.monotonic() < end:
            time.sleep(0.001)  # noqa: ASYNC251  # or trio hears of the end
        nursery.cancel_scope.cancel()
    one.close()
    assert one._file is not None
    assert one._file.closed


async def test_a_file_is_closed_though_no_thread_was_free_to_read_it(source: Path) -> None:
    await trio.Path(source).write_bytes(b"{}")
    one = Input(str(source))
    await one.open()
    threads = trio.to_thread.current_default_thread_limiter()
    before = threads.total_tokens
    threads.total_tokens = 1
    async with threads, trio.open_nursery() as nursery:
        nursery.start_soon(one.read)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    threads.total_tokens = before
    one.close()
    assert one._file is not None
    assert one._file.closed


async def test_what_was_closed_is_not_opened(source: Path) -> None:
    await trio.Path(source).write_bytes(b"{}")
    one = Input(str(source))
    one.close()
    with pytest.raises(InputError, match=r": it is closed$"):
        await one.open()
    assert one._file is None


async def until_in_use(source: Input) -> None:
    """Wait until a thread opens or reads it."""
    with trio.fail_after(HANG_SECONDS):
        while not source._in_use:  # noqa: ASYNC110  # a thread sets it
            await trio.sleep(0.001)


# The job


async def test_large_entries_are_written_before_more_are_read(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "_MOST_UNWRITTEN", 4000)
    monkeypatch.setattr(input_module, "_CHUNK", 1000)
    content = lines(range(100))
    await trio.Path(source).write_bytes(content)
    target = MemoryTarget()
    slow = WriteBehindOptions(flush_interval_seconds=3600)
    job = Ingest(Input(str(source)), target, options=slow)
    with trio.fail_after(HANG_SECONDS):
        await job.run(Impatient())
    metrics = job.outage.metrics
    assert metrics is not None
    assert metrics.total_persisted == 100
    assert metrics.total_batches >= len(content) // 5000  # up to a chunk more


@pytest.mark.one_lane
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_the_pipe_is_silent_writes_what_was_accepted(
    number: signal.Signals,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slow = WriteBehindOptions(flush_interval_seconds=3600)
    with standard_input(monkeypatch.setattr) as (_, writer):
        os.write(writer, lines(range(20)) + line(20)[:99])
        job = Ingest(Input("-"), SqliteTarget(store), options=slow)
        watcher = Impatient(lambda: job.lines == 20, send(number))
        with trio.fail_after(HANG_SECONDS):
            assert await carry_out(job, watcher) == 128 + number
    assert watcher.notices == [f"{number.name}: writing what was accepted, at most 20 s"]
    out = capsys.readouterr().out
    assert "20 persisted in 1 batch" in out
    assert out.endswith(f"Stopped by {number.name}\n")
    assert stored(store) == 20


@pytest.mark.one_lane
async def test_an_entry_that_waited_for_room_at_the_signal_is_accounted_for(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await trio.Path(source).write_bytes(lines(range(100)))
    target = MemoryTarget()
    monkeypatch.setattr(target.repository, "check", trio.lowlevel.checkpoint)
    target.repository.stall()
    narrow = WriteBehindOptions(queue_capacity=1, batch_size=1)
    job = Ingest(Input(str(source)), target, options=narrow)

    def full() -> bool:
        metrics = job.outage.metrics
        return metrics is not None and metrics.producers_waiting == metrics.in_flight == 1

    def resume() -> bool:
        target.repository.resume()
        return True

    watcher = Impatient(
        full, send(signal.SIGTERM), lambda: watcher.notices, resume, trio.lowlevel.current_task
    )
    with trio.fail_after(HANG_SECONDS):
        assert await carry_out(job, watcher) == 143
    metrics = job.outage.metrics
    assert metrics is not None
    assert job.lines == metrics.total_enqueued + 1
    assert metrics.total_persisted == metrics.total_enqueued == await target.repository.count()
    assert "          1 not accepted\n" in capsys.readouterr().out


async def test_a_signal_before_there_is_any_input_makes_no_store(
    store: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # to open it waits for a writer
    job = Ingest(Input(str(fifo)), SqliteTarget(store))
    with trio.fail_after(HANG_SECONDS):
        assert await carry_out(job, Impatient(send(signal.SIGTERM))) == 143
    assert job.summary(signal.SIGTERM) == []
    assert not await trio.Path(store).exists()
    writer = os.open(fifo, os.O_RDWR)  # so that the thread has an end
    os.close(writer)


# The command, as a program of its own


@contextmanager
def start(store: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run the program with a pipe for its input; it does not outlive the block."""
    with subprocess.Popen(
        [*PROGRAM, "ingest", "-", "--to", f"sqlite:{store}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def write_all(pipe: IO[bytes], data: bytes) -> None:
    """Write more than a pipe holds: a writer that is stopped meanwhile has written a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[pipe.write(rest) :]


@pytest.mark.whole_process
def test_a_signal_to_the_program_ends_it_while_its_pipe_is_silent(store: Path) -> None:
    with start(store) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        write_all(process.stdin, lines(range(100)) + line(100)[:99])
        assert any(b"100 lines, 0 bad" in told for told in process.stderr)
        process.send_signal(signal.SIGTERM)
        out = process.stdout.read().decode()
        assert process.wait(timeout=HANG_SECONDS) == 143
        assert process.stderr.read().endswith(b"writing what was accepted, at most 20 s\n")
    assert "100 persisted" in out
    assert stored(store) == 100


@pytest.mark.whole_process
def test_a_signal_in_the_middle_of_a_stream_leaves_in_the_file_what_was_said(
    store: Path,
) -> None:
    with start(store) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        pipe = process.stdin
        template = line(0).decode()

        def pour() -> None:
            number = 0
            with suppress(BrokenPipeError):
                while True:
                    number += 1
                    pipe.write(template.replace(key_of(0), f"sha256:{number:064x}").encode())

        pouring = threading.Thread(target=pour)
        pouring.start()
        written = re.compile(rb" lines, 0 bad, .* persisted [1-9]").search
        assert any(map(written, process.stderr))
        process.send_signal(signal.SIGTERM)
        out = process.stdout.read().decode()
        assert process.wait(timeout=HANG_SECONDS) == 143
        pouring.join()
    said = re.search(r"([\d,]+) persisted", out)
    assert said is not None
    assert int(said[1].replace(",", "")) == stored(store) > 0


# A launcher of its own, because a child is held to have the size of who started it, and
# pytest may be large.
MEASURE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
unit = 1 if sys.platform == "darwin" else 1024
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)
"""


@pytest.mark.heavy
def test_memory_stays_the_same_however_much_comes(store: Path) -> None:
    seeds = tuple(f"{number:0250}" for number in range(240))  # 60 kB
    template = msgspec.json.encode(entry(0, feed_ids=seeds)) + b"\n"
    count = 200_000_000 // len(template)
    with subprocess.Popen(
        [sys.executable, "-c", MEASURE, *PROGRAM, "ingest", "-", "--to", f"sqlite:{store}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        old = key_of(0).encode()
        for number in range(count):
            process.stdin.write(template.replace(old, b"sha256:%064x" % number))
        process.stdin.close()
        status, peak = map(int, process.stdout.read().split())
    assert status == 0
    assert stored(store) == count
    assert peak < 100_000_000  # it was 60 MB, with 61 MB of input and with 614 MB
