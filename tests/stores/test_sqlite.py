"""The SQLite repository: its file, its faults, and calls that are cut short."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from provcache_trio import (
    EntryRejectedError,
    ProvcacheEntry,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
    sqlite as module,
)
from provcache_trio._disk import (
    sqlite_connection as _sqlite_connection,
    threads,
)
from provcache_trio.sqlite import (
    SQLiteRepository,
    _file as _sqlite_file,
    _rows as _sqlite_rows,
    open_sqlite_repository,
)
from provcache_trio.testing import MemoryDeadLetters

from tests.support.cuts import cancel_after_the_first
from tests.support.entries import MICROSECOND, NOW, by_key, entry, key_of
from tests.support.files import descriptors, mode_of, names, query, run
from tests.support.programs import press_ctrl_c, run_python
from tests.support.strategies import FIRST, LAST
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
    from pathlib import Path

SECRET = "s3cr3t"  # noqa: S105  # what no message may quote
SLOW = 77  # with so many hits, an entry takes for ever

ENDLESS = f"""
CREATE VIEW endless AS WITH RECURSIVE numbers(n) AS (
    SELECT 1 UNION ALL SELECT n + 1 FROM numbers
) SELECT n FROM numbers;
CREATE TRIGGER slow BEFORE INSERT ON provcache_entries WHEN NEW.hit_count = {SLOW}
BEGIN SELECT max(n) FROM endless; END;
"""  # made of names from here
REFUSE = f"""
CREATE TRIGGER picky BEFORE INSERT ON provcache_entries WHEN NEW.feed_epoch = '{SECRET}'
BEGIN SELECT RAISE(%s, 'not {SECRET}'); END;
"""
CALLS: list[Callable[[SQLiteRepository], Awaitable[object]]] = [
    lambda store: store.upsert_many([entry()]),
    lambda store: store.get_many([key_of(0)]),
    lambda store: store.count(),
    lambda store: store.delete_many([key_of(0)]),
    lambda store: store.delete_expired(NOW, 1),
    lambda store: store.check(),
]
each_call = pytest.mark.parametrize(
    "call",
    CALLS,
    ids=["upsert_many", "get_many", "count", "delete_many", "delete_expired", "check"],
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
async def store(path: Path) -> AsyncGenerator[SQLiteRepository]:
    async with open_sqlite_repository(path) as repository:
        await repository.check()
        yield repository


def after(path: Path, script: str | None = None) -> bytes:
    """Return what the file holds, after ``script`` if there is one."""
    if script is not None:
        run(path, script)
    return path.read_bytes()


def connection_of(store: SQLiteRepository) -> sqlite3.Connection:
    connection = store._file._connection
    assert connection is not None
    return connection


@contextmanager
def write_lock(path: Path) -> Generator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


async def until_writing(path: Path) -> None:
    """Wait until a call holds the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return
            connection.execute("ROLLBACK")
            await trio.sleep(0.002)


def remove(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink()


# Defects


def one_cell_too_many(cells: Sequence[object]) -> Sequence[object]:
    return [*cells, SECRET]


def no_such_cell(cells: Sequence[object]) -> Sequence[object]:
    return dict(enumerate(cells))[SECRET]  # type: ignore[index, return-value]  # the defect


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("defect", "error", "message"),
    [
        (
            one_cell_too_many,
            "ProgrammingError",
            r".*/cache.db: a defect .*: ProgrammingError at .*",
        ),
        (no_such_cell, "KeyError", r"KeyError at .*/sqlite/_file\.py:\d+"),
    ],
    ids=["of a statement", "of Python"],
)
async def test_a_defect_costs_only_the_entry_that_meets_it_and_is_seen_at_once(
    store: SQLiteRepository,
    defect: Callable[[Sequence[object]], Sequence[object]],
    error: str,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = store._file._plan
    bad = entry(3, feed_epoch=SECRET)

    def cells_of(entries: Sequence[ProvcacheEntry]) -> Generator[Any]:
        for one, cells in zip(entries, plan.cells_of(entries), strict=True):
            yield defect(cells) if one == bad else cells

    store._file._plan = dataclasses.replace(plan, cells_of=cells_of)
    letters = MemoryDeadLetters[ProvcacheEntry]()
    options = WriteBehindOptions(max_retries=3, retry_base_seconds=0.01)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        await queue.enqueue_many([*map(entry, range(3)), bad, *map(entry, range(4, 8))])
        with trio.fail_after(HANG_SECONDS):
            await queue.flush()
    assert [(letter.entry, letter.error_class) for letter in letters.letters] == [(bad, error)]
    assert await store.count() == 7
    first = next(record for record in caplog.records if record.levelname == "WARNING")
    beginning = "default: batch failed and is retried: 8 entries, "
    assert re.fullmatch(re.escape(beginning) + message, first.getMessage())
    assert SECRET not in caplog.text


# The file


async def test_opening_does_nothing_and_the_first_call_makes_the_file(path: Path) -> None:
    async with open_sqlite_repository(path) as repository:
        assert names(path.parent) == set()
        await repository.check()
        assert "cache.db" in names(path.parent)


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
async def test_a_new_file_is_for_its_owner_only(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with open_sqlite_repository(path) as repository:
            await repository.upsert_many([entry()])
            modes = {name: mode_of(path.with_name(name)) for name in names(path.parent)}
    finally:
        os.umask(before)
    assert modes == {"cache.db": 0o600, "cache.db-wal": 0o600, "cache.db-shm": 0o600}


@pytest.fixture
def empty(path: Path) -> Path:
    path.touch()
    path.chmod(0o640)
    return path


async def test_an_existing_file_keeps_its_mode(empty: Path) -> None:
    async with open_sqlite_repository(empty) as repository:
        assert await repository.upsert_many([entry()]) == 1
    assert mode_of(empty) == 0o640


async def test_a_link_to_a_file_that_is_missing_makes_that_file(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with open_sqlite_repository(link) as repository:
        await repository.upsert_many([entry()])
    assert link.is_symlink()
    assert mode_of(path) == 0o600


async def test_it_is_written_ahead_and_synced_in_full(store: SQLiteRepository) -> None:
    await store.upsert_many([entry()])
    connection = connection_of(store)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (100,)
    connection.execute("SELECT rowid FROM provcache_entries")  # WITHOUT ROWID has none


async def test_hashes_are_blobs_and_times_are_integers(store: SQLiteRepository, path: Path) -> None:
    await store.upsert_many([entry(created_at=FIRST, expires_at=LAST, last_accessed_at=NOW)])
    (types,) = query(
        path,
        "SELECT typeof(veri_key), length(veri_key), typeof(verdict_hash), typeof(created_at),"
        " typeof(expires_at), typeof(last_accessed_at) FROM provcache_entries",
    )
    assert types == ("blob", 32, "blob", "integer", "integer", "integer")
    ((created, expires),) = query(path, "SELECT created_at, expires_at FROM provcache_entries")
    assert (created, expires) == (-62_135_596_800_000_000, 253_402_300_799_999_999)


async def test_a_view_shows_text_to_people(store: SQLiteRepository, path: Path) -> None:
    before_1970 = NOW.replace(year=1969, microsecond=7)
    one = entry(created_at=FIRST, expires_at=LAST, last_accessed_at=before_1970)
    await store.upsert_many([one, entry(1)])
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        shown, other = connection.execute("SELECT * FROM provcache_readable").fetchall()
    assert dict(shown) == {
        "veri_key": one.veri_key,
        "verdict_hash": one.decision.verdict_hash,
        "proof_root": one.decision.proof_root,
        "policy_hash": one.policy_hash,
        "signer_set_hash": one.signer_set_hash,
        "digest_version": "v1",
        "feed_epoch": "2026-W48",
        "replay_seed": '{"feed_ids":["nvd"],"rule_ids":["r1","r2"]}',
        "trust_score": 90,
        "created_at": "0001-01-01T00:00:00.000000Z",
        "expires_at": "9999-12-31T23:59:59.999999Z",
        "hit_count": 0,
        "last_accessed_at": "1969-11-25T12:00:00.000007Z",
    }
    assert other["last_accessed_at"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        "veri_key = x'00'",
        f"veri_key = '{'x' * 32}'",
        "verdict_hash = x''",
        "proof_root = x''",
        "policy_hash = x''",
        "signer_set_hash = x''",
        "digest_version = x''",
        "feed_epoch = x''",
        "replay_seed = x''",
        "trust_score = 101",
        "trust_score = 50.5",
        "created_at = 0.5",
        "created_at = expires_at",
        "expires_at = 1e300",
        "hit_count = -1",
        "hit_count = 0.5",
        "last_accessed_at = 'today'",
    ],
)
async def test_nobody_can_store_what_is_no_entry(
    store: SQLiteRepository, path: Path, wrong: str
) -> None:
    await store.upsert_many([entry()])
    with pytest.raises(sqlite3.IntegrityError):
        run(path, f"UPDATE provcache_entries SET {wrong}")
    assert await store.get_many([key_of(0)]) == by_key([entry()])


@pytest.mark.parametrize(
    "damage",
    [
        "replay_seed = '['",
        "replay_seed = '{\"feed_ids\":[1]}'",
        "feed_epoch = ''",
        "digest_version = char(0)",
        "expires_at = 9e18",
        "verdict_hash = x''",
    ],
)
async def test_a_row_that_was_damaged_needs_a_person(
    store: SQLiteRepository, path: Path, damage: str
) -> None:
    await store.upsert_many([entry(0), entry(1)])
    update = f"UPDATE provcache_entries SET {damage} WHERE rowid = 1"
    run(path, f"PRAGMA ignore_check_constraints = 1; {update}")
    with pytest.raises(StoreMisconfiguredError):
        await store.get_many([key_of(0), key_of(1)])
    assert await store.get_many([key_of(1)]) == by_key([entry(1)])


async def test_expired_entries_are_found_by_an_index(store: SQLiteRepository) -> None:
    await store.check()
    plan = connection_of(store).execute(f"EXPLAIN QUERY PLAN {_sqlite_rows.DELETE_EXPIRED}", (0, 1))
    assert "INDEX provcache_entries_by_expiry" in str(plan.fetchall())


# Where it is


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (1, TypeError),
        (None, TypeError),
        (b"cache.db", TypeError),
        ("", ValueError),
        (":memory:", ValueError),
        (f"{SECRET}\0", ValueError),
    ],
)
def test_a_path_names_a_file(wrong: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="path") as caught:
        open_sqlite_repository(wrong)
    assert SECRET not in str(caught.value)


def test_a_path_like_object_of_bytes_is_no_path() -> None:
    class Bytes:
        def __fspath__(self) -> bytes:
            return b"cache.db"

    with pytest.raises(TypeError, match="path"):
        open_sqlite_repository(Bytes())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a b?mode=ro#%20.db", "ü\udcff.db", "file:x"])
async def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    async with open_sqlite_repository(str(tmp_path / name)) as repository:
        await repository.check()
        assert names(tmp_path) == {name, f"{name}-wal", f"{name}-shm"}


async def test_a_relative_path_does_not_move_with_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_sqlite_repository("cache.db") as repository:
        monkeypatch.chdir("/")
        await repository.check()
    assert names(tmp_path) == {"cache.db"}


# Files that are not ours


@pytest.mark.parametrize("version", [0, 2, 41])
async def test_a_file_of_another_version_is_refused_by_name(path: Path, version: int) -> None:
    async with open_sqlite_repository(path) as repository:
        await repository.upsert_many([entry()])
    before = after(path, f"PRAGMA user_version = {version}")
    async with open_sqlite_repository(path) as repository:
        for call in CALLS:
            with pytest.raises(StoreMisconfiguredError, match=rf"{version}.*\b1\b"):
                await call(repository)
    assert after(path) == before
    assert names(path.parent) == {"cache.db"}


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE theirs (a)",
        "CREATE TABLE provcache_entries (a)",
        "PRAGMA application_id = 7",
        "PRAGMA user_version = 1",
        "PRAGMA journal_mode = WAL; CREATE TABLE theirs (a)",
    ],
)
async def test_a_database_of_somebody_else_is_refused_and_left_alone(
    path: Path, script: str
) -> None:
    before = after(path, script)
    async with open_sqlite_repository(path) as repository:
        for call in CALLS:
            with pytest.raises(StoreMisconfiguredError, match="another application"):
                await call(repository)
    assert after(path) == before
    assert names(path.parent) == {"cache.db"}


@pytest.fixture
def garbage(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"x" * 7, b"garbage " * 1000, b"SQLite format 3\0" * 500])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(
    garbage: Path, content: bytes
) -> None:
    async with open_sqlite_repository(garbage) as repository:
        for call in CALLS:
            with pytest.raises(StoreMisconfiguredError) as caught:
                await call(repository)
            assert caught.value.error_class == "SQLITE_NOTADB"
    assert after(garbage) == content


async def test_an_empty_file_is_filled(empty: Path) -> None:
    async with open_sqlite_repository(empty) as repository:
        assert await repository.upsert_many([entry()]) == 1


async def test_whoever_is_second_to_fill_a_file_finds_it_filled(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0
    is_ours = _sqlite_connection.is_ours

    def look(connection: sqlite3.Connection, application: _sqlite_connection.Application) -> bool:
        nonlocal looked
        looked += 1
        found = is_ours(connection, application)
        if looked == 1:
            connection.execute("COMMIT")
            with closing(
                _sqlite_file.SQLiteFile[ProvcacheEntry](str(path), None, create=True)
            ) as other:  # in a process, say
                other.check()
            connection.execute("BEGIN")
        return found

    monkeypatch.setattr(_sqlite_connection, "is_ours", look)
    async with open_sqlite_repository(path) as repository:
        assert await repository.upsert_many([entry()]) == 1
    assert looked == 4


# Faults


@each_call
async def test_a_missing_directory_needs_a_person_until_it_is_there(
    tmp_path: Path, call: Callable[[SQLiteRepository], Awaitable[object]]
) -> None:
    async with open_sqlite_repository(tmp_path / SECRET / "cache.db") as repository:
        with pytest.raises(StoreMisconfiguredError) as caught:
            await call(repository)
        assert caught.value.error_class == "SQLITE_CANTOPEN"
        assert str(caught.value) == (
            f"{tmp_path / SECRET / 'cache.db'}: SQLite reported SQLITE_CANTOPEN: "
            f"there is no directory {tmp_path / SECRET}"
        )
        (tmp_path / SECRET).mkdir()
        await call(repository)


async def test_a_file_that_could_not_be_made_for_its_owner_only_is_not_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise OSError(errno.EMFILE, SECRET)

    async with open_sqlite_repository(path) as repository:
        with monkeypatch.context() as patched, pytest.raises(StoreMisconfiguredError):
            patched.setattr(_sqlite_connection, "create_file", fail)
            await repository.check()
        assert names(path.parent) == set()
        await repository.check()
    assert mode_of(path) == 0o600


async def test_a_directory_is_no_file(tmp_path: Path) -> None:
    async with open_sqlite_repository(tmp_path) as repository:
        with pytest.raises(StoreMisconfiguredError):
            await repository.check()
    assert names(tmp_path) == set()


WRITES = [call for call in CALLS if call not in CALLS[1:3]]


async def test_a_locked_file_is_unavailable_at_once_and_can_be_read(
    store: SQLiteRepository, path: Path
) -> None:
    await store.upsert_many([entry(1)])
    with write_lock(path):
        for call in WRITES:
            with pytest.raises(StoreUnavailableError) as caught:
                await call(store)
            assert type(caught.value) is StoreUnavailableError
            assert caught.value.error_class == "SQLITE_BUSY"
        connection = connection_of(store)
        assert await store.get_many([key_of(1)]) == by_key([entry(1)])
        assert await store.count() == 1
    for call in CALLS:
        await call(store)
    assert connection_of(store) is connection


async def test_the_loop_runs_while_a_call_waits_for_a_lock(
    store: SQLiteRepository, path: Path
) -> None:
    asking = threading.Event()
    connection = connection_of(store)
    connection.execute(f"PRAGMA busy_timeout = {HANG_SECONDS * 1000}")
    connection.set_trace_callback(lambda _: asking.set())
    async with trio.open_nursery() as nursery:
        with write_lock(path):
            nursery.start_soon(store.check)
            await until(asking.is_set)
            for _ in range(3):
                await trio.sleep(0.001)
            assert len(nursery.child_tasks) == 1


async def test_a_file_that_is_locked_when_it_is_first_opened_is_unavailable(path: Path) -> None:
    async with open_sqlite_repository(path) as repository:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreUnavailableError):
                await repository.check()
        await repository.check()
        assert await repository.upsert_many([entry()]) == 1
        assert connection_of(repository).execute("PRAGMA synchronous").fetchone() == (2,)


async def test_a_queue_waits_for_a_lock_of_another_process(
    store: SQLiteRepository, path: Path
) -> None:
    program = (
        "import sqlite3, sys;"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "connection.execute('BEGIN IMMEDIATE');"
        "print('locked', end='', flush=True);"
        "sys.stdin.read()"
    )
    options = WriteBehindOptions(flush_interval_seconds=0, retry_base_seconds=0.01)
    async with open_write_behind_queue(store, options) as queue:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b"locked"
        await queue.enqueue(entry())
        await until(lambda: queue.metrics().state == "waiting")
        assert await store.count() == 0
        await process.stdin.aclose()
        await process.wait()
        await process.stdout.aclose()
        await queue.flush()
        assert await store.count() == 1


WRITER = """
import sys, trio
from provcache_trio import StoreUnavailableError
from provcache_trio.sqlite import open_sqlite_repository
from tests.support.entries import entry

async def main():
    async with open_sqlite_repository(sys.argv[1]) as repository:
        for batch in range(10):
            while True:
                try:
                    await repository.upsert_many([entry(f"{sys.argv[2]} {batch} {n}") for n in range(50)])
                    break
                except StoreUnavailableError as error:
                    assert error.error_class.startswith("SQLITE_BUSY"), error
                    await trio.sleep(0.001)

trio.run(main)
"""


@pytest.mark.whole_process
async def test_several_processes_may_write_one_file(path: Path) -> None:
    async with trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(run_python, WRITER, str(path), name)
    async with open_sqlite_repository(path) as repository:
        assert await repository.count() == 2 * 10 * 50


async def test_a_full_disk_is_unavailable_until_there_is_room(
    store: SQLiteRepository, path: Path
) -> None:
    many = [entry(number) for number in range(2000)]
    await store.upsert_many([entry("before")])
    connection_of(store).execute("PRAGMA max_page_count = 20")
    with pytest.raises(StoreUnavailableError) as caught:
        await store.upsert_many(many)
    assert type(caught.value) is StoreUnavailableError
    assert caught.value.error_class == "SQLITE_FULL"
    # The connection was given up, and with it the limit.
    assert await store.count() == 1
    assert await store.upsert_many(many) == 2000


FULL = """
import resource, sys, trio
from provcache_trio import StoreMisconfiguredError, StoreUnavailableError
from provcache_trio.sqlite import open_sqlite_repository
from tests.support.entries import by_key, entry

async def main():
    many = [entry(number) for number in range(2000)]
    async with open_sqlite_repository(sys.argv[1]) as repository:
        await repository.upsert_many([entry("before")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            await repository.upsert_many(many)
        except StoreMisconfiguredError:
            raise
        except StoreUnavailableError as error:
            print(error.error_class)
        assert await repository.count() == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert await repository.upsert_many(many) == 2000
        assert await repository.get_many(by_key(many)) == by_key(many)

trio.run(main)
"""


@pytest.mark.whole_process
async def test_a_write_that_fails_is_unavailable_until_it_works(path: Path) -> None:
    printed = await run_python(FULL, str(path))
    assert printed in {b"SQLITE_IOERR_WRITE\n", b"SQLITE_FULL\n"}


async def test_a_file_that_may_only_be_read_needs_a_person(store: SQLiteRepository) -> None:
    await store.upsert_many([entry(1)])
    connection_of(store).execute("PRAGMA query_only = 1")
    with pytest.raises(StoreMisconfiguredError) as caught:
        await store.upsert_many([entry()])
    assert caught.value.error_class == "SQLITE_READONLY"
    assert await store.upsert_many([entry()]) == 1


async def test_a_table_that_is_missing_needs_a_person(store: SQLiteRepository, path: Path) -> None:
    run(path, "ALTER TABLE provcache_entries RENAME TO gone")
    for call in CALLS:
        with pytest.raises(StoreMisconfiguredError) as caught:
            await call(store)
        assert caught.value.error_class == "SQLITE_ERROR"
    run(path, "ALTER TABLE gone RENAME TO provcache_entries")
    for call in CALLS:
        await call(store)


@pytest.mark.parametrize("leftovers", [False, True], ids=["all of it", "the main file only"])
async def test_a_file_that_is_removed_is_made_anew(
    store: SQLiteRepository, path: Path, leftovers: bool
) -> None:
    await store.upsert_many([entry(1)])
    remove(path, *([""] if leftovers else ["", "-wal", "-shm"]))
    assert await store.upsert_many([entry(2)]) == 1
    assert query(path, "SELECT count(*) FROM provcache_entries") == [(1,)]
    assert await store.get_many([key_of(1), key_of(2)]) == by_key([entry(2)])


async def test_a_file_that_is_replaced_is_opened_anew(store: SQLiteRepository, path: Path) -> None:
    await store.upsert_many([entry(1)])
    other = path.with_name("other.db")
    async with open_sqlite_repository(other) as repository:
        await repository.upsert_many([entry(2)])
    remove(path, "-wal", "-shm")
    other.rename(path)
    assert await store.get_many([key_of(1), key_of(2)]) == by_key([entry(2)])


async def put_in_place_of(path: Path) -> list[ProvcacheEntry]:
    """Replace the file, and nothing beside it, by one that holds these entries."""
    entries = [entry(f"other {number}") for number in range(500)]
    other = path.with_name("other.db")
    async with open_sqlite_repository(other) as repository:
        await repository.upsert_many(entries)
    await trio.Path(path).rename(path.with_name("old.db"))
    other.rename(path)
    return entries


async def test_the_log_of_a_file_that_is_replaced_does_not_get_into_the_other(
    store: SQLiteRepository, path: Path
) -> None:
    async with open_sqlite_repository(path) as second:  # which notices later
        await second.upsert_many([entry(1)])
        await store.upsert_many([entry(2)])
        others = await put_in_place_of(path)
        assert await store.upsert_many([entry(3)]) == 1
        assert await second.upsert_many([entry(4)]) == 1
        assert await store.count() == len(others) + 2
        assert await second.get_many(by_key(others)) == by_key(others)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    old = path.with_name("old.db")
    assert query(old, "SELECT count(*) FROM provcache_entries") == [(2,)]


async def test_a_file_that_is_replaced_and_closed_leaves_no_log_beside_the_other(
    path: Path,
) -> None:
    async with open_sqlite_repository(path) as store:
        await store.upsert_many([entry(1)])
        others = await put_in_place_of(path)
    assert names(path.parent) == {"cache.db", "old.db"}
    async with open_sqlite_repository(path) as store:
        assert await store.get_many([key_of(1), *by_key(others)]) == by_key(others)


async def test_a_file_that_is_replaced_while_somebody_reads_it_is_unavailable_for_so_long(
    store: SQLiteRepository, path: Path
) -> None:
    await store.upsert_many([entry(1)])
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM provcache_entries").fetchall()
        others = await put_in_place_of(path)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await store.count()
    assert await store.count() == len(others)


async def test_a_link_that_leads_to_another_file_leaves_the_log_of_the_first(
    tmp_path: Path, path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    async with open_sqlite_repository(path) as direct, open_sqlite_repository(link) as linked:
        await linked.upsert_many([entry(1)])
        link.unlink()
        link.symlink_to(tmp_path / "second.db")
        assert await linked.count() == 0
        await direct.upsert_many([entry(2)])
        assert await direct.count() == 2
    assert query(path, "SELECT count(*) FROM provcache_entries") == [(2,)]


# Refused entries


def refused_among(others: int) -> list[ProvcacheEntry]:
    return [entry(number) for number in range(others)] + [entry("refused", feed_epoch=SECRET)]


@pytest.mark.parametrize("how", ["ABORT", "FAIL", "ROLLBACK"])
async def test_an_entry_that_is_refused_is_named_and_nothing_is_stored(
    store: SQLiteRepository, path: Path, how: str
) -> None:
    run(path, REFUSE % how)
    connection = connection_of(store)
    with pytest.raises(EntryRejectedError) as caught:
        await store.upsert_many([*refused_among(7), entry(8)])
    assert caught.value.index == 7
    assert caught.value.error_class == "SQLITE_CONSTRAINT_TRIGGER"
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    assert await store.count() == 0
    assert await store.upsert_many(refused_among(7)[:-1]) == 7
    assert connection_of(store) is connection


async def test_what_is_refused_with_the_commit_names_no_entry(
    store: SQLiteRepository, path: Path
) -> None:
    run(
        path,
        "CREATE TABLE known (epoch TEXT PRIMARY KEY);"
        "CREATE TABLE used (epoch REFERENCES known DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TRIGGER use AFTER INSERT ON provcache_entries"
        " BEGIN INSERT INTO used VALUES (NEW.feed_epoch); END;",
    )
    connection_of(store).execute("PRAGMA foreign_keys = 1")
    with pytest.raises(EntryRejectedError) as caught:
        await store.upsert_many([entry(0), entry(1)])
    assert caught.value.index is None
    assert caught.value.error_class == "SQLITE_CONSTRAINT_FOREIGNKEY"
    assert await store.count() == 0


class Special(ProvcacheEntry, frozen=True, kw_only=True):
    more: str = SECRET


async def test_what_is_no_entry_is_refused_by_its_place(store: SQLiteRepository) -> None:
    special = Special(**msgspec.structs.asdict(entry("special")))
    for wrong in (SECRET, None, special):
        with pytest.raises(EntryRejectedError) as caught:
            await store.upsert_many([entry(0), wrong])  # type: ignore[list-item]
        assert caught.value.index == 1
        assert SECRET not in str(caught.value)
    assert await store.count() == 0


async def test_a_queue_keeps_the_neighbours_of_a_refused_entry(
    store: SQLiteRepository, path: Path
) -> None:
    run(path, REFUSE % "ABORT")
    sink = MemoryDeadLetters[object]()
    async with open_write_behind_queue(store, dead_letters=sink) as queue:
        await queue.enqueue_many(refused_among(100))
    assert [letter.key for letter in sink.letters] == [key_of("refused")]
    assert sink.letters[0].attempts == 2  # with its neighbours, then alone: an index is a hint
    assert await store.count() == 100


# Arguments


@pytest.mark.parametrize("call", [CALLS[1], CALLS[3]], ids=["get_many", "delete_many"])
@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (key_of(0), TypeError),
        (7, TypeError),
        ([key_of(0), 7], TypeError),
        ([b"x"], TypeError),
        ([SECRET], ValueError),
        ([key_of(0).upper()], ValueError),
        ([f"{key_of(0)}\n"], ValueError),
    ],
)
async def test_keys_are_checked(
    store: SQLiteRepository, call: object, keys: list[str], error: type[Exception]
) -> None:
    method = store.get_many if call is CALLS[1] else store.delete_many
    with pytest.raises(error, match="keys") as caught:
        await method(keys)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("now", "limit", "error", "field"),
    [
        ("2026", 1, TypeError, "now"),
        (NOW.date(), 1, TypeError, "now"),
        (NOW.replace(tzinfo=None), 1, ValueError, "now"),
        (NOW, True, TypeError, "limit"),
        (NOW, 1.0, TypeError, "limit"),
        (NOW, 0, ValueError, "limit"),
        (NOW, 2**63, ValueError, "limit"),
    ],
)
async def test_the_arguments_of_delete_expired_are_checked(
    store: SQLiteRepository, now: object, limit: object, error: type[Exception], field: str
) -> None:
    await store.upsert_many([entry(expires_at=NOW + MICROSECOND)])
    with pytest.raises(error, match=field):
        await store.delete_expired(now, limit)  # type: ignore[arg-type]
    assert await store.count() == 1


# Calls that are cut short


async def test_a_cancelled_call_is_interrupted_and_leaves_nothing(
    store: SQLiteRepository, path: Path
) -> None:
    connection_of(store).set_progress_handler(None, 0)  # for interrupts that come too early
    run(path, ENDLESS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.upsert_many, [entry(1), entry(2, hit_count=SLOW)])
        await until_writing(path)
        nursery.cancel_scope.cancel()
    with write_lock(path):  # its thread has let go
        assert await store.count() == 0
    assert await store.upsert_many([entry(1), entry(2)]) == 2


OF_MANY: dict[str, Callable[[SQLiteRepository], Awaitable[object]]] = {
    _sqlite_rows.UPSERT: lambda store: store.upsert_many([entry(1), entry(2)]),
    _sqlite_rows.SELECT: lambda store: store.get_many([key_of(1), key_of(2)]),
    _sqlite_rows.DELETE: lambda store: store.delete_many([key_of(1), key_of(2)]),
}


@pytest.mark.parametrize("statement", OF_MANY, ids=["upsert_many", "get_many", "delete_many"])
async def test_a_long_call_is_cut_short_between_two_statements(
    store: SQLiteRepository, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.CancelScope() as scope:
        cancel_after_the_first(statement, store._file, scope, monkeypatch)
        await OF_MANY[statement](store)
    assert scope.cancelled_caught
    assert await store.count() == 0


async def test_an_interrupt_that_comes_too_early_for_a_statement_is_noticed(
    store: SQLiteRepository, path: Path
) -> None:
    run(path, ENDLESS)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(StoreUnavailableError):
                await store.upsert_many([entry(hit_count=SLOW)])

        await until_writing(path)
        store._file.stopped = True
    assert await store.count() == 0


def test_an_interrupt_stops_a_call_that_has_no_connection_yet(path: Path) -> None:
    file = _sqlite_file.SQLiteFile[ProvcacheEntry](str(path), None, create=True)
    file.interrupt()
    with closing(file), pytest.raises(StoreUnavailableError):
        file.upsert([entry()])


async def test_an_interrupt_of_somebody_else_is_unavailable(
    store: SQLiteRepository, path: Path
) -> None:
    async def interrupt_again_and_again() -> None:
        await until_writing(path)
        while True:
            connection_of(store).interrupt()
            await trio.sleep(0.002)

    run(path, ENDLESS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupt_again_and_again)
        with pytest.raises(StoreUnavailableError) as caught:
            await store.upsert_many([entry(hit_count=SLOW)])
        nursery.cancel_scope.cancel()
    assert caught.value.error_class == "SQLITE_INTERRUPT"
    assert await store.count() == 0


async def test_what_was_done_before_it_could_be_interrupted_is_returned() -> None:
    interrupted = threading.Event()

    def commits_all_the_same() -> int:
        assert interrupted.wait(HANG_SECONDS)
        return 7

    with trio.CancelScope() as scope:
        scope.cancel()
        assert await threads.in_thread(commits_all_the_same, interrupted.set) == 7
    assert not scope.cancelled_caught


async def test_a_call_that_is_cancelled_while_it_waits_for_its_turn_leaves_no_trace(
    store: SQLiteRepository, path: Path
) -> None:
    run(path, ENDLESS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.upsert_many, [entry(hit_count=SLOW)])
        await until_writing(path)
        with trio.move_on_after(0.01) as scope:
            await store.upsert_many([entry(1)])
        assert scope.cancelled_caught
        assert not store._file.stopped  # the one under way was left alone
        nursery.cancel_scope.cancel()
    assert await store.count() == 0


async def test_calls_that_are_cancelled_at_any_time_leave_nothing_open(
    tmp_path: Path, path: Path
) -> None:
    async with open_sqlite_repository(path) as repository:
        await repository.check()
        for turn in range(40):
            with trio.move_on_after(turn / 10_000):
                await repository.upsert_many([entry(f"{turn} {n}") for n in range(200)])
    assert descriptors(tmp_path) == []
    assert names(tmp_path) == {"cache.db"}


def test_ctrl_c_waits_for_the_thread(path: Path) -> None:
    async def main() -> None:
        async with open_sqlite_repository(path) as repository:
            await repository.check()
            run(path, ENDLESS)

            async def press() -> None:
                await until_writing(path)
                press_ctrl_c()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(press)
                try:
                    await repository.upsert_many([entry(hit_count=SLOW)])
                except KeyboardInterrupt:
                    with write_lock(path):  # its thread has let go
                        raise

    with pytest.RaisesGroup(KeyboardInterrupt):
        trio.run(main)
    assert names(path.parent) == {"cache.db"}
    assert query(path, "SELECT count(*) FROM provcache_entries") == [(0,)]


# Leaving


@each_call
async def test_nothing_works_after_the_block(
    path: Path, call: Callable[[SQLiteRepository], Awaitable[object]]
) -> None:
    async with open_sqlite_repository(path) as repository:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await call(repository)
    assert names(path.parent) == set()


async def test_leaving_closes_the_file_also_in_a_cancelled_scope(
    tmp_path: Path, path: Path
) -> None:
    with trio.CancelScope() as scope:
        async with open_sqlite_repository(path) as repository:
            await repository.upsert_many([entry()])
            assert descriptors(tmp_path) != []
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert descriptors(tmp_path) == []
    assert names(tmp_path) == {"cache.db"}  # what was in -wal is in the file now


async def test_what_the_block_raises_arrives_as_it_was(path: Path) -> None:
    error = StopAsyncIteration()
    with pytest.raises(StopAsyncIteration) as caught:
        async with open_sqlite_repository(path):
            raise error
    assert caught.value is error
    assert error.__context__ is None


async def test_opening_in_a_cancelled_scope_opens_nothing(path: Path) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_sqlite_repository(path):
            raise AssertionError("unreachable")
    assert scope.cancelled_caught


async def test_leaving_interrupts_calls_of_other_tasks(tmp_path: Path, path: Path) -> None:
    ended: list[str] = []

    async def insert(repository: SQLiteRepository, name: str, hits: int) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await repository.upsert_many([entry(name, hit_count=hits)])
        ended.append(name)

    async with trio.open_nursery() as nursery:
        async with open_sqlite_repository(path) as repository:
            await repository.check()
            run(path, ENDLESS)
            nursery.start_soon(insert, repository, "under way", SLOW)  # noqa: ASYNC111  # meant
            await until_writing(path)
            nursery.start_soon(insert, repository, "in line", 0)  # noqa: ASYNC111
            await wait_all_tasks_blocked(0.01)
        assert descriptors(tmp_path) == []
    assert ended == ["under way", "in line"]
    assert query(path, "SELECT count(*) FROM provcache_entries") == [(0,)]


@pytest.mark.parametrize("busy", [False, True])
def test_ctrl_c_does_not_keep_the_file_open(tmp_path: Path, path: Path, busy: bool) -> None:
    async def insert(repository: SQLiteRepository) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await repository.upsert_many([entry(hit_count=SLOW)])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            try:
                async with open_sqlite_repository(path) as repository:
                    await repository.check()
                    run(path, ENDLESS)
                    if busy:
                        nursery.start_soon(insert, repository)  # noqa: ASYNC111  # meant
                        await until_writing(path)
                    press_ctrl_c()  # told at the next checkpoint, which is in the exit
            except KeyboardInterrupt:
                assert descriptors(tmp_path) == []
                ended.append(True)

    ended: list[bool] = []
    trio.run(main)
    assert ended == [True]


def test_the_class_is_final() -> None:
    assert SQLiteRepository.__final__  # type: ignore[attr-defined]
    assert module.__all__ == ["SQLiteRepository", "open_sqlite_repository"]


# Without making it


async def test_a_file_that_may_not_be_made_is_not_made(path: Path) -> None:
    absent = "there is no such file; with create=True it is made"
    for missing, why in (
        (path, absent),
        (path.parent / "none" / "cache.db", absent),
        (path.parent, "it is no regular file, or a link to nothing"),
    ):
        async with open_sqlite_repository(missing, create=False) as repository:
            for call in (repository.check, repository.count):
                with pytest.raises(StoreMisconfiguredError) as caught:
                    await call()
                assert str(caught.value) == f"{missing}: {why}"
    assert os.listdir(path.parent) == []  # noqa: PTH208


async def test_an_empty_file_that_may_not_be_filled_stays_empty(path: Path) -> None:
    await trio.Path(path).touch()
    async with open_sqlite_repository(path, create=False) as repository:
        with pytest.raises(StoreMisconfiguredError, match=r"cache.db: the file is empty$"):
            await repository.check()
        assert os.listdir(path.parent) == [path.name]  # noqa: PTH208
        assert await trio.Path(path).read_bytes() == b""
        async with open_sqlite_repository(path) as other:
            await other.upsert_many([entry()])
        assert await repository.count() == 1


async def test_a_file_that_is_removed_is_not_made_anew_unless_it_may_be(path: Path) -> None:
    async with open_sqlite_repository(path) as maker:
        await maker.upsert_many([entry()])
    async with open_sqlite_repository(path, create=False) as repository:
        assert await repository.upsert_many([entry(hit_count=1)]) == 1
        await trio.Path(path).unlink()
        with pytest.raises(
            StoreMisconfiguredError,
            match=r"cache.db: there is no such file; with create=True it is made$",
        ):
            await repository.count()
        assert not await trio.Path(path).exists()


def test_whether_to_make_a_file_is_a_bool(path: Path) -> None:
    with pytest.raises(TypeError, match=r"^create must be a bool, not int$"):
        open_sqlite_repository(path, create=0)  # type: ignore[call-overload]


async def test_without_a_thread_the_store_is_unavailable_and_the_file_is_closed_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async with open_sqlite_repository(path) as repository:
        await repository.upsert_many([entry(1)])
        monkeypatch.setattr(trio.lowlevel, "start_thread_soon", none_left)
        with pytest.raises(StoreUnavailableError, match="no thread"):
            await repository.upsert_many([entry(2)])
    monkeypatch.undo()
    assert not path.with_name(f"{path.name}-wal").exists()  # the last one who closes it moves it in
    async with open_sqlite_repository(path) as repository:
        assert await repository.count() == 1
