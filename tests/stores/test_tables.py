"""Tables of every shape keep the same promises in memory, in SQLite and in PostgreSQL."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from hypothesis import given, settings, strategies as st

from provcache_trio import (
    EntryRejectedError,
    Table,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._vocabulary.fields import quoted
from provcache_trio.postgres import PostgresRepository, open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository, check_repository

from tests.support.servers import postgres, run_sql, unused_schema
from tests.support.shapes import SHAPES, Shape
from tests.support.tables import NOW, READINGS, Everything, Reading, everything, folded, readings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from provcache_trio.sqlite import SQLiteRepository

    Opener = Callable[[Table[Any]], AbstractAsyncContextManager[Any]]

STORES = ["sqlite", "postgres"]
each_store = pytest.mark.parametrize("store", STORES)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=[one.table.name for one in SHAPES])
fewer = settings(max_examples=settings().max_examples // 2)


def placed(table: Table[Any], schema: str) -> Table[Any]:
    """Return the same table in that schema."""
    rules = {field.name: field.rule for field in table.fields if field.rule != "newest"}
    return Table(
        table.entry_type,
        table.name,
        schema=schema,
        key=tuple(field.name for field in table.key_fields)
        if len(table.key_fields) > 1
        else table.key_fields[0].name,
        newer=table.newer_field and table.newer_field.name,
        merge=rules,
        columns={field.name: field.column for field in table.fields},
        expires=table.expires_field and table.expires_field.name,
    )


def in_postgres(table: Table[Any]) -> AbstractAsyncContextManager[PostgresRepository[Any]]:
    return open_postgres_repository(
        postgres().dsn, table=placed(table, unused_schema()), create=True
    )


@pytest.fixture
def opener(store: str, tmp_path: Path) -> Opener:
    numbers = count()

    def in_sqlite(table: Table[Any]) -> AbstractAsyncContextManager[SQLiteRepository[Any]]:
        return open_sqlite_repository(tmp_path / f"{next(numbers)}.db", table=table, create=True)

    return in_sqlite if store == "sqlite" else in_postgres


@each_shape
@each_store
async def test_a_table_of_any_shape_keeps_its_promises(opener: Opener, shape: Shape) -> None:
    await check_repository(
        lambda: opener(shape.table), shape.make, refused=shape.refused, writers=2
    )


@each_shape
@each_store
async def test_what_can_not_be_stored_is_refused_by_index_and_field(
    opener: Opener, shape: Shape
) -> None:
    async with opener(shape.table) as repository:
        good = [shape.make(number, 1) for number in range(5)]
        with pytest.raises(EntryRejectedError) as caught:
            await repository.upsert_many([*good[:3], shape.refused(7), *good[3:]])
        assert caught.value.index == 3
        assert caught.value.field in {field.name for field in shape.table.fields}
        assert await repository.count() == 0
        assert await repository.upsert_many(good) == 5


# Drawn


@asynccontextmanager
async def opened_everywhere(
    folder: Path, table: Table[Any], schema: str
) -> AsyncGenerator[dict[str, Any]]:
    """Enter the table in memory, SQLite and PostgreSQL; what was in there is deleted."""
    async with AsyncExitStack() as stack:
        yield {
            "memory": MemoryRepository[Any](table=table),
            "sqlite": await stack.enter_async_context(
                open_sqlite_repository(folder / "a.db", table=table, create=True)
            ),
            "postgres": await stack.enter_async_context(
                open_postgres_repository(
                    postgres().dsn,
                    table=placed(table, schema),
                    create=True,
                    # Trio-asyncio's import can't be interrupted; a thread costs less here.
                    bridge="thread",
                )
            ),
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return tmp_path_factory.mktemp("drawn"), unused_schema()


batches = st.lists(st.lists(readings(), max_size=4), min_size=1, max_size=5)


@given(batches=batches)
@fewer
def test_every_store_merges_as_memory_does(
    place: tuple[Path, str], batches: list[list[Reading]]
) -> None:
    async def stored() -> None:
        async with opened_everywhere(place[0], READINGS, place[1]) as stores:
            keys = [(sensor, hour) for sensor in "aB" for hour in (0, 1)]
            for repository in stores.values():
                await repository.delete_many(keys)
                for batch in batches:
                    await repository.upsert_many(batch)
            expected = folded(READINGS, [one for batch in batches for one in batch])
            for name, repository in stores.items():
                assert await repository.get_many(keys) == expected, name

    trio.run(stored)


async def is_stored(repository: PostgresRepository[Any], entries: list[Everything]) -> bool:
    """Store entries, but for what SQLite can hold and PostgreSQL can't."""
    with suppress(EntryRejectedError):
        await repository.upsert_many(entries)
        return True
    with pytest.raises(EntryRejectedError, match=r"hold NUL|digits than numeric has"):
        await repository.upsert_many(entries)
    return False


@given(entries=st.lists(everything(), min_size=1, max_size=4, unique_by=lambda one: one.id))
@fewer
def test_every_store_brings_back_everything_as_it_was(
    place: tuple[Path, str], entries: list[Everything]
) -> None:
    table = Table(Everything, "everything", key="id")

    async def stored() -> None:
        async with opened_everywhere(place[0], table, place[1]) as stores:
            for name, repository in stores.items():
                if name == "postgres" and not await is_stored(repository, entries):
                    continue
                if name != "postgres":
                    await repository.upsert_many(entries)
                found = await repository.get_many(one.id for one in entries)
                assert found == {one.id: one for one in entries}
                for one in entries:  # True == 1, and an Enum of int is one
                    pairs = zip(
                        msgspec.structs.astuple(found[one.id]),
                        msgspec.structs.astuple(one),
                        strict=True,
                    )
                    assert all(type(back) is type(value) for back, value in pairs)

    trio.run(stored)


# Reading and deleting


@each_store
async def test_keys_that_are_none_are_named(opener: Opener) -> None:
    async with opener(READINGS) as repository:
        await repository.upsert_many([Reading("a", 1), Reading("a", 2)])
        with pytest.raises(TypeError, match="must be a tuple of sensor, hour"):
            await repository.get_many(["a"])
        with pytest.raises(TypeError, match="hour must be an int, not str"):
            await repository.delete_many([("a", "1")])
        with pytest.raises(TypeError, match="keys must be an iterable of keys, not str"):
            await repository.get_many("a")
        assert await repository.delete_many([("a", 1), ("a", 9), ("a", 1)]) == 1
        assert await repository.count() == 1


@each_store
async def test_rows_are_deleted_by_fields_and_by_version(opener: Opener) -> None:
    entries = [Reading("a", n, version=n or None, value=1.5 * (n % 2)) for n in range(6)]
    async with opener(READINGS) as repository:
        await repository.upsert_many(entries)
        assert await repository.delete_where(value=1.5, before=3) == 1
        assert await repository.delete_where(sensor="b") == 0
        assert await repository.delete_where(first=None, hour=0, before=1) == 1
        assert await repository.delete_where(sensor="a", hour=2) == 1
        assert await repository.delete_where(sensor="a", before=5) == 2
        assert list(await repository.get_many((e.sensor, e.hour) for e in entries)) == [("a", 5)]


@each_store
async def test_what_says_nothing_deletes_nothing(opener: Opener) -> None:
    async with opener(READINGS) as repository:
        await repository.upsert_many([Reading("a", 1)])
        for conditions, error, text in (
            ({}, TypeError, "at least one field=value"),
            ({"before": 1}, TypeError, "at least one field=value"),
            ({"nope": 1}, ValueError, "Reading has no field 'nope'"),
            ({"hour": "1"}, TypeError, "hour must be an int, not str"),
            ({"hour": 1, "before": "1"}, TypeError, "version must be an int, not str"),
        ):
            with pytest.raises(error, match=text):
                await repository.delete_where(**conditions)
        assert await repository.count() == 1


@each_store
async def test_what_a_table_does_not_say_can_not_be_asked(opener: Opener) -> None:
    async with opener(Table(Everything, "everything", key="id")) as repository:
        with pytest.raises(TypeError, match="declared without expires="):
            await repository.delete_expired(NOW, 1)
        with pytest.raises(TypeError, match="declared without newer="):
            await repository.delete_where(text="", before=1)
        with pytest.raises(TypeError, match="numbers is stored as JSON"):
            await repository.delete_where(numbers=[1])


@each_store
async def test_another_class_is_refused_and_so_is_a_field_without_a_value(opener: Opener) -> None:
    class Special(Reading):
        pass

    half: Any = object.__new__(Reading)
    async with opener(READINGS) as repository:
        with pytest.raises(EntryRejectedError, match="must be a Reading, not Special") as caught:
            await repository.upsert_many([Reading("a", 1), Special("a", 2)])
        assert caught.value.index == 1
        with pytest.raises(EntryRejectedError, match="sensor has no value"):
            await repository.upsert_many([half])


class Flaky:
    """A property that raises as often as it is told to."""

    def __init__(self) -> None:
        self.failures = 0

    def __get__(self, *_: object) -> str:
        self.failures -= 1
        if self.failures >= 0:
            raise AttributeError
        return "x"


@each_store
async def test_an_entry_that_changed_while_it_was_looked_at_is_refused(opener: Opener) -> None:
    entry: type[Any] = dataclasses.make_dataclass("Entry", [("id", int), ("text", str, "")])
    async with opener(Table(entry, "t", key="id")) as repository:
        await repository.check()
        one = entry(1)
        del one.text
        entry.text = flaky = Flaky()
        flaky.failures = 1 if isinstance(repository, PostgresRepository) else 2
        with pytest.raises(EntryRejectedError, match="changed while it was being stored"):
            await repository.upsert_many([one])


@each_store
async def test_a_table_of_extremes_only_takes_the_extremes(opener: Opener) -> None:
    kind = msgspec.defstruct("Extremes", [("id", int), ("high", int), ("low", int | None)])
    table = Table(kind, "t", key="id", merge={"high": "greatest", "low": "least"})
    async with opener(table) as repository:
        assert await repository.upsert_many([kind(1, 5, None)]) == 1
        assert await repository.upsert_many([kind(1, 4, None)]) == 0
        assert await repository.upsert_many([kind(1, 4, 7)]) == 1
        assert await repository.upsert_many([kind(1, 4, 7), kind(1, 5, 8)]) == 0
        assert await repository.get_many([1]) == {1: kind(1, 5, 7)}


@each_store
async def test_any_number_of_values_that_do_not_fit_stops_nothing(opener: Opener) -> None:
    letters = MemoryDeadLetters[Reading]()
    options = WriteBehindOptions(batch_size=40, flush_interval_seconds=0)
    async with (
        opener(READINGS) as repository,
        open_write_behind_queue(repository, options, dead_letters=letters) as queue,
    ):
        for number in range(100):
            await queue.enqueue(Reading("a", number, price=Decimal("NaN")))
        await queue.flush()
        assert queue.metrics().total_failed == 100
        with pytest.raises(
            EntryRejectedError, match=r"the store refused the entry \(price must"
        ) as caught:
            await queue.persist(Reading("b", 0, price=0.5))  # type: ignore[arg-type]  # bad
        await queue.persist(Reading("b", 1))
    assert caught.value.reason == "price must be a Decimal, not float"
    assert {letter.reason for letter in letters.letters} == {
        "price must be a finite Decimal",
        "price must be a Decimal, not float",
    }


class Remark(msgspec.Struct, frozen=True):
    """An entry of which two fields may be None."""

    id: int
    text: str | None = None
    more: dict[str, int] | None = None


@pytest.mark.parametrize("store", STORES)
async def test_check_reports_a_field_that_may_be_none_where_the_table_takes_no_null(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strict = {"text": "text NOT NULL DEFAULT 'x'", "more": "text NOT NULL"}
    lines = ", ".join(f"{name} {column}" for name, column in strict.items())
    statement = f"CREATE TABLE remark (id bigint PRIMARY KEY, {lines})"
    opened: AbstractAsyncContextManager[Any]
    if store == "sqlite":
        with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
            connection.execute(statement)
        opened = open_sqlite_repository(tmp_path / "a.db", table=Table(Remark, "remark", key="id"))
    else:
        schema = unused_schema()
        script = f"CREATE SCHEMA {quoted(schema)}; SET search_path = {quoted(schema)}; {statement}"
        await run_sql(postgres().dsn, script)
        table = Table(Remark, "remark", schema=schema, key="id")
        opened = open_postgres_repository(postgres().dsn, table=table)
    async with opened as repository:
        await repository.check()
        assert [record.getMessage() for record in caplog.records] == [
            f"table remark: column {name} is NOT NULL, and field {name} may be None; such an entry "
            "is refused"
            for name in strict
        ]
        full = Remark(1, "x", {"a": 1})
        for bad, field in ((Remark(2, None, {}), "text"), (Remark(2, "x", None), "more")):
            with pytest.raises(EntryRejectedError) as caught:
                await repository.upsert_many([full, bad])
            error = caught.value
            assert (error.index, error.field, error.local) == (1, field, True)
        assert await repository.upsert_many([full]) == 1
        assert await repository.get_many([1]) == {1: full}
