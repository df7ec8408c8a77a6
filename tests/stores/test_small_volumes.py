"""SQLite stores and dead letters on volumes that are full, read-only, or hold somebody else's files."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from provcache_trio import (
    DeadLetter,
    EntryRejectedError,
    ProvcacheEntry,
    StoreMisconfiguredError,
    StoreUnavailableError,
)
from provcache_trio._disk import sqlite_connection as _sqlite_connection
from provcache_trio.dead_letters import (
    StoredLetter,
    UnreadableLetter,
    _file as _dead_letters_file,
    open_dead_letters,
)
from provcache_trio.sqlite import _file as _sqlite_file, open_sqlite_repository

from tests.support.disks import can_mount, fill, set_read_only, small_volume
from tests.support.entries import NOW, entry, key_of
from tests.support.files import mode_of, names, query, run
from tests.support.items import Item
from tests.support.letters import letter, numbered
from tests.support.tables import READINGS, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

needs_mount = pytest.mark.skipif(not can_mount(), reason="needs leave to mount")
SEVERAL = 300


@pytest.fixture
def volume(tmp_path: Path) -> Generator[Path]:
    with small_volume(tmp_path, 12 * 1024) as where:
        yield where


def free_kib(volume: Path) -> int:
    found = os.statvfs(volume)
    return found.f_bavail * found.f_frsize // 1024


def size_of(path: Path) -> int:
    return path.stat().st_size


def big(number: int) -> DeadLetter[Any]:
    return numbered(number, constraint="x" * 5000)


async def put_some(path: Path, count: int = SEVERAL) -> None:
    async with open_dead_letters(path) as letters:
        for first in range(0, count, 50):
            await letters.put_many([big(number) for number in range(first, first + 50)])


# Dead letters


@needs_mount
async def test_all_letters_can_be_thrown_away_on_a_full_volume_and_their_room_comes_back(
    volume: Path,
) -> None:
    path = volume / "dead.db"
    await put_some(path)
    fill(volume)
    async with open_dead_letters(path, create=False) as letters:
        assert await letters.count() == SEVERAL
        assert len(await letters.letters(limit=10)) == 10
        assert await letters.purge() == SEVERAL
        assert await letters.count() == 0
        await letters.put_many([numbered(1)])
        (found,) = await letters.letters()
    assert found.id == SEVERAL + 1  # no number is given twice
    assert free_kib(volume) > 1000


@needs_mount
async def test_to_throw_some_away_on_a_full_volume_takes_as_much_room_as_is_said(
    volume: Path,
) -> None:
    path = volume / "dead.db"
    await put_some(path)
    fill(volume)
    async with open_dead_letters(path, create=False) as letters:
        for call in (letters.purge(key=key_of(7)), letters.remove([7])):
            with pytest.raises(StoreUnavailableError, match=r"disk is full.* about 2 MiB of room"):
                await call
        assert await letters.count() == SEVERAL
    fill(volume, but_kib=2048)
    async with open_dead_letters(path, create=False) as letters:
        assert await letters.purge(since=NOW) == SEVERAL
    assert size_of(path) < 100_000


async def test_the_file_is_small_again_when_its_letters_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    await put_some(path)
    before = size_of(path)
    async with open_dead_letters(path) as letters:
        assert await letters.remove(range(1, 251)) == 250
        assert size_of(path) < before / 3
        assert await letters.purge() == SEVERAL - 250
        assert size_of(path) < 100_000
        assert await letters.purge() == 0


async def test_a_file_that_somebody_reads_becomes_small_later(tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    await put_some(path)
    async with open_dead_letters(path) as letters:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM provcache_dead_letters").fetchone()
            assert await letters.purge() == SEVERAL
            assert size_of(path) > 1_000_000
        await letters.put_many([numbered(1)])
        assert await letters.purge() == 1
        assert size_of(path) < 100_000


async def test_purging_removes_what_matches_and_nothing_else(tmp_path: Path) -> None:
    async with open_dead_letters(tmp_path / "dead.db") as letters:
        some = [numbered(n, failed_at=NOW + timedelta(seconds=n)) for n in range(5)]
        await letters.put_many(some)
        assert await letters.purge(key=key_of(1)) == 1
        assert await letters.purge(since=NOW + timedelta(seconds=3)) == 2
        assert [found.id for found in await letters.letters()] == [1, 3]


async def test_what_else_keeps_letters_from_being_removed_is_said_as_it_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dead.db"
    async with open_dead_letters(path) as letters:
        await letters.put_many([numbered(1)])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for call in (letters.purge(), letters.purge(key=key_of(1)), letters.remove([1])):
                with pytest.raises(StoreUnavailableError, match="SQLITE_BUSY"):
                    await call


async def test_a_letter_that_can_never_fit_is_named(tmp_path: Path) -> None:
    async with open_dead_letters(tmp_path / "dead.db", max_bytes=3000) as letters:
        await letters.put_many([numbered(1)])
        with pytest.raises(
            EntryRejectedError, match=r"never fits into 3,000 \(max_bytes"
        ) as caught:
            await letters.put_many([numbered(2), big(3)])
        assert caught.value.index == 1
        assert await letters.count() == 1
        await letters.put_many([numbered(2)])


@needs_mount
async def test_letters_are_read_on_a_volume_that_can_not_be_written(volume: Path) -> None:
    path = volume / "dead.db"
    await put_some(path, 50)
    set_read_only(volume)
    async with open_dead_letters(path, read_only=True) as letters:
        assert await letters.count() == 50
        assert len(await letters.letters()) == 50
    assert names(volume) == {"dead.db", "dead.db.lock"}


@needs_mount
async def test_letters_that_a_crash_left_beside_their_file_are_said_to_be_there(
    volume: Path,
) -> None:
    path = volume / "dead.db"
    await put_some(path, 50)
    (volume / "dead.db-wal").write_bytes(b"something")
    set_read_only(volume)
    with pytest.raises(StoreMisconfiguredError, match="last changes of the file are still in its"):
        async with open_dead_letters(path, read_only=True):
            pass


class Renamed(msgspec.Struct, frozen=True):
    """What a deploy made of ``Item``."""

    veri_key: str
    region: str


async def test_letters_of_a_type_that_was_renamed_and_changed_are_read_once_it_is_said_how(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dead.db"
    async with open_dead_letters(path, entry_type=Item) as letters:
        await letters.put_many([letter(Item("a", 1))])
        assert letters.entry_type is Item
    former = "tests.support.items.Item"

    def upgrade(old: dict[str, Any]) -> dict[str, Any]:
        return {"veri_key": old["veri_key"], "region": f"of version {old['version']}"}

    not_enough: list[dict[str, Any]] = [{}, {"aliases": [former]}, {"upgrade": upgrade}]
    for how in not_enough:
        async with open_dead_letters(path, entry_type=Renamed, **how) as letters_now:
            (one,) = await letters_now.letters()
        assert isinstance(one, UnreadableLetter)
    async with open_dead_letters(
        path, entry_type=Renamed, aliases=[former], upgrade=upgrade
    ) as letters_now:
        (one,) = await letters_now.letters()
    assert isinstance(one, StoredLetter)
    assert one.letter.entry == Renamed("a", "of version 1")
    assert one.entry_type == former
    async with open_dead_letters(path, entry_type=msgspec.Raw, read_only=True) as raw:
        assert isinstance(await raw.get(1), StoredLetter)


async def test_a_file_of_version_0_1_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    async with open_dead_letters(path):
        pass
    run(path, "PRAGMA user_version = 1")
    with pytest.raises(StoreMisconfiguredError, match=r"written by version 0\.1.* move the file"):
        async with open_dead_letters(path):
            pass


# The repository


@needs_mount
async def test_a_repository_is_read_on_a_volume_that_can_not_be_written(volume: Path) -> None:
    path = volume / "cache.db"
    async with open_sqlite_repository(path) as store:
        await store.upsert_many([entry(1)])
    set_read_only(volume)
    for create in (True, False):
        async with open_sqlite_repository(path, create=create) as store:
            assert await store.count() == 1
            assert set(await store.get_many([key_of(1)])) == {key_of(1)}
            with pytest.raises(StoreMisconfiguredError, match="SQLITE_READONLY"):
                await store.upsert_many([entry(2)])
            with pytest.raises(StoreMisconfiguredError, match="SQLITE_READONLY"):
                await store.check()
    assert names(volume) == {"cache.db"}


@needs_mount
async def test_a_table_is_read_and_not_written_on_a_volume_that_can_not_be(volume: Path) -> None:
    path = volume / "views.db"
    async with open_sqlite_repository(path, table=READINGS, create=True) as store:
        await store.upsert_many([Reading("a", 1)])
    set_read_only(volume)
    async with open_sqlite_repository(path, table=READINGS) as store:
        assert await store.get_many([("a", 1)]) == {("a", 1): Reading("a", 1)}
        with pytest.raises(StoreMisconfiguredError, match="SQLITE_READONLY"):
            await store.check()


@needs_mount
async def test_expired_entries_are_deleted_on_a_full_volume_in_the_room_of_the_log(
    volume: Path,
) -> None:
    path = volume / "cache.db"
    later = NOW + timedelta(days=400)
    async with open_sqlite_repository(path) as store:
        for first in range(0, 4000, 500):
            await store.upsert_many([entry(n) for n in range(first, first + 500)])
        # SQLite does this by itself, now and then; the -wal file keeps its size.
        query(path, "PRAGMA wal_checkpoint(PASSIVE)")
        fill(volume)
        assert await store.delete_expired(later, 3000) == 3000
        assert await store.delete_expired(later, 3000) == 1000
        assert await store.delete_expired(later, 3000) == 0


@needs_mount
async def test_to_delete_on_a_full_volume_takes_as_much_room_as_is_said(volume: Path) -> None:
    path = volume / "cache.db"
    later = NOW + timedelta(days=400)
    async with open_sqlite_repository(path) as store:
        for first in range(0, 4000, 500):
            await store.upsert_many([entry(n) for n in range(first, first + 500)])
    fill(volume)
    async with open_sqlite_repository(path) as store:
        with pytest.raises(StoreUnavailableError, match=r"disk is full: .* about 1 MiB of room"):
            await store.delete_expired(later, 3000)
    fill(volume, but_kib=1024)
    async with open_sqlite_repository(path) as store:
        assert await store.delete_expired(later, 3000) == 3000


@needs_mount
async def test_what_could_be_deleted_on_a_full_volume_is_counted(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = volume / "cache.db"
    async with open_sqlite_repository(path) as store:
        await store.upsert_many([entry(n) for n in range(500)])
    fill(volume, but_kib=1024)
    # Somebody else takes the rest after the first step.
    monkeypatch.setattr(_sqlite_file.SQLiteFile, "_start_log_over", lambda _: fill(volume))
    monkeypatch.setattr(_sqlite_file, "_SMALL_STEP", 16)
    delete = _sqlite_file.SQLiteFile._delete_expired

    def only_few(file: _sqlite_file.SQLiteFile[ProvcacheEntry], now: datetime, limit: int) -> int:
        if limit > 16:
            raise StoreUnavailableError("full", error_class="SQLITE_FULL")
        return delete(file, now, limit)

    monkeypatch.setattr(_sqlite_file.SQLiteFile, "_delete_expired", only_few)
    async with open_sqlite_repository(path) as store:
        deleted = await store.delete_expired(NOW + timedelta(days=400), 500)
        assert 0 < deleted < 500
        assert await store.count() == 500 - deleted


async def test_what_else_keeps_entries_from_being_deleted_is_said_as_it_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cache.db"
    async with open_sqlite_repository(path) as store:
        await store.upsert_many([entry(1)])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailableError, match="SQLITE_BUSY"):
                await store.delete_expired(NOW, 1)


async def test_a_log_that_grew_behind_a_reader_becomes_small_again(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    log = tmp_path / "cache.db-wal"
    async with open_sqlite_repository(path) as store:
        await store.upsert_many([entry(0)])
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM provcache_entries").fetchone()
            for hits in range(60):
                await store.upsert_many([entry(n, hit_count=hits) for n in range(500)])
            assert size_of(log) > 5 * 2**20
        for hits in range(60, 63):
            await store.upsert_many([entry(0, hit_count=hits)])
        assert size_of(log) <= 4 * 2**20


# Whose file it is


def foreign_database(path: Path, *, pages: int) -> None:
    """Leave somebody else's database, with changes that are only in its log."""
    copy = path.with_name("original")
    with closing(sqlite3.connect(copy, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        if pages > 1:
            other.execute("CREATE TABLE theirs (x)")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        other.execute("PRAGMA application_id = 77")
        other.execute("CREATE TABLE more (x)")
        path.write_bytes(copy.read_bytes())
        path.with_name(f"{path.name}-wal").write_bytes(Path(f"{copy}-wal").read_bytes())
    copy.unlink()
    path.chmod(0o644)


def all_of(directory: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in directory.iterdir()}


@pytest.mark.parametrize("pages", [1, 2])
@pytest.mark.parametrize("opener", [open_sqlite_repository, open_dead_letters])
async def test_a_database_of_somebody_else_is_left_as_it_is(
    tmp_path: Path,
    opener: Callable[[Path], Any],
    pages: int,
) -> None:
    path = tmp_path / "theirs.db"
    foreign_database(path, pages=pages)
    before = all_of(tmp_path)
    assert len(before) == 2
    with pytest.raises(StoreMisconfiguredError, match="database of another application"):
        async with opener(path) as store:
            await store.count()
    assert all_of(tmp_path) == before
    assert mode_of(path) == 0o644


@pytest.mark.parametrize("opener", [open_sqlite_repository, open_dead_letters])
async def test_a_file_that_is_no_database_is_left_as_it_is(
    tmp_path: Path,
    opener: Callable[[Path], Any],
) -> None:
    path = tmp_path / "diary"
    path.write_bytes(b"dear diary " * 100)
    path.chmod(0o644)
    before = all_of(tmp_path)
    with pytest.raises(StoreMisconfiguredError, match="SQLITE_NOTADB"):
        async with opener(path) as store:
            await store.count()
    assert all_of(tmp_path) == before
    assert mode_of(path) == 0o644


async def test_a_young_file_that_only_its_log_knows_is_opened(tmp_path: Path) -> None:
    """As version 0.1 left one when it was killed soon."""
    path = tmp_path / "cache.db"
    async with open_sqlite_repository(tmp_path / "other.db") as store:
        await store.upsert_many([entry(1)])
    schema = _schema_of(tmp_path / "other.db")
    with closing(sqlite3.connect(tmp_path / "original", isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        old.executescript(f"BEGIN; {schema} COMMIT;")
        path.write_bytes((tmp_path / "original").read_bytes())
        log = (tmp_path / "original-wal").read_bytes()
    (tmp_path / "cache.db-wal").write_bytes(log + log[32:] + b"left over")
    async with open_sqlite_repository(path) as store:
        assert await store.count() == 0
    stale = log[:16] + b"salt" + log[20:]
    for odd in (b"", b"short", stale):
        blank = tmp_path / "blank.db"
        with closing(sqlite3.connect(blank, isolation_level=None)) as one:
            one.execute("PRAGMA journal_mode = WAL")
        (tmp_path / "blank.db-wal").write_bytes(odd)
        async with open_sqlite_repository(blank) as store:
            assert await store.count() == 0
        blank.unlink()


def _schema_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        parts = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master") if sql]
    application = _number(path, "application_id")
    version = _number(path, "user_version")
    parts += [f"PRAGMA application_id = {application}", f"PRAGMA user_version = {version}"]
    return " ".join(f"{part};" for part in parts)


def _number(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return found


async def test_a_lock_is_put_beside_no_file_of_another_version(tmp_path: Path) -> None:
    assert _dead_letters_file.SCHEMA_VERSION == 2
    with pytest.raises(StoreMisconfiguredError, match="no such file"):
        async with open_dead_letters(tmp_path / "dead.db", create=False):
            pass
    assert names(tmp_path) == set()


async def test_a_file_that_is_replaced_by_somebody_elses_after_it_was_looked_at_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "theirs.db"
    run(path, "CREATE TABLE theirs (x)")
    monkeypatch.setattr(_sqlite_connection, "raise_if_foreign", lambda *_: None)
    async with open_sqlite_repository(path) as store:
        with pytest.raises(StoreMisconfiguredError, match="database of another application"):
            await store.count()


async def test_what_keeps_letters_from_being_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    await put_some(path, 50)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        for read_only in (True, False):
            with pytest.raises(StoreUnavailableError, match="SQLITE_BUSY"):
                async with open_dead_letters(path, read_only=read_only):
                    pass


async def test_a_file_that_can_not_be_kept_private_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: str) -> None:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(_dead_letters_file, "_keep_private", denied)
    with pytest.raises(StoreMisconfiguredError, match="can't be kept private: Permission denied"):
        async with open_dead_letters(tmp_path / "dead.db"):
            pass
