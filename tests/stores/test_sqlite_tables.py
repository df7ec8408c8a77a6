"""Tables of the user's own in SQLite: nothing is stored changed, and no file is altered unasked."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from contextlib import closing, suppress
from datetime import datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
import trio
from hypothesis import settings

from provcache_trio import (
    EntryRejectedError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    Table,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.dead_letters import StoredLetter, UnreadableLetter, open_dead_letters
from provcache_trio.journal import open_journal
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.sqlite._catalogue import read_plan
from provcache_trio.testing import MemoryDeadLetters

from tests.support.tables import (
    EVERYTHING,
    NOW,
    READINGS,
    Everything,
    Place,
    Reading,
    folded,
)
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trio.testing import MockClock

NIL = UUID(int=0)
fewer = settings(max_examples=settings().max_examples // 2)  # each makes a file


def execute(path: Path, *statements: str) -> list[Any]:
    """Run statements on a connection of somebody else's; return the rows of the last one."""
    rows: list[Any] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


async def rows_of(path: Path, table: Table[Any], entries: Sequence[Any]) -> dict[Any, Any]:
    """Store entries one after another, and return what is read back."""
    async with open_sqlite_repository(path, table=table, create=True) as repository:
        for entry in entries:
            await repository.upsert_many([entry])
        return await repository.get_many(table.key(entry) for entry in entries)


class Files:
    """Fresh files for the examples of one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def next(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count}.db"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tables"))


# What is stored


async def test_a_row_that_stays_as_it_is_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    one = Reading("a", 1, version=1, least=1, greatest="b", price=Decimal(2), first="x")
    async with open_sqlite_repository(path, table=READINGS, create=True) as repository:
        assert await repository.upsert_many([one]) == 1
        assert await repository.upsert_many([one]) == 0
        assert await repository.upsert_many([dataclasses.replace(one, first="y")]) == 0
        assert await repository.upsert_many([dataclasses.replace(one, version=0, value=9.0)]) == 0
        assert await repository.upsert_many([dataclasses.replace(one, version=0, least=0)]) == 1


async def test_a_table_without_newer_keeps_what_came_last(tmp_path: Path) -> None:
    table = Table(Reading, "last", key=("sensor", "hour"))
    versions = [Reading("a", 1, version=2), Reading("a", 1, version=1)]
    assert await rows_of(tmp_path / "a.db", table, versions) == {("a", 1): versions[1]}


async def test_a_table_of_keys_only_is_a_set(tmp_path: Path) -> None:
    only = msgspec.defstruct("Only", [("id", str)], frozen=True)
    table = Table(only, 'o"nly', key="id")
    async with open_sqlite_repository(tmp_path / "a.db", table=table, create=True) as repository:
        assert await repository.upsert_many([only("x")]) == 1
        assert await repository.upsert_many([only("x")]) == 0
        assert await repository.get_many(["x", "y", "x"]) == {"x": only("x")}


class Broken(tzinfo):
    """A time zone that nobody can use."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        raise RuntimeError

    tzname = dst = utcoffset  # type: ignore[assignment]  # neither is asked


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("text", 1, "text must be a str, not int"),
        ("text", "\ud800", "text must not hold a lone surrogate"),
        ("text", None, "text must be a str, not NoneType"),
        ("number", True, "number must be an int, not bool"),
        ("number", 1.0, "number must be an int, not float"),
        ("number", 2**63, r"number must be -2\*\*63 to 2\*\*63 - 1"),
        ("real", "1", "real must be a float, not str"),
        ("real", math.nan, "real must not be NaN"),
        ("real", 2**53 + 1, "real must be a float; this int is none exactly"),
        ("real", 10**400, "real must be a float; this int is none exactly"),
        ("flag", 1, "flag must be a bool, not int"),
        ("blob", bytearray(b"a"), "blob must be bytes, not bytearray"),
        ("price", 1.5, "price must be a Decimal, not float"),
        ("price", Decimal("NaN"), "price must be a finite Decimal"),
        ("moment", NOW.replace(tzinfo=None), "moment must be an aware datetime, not a naive one"),
        ("moment", NOW.replace(tzinfo=Broken()), "moment must have a tzinfo that gives its UTC"),
        ("moment", NOW.date(), "moment must be a datetime, not date"),
        (
            "moment",
            datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")),
            "moment must be from year 1 to 9999 in UTC",
        ),
        ("day", NOW, "day must be a date, not datetime"),
        ("clock", NOW, "clock must be a time, not datetime"),
        ("clock", time(1, tzinfo=Broken()), "clock must be a time that its ISO text says wholly"),
        ("lasts", 5, "lasts must be a timedelta, not int"),
        ("lasts", timedelta.max, r"lasts must be shorter than 2\*\*63 microseconds"),
        ("grade", "good", "grade must be a member of its Enum"),
        ("grade", [], "grade must be a member of its Enum"),
        ("level", 1, "level must be a member of its Enum"),
        ("colour", "blue", "colour must be one of those of its Literal"),
        ("place", Place("", (math.nan, 0.0)), "place must be written as JSON and read back"),
        ("numbers", (1, 2), "numbers must be written as JSON and read back as it is"),
        ("numbers", [True], "numbers must be written as JSON and read back as it is"),
        ("words", frozenset({"\ud800"}), "words must be written as JSON and read back"),
        ("id", str(NIL), "id must be a UUID, not str"),
        ("perhaps", 1, "perhaps must be a str, not int"),
    ],
)
async def test_what_can_not_be_stored_unchanged_is_refused_by_index_and_field(
    tmp_path: Path, field: str, value: object, text: str
) -> None:
    good = Everything(id=NIL)
    bad = msgspec.structs.replace(good, **{field: value})
    async with open_sqlite_repository(
        tmp_path / "a.db", table=EVERYTHING, create=True
    ) as repository:
        with pytest.raises(EntryRejectedError, match=text) as caught:
            await repository.upsert_many([good, bad])
        assert (caught.value.index, caught.value.field) == (1, field)
        assert (caught.value.table, caught.value.column) == ("everything", field)
        assert await repository.count() == 0


async def test_an_int_that_is_a_float_exactly_is_one(tmp_path: Path) -> None:
    found = await rows_of(tmp_path / "a.db", EVERYTHING, [Everything(id=NIL, real=2)])
    assert found[NIL].real == 2.0


async def test_a_nested_object_that_knows_no_equality_is_compared_by_its_document(
    tmp_path: Path,
) -> None:
    @dataclasses.dataclass(eq=False)
    class Inner:
        size: int

    kind = msgspec.defstruct("Outer", [("id", int), ("inner", Inner)])
    table = Table(kind, "outer", key="id")
    found = await rows_of(tmp_path / "a.db", table, [kind(1, Inner(5))])
    assert found[1].inner.size == 5


@pytest.mark.parametrize(("less", "more"), [("9.99", "10"), ("-10", "-9"), ("2", "1E+3")])
async def test_decimals_are_compared_as_numbers(tmp_path: Path, less: str, more: str) -> None:
    one, other = (Reading("a", 1, price=Decimal(text)) for text in (less, more))
    for name, versions in (("up", [one, other]), ("down", [other, one])):
        assert await rows_of(tmp_path / name, READINGS, versions) == {("a", 1): other}


async def test_decimals_are_compared_with_whatever_somebody_else_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_sqlite_repository(path, table=READINGS, create=True) as repository:
        for other in ("x", "NaN", "-Infinity"):
            await repository.upsert_many([Reading("a", 1, price=Decimal(-5))])
            execute(path, f"UPDATE reading SET price = '{other}'")  # from here
            await repository.upsert_many([Reading("a", 1, price=Decimal(-10))])
            assert execute(path, "SELECT price FROM reading") == [("-10",)]


async def test_a_bad_entry_is_a_dead_letter_and_its_neighbours_are_stored(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    letters = MemoryDeadLetters[Reading]()
    options = WriteBehindOptions(batch_size=10)
    async with (
        open_sqlite_repository(tmp_path / "a.db", table=READINGS, create=True) as repository,
        open_write_behind_queue(repository, options, dead_letters=letters) as queue,
    ):
        for number in range(10):
            await queue.enqueue(Reading("a", number, value="x" if number == 4 else 0.5))  # type: ignore[arg-type]  # bad
        await queue.flush()
        assert await repository.count() == 9
    assert [letter.key for letter in letters.letters] == [("a", 4)]


# Reading and deleting


async def test_keys_have_the_form_of_the_table_s_key(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_sqlite_repository(path, table=READINGS, create=True) as repository:
        await repository.upsert_many([Reading("a", 1), Reading("a", 2)])
        found = await repository.get_many([("a", 2), ("a", 3), ("a", 2)])
        assert found == {("a", 2): Reading("a", 2)}
        for bad in ("a", ("a",), ["a", 1]):
            with pytest.raises(TypeError, match=r"keys|hash"):
                await repository.get_many([bad])
        with pytest.raises(TypeError, match="hour must be an int, not str"):
            await repository.delete_many([("a", "1")])
        with pytest.raises(TypeError, match="keys must be an iterable of keys, not int"):
            await repository.get_many(5)  # type: ignore[arg-type]  # on purpose
        assert await repository.delete_many([("a", 1), ("a", 9)]) == 1
        assert await repository.count() == 1


async def test_many_rows_are_deleted_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provcache_trio.sqlite._file._STEP", 3)
    async with open_sqlite_repository(tmp_path / "a.db", table=READINGS, create=True) as repository:
        await repository.upsert_many([Reading("a", number) for number in range(8)])
        assert await repository.delete_where(sensor="a") == 8


async def test_those_that_expired_first_go_first(tmp_path: Path) -> None:
    async with open_sqlite_repository(tmp_path / "a.db", table=READINGS, create=True) as repository:
        await repository.upsert_many(
            [Reading("a", hour, until=NOW + timedelta(hours=hour)) for hour in range(-3, 3)]
            + [Reading("never", 1)]
        )
        assert await repository.delete_expired(NOW, 2) == 2
        left = await repository.get_many(("a", hour) for hour in range(-3, 3))
        assert min(left) == ("a", -1)
        assert await repository.delete_expired(NOW, 10) == 2
        assert await repository.count() == 3


# The file


MADE = """\
CREATE TABLE "reading" (
    "sensor" TEXT NOT NULL,
    "hour" INTEGER NOT NULL,
    "version" INTEGER,
    "value" REAL NOT NULL,
    "least" INTEGER,
    "greatest" TEXT,
    "price" TEXT,
    "until" TEXT,
    "first value" TEXT,
    PRIMARY KEY ("sensor", "hour")
)"""


async def test_a_table_that_is_made_is_strict_and_has_the_fields_types(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await rows_of(path, READINGS, [Reading("a", 1, until=NOW)])
    made = execute(path, "SELECT sql FROM sqlite_master WHERE name = 'reading'")
    assert made[0][0].removesuffix(" STRICT") == MADE
    assert execute(path, "SELECT until FROM reading") == [("2026-11-30T12:00:00.000000+00:00",)]
    assert execute(path, "PRAGMA journal_mode") == [("wal",)]
    assert execute(path, "SELECT tbl_name FROM sqlite_master WHERE name = 'reading_by_until'")


async def test_a_sqlite_that_knows_no_strict_tables_makes_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provcache_trio.sqlite._catalogue._HAS_STRICT", (99,))
    path = tmp_path / "a.db"
    await rows_of(path, READINGS, [Reading("a", 1)])
    assert execute(path, "SELECT sql FROM sqlite_master WHERE name = 'reading'") == [(MADE,)]


async def test_a_table_is_put_beside_those_of_somebody_else_if_that_is_asked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    execute(path, "CREATE TABLE other (a)")
    await rows_of(path, READINGS, [Reading("a", 1)])
    assert execute(path, "PRAGMA journal_mode") == [("delete",)]
    assert execute(path, "SELECT count(*) FROM reading") == [(1,)]


async def test_whoever_is_second_to_make_a_table_finds_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    looks: list[object] = []

    def look(connection: sqlite3.Connection, table: Table[Any]) -> object:
        found = read_plan(connection, table)
        looks.append(found)
        if len(looks) == 1:
            connection.execute("COMMIT")
            execute(path, MADE)
            connection.execute("BEGIN")
        return found

    monkeypatch.setattr("provcache_trio.sqlite._file.read_plan", look)
    await rows_of(path, READINGS, [Reading("a", 1)])
    assert looks[0] is None
    assert execute(path, "SELECT count(*) FROM reading") == [(1,)]


async def test_what_is_missing_is_not_made_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_sqlite_repository(path, table=READINGS) as repository:
        with pytest.raises(StoreMisconfiguredError, match="there is no such file"):
            await repository.check()
        assert not path.exists()
        execute(path, "CREATE TABLE other (a)")
        before = path.read_bytes()
        with pytest.raises(StoreMisconfiguredError, match="has no table 'reading'") as caught:
            await repository.check()
        assert caught.value.table == "reading"
        assert path.read_bytes() == before


async def test_a_file_that_is_somebody_else_s_is_altered_by_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    execute(path, "CREATE TABLE other (a)", MADE, "PRAGMA user_version = 7")
    for create in (False, True):
        async with open_sqlite_repository(path, table=READINGS, create=create) as repository:
            assert await repository.upsert_many([Reading("a", 1)]) == (not create)
    assert execute(path, "PRAGMA journal_mode") == [("delete",)]
    assert execute(path, "PRAGMA user_version") == [(7,)]
    assert execute(path, "SELECT count(*) FROM sqlite_master WHERE sql IS NOT NULL") == [(2,)]


WIDE = MADE.replace('    PRIMARY KEY ("sensor", "hour")\n', "    {}\n")


@pytest.mark.parametrize(
    ("statements", "text", "column"),
    [
        ([MADE.replace('    "least" INTEGER,\n', "")], "no column 'least', for field", "least"),
        ([MADE.replace('"first value" TEXT', '"first value" VARCHAR(9)')], None, None),
        (
            [MADE.replace('"greatest" TEXT', '"greatest" NUMERIC')],
            "column 'greatest' of type NUMERIC can't hold a str unchanged; TEXT can",
            "greatest",
        ),
        (
            [MADE.replace('"value" REAL', '"value" INTEGER')],
            "'value' of type INTEGER can't hold a float unchanged; REAL can",
            "value",
        ),
        (
            [MADE.replace('"price" TEXT', '"price" DECIMAL(10, 2)')],
            "'price' of type DECIMAL.* can't hold a Decimal unchanged",
            "price",
        ),
        (
            [MADE.replace('"until" TEXT', '"until" TIMESTAMP')],
            "'until' of type TIMESTAMP can't hold a datetime unchanged; TEXT or INTEGER can",
            "until",
        ),
        (
            [MADE.replace("PRIMARY", '"more" TEXT NOT NULL, PRIMARY')],
            "column 'more' is NOT NULL and has no default, and no field fills it",
            "more",
        ),
        ([MADE.replace("PRIMARY", "\"more\" TEXT NOT NULL DEFAULT '', PRIMARY")], None, None),
        (
            [MADE.replace('"least" INTEGER', '"least" INTEGER AS (1) STORED')],
            "column 'least' is generated",
            "least",
        ),
        (
            [WIDE.format("CHECK (hour > 0)")],
            r"no unique index on exactly its key \(\"sensor\"",
            None,
        ),
        ([WIDE.format('UNIQUE ("sensor")')], "no unique index on exactly", None),
        ([WIDE.format('UNIQUE ("hour", "sensor")')], None, None),
        (
            [
                WIDE.format("CHECK (1)"),
                "CREATE UNIQUE INDEX i ON reading (sensor, hour) WHERE hour",
            ],
            "no unique index on exactly",
            None,
        ),
        (
            [WIDE.format("CHECK (1)"), "CREATE INDEX i ON reading (sensor, hour)"],
            "no unique index on exactly",
            None,
        ),
        (
            [WIDE.format("CHECK (1)"), "CREATE UNIQUE INDEX i ON reading (sensor, hour + 1)"],
            "no unique index on exactly",
            None,
        ),
        (
            [MADE.replace('"sensor" TEXT', '"sensor" TEXT COLLATE NOCASE')],
            "compared by COLLATE NOCASE, not BINARY",
            None,
        ),
        (
            [MADE.replace('"reading"', '"base"'), "CREATE VIEW reading AS SELECT * FROM base"],
            "it is a view",
            None,
        ),
        (["CREATE VIRTUAL TABLE reading USING fts5 (sensor)"], "it is a virtual table", None),
        (["PRAGMA encoding = 'UTF-16'", MADE], "encoding must be UTF-8, not UTF-16", None),
        ([f"{MADE} STRICT".replace('"first value" TEXT', '"first value" ANY')], None, None),
        (
            [f"{MADE} STRICT".replace('"first value" TEXT', '"first value" BLOB')],
            "'first value' of type BLOB can't hold a str unchanged",
            "first value",
        ),
        ([f"{MADE} WITHOUT ROWID"], None, None),
        ([MADE.replace('"greatest"', '"GREATEST"')], None, None),
    ],
)
async def test_a_table_that_does_not_fit_names_the_column(
    tmp_path: Path, statements: list[str], text: str | None, column: str | None
) -> None:
    path = tmp_path / "a.db"
    execute(path, *statements)
    async with open_sqlite_repository(path, table=READINGS) as repository:
        if text is None:
            await repository.check()
            one = Reading("a", 1, version=1, first="007", greatest="1e3")
            assert await repository.upsert_many([one]) == 1
            assert await repository.get_many([("a", 1)]) == {("a", 1): one}
            assert await repository.delete_expired(NOW, 1) == 0
            return
        for call in (repository.check, lambda: repository.upsert_many([Reading("a", 1)])):
            with pytest.raises(StoreMisconfiguredError, match=text) as caught:
                await call()
            assert "table 'reading' does not fit Reading: " in str(caught.value)
            assert (caught.value.table, caught.value.column) == ("reading", column)


async def test_a_number_may_be_the_row_s_own(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    kind = msgspec.defstruct("Numbered", [("id", int), ("at", datetime), ("raw", bytes)])
    execute(path, "CREATE TABLE numbered (id INTEGER PRIMARY KEY, at INTEGER, raw BLOB) STRICT")
    one, other = kind(5, NOW, b"\0"), kind(6, NOW.astimezone(ZoneInfo("Asia/Tokyo")), b"")
    assert await rows_of(path, Table(kind, "numbered", key="id"), [one, other]) == {
        5: one,
        6: other,
    }
    assert execute(path, "SELECT DISTINCT at FROM numbered") == [(1_796_040_000_000_000,)]


async def test_text_is_compared_by_code_point_whatever_the_column_says(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    execute(path, MADE.replace('"greatest" TEXT', '"greatest" TEXT COLLATE NOCASE'))
    versions = [Reading("a", 1, greatest="B"), Reading("a", 1, greatest="b")]
    assert await rows_of(path, READINGS, versions) == folded(READINGS, versions)
    named = Table(Reading, "reading", key=("sensor", "hour"), columns=READINGS_COLUMNS)
    versions = [Reading("b", 1, greatest="B"), Reading("b", 1, greatest="b")]
    assert await rows_of(path, named, versions) == folded(named, versions)


READINGS_COLUMNS = {"first": "first value"}


async def test_a_migration_while_it_runs_is_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_sqlite_repository(path, table=READINGS, create=True) as repository:
        assert await repository.upsert_many([Reading("a", 1)]) == 1
        execute(path, "ALTER TABLE reading ADD COLUMN more TEXT")
        assert await repository.upsert_many([Reading("a", 2)]) == 1
        execute(path, "ALTER TABLE reading RENAME COLUMN least TO most")
        with pytest.raises(StoreMisconfiguredError, match="no column 'least'"):
            await repository.upsert_many([Reading("a", 3)])
        execute(path, "ALTER TABLE reading RENAME COLUMN most TO least")
        assert await repository.upsert_many([Reading("a", 3)]) == 1
        execute(path, "DROP TABLE reading")
        with pytest.raises(StoreMisconfiguredError, match="has no table 'reading'"):
            await repository.upsert_many([Reading("a", 4)])


async def test_two_that_make_the_table_at_once_make_one(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def work(number: int) -> None:
        async def is_stored() -> bool:
            # A slow disk may keep the other one's lock for longer than a call waits.
            with suppress(StoreUnavailableError):
                return await repository.upsert_many([Reading("a", number)]) == 1
            return False

        async with open_sqlite_repository(path, table=READINGS, create=True) as repository:
            await until(is_stored)

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(work, number)
    assert execute(path, "SELECT count(*) FROM reading") == [(2,)]


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("number", "'x'", "column 'number' holds str, not int"),
        ("moment", "'2026-01-01 00:00:00'", "column 'moment' holds str that says no such value"),
        ("moment", "'soon'", "column 'moment' holds str that says no such value"),
        ("flag", "2", "column 'flag' holds int that says no such value"),
        ("real", "'x'", "column 'real' holds str, not float"),
        ("price", "'x'", "column 'price' holds str that says no such value"),
        ("grade", "'fine'", "column 'grade' holds no value of a member of its Enum"),
        ("grade", "1.5", "column 'grade' holds no value of a member of its Enum"),
        ("place", "'{}'", "column 'place' holds JSON that says no such value"),
        ("place", "7", "column 'place' holds int, not str"),
        ("text", "NULL", "column 'text' holds NoneType, not str"),
    ],
)
async def test_a_row_that_somebody_else_wrote_is_told_by_its_column(
    tmp_path: Path, column: str, value: str, text: str
) -> None:
    path = tmp_path / "a.db"
    columns = [
        f"{field.column} {'TEXT' if field.kind == 'datetime' else ''}"
        for field in EVERYTHING.fields
    ]
    execute(path, f"CREATE TABLE everything ({', '.join(columns)}, UNIQUE (id))")
    async with open_sqlite_repository(path, table=EVERYTHING) as repository:
        await repository.upsert_many([Everything(id=NIL)])
        execute(path, f"UPDATE everything SET {column} = {value}")  # from here
        with pytest.raises(StoreMisconfiguredError, match=text) as caught:
            await repository.get_many([NIL])
        assert (caught.value.table, caught.value.column) == ("everything", column)


async def test_a_whole_number_of_somebody_else_s_is_a_float(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    execute(path, MADE.replace('"value" REAL', '"value"'))
    async with open_sqlite_repository(path, table=READINGS) as repository:
        await repository.upsert_many([Reading("a", 1)])
        execute(path, "UPDATE reading SET value = 3")
        found = (await repository.get_many([("a", 1)]))["a", 1].value
    assert (type(found), found) == (float, 3.0)


async def test_a_row_that_the_class_refuses_is_told(tmp_path: Path) -> None:
    class Picky(msgspec.Struct, frozen=True):
        id: int
        size: int = 1

        def __post_init__(self) -> None:
            if self.size < 1:
                raise ValueError(self.size)

    path = tmp_path / "a.db"
    table = Table(Picky, "picky", key="id")
    async with open_sqlite_repository(path, table=table, create=True) as repository:
        await repository.upsert_many([Picky(1)])
        execute(path, "UPDATE picky SET size = 0")
        with pytest.raises(StoreMisconfiguredError, match="no Picky: Picky raised ValueError"):
            await repository.get_many([1])


@pytest.mark.parametrize("value", [None, "x", math.nan])
async def test_a_bad_entry_with_journal_and_letters_is_kept_and_leaves_nothing_behind(
    tmp_path: Path, value: float
) -> None:
    bad = Reading("a", 1, value=value)
    journal = open_journal(tmp_path / "journal", entry_type=READINGS, sync_interval_seconds=0.01)
    letters = open_dead_letters(tmp_path / "letters.db", entry_type=READINGS)
    path = tmp_path / "a.db"
    async with journal as kept, letters as sink:
        async with (
            open_sqlite_repository(path, table=READINGS, create=True) as repository,
            open_write_behind_queue(repository, journal=kept, dead_letters=sink) as queue,
        ):
            await queue.enqueue_many([Reading("a", 0), bad, Reading("a", 2)])
            await queue.flush()
            metrics = queue.metrics()
            assert (metrics.total_persisted, metrics.total_failed, metrics.in_flight) == (2, 1, 0)
            with trio.fail_after(HANG_SECONDS):
                while not queue.metrics().durable:  # noqa: ASYNC110  # nothing is told
                    await trio.sleep(0.01)
        (unread,) = await sink.letters()
        assert isinstance(unread, UnreadableLetter)
        assert (unread.id, unread.key) == (1, '["a",1]')
        assert unread.reason is not None
        assert unread.reason.startswith("value must ")
    async with open_dead_letters(tmp_path / "letters.db", entry_type=object) as raw:
        (found,) = await raw.letters()
        assert isinstance(found, StoredLetter)
        assert found.letter.field == "value"
