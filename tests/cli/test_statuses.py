"""What commands end with: exit statuses, signals, and a store that does not come back."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import pty
import re
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import provcache_trio_command  # type: ignore[import-untyped,unused-ignore]  # one module has no marker
from provcache_trio import (
    DecisionDigest,
    DrainTimeoutError,
    ProvcacheEntry,
    ReplaySeed,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    _cli,
)
from provcache_trio._cli import app, main, running, stores
from provcache_trio._cli.ingest.job import Ingest
from provcache_trio._cli.input import Input
from provcache_trio._cli.running import Attempt, Status, carry_out, warnings_shown_by
from provcache_trio._cli.stores import SqliteTarget, wait_until_ready
from provcache_trio.testing import MemoryRepository

from tests.cli.support import (
    Impatient,
    MemoryTarget,
    key_of,
    line,
    lines,
    locked,
    standard_input,
    stored,
    without_progress,
)
from tests.support.installed import install
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from provcache_trio._cli.stores import Store

pytestmark = pytest.mark.whole_process

BUSY = (
    "SQLite reported SQLITE_BUSY: another process, or another connection of this one, holds a lock "
    "on the file"
)

PROGRAM = (sys.executable, "-m", "provcache_trio_command")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "entries.jsonl"
    path.write_bytes(lines(range(10)))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# Statuses


def test_a_miss_and_a_store_that_fails_end_differently(
    source: Path, store: Path, tmp_path: Path
) -> None:
    url = f"sqlite:{store}"
    assert main(["ingest", str(source), "--to", url]) == 0
    assert main(["get", key_of(1), "--from", url]) == 0
    assert main(["get", key_of(11), "--from", url]) == 1
    assert main(["get", key_of(1), "--from", f"sqlite:{source}"]) == 3
    assert main(["stats", "--from", f"sqlite:{source}"]) == 3
    assert main(["init", "--to", f"sqlite:{source}"]) == 3
    assert main(["ingest", str(source), "--to", f"sqlite:{source}"]) == 3
    assert main(["demo", "--to", f"sqlite:{source}"]) == 3
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        assert main(["get", key_of(1), "--from", url]) == 3
    assert main(["get", key_of(1), "--from", url]) == 0
    (tmp_path / "bad").write_text("bad")
    assert main(["ingest", str(tmp_path / "bad"), "--to", url]) == 1


def test_the_command_s_own_status_is_that_of_all() -> None:
    assert int(Status.FAILED) == _cli._FAILED


@pytest.mark.parametrize("command", ["stats --from", "init --to"])
def test_what_is_no_file_is_called_so(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fifo, loop = tmp_path / "fifo", tmp_path / "loop"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    for path, reason in (
        (tmp_path, "it is a directory"),
        (fifo, "it is no regular file"),
        (loop, "Too many levels of symbolic links"),
    ):
        assert main([*command.split(), f"sqlite:{path}"]) == 3
        assert capsys.readouterr() == ("", f"provcache: {path}: {reason}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "postgresql://u:s3cret@h/d", "--to", "sqlite:a.db"],
        ["demo", "--to", "sqlite:a.db", "--paths", "postgresql://u:s3cret@h/d"],
        ["demo", "--to", "sqlite:a.db", "--paths", ".", "postgres://u:s3cret@h/d"],
    ],
    ids=" ".join,
)
def test_a_url_in_a_file_s_place_is_refused_unquoted(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr() == (
        "",
        "provcache: the name of a file is wanted there, not a URL (see provcache --help)\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "u:s3cret@h", "--to", "sqlite:a.db"],
        ["demo", "--to", "sqlite:a.db", "--paths", "u:s3cret@h"],
    ],
    ids=" ".join,
)
def test_what_may_be_a_password_in_the_name_of_a_file_is_not_quoted(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 3
    assert capsys.readouterr() == ("", "provcache: ...\n")


@pytest.mark.parametrize("name", ["-dash", "./-dash", "--to", "./-"])
def test_a_file_may_begin_with_a_hyphen_after_the_end_of_the_options(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(lines(range(3)))
    assert main(["ingest", "--to", f"sqlite:{store}", "--", name]) == 0
    assert stored(store) == 3
    if name.startswith("./"):
        assert main(["ingest", name, "--to", f"sqlite:{store}"]) == 0
    else:
        assert main(["ingest", name, "--to", f"sqlite:{store}"]) == 2


def test_a_lone_hyphen_is_standard_input_there_too(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standard_input(monkeypatch.setattr) as (_, writer):
        os.write(writer, lines(range(3)))
        os.close(writer)
        assert main(["ingest", "--to", f"sqlite:{store}", "--", "-"]) == 0
    assert stored(store) == 3


def test_a_place_whose_name_is_too_long_is_skipped(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path / "site", "good-1.0", {"good/a.py": b"a"})
    monkeypatch.setattr(sys, "path", ["x" * 300, "nul\0", str(tmp_path / "site")])
    assert main(["demo", "--to", f"sqlite:{store}"]) == 0
    assert main(["demo", "--to", f"sqlite:{store}", "--paths", "x" * 300]) == 3
    assert capsys.readouterr().err == f"provcache: {'x' * 300} is no directory\n"


# A line with fields that entries do not have


@pytest.mark.parametrize(
    ("before", "place"),
    [
        (b'"hit_count"', ""),
        (b'"trust_score"', " - at `$.decision`"),
        (b'"rule_ids"', " - at `$.decision.replay_seed`"),
    ],
    ids=["entry", "decision", "seed"],
)
@pytest.mark.parametrize("name", ["hit_cout", "s3cret` - at `$.s3cret"])
def test_a_field_that_entries_do_not_have_is_bad_for_strict_only(
    name: str,
    before: bytes,
    place: str,
    source: Path,
    store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source.write_bytes(line(1) + line(2).replace(before, b'"%s":1,%s' % (name.encode(), before)))
    assert main(["ingest", str(source), "--to", f"sqlite:{store}", "--strict"]) == 1
    err = capsys.readouterr().err
    assert err == f"provcache: line 2: Object contains an unknown field{place}\n"
    assert stored(store) == 1
    assert main(["ingest", str(source), "--to", f"sqlite:{store}"]) == 0
    assert stored(store) == 2


@pytest.mark.parametrize(
    ("before", "twice"),
    [
        (b'"veri_key":', b'"veri_key":"x","veri_key":'),
        (b'"trust_score":', b'"trust_score":1,"trust_score":'),
    ],
)
def test_a_field_that_is_there_twice_is_bad_for_strict(
    before: bytes, twice: bytes, source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_bytes(line(1) + line(2).replace(before, twice))
    assert main(["ingest", str(source), "--to", f"sqlite:{store}", "--strict"]) == 1
    name = before.decode().strip('":')
    assert capsys.readouterr().err == f"provcache: line 2: Object contains `{name}` twice\n"
    assert stored(store) == 1


# A store that is away


def test_a_store_that_is_locked_at_first_is_waited_for(source: Path, store: Path) -> None:
    assert main(["init", "--to", f"sqlite:{store}"]) == 0
    with (
        closing(locked(store)) as connection,
        subprocess.Popen(
            [*PROGRAM, "ingest", str(source), "--to", f"sqlite:{store}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        assert process.stderr is not None
        told = process.stderr.readline()
        assert told.decode() == f"provcache: {store}: {BUSY}; trying again for 10 s\n"
        connection.execute("ROLLBACK")
        assert process.wait(timeout=HANG_SECONDS) == 0
    assert stored(store) == 10


@pytest.mark.parametrize("command", ["init --to", "demo --to", "ingest {source} --to"])
def test_a_store_that_stays_locked_is_told(
    command: str,
    source: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stores, "_PATIENCE", 0.5)
    monkeypatch.setattr(stores, "_PAUSE", 0.01)
    assert main(["init", "--to", f"sqlite:{store}"]) == 0
    capsys.readouterr()
    with closing(locked(store)):
        status = main([*command.format(source=source).split(), f"sqlite:{store}"])
    assert status == 3
    told = "".join(capsys.readouterr())
    assert told.count(f"{BUSY}; trying again for 0.5 s\n") == 1
    assert told.endswith(f"provcache: {store}: {BUSY}\n")


async def test_a_store_that_needs_a_person_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check() -> None:
        await trio.lowlevel.checkpoint()
        raise StoreMisconfiguredError("no such table")

    store = cast("Store", MemoryRepository[ProvcacheEntry]())  # it is one of any key
    monkeypatch.setattr(store, "check", check)
    with pytest.raises(StoreMisconfiguredError):
        await wait_until_ready(store, pytest.fail)


@pytest.mark.parametrize("comes_back", [False, True])
async def test_an_ingest_gives_a_store_up_that_stays_away(
    comes_back: bool,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = WriteBehindOptions(
        flush_interval_seconds=0, drain_timeout_seconds=5 if comes_back else 0.2
    )
    held: list[sqlite3.Connection] = []
    words: list[str] = []
    with standard_input(monkeypatch.setattr) as (_, writer):
        job = Ingest(Input("-"), SqliteTarget(store), give_up_after=0.5, options=options)

        def is_open() -> bool:
            return job.outage.metrics is not None

        def goes_on() -> int:
            return os.write(writer, lines(range(3)))

        def waits() -> bool:
            words.append(job.where())
            return words[-1].endswith("waiting (SQLITE_BUSY)")

        def lock() -> bool:
            held.append(locked(store))
            return True

        def unlock() -> bool:
            if job.outage.why and comes_back:
                held[0].close()
            return bool(job.outage.why)

        watcher = Impatient(is_open, lock, goes_on, waits, unlock)
        with trio.fail_after(HANG_SECONDS):
            assert await carry_out(job, watcher) == 3
    held[0].close()
    out, err = capsys.readouterr()
    rest = "" if comes_back else "; 3 entries not written"
    assert err == (
        f"provcache: {store}: given up after 0.5 s without the store (SQLITE_BUSY){rest}\n"
    )
    assert "          3 accepted\n" in out
    assert stored(store) == (3 if comes_back else 0)


def test_how_long_a_store_may_be_away_is_a_number_of_seconds(
    source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--to", f"sqlite:{store}"]) == 0
    assert main(["ingest", str(source), "--to", f"sqlite:{store}", "--give-up-after", "inf"]) == 0
    for wrong in ("0", "-1", "nan"):
        capsys.readouterr()
        status = main(["ingest", "-", "--to", f"sqlite:{store}", f"--give-up-after={wrong}"])
        assert status == 2
        assert capsys.readouterr().err.startswith("provcache: --give-up-after is a number of")


def test_an_input_that_is_silent_for_long_is_no_store_that_is_away(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standard_input(monkeypatch.setattr) as (_, writer):
        os.write(writer, lines(range(3)))
        silence = threading.Timer(0.6, os.close, (writer,))
        silence.start()
        assert main(["ingest", "-", "--to", f"sqlite:{store}", "--give-up-after", "0.2"]) == 0
        silence.join()
    assert stored(store) == 3


async def test_a_drain_that_is_too_slow_is_no_giving_up(source: Path) -> None:
    target = MemoryTarget()
    options = WriteBehindOptions(drain_timeout_seconds=0.01)
    job = Ingest(Input(str(source)), target, give_up_after=math.inf, options=options)
    with trio.CancelScope() as scope:
        target.repository.fail_next(StoreUnavailableError("away"), times=1000)

        async def stop() -> None:
            while job.lines < 10:  # noqa: ASYNC110  # a job tells by plain attributes
                await trio.sleep(0.01)
            scope.cancel()

        with pytest.RaisesGroup(DrainTimeoutError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop)
                await job.run(Impatient())


async def test_what_the_library_warns_of_is_told_in_trio_s_thread() -> None:
    told: list[str] = []
    logger = logging.getLogger("provcache_trio")
    with warnings_shown_by(told.append):
        logger.info("not worth it")
        await trio.to_thread.run_sync(functools.partial(logger.warning, "%s lost", "store"))
        await wait_all_tasks_blocked()
    assert told == ["store lost"]


def test_a_warning_that_comes_after_the_end_is_dropped() -> None:
    async def leave() -> logging.Handler:
        await trio.lowlevel.checkpoint()
        with warnings_shown_by(pytest.fail):
            return logging.getLogger("provcache_trio").handlers[-1]

    handler = trio.run(leave)
    handler.emit(logging.makeLogRecord({"msg": "late"}))


# Signals


class Trial(Attempt):
    """An attempt that notes signals, and ends in its own way."""

    def __init__(
        self, work: Callable[[], Awaitable[None]], conclude: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(work)
        self.heeded: list[signal.Signals] = []
        self._end = conclude

    def _heed(self, received: signal.Signals) -> None:
        self.heeded.append(received)

    async def _conclude(self) -> None:
        await super()._conclude()
        await self._end()


async def test_a_signal_while_the_summary_is_written_gives_that_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never() -> None:
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    async def at_once() -> None:
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: trial._first is not None)

    for conclude, patience, status in ((never, 0.05, 143), (at_once, 3600, 0)):
        monkeypatch.setattr(running, "_PATIENCE", patience)
        trial = Trial(trio.lowlevel.checkpoint, conclude)
        with trio.fail_after(HANG_SECONDS):
            await trial.run()
        assert trial.status == status
        assert trial.heeded == []


async def test_what_was_ignored_from_the_start_stays_ignored() -> None:
    before = {number: signal.getsignal(number) for number in running._ENDING}

    async def work() -> None:
        for number in running._ENDING:
            signal.raise_signal(number)
        await trio.sleep(0.01)

    trial = Trial(work, trio.lowlevel.checkpoint)
    try:
        for number in running._ENDING:
            signal.signal(number, signal.SIG_IGN)
        await trial.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (trial.status, trial.heeded) == (0, [])


@pytest.mark.parametrize("ignored", ["", "HUP", "INT"])
def test_a_hangup_and_ctrl_c_write_what_was_accepted_unless_they_are_ignored(
    ignored: str, store: Path
) -> None:
    script = f"trap '' {ignored}; exec \"$@\"" if ignored else 'exec "$@"'
    with subprocess.Popen(
        ["sh", "-c", script, "sh", *PROGRAM, "ingest", "-", "--to", f"sqlite:{store}"],  # noqa: S607
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(lines(range(10)))
        process.stdin.flush()
        assert any(b"10 lines, 0 bad" in told for told in process.stderr)
        process.send_signal(signal.SIGINT if ignored == "INT" else signal.SIGHUP)
        if ignored:
            time.sleep(0.2)
            process.stdin.write(lines(range(10, 20)))
            process.stdin.close()
        out = process.stdout.read().decode()
        assert process.wait(timeout=HANG_SECONDS) == (0 if ignored else 129)
    assert out.endswith("Stopped by SIGHUP\n") is not bool(ignored)
    assert stored(store) == (20 if ignored else 10)


def test_a_dropped_connection_loses_nothing_that_was_accepted(store: Path) -> None:
    ours, theirs = pty.openpty()
    reader, writer = os.pipe()
    hold = "import os, sys; os.setsid(); import fcntl, termios; "
    hold += "fcntl.ioctl(1, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", hold, *PROGRAM, "ingest", "-", "--to", f"sqlite:{store}"],
        stdin=reader,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "dumb"},
    ) as process:
        os.close(theirs)
        os.close(reader)
        os.write(writer, lines(range(10)))
        while b"10 lines, 0 bad" not in os.read(ours, 65536):
            pass
        os.close(ours)  # the terminal is gone: a SIGHUP, and no output
        assert process.wait(timeout=HANG_SECONDS) in {3, 129}
    os.close(writer)
    assert stored(store) == 10


# Python itself takes some 20 ms before it runs anything of ours.
START = """
import os, sys, provcache_trio_command
os.write(2, b".")
sys.exit(provcache_trio_command.main())
"""


@pytest.mark.parametrize("delay", [0.02, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4])
def test_ctrl_c_is_never_answered_with_a_traceback(delay: float, store: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", START, "ingest", "-", "--to", f"sqlite:{store}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.read(1) == b"."
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out, err = process.stdout.read(), process.stderr.read().decode()
        assert process.wait(timeout=HANG_SECONDS) in {130, -signal.SIGINT}
    assert without_progress(err) in {
        "",
        "provcache: SIGINT: writing what was accepted, at most 20 s\n",
    }
    assert b"Traceback" not in out


def test_ctrl_c_again_and_again_does_not_cut_off_the_summary(store: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "ingest", "-", "--to", f"sqlite:{store}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(lines(range(10)))
        process.stdin.flush()
        assert any(b"10 lines, 0 bad" in told for told in process.stderr)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        out, err = process.stdout.read().decode(), process.stderr.read().decode()
    assert process.returncode in {130, -signal.SIGINT}  # the latter after all was said
    assert out.startswith("10 lines read, ")
    assert out.endswith("Stopped by SIGINT\n")
    assert "Traceback" not in err
    assert stored(store) == 10


# A command asks trio for this before its work begins, and while trio's own code runs, what Python
# makes of SIGINT waits for the next checkpoint.
BEFORE_THE_WORK = """
import signal, sys, trio, provcache_trio_command
token = trio.lowlevel.current_trio_token
@trio.lowlevel.enable_ki_protection
def interrupted():
    trio.lowlevel.current_trio_token = token
    signal.raise_signal(signal.SIGINT)
    return token()
trio.lowlevel.current_trio_token = interrupted
sys.exit(provcache_trio_command.main())
"""


def test_ctrl_c_before_the_work_begins_ends_the_program_quietly(store: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", BEFORE_THE_WORK, "ingest", "-", "--to", f"sqlite:{store}"],
        input=lines(range(10)),
        capture_output=True,
        check=False,
    )
    assert process.returncode == -signal.SIGINT
    assert process.stdout == process.stderr == b""


@pytest.mark.parametrize("heeded", [True, False])
def test_the_program_leaves_ctrl_c_to_the_system_where_there_is_nothing_to_clean_up(
    heeded: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["provcache", "--version"])
    if not heeded:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert provcache_trio_command.main() == 0
    assert signal.getsignal(signal.SIGINT) is (signal.SIG_DFL if heeded else signal.SIG_IGN)
    with pytest.raises(SystemExit, check=lambda error: error.code == 0):
        runpy.run_module("provcache_trio_command", run_name="__main__")


# Completion


def script_for(shell: Literal["bash", "zsh"]) -> str:
    return app.app.generate_completion(prog_name="provcache", shell=shell)  # a name


def completed(script: str, *words: str) -> list[str]:
    """Return what bash proposes for the last of ``words``."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _provcache provcache "
        f"'{words[-1]}' '{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run([bash, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_shell_completes_files_for_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = script_for("bash")
    monkeypatch.chdir(tmp_path)
    Path("entries.jsonl").touch()
    assert completed(script, "provcache", "ingest", "ent") == ["entries.jsonl"]
    assert "--strict" in completed(script, "provcache", "ingest", "--")
    assert re.search(r"'1:.*:_files'", script_for("zsh").partition("ingest)")[2])


# What the guide tells


def test_the_example_of_the_guide_is_what_get_prints(
    source: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "using" / "command.md").read_text("utf-8")
    example = page.partition("```json\n")[2].partition("```")[0]
    source.write_text(example, "utf-8")
    assert main(["ingest", str(source), "--strict", "--to", f"sqlite:{store}"]) == 0
    capsys.readouterr()
    assert main(["get", json.loads(example)["veri_key"], "--from", f"sqlite:{store}"]) == 0
    assert capsys.readouterr().out == example
    told = {int(number) for number in re.findall(r"^\| (\d) \|", page, re.MULTILINE)}
    assert told == {int(status) for status in Status}
    named = set(re.findall(r"`(\w+)`", page))
    for struct in (ProvcacheEntry, DecisionDigest, ReplaySeed):
        assert named >= set(struct.__struct_fields__) - {"decision", "replay_seed"}
