"""The command on volumes that are full, or can't be written."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from provcache_trio._cli import main

from tests.cli.letters import left_in, letter, put_entries
from tests.cli.support import entry, key_of, leave, url
from tests.support.disks import can_mount, fill, set_read_only, small_volume

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs leave to mount")
SEVERAL = 300


@pytest.fixture
def volume(tmp_path: Path) -> Generator[Path]:
    with small_volume(tmp_path, 12 * 1024) as where:
        yield where


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def put_large_letters(path: Path) -> None:
    """Make a file of letters that take 5 KB each."""
    much = tuple("x" * 250 for _ in range(20))
    put_entries(path, *(letter(number, feed_ids=much) for number in range(SEVERAL)))


# Full


def test_all_letters_are_purged_on_a_full_volume_and_their_room_comes_back(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = volume / "dead.db"
    put_large_letters(path)
    fill(volume)
    assert run("dead-letters", "purge", "--yes", "--in", path) == 0
    assert capsys.readouterr() == (f"{SEVERAL} letters purged\n", "")
    assert left_in(path) == []
    assert shutil.disk_usage(volume).free > 1024 * 1024


def test_to_purge_some_letters_on_a_full_volume_names_the_room_that_it_takes(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = volume / "dead.db"
    put_large_letters(path)
    fill(volume)
    assert run("dead-letters", "purge", "--yes", "--key", key_of(7), "--in", path) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"provcache: {path}: the disk is full: to remove some of the letters takes about 2 MiB of "
        "room there; to remove all of them takes none\n"
    )


def test_letters_are_looked_at_on_a_full_volume(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = volume / "dead.db"
    put_large_letters(path)
    fill(volume)
    assert run("dead-letters", "list", "--in", path) == 0
    assert len(capsys.readouterr().out.splitlines()) == SEVERAL + 1


def test_the_state_of_a_journal_is_printed_on_a_full_volume(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(volume / "journal", entry(1))
    fill(volume)
    assert run("journal", "status", volume / "journal") == 0
    assert "entries                 1  of type" in capsys.readouterr().out


def test_letters_that_a_crash_left_beside_their_file_need_room_to_be_looked_at(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_entries(volume / "dead.db", letter(1))
    crashed = copy_as_after_a_crash(volume)
    fill(volume)
    assert run("dead-letters", "list", "--in", crashed) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "the disk is full" in err


def copy_as_after_a_crash(volume: Path) -> Path:
    """Return a copy of the letters whose last changes are only in the file beside it."""
    (crashed := volume / "crashed").mkdir()
    with closing(sqlite3.connect(volume / "dead.db", isolation_level=None)) as connection:
        connection.execute("UPDATE provcache_dead_letters SET key = 'k'")
        for suffix in ("", "-wal"):
            shutil.copy(volume / f"dead.db{suffix}", crashed)
    return crashed / "dead.db"


# Read-only


def test_every_command_that_reads_works_on_a_read_only_volume(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead, cache, journal = volume / "dead.db", volume / "cache.db", volume / "journal"
    put_entries(dead, letter(1))
    leave(journal, entry(1), entry(2))
    assert run("init", "--to", url(cache)) == 0
    set_read_only(volume)
    capsys.readouterr()
    assert run("dead-letters", "list", "--in", dead) == 0
    assert key_of(1) in capsys.readouterr().out
    assert run("dead-letters", "show", "1", "--in", dead) == 0
    assert key_of(1) in capsys.readouterr().out
    assert run("stats", "--from", url(cache)) == 0
    assert "entries               0" in capsys.readouterr().out
    assert run("get", key_of(1), "--from", url(cache)) == 1
    assert "no entry has this VeriKey" in capsys.readouterr().err
    assert run("journal", "status", journal) == 0
    assert capsys.readouterr().out.startswith("entries                 2  of type")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("dead-letters", "purge", "--yes", "--in", "{}"), "dead.db"),
        (("dead-letters", "retry", "--to", "sqlite:{}", "--in", "{}"), "dead.db"),
        (("journal", "restore", "{}"), "journal"),
        (("journal", "replay", "--to", "sqlite:{}", "{}"), "journal"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_every_command_that_writes_says_that_a_volume_is_read_only(
    volume: Path, command: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put_entries(volume / "dead.db", letter(1))
    leave(volume / "journal", entry(1))
    set_read_only(volume)
    assert run(*(word.format(volume / name) for word in command)) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "Read-only file system" in err
    assert err.replace(f"{volume / name}.lock", "").count(str(volume / name)) == 1


def test_letters_that_a_crash_left_beside_their_file_are_said_to_be_there(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_entries(volume / "dead.db", letter(1))
    crashed = copy_as_after_a_crash(volume)
    set_read_only(volume)
    assert run("dead-letters", "list", "--in", crashed) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        f"nothing can be written to {crashed.parent}, and the last changes of the file are" in err
    )
