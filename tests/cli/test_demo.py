"""``provcache demo``: the job, the command, and how signals end it."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

import provcache_trio._cli
from provcache_trio import WriteBehindOptions, __version__
from provcache_trio._cli import main
from provcache_trio._cli.demo import account
from provcache_trio._cli.demo.job import Demo
from provcache_trio._cli.demo.wheels import Outcome
from provcache_trio._cli.running import Status, carry_out
from provcache_trio._cli.stores import SqliteTarget

from tests.cli.support import PROGRAM, Impatient, send, stored, without_progress
from tests.support.installed import install, listed
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path


ENORMOUS = 2**36  # bytes, of a file without any on the disk; reading it takes half a minute


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a site-packages with one file of every kind."""
    site = tmp_path / "site-packages"
    right = listed(b"right")
    install(
        site,
        "good-1.0",
        {"good/a.py": b"a", "good/ü.py": b"u", "good/same.py": b"a"},
        f"good/tampered.py,{right},5",
        f"good/missing.py,{right},5",
        "good/a.pyc,,",
        "good/odd.py,crc7=00,5",
        "good/directory,,",
        "good/directory,,",
        "bad line",
    )
    (site / "good" / "tampered.py").write_bytes(b"wrong")
    (site / "good" / "odd.py").write_bytes(b"right")
    (site / "good" / "a.pyc").write_bytes(b"")
    (site / "good" / "directory").mkdir()
    (site / "old.egg-info").mkdir()
    return site


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "demo.db"


@pytest.fixture
def busy_site(tmp_path: Path) -> Path:
    """Return a site-packages that can't be done with: 100 files, and an enormous one."""
    site = tmp_path / "site-packages"
    install(site, "many-1.0", {f"many/{n}.py": f"{n}".encode() for n in range(99)})
    install(site, "zzz-1.0", {}, "enormous,,")
    with (site / "enormous").open("wb") as file:
        file.truncate(ENORMOUS)
    return site


@contextmanager
def locked_later(store: Path) -> Generator[tuple[Callable[[], bool], Callable[[], bool]]]:
    """Yield what keeps every other connection from writing to ``store``, and what ends that."""
    connection = sqlite3.connect(store, isolation_level=None)

    def lock() -> bool:
        connection.execute("BEGIN IMMEDIATE")
        return True

    def unlock() -> bool:
        connection.close()
        return True

    try:
        yield lock, unlock
    finally:
        unlock()


# The job


async def test_the_job_gives_every_file_its_verdict_and_reads_them_back(
    site: Path, store: Path
) -> None:
    job = Demo([site], SqliteTarget(store))
    assert job.where() == "reading every RECORD: 0 of 0 files"
    await job.run(Impatient())
    assert job.where() == "done: 10 of 10 files, in line 0, in flight 0, persisted 9, closed"
    assert job.account.outcomes == {
        Outcome.MATCH: 3,
        Outcome.MISMATCH: 1,
        Outcome.MISSING: 1,
        Outcome.UNLISTED: 2,  # RECORD itself is one
        Outcome.UNSUPPORTED: 1,
        Outcome.UNREADABLE: 2,
    }
    metrics = job.outage.metrics
    assert metrics is not None
    assert metrics.total_enqueued == job.account.files_done == job.account.files_total == 10
    assert (metrics.total_persisted, metrics.total_coalesced) == (9, 1)  # a line listed twice
    assert metrics.total_unchanged == 0
    assert job.account.stored == 9
    assert len(job.account.read_back) == 5
    assert all(found == decision.entry for decision, found in job.account.read_back)
    assert job.phase == "done"


async def test_the_trust_score_in_the_store_is_that_of_the_verdict(
    site: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "_READ_BACK", 20)  # all of them
    job = Demo([site], SqliteTarget(store))
    await job.run(Impatient())
    async with SqliteTarget(store).open() as repository:
        found = await repository.get_many([one.entry.veri_key for one in job.account.sample])
    scores = {
        one.finding.line.path: found[one.entry.veri_key].decision.trust_score
        for one in job.account.sample
    }
    assert scores == {
        "good/a.py": 100,
        "good/ü.py": 100,
        "good/same.py": 100,
        "good/a.pyc": 50,
        "good-1.0.dist-info/RECORD": 50,
        "good/tampered.py": 0,
        "good/missing.py": 0,
        "good/odd.py": 0,
        "good/directory": 0,
    }


async def test_a_second_run_in_the_same_week_changes_no_row(site: Path, store: Path) -> None:
    await Demo([site], SqliteTarget(store)).run(Impatient())
    job = Demo([site], SqliteTarget(store))
    await job.run(Impatient())
    metrics = job.outage.metrics
    assert metrics is not None
    assert metrics.total_unchanged == metrics.total_persisted == job.account.stored == 9


async def test_the_sample_is_drawn_from_all_files_and_stays_small(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "_READ_BACK", 20)
    site = tmp_path / "site"
    install(site, "many-1.0", {f"many/{n}.py": b"" for n in range(300)})
    job = Demo([site], SqliteTarget(store))
    await job.run(Impatient())
    places = {decision.finding.line.path for decision in job.account.sample}
    assert len(places) == len(job.account.read_back) == 20
    late = {f"many/{n}.py" for n in range(150, 300)}  # by when the sample was full long ago
    assert places & late


async def test_without_a_distribution_nothing_is_opened(tmp_path: Path, store: Path) -> None:
    job = Demo([tmp_path], SqliteTarget(store))
    await job.run(Impatient())
    assert job.outage.metrics is None
    assert not os.path.exists(store)  # noqa: ASYNC240, PTH110
    assert job.summary(None) == []


async def test_an_empty_record_is_no_trouble(tmp_path: Path, store: Path) -> None:
    (tmp_path / "empty-1.0.dist-info").mkdir()
    (tmp_path / "empty-1.0.dist-info" / "RECORD").touch()
    job = Demo([tmp_path], SqliteTarget(store))
    await job.run(Impatient())
    assert job.account.stored == 0
    assert "  0 of 0 files, 1 distribution, 0.0 MB" in job.summary(None)


async def test_a_cancelled_job_stops_reading_and_writes_what_it_accepted(
    busy_site: Path, store: Path
) -> None:
    job = Demo([busy_site], SqliteTarget(store), WriteBehindOptions(flush_interval_seconds=3600))
    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job.run, Impatient())
            while job.account.files_done < 100:  # noqa: ASYNC110  # a job tells by plain attributes
                await trio.sleep(0.005)
            metrics = job.outage.metrics
            assert metrics is not None
            assert metrics.total_persisted == 0
            nursery.cancel_scope.cancel()
    metrics = job.outage.metrics
    assert metrics is not None
    assert metrics.total_persisted == metrics.total_enqueued == job.account.files_done == 100
    async with SqliteTarget(store).open() as repository:
        assert await repository.count() == 100


# What it tells


@pytest.mark.one_lane
async def test_the_summary_accounts_for_every_entry(site: Path, store: Path) -> None:
    job = Demo([site], SqliteTarget(store))
    await job.run(Impatient())
    lines = job.summary(None)
    start = lines.index("Every entry accounted for")
    assert lines[start + 1 : start + 9] == [
        "           10 verified",
        "  =        10 accepted",
        "  =         9 persisted in 1 batch, 0 unchanged",
        "  +         1 coalesced",
        "  +         0 dead-lettered",
        "  +         0 abandoned",
        "  +         0 in line",
        "  +         0 in flight",
    ]
    assert "  mismatch: good-1.0 good/tampered.py" in lines
    assert "  missing: good-1.0 good/missing.py" in lines
    assert "  skipped: good-1.0 (1 lines of RECORD can't be read)" in lines
    assert "  skipped: old (egg-info has no RECORD with hashes)" in lines
    assert f"  {store} holds 9 rows; 5 of 5 read are as enqueued" in lines
    assert any(text.startswith("  sha256:") and " same, trust " in text for text in lines)


async def test_the_summary_names_a_few_problems_and_counts_the_others(
    tmp_path: Path, store: Path
) -> None:
    install(tmp_path, "torn-1.0", {}, *(f"gone/{n}.py,sha256=x,1" for n in range(12)))
    for n in range(8):
        (tmp_path / f"old{n}.egg-info").mkdir()
    job = Demo([tmp_path], SqliteTarget(store))
    await job.run(Impatient())
    lines = job.summary(None)
    assert sum(text.startswith("  missing: torn-1.0 gone/") for text in lines) == 5
    assert "  and 7 more" in lines
    assert sum(text.startswith("  skipped: old") for text in lines) == 5
    assert "  and 3 more" in lines


async def test_names_from_a_record_do_not_reach_the_terminal_raw(
    tmp_path: Path, store: Path
) -> None:
    install(tmp_path, "evil-1.0", {}, "\x1b]0;title\x07.py,,")
    job = Demo([tmp_path], SqliteTarget(store))
    await job.run(Impatient())
    lines = job.summary(None)
    assert "  missing: evil-1.0 \\x1b]0;title\\x07.py" in lines
    assert all(text.isprintable() for text in lines)


async def test_an_entry_that_went_missing_is_not_covered_up(
    site: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Demo([site], SqliteTarget(store))
    await job.run(Impatient())
    assert int(job.status) == Status.DONE
    job.account.outcomes[Outcome.MATCH] += 1
    assert int(job.status) == Status.NOT_ALL
    assert "ENTRIES ARE MISSING" in job.summary(None)
    (first, _), (second, entry), *others = job.account.read_back
    assert entry is not None
    job.account.outcomes[Outcome.MATCH] -= 1
    job.account.read_back = [(first, None), (second, job.account.read_back[2][1]), *others]
    assert int(job.status) == Status.NOT_ALL
    lines = job.summary(None)
    assert sum(" lost, trust " in text for text in lines) == 1
    assert sum(" differs, trust " in text for text in lines) == 1
    assert f"  {store} holds 9 rows; 3 of 5 read are as enqueued" in lines


# The command, in this process


@pytest.mark.one_lane
def test_the_command_says_what_it_wrote(
    site: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--to", f"sqlite:{store}", "--paths", str(site), str(site)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Verified\n  10 of 10 files, 1 distribution, ")
    assert "=         9 persisted in 1 batch" in out
    assert err == ""
    assert stored(store) == 9


def test_by_default_it_verifies_what_this_python_would_import(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), str(site)])
    assert main(["demo"]) == 0
    assert stored(tmp_path / "provcache-demo.db") == 9
    assert "provcache-demo.db holds 9 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["demo", "--to", "sqlite:{tmp}"], 3, "{tmp}: it is a directory"),
        (["demo", "--to", "sqlite:{tmp}/none/x.db"], 3, "{tmp}/none/x.db: there is no directory"),
        (["demo", "--to", "sqlite:{tmp}/text"], 3, "{tmp}/text: SQLite reported SQLITE_NOTADB"),
        (["demo", "--to", "sqlite::memory:"], 2, "sqlite: path must name a file"),
        (
            ["demo", "--to", "sqlite:{tmp}/x.db", "--paths", "{tmp}/none"],
            3,
            "{tmp}/none is no directory",
        ),
        (
            ["demo", "--to", "sqlite:{tmp}/x.db", "--paths", "{tmp}/empty"],
            1,
            "no installed distribution",
        ),
        (["demo", "--tow"], 2, "Unknown option"),
        (["dmeo"], 2, "Unknown command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_goes_wrong_is_told_in_one_line(
    arguments: list[str],
    status: int,
    complaint: str,
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "path", [str(site)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no database " * 100)
    assert main([each.format(tmp=tmp_path) for each in arguments]) == status
    err = capsys.readouterr().err
    assert err.startswith(f"provcache: {complaint.format(tmp=tmp_path)}")
    assert err.count("\n") == 1


def test_a_claim_that_does_not_hold_ends_with_status_1(
    site: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account.Account, "holds", lambda *_: False)
    assert main(["demo", "--to", f"sqlite:{store}", "--paths", str(site)]) == 1


def test_a_file_without_permission_is_told_in_one_line(
    site: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.touch()

    def access(path: object, mode: int) -> bool:  # the tests may run as root, who may do anything
        assert (path, mode) == (store, os.W_OK)
        return False

    monkeypatch.setattr(os, "access", access)
    assert main(["demo", "--to", f"sqlite:{store}", "--paths", str(site)]) == 3
    assert capsys.readouterr().err == f"provcache: {store}: no permission to write there\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["demo", "--help"]], ids=str)
def test_help_is_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "Usage: provcache" in capsys.readouterr().out


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_python_m_is_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["provcache", "--version"])
    with pytest.raises(SystemExit, check=lambda error: error.code == 0):
        runpy.run_module("provcache_trio", run_name="__main__")
    assert capsys.readouterr().out == f"{__version__}\n"
    importlib.import_module("provcache_trio.__main__")  # which runs nothing
    assert capsys.readouterr().out == ""


# Without the extra


@pytest.mark.parametrize("missing", ["cyclopts", "h11", "rich"])
def test_without_the_extra_it_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, missing)
    assert main(["demo"]) == 3
    assert capsys.readouterr().err == (
        f"provcache: {missing} is not installed: pip install 'provcache-trio[cli]'\n"
    )


def test_another_missing_module_is_not_put_down_to_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(monkeypatch, "provcache_trio._cli.demo.job")
    with pytest.raises(ModuleNotFoundError, match="demo"):
        main(["demo"])


def test_what_was_hidden_is_what_it_was_before() -> None:
    before = sys.modules["provcache_trio._cli.progress"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide(monkeypatch, "h11")
        importlib.import_module("provcache_trio._cli.progress")
    assert sys.modules["provcache_trio._cli.progress"] is before
    assert provcache_trio._cli.progress is before


def hide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = sys.modules.copy()
    for loaded, module in before.items():
        if loaded.startswith(("provcache_trio._cli.", f"{name}.")):
            package, _, own = loaded.rpartition(".")
            # What is imported again becomes an attribute of its package, and must not stay it.
            monkeypatch.setattr(before[package], own, module, raising=False)
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_drains_and_says_what_was_written(
    number: signal.Signals, busy_site: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = WriteBehindOptions(flush_interval_seconds=3600)
    job = Demo([busy_site], SqliteTarget(store), slow)
    watcher = Impatient(lambda: job.account.files_done == 100, send(number))
    with trio.fail_after(HANG_SECONDS):
        assert await carry_out(job, watcher) == 128 + number
    assert watcher.notices == [f"{number.name}: writing what was accepted, at most 20 s"]
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"Stopped by {number.name} while verifying: 100 entries written to {store}"
    )
    async with SqliteTarget(store).open() as repository:
        assert await repository.count() == 100


async def test_a_second_signal_is_told_how_long_it_may_take_and_loses_nothing(
    busy_site: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = WriteBehindOptions(flush_interval_seconds=3600)
    job = Demo([busy_site], SqliteTarget(store), slow)
    with locked_later(store) as (lock, unlock):
        watcher = Impatient(
            lambda: job.account.files_done == 100,
            lock,
            send(signal.SIGTERM),
            lambda: len(watcher.notices) == 1,
            send(signal.SIGINT),
            lambda: len(watcher.notices) == 2,
            unlock,
        )
        with trio.fail_after(HANG_SECONDS):
            assert await carry_out(job, watcher) == 128 + signal.SIGTERM
    assert watcher.notices == [
        "SIGTERM: writing what was accepted, at most 20 s",
        "SIGINT: still writing what was accepted, at most 20 s",
    ]
    assert capsys.readouterr().out.splitlines()[-1].endswith("100 entries written to " + str(store))


async def test_what_could_not_be_written_in_time_is_a_failure(
    busy_site: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hasty = WriteBehindOptions(flush_interval_seconds=3600, drain_timeout_seconds=0.1)
    job = Demo([busy_site], SqliteTarget(store), hasty)
    with locked_later(store) as (lock, _):
        watcher = Impatient(lambda: job.account.files_done == 100, lock, send(signal.SIGTERM))
        with trio.fail_after(HANG_SECONDS):
            assert await carry_out(job, watcher) == 3
    out, err = capsys.readouterr()
    assert "  100 entries not in the store\n" in out
    assert f"\nStopped by SIGTERM while verifying: 0 entries written to {store}\n" in out
    assert err == f"provcache: {store}: 100 entries could not be written in time\n"


async def test_a_signal_before_the_store_is_open_finds_nothing_written(
    busy_site: Path, store: Path
) -> None:
    job = Demo([busy_site], SqliteTarget(store))
    assert await carry_out(job, Impatient(send(signal.SIGTERM))) == 143
    assert job.phase in ("reading every RECORD", "verifying")


# The command, as a program of its own


@contextmanager
def start(*arguments: object) -> Generator[subprocess.Popen[str]]:
    """Run the program; it does not outlive the block."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [*PROGRAM, "demo", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.whole_process
def test_in_a_pipe_it_prints_plain_lines(site: Path, store: Path) -> None:
    with start("--to", f"sqlite:{store}", "--paths", site) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, without_progress(err)) == (0, "")
    assert all(line.isprintable() for line in out.splitlines())
    said = re.search(r"([\d,]+) persisted", out)
    assert said is not None
    assert int(said[1]) == stored(store) == 9


@pytest.mark.whole_process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_program_leaves_in_the_file_what_it_said(
    number: signal.Signals, busy_site: Path, store: Path
) -> None:
    with start("--to", f"sqlite:{store}", "--paths", busy_site) as process:
        assert process.stderr is not None
        assert any("100 of 102 files" in line for line in process.stderr)
        process.send_signal(number)
        out, err = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1].endswith(f"{number.name}: writing what was accepted, at most 20 s")
    said = re.search(rf"Stopped by {number.name} while verifying: (\d+) entries written", out)
    assert said is not None
    assert int(said[1]) == stored(store) == 100


@pytest.mark.whole_process
def test_a_reader_that_leaves_early_ends_nothing(site: Path, store: Path) -> None:
    with start("--to", f"sqlite:{store}", "--paths", site) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert without_progress(process.stderr.read()) == ""
        assert process.wait(timeout=60) == 0
    assert stored(store) == 9


@pytest.mark.whole_process
def test_the_program_without_the_extra_prints_no_traceback(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['cyclopts'] = None; "
        "from provcache_trio._cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("provcache: cyclopts is not installed: pip install")
