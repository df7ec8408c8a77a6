"""``provcache journal``: what a dead process left, and where it goes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from provcache_trio import (
    EntryRejectedError,
    StoreUnavailableError,
    Table,
)
from provcache_trio._cli import main
from provcache_trio._cli.journal.replay import Replay
from provcache_trio._cli.urls import target_of
from provcache_trio._disk.owner_lock import OwnerLock
from provcache_trio.journal import open_journal
from provcache_trio.sqlite import SQLiteRepository

from tests.cli.support import BAD, Impatient, change, entries_in, entry, key_of, leave, url
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from provcache_trio import ProvcacheEntry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a journal with three entries."""
    path = tmp_path / "journal"
    leave(path, entry(1), entry(2), entry(3))
    return path


def run(*arguments: object) -> int:
    return main(["journal", *map(str, arguments)])


def test_a_journal_of_another_type_is_left_to_its_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, cache = tmp_path / "of items", tmp_path / "cache.db"
    leave(path, Item("a"), entry_type=Item)
    assert main(["init", "--to", url(cache)]) == 0
    before = path.read_bytes()
    assert run("replay", path, "--to", url(cache)) == 3
    err = capsys.readouterr().err
    assert err.startswith(f"provcache: journal {path} holds entries of type {__name__}.Item, ")
    assert "the program that wrote it replays them" in err
    assert "aliases" not in err
    assert path.read_bytes() == before


class Item(msgspec.Struct, frozen=True):
    veri_key: str


def test_status_tells_what_a_journal_holds_and_changes_nothing(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path.read_bytes()
    assert run("status", path) == 0
    told = capsys.readouterr().out
    assert "entries                 3  of type provcache_trio.ProvcacheEntry\n" in told
    assert f"bytes     {len(before):>15,}\n" in told
    assert "in use                 no\n" in told
    assert "missing" not in told
    assert "damaged" not in told
    assert "aside" not in told
    assert path.read_bytes() == before


@pytest.mark.one_lane
def test_status_tells_what_is_missing_and_damaged(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = key_of(2).encode()
    path.write_bytes(path.read_bytes().replace(key, key.upper()))
    assert run("status", path) == 1
    told = capsys.readouterr().out
    assert "missing            2 to 2  (numbers of records)\n" in told
    assert "bytes, 0 of them at the end" in told


def test_status_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with path.open("ab") as file:
        file.write(b"cut off")
    assert run("status", path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "entries": 3,
        "bytes": path.stat().st_size,
        "entry_type": "provcache_trio.ProvcacheEntry",
        "in_use": False,
        "missing": [],
        "damaged_bytes": 7,
        "unfinished_bytes": 7,
        "set_aside": {"entries": 0, "entry_types": [], "damaged_bytes": 0},
    }
    path.write_bytes(path.read_bytes()[:-40])
    assert run("status", path, "--json") == 1
    assert json.loads(capsys.readouterr().out)["missing"] == [[3, 3]]


async def test_status_works_while_a_service_owns_the_journal(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_journal(path):
        assert await trio.to_thread.run_sync(run, "status", path) == 0
    assert "in use                yes\n" in capsys.readouterr().out


def test_a_journal_that_never_had_an_owner_is_not_in_use(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.with_name("journal.lock").unlink()
    assert run("status", path) == 0
    assert "in use                 no\n" in capsys.readouterr().out
    assert not path.with_name("journal.lock").exists()


@pytest.mark.parametrize("command", ["status", "replay", "restore"])
def test_a_journal_that_is_not_there_is_not_made(
    tmp_path: Path,
    cache: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = ["--to", url(cache)] if command == "replay" else []
    assert run(command, tmp_path / "other", *to) == 3
    other = tmp_path / "other"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"provcache: there is no journal {other}")
    assert err.count(str(other)) == 1
    assert not list(tmp_path.glob("other*"))


class Decision(msgspec.Struct, frozen=True):
    """What a service wrote once."""

    veri_key: str


class Judgement(msgspec.Struct, frozen=True):
    """What the next version of the service makes of it."""

    veri_key: str
    judge: str  # required, and new


FORMER = f"{__name__}.Decision"
JUDGEMENTS = Table(Judgement, "judgement", key="veri_key")


def set_some_aside(path: Path) -> None:
    """Leave decisions in a journal, and then open it as a deploy does that knows no judge."""

    async def work() -> None:
        async with open_journal(path, entry_type=Decision, durability="always") as journal:
            await journal.append([(Decision(key), ()) for key in "abc"], ())
        async with open_journal(path, entry_type=Judgement, aliases=[FORMER]) as journal:
            assert not await journal.replay(0, 9)
            await journal.rewrite([])

    trio.run(work)


def test_what_was_set_aside_is_counted_and_brought_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal"
    set_some_aside(path)
    assert run("status", path) == 1
    assert capsys.readouterr().out.endswith(
        f"set aside               3  entries of type {FORMER}, and 0 damaged bytes\n"
    )
    assert run("status", path, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["entries"] == 0
    assert told["set_aside"] == {"entries": 3, "entry_types": [FORMER], "damaged_bytes": 0}

    assert run("restore", path) == 1
    stays = f"3 entries of type {FORMER}, and 0 damaged bytes stay set aside"
    kept = f"0 entries restored; {stays}\n"
    and_now = f"entries of type {FORMER}, and the journal is for {__name__}.Judgement"
    assert capsys.readouterr() == (kept, f"provcache: {path}: {and_now}: --alias {FORMER}\n")
    # A table of the new class can't read them, whatever their names.
    table = ("--table", f"{__name__}:JUDGEMENTS")
    assert run("restore", path, *table, "--alias", FORMER) == 1
    unread = "can't be read by --table; leave it out to put them back unread"
    assert capsys.readouterr() == (
        kept,
        f"provcache: {path}: entries of type {FORMER} {unread}\n",
    )
    assert run("restore", path, "--alias", FORMER) == 0
    restored = "3 entries restored; 0 entries, and 0 damaged bytes stay set aside\n"
    assert capsys.readouterr() == (restored, "")
    assert run("status", path) == 0
    assert f"of type {__name__}.Judgement\n" in capsys.readouterr().out

    async def replayed() -> list[Judgement]:
        def upgrade(old: dict[str, str]) -> dict[str, str]:
            return {**old, "judge": "nobody"}

        async with open_journal(path, entry_type=Judgement, upgrade=upgrade) as journal:
            return [entry for _, entry in await journal.replay(0, 9)]

    assert trio.run(replayed) == [Judgement(key, "nobody") for key in "abc"]


@pytest.mark.one_lane
def test_damage_that_was_set_aside_is_counted_and_is_nothing_to_come_back_for(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = key_of(2).encode()
    path.write_bytes(path.read_bytes().replace(key, key.upper()))
    assert run("restore", path) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(
        r"0 entries restored; 0 entries, and \d+ damaged bytes stay set aside\n", out
    )
    assert "no record in" in err  # what opening it found
    assert run("status", path) == 0  # the damage is no more in the journal itself
    assert re.search(
        r"^set aside +0  entries, and \d+ damaged bytes$", capsys.readouterr().out, re.MULTILINE
    )


@pytest.mark.parametrize("command", ["replay", "restore"])
def test_a_journal_that_a_service_owns_is_named_once(
    path: Path, cache: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ["--to", url(cache)] if command == "replay" else []
    owner = OwnerLock(f"{path}.lock")
    owner.take()
    assert run(command, path, *to) == 3
    owner.release()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"provcache: journal {path} can't be opened: in use: another part of this process owns it\n"
    )


def test_replay_writes_what_is_left(
    path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("replay", path, "--to", url(cache)) == 0
    assert capsys.readouterr().out == ("replayed 3 entries: 3 written; 0 stay in the journal\n")
    assert entries_in(cache) == {key_of(number): entry(number) for number in (1, 2, 3)}
    assert run("replay", path, "--to", url(cache)) == 0
    assert "replayed 0 entries" in capsys.readouterr().out


def test_what_the_store_refuses_stays_in_the_journal(
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "journal"
    leave(path, entry(1), entry(2, hit_count=BAD), entry(3))
    assert run("replay", path, "--to", url(cache)) == 1
    assert capsys.readouterr() == (
        "replayed 3 entries: 2 written; 1 stay in the journal\n",
        f"provcache: {key_of(2)} was refused, and stays: SQLITE_CONSTRAINT_TRIGGER\n",
    )
    change(cache, "DROP TRIGGER picky")
    assert run("replay", path, "--to", url(cache)) == 0
    assert len(entries_in(cache)) == 3


def test_a_replay_fails_and_says_where_entries_are_that_it_could_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "changed.py").write_text(CHANGED)
    path, store = tmp_path / "journal", tmp_path / "store.db"
    leave(path, Decision("a"), Decision("b"), entry_type=Decision)
    named = ["--table", "changed:JUDGEMENTS"]
    script = [sys.executable, "-m", "provcache_trio"]
    made = subprocess.run([*script, "init", "--to", url(store), *named], cwd=tmp_path, check=False)
    assert made.returncode == 0
    replay = ["journal", "replay", str(path), "--to", url(store), *named, "--alias", FORMER]
    # Also when it was an earlier command that set them aside.
    for _ in range(2):
        done = subprocess.run(
            [*script, *replay], cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stdout == (
            "replayed 0 entries: 0 written; 0 stay in the journal; "
            f"2 set aside in {path}.set-aside\n"
        )


CHANGED = """
import msgspec
from provcache_trio import Table


class Judgement(msgspec.Struct, frozen=True):
    veri_key: str
    judge: str


JUDGEMENTS = Table(Judgement, "judgements", key="veri_key")
"""


@pytest.mark.one_lane
def test_a_replay_fails_if_records_were_damaged(
    path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = key_of(2).encode()
    path.write_bytes(path.read_bytes().replace(key, key.upper()))
    assert run("replay", path, "--to", url(cache)) == 1
    assert capsys.readouterr().out == (
        "replayed 2 entries: 2 written; 0 stay in the journal; "
        "some of its records were damaged or missing\n"
    )


def test_a_replay_whose_journal_is_gone_at_its_end_does_not_call_it_empty(
    path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    upsert_many = SQLiteRepository.upsert_many

    async def last(store: SQLiteRepository, entries: Sequence[ProvcacheEntry], /) -> int:
        os.rename(path, f"{path} of before")  # noqa: PTH104  # Path's would block, says the linter
        return await upsert_many(store, entries)

    monkeypatch.setattr(SQLiteRepository, "upsert_many", last)
    status = run("replay", path, "--to", url(cache))
    assert status != 0
    assert "; 0 stay" not in capsys.readouterr().out


def test_however_many_the_store_refuses_the_others_are_written(
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "journal"
    bad = {number for number in range(1200) if number < 30 or number % 2}
    leave(path, *(entry(n, hit_count=BAD if n in bad else 0) for n in range(1200)))
    for _ in range(2):  # also when only refused ones are left
        assert run("replay", path, "--to", url(cache)) == 1
        assert f"{len(bad)} stay in the journal" in capsys.readouterr().out
    assert len(entries_in(cache)) == len([n for n in range(1000) if n not in bad])
    change(cache, "DROP TRIGGER picky")
    assert run("replay", path, "--to", url(cache)) == 0


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_whatever_it_is_cut_off_in_only_what_was_written_leaves_the_journal(
    path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
) -> None:
    leave(path, *(entry(number) for number in range(4, 60)))
    job = Replay(path, target_of(url(cache)), give_up_after=60)
    upsert_many, made = SQLiteRepository.upsert_many, 0

    async def cut_off(store: SQLiteRepository, entries: Sequence[ProvcacheEntry], /) -> int:
        nonlocal made
        made += 1
        if made == calls:
            job.outage.scope.cancel()
        if made == 1:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise EntryRejectedError("some of it")
        return await upsert_many(store, entries)

    monkeypatch.setattr(SQLiteRepository, "upsert_many", cut_off)
    trio.run(job.run, Impatient())
    monkeypatch.undo()
    assert job.left > 0
    assert run("replay", path, "--to", url(cache)) == 0
    assert set(entries_in(cache)) == {key_of(number) for number in range(1, 60)}


def test_a_replay_says_where_it_is(path: Path, cache: Path) -> None:
    job = Replay(path, target_of(url(cache)), give_up_after=60)
    assert job.where() == "0 entries replayed, 0 written"
    trio.run(job.run, Impatient())
    assert job.where() == "3 entries replayed, 3 written"


def test_whether_it_is_in_use_may_not_be_known(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = path.with_name("journal.lock")
    lock.unlink()
    lock.symlink_to(path)
    assert run("status", path) == 3
    assert capsys.readouterr().err == (
        f"provcache: whether journal {path} is in use can't be told: "
        f"its lock file {lock} is a symbolic link\n"
    )


def test_a_store_that_is_not_there_is_told_and_nothing_is_lost(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("replay", path, "--to", url(tmp_path / "other.db")) == 3
    assert "other.db: there is no such file" in capsys.readouterr().err
    assert run("status", path) == 0
    assert "entries                 3" in capsys.readouterr().out


def test_a_store_that_goes_away_is_given_up_and_nothing_is_lost(
    path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: object) -> int:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("gone")

    monkeypatch.setattr("provcache_trio.sqlite.SQLiteRepository.upsert_many", away)
    assert run("replay", path, "--to", url(cache), "--give-up-after", "0.1") == 3
    told = capsys.readouterr()
    assert "3 stay in the journal" in told.out
    assert f"{cache}: given up after 0.1 s without the store (StoreUnavailableError)" in told.err


def test_replay_checks_its_arguments(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("replay", path, "--to", "sqlite:x.db", "--give-up-after", "0") == 2
    assert "--give-up-after" in capsys.readouterr().err


def test_a_signal_ends_it_without_a_word_of_writing_on(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def away(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    monkeypatch.setattr(SQLiteRepository, "upsert_many", away)
    assert run("replay", path, "--to", url(cache)) == 143
    assert capsys.readouterr() == ("replayed 3 entries: 0 written; 3 stay in the journal\n", "")


def test_a_signal_ends_it_and_nothing_is_lost(
    path: Path,
    cache: Path,
) -> None:
    program = (
        "import sys, trio\n"
        "from provcache_trio import StoreUnavailableError\n"
        "from provcache_trio.sqlite import SQLiteRepository\n"
        "from provcache_trio._cli import main\n"
        "async def away(*_):\n"
        "    print('away', flush=True)\n"
        "    await trio.sleep_forever()\n"
        "SQLiteRepository.upsert_many = away\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "journal", "replay", str(path), "--to", url(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"away\n"
        os.kill(process.pid, signal.SIGTERM)
        assert b"3 stay in the journal" in process.stdout.read()
        assert process.wait(HANG_SECONDS) == 143
