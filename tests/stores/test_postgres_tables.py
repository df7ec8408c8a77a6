"""Tables of the user's own in PostgreSQL: whatever the server has, nothing is stored changed."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import pytest
import trio

from provcache_trio import (
    EntryRejectedError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    Table,
    TransientStoreError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._asyncio.bridge import DEFAULT_KIND
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.postgres._requests import next_keys
from provcache_trio.postgres._tables import TableInDatabase
from provcache_trio.testing import MemoryDeadLetters

from tests.support.bridges import Client, each_bridge
from tests.support.postgres import connections, quoted, schema
from tests.support.servers import other_postgres, postgres
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import asyncpg

    from provcache_trio._asyncio.bridge import BridgeKind
    from provcache_trio._vocabulary.fields import MergeRule
    from provcache_trio.postgres import PostgresRepository
    from provcache_trio.postgres._pool import SessionPool
    from provcache_trio.postgres._session import Statement

E = TypeVar("E")

__all__ = ["schema"]  # a fixture

DAY = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Thing(msgspec.Struct, frozen=True):
    """An entry with one field, whose type each test chooses."""

    id: int
    value: Any = None


class Note(msgspec.Struct, frozen=True):
    """A small entry."""

    id: int
    text: str = ""
    version: int = 0


def thing(kind: object) -> type[Any]:
    """Return a class of entries whose value has that type."""
    return msgspec.defstruct("Thing", [("id", int), ("value", kind)], frozen=True)


class Place:
    """A schema of one's own, a connection of somebody else's, and tables in it."""

    def __init__(self, schema: str, client: Client, dsn: str) -> None:
        self.schema, self.client, self.dsn = schema, client, dsn

    def name(self, name: str) -> str:
        return f"{quoted(self.schema)}.{quoted(name)}"

    async def execute(self, statements: str) -> None:
        await self.client.execute(f"SET search_path = {quoted(self.schema)}; {statements}")

    async def rows(self, query: str) -> list[tuple[object, ...]]:
        await self.client.execute(f"SET search_path = {quoted(self.schema)}")
        return await self.client.fetch(query)

    def table(
        self,
        kind: type[E],
        name: str = "t",
        *,
        key: str | tuple[str, ...] = "id",
        newer: str | None = None,
        merge: Mapping[str, MergeRule] | None = None,
        expires: str | None = None,
    ) -> Table[E]:
        return Table(
            kind, name, schema=self.schema, key=key, newer=newer, merge=merge, expires=expires
        )

    def open(
        self,
        kind: type[E] | Table[E],
        *,
        create: bool = False,
        bridge: BridgeKind = DEFAULT_KIND,
        write_connections: int = 4,
        server_settings: Mapping[str, str] | None = None,
        pgbouncer: bool = False,
    ) -> AbstractAsyncContextManager[PostgresRepository[E]]:
        return open_postgres_repository(
            self.dsn,
            table=kind if isinstance(kind, Table) else self.table(kind),
            create=create,
            bridge=bridge,
            write_connections=write_connections,
            server_settings=server_settings,
            pgbouncer=pgbouncer,
        )


@pytest.fixture
async def place(schema: str) -> AsyncGenerator[Place]:
    async with Client(postgres().dsn) as client:
        await client.execute(f"CREATE SCHEMA {quoted(schema)}")
        yield Place(schema, client, postgres().dsn)


# Columns of every type


class Case(NamedTuple):
    """A column, a field, values that come back as they were, and values that are refused."""

    column: str
    kind: Any
    good: tuple[Any, ...]
    bad: tuple[tuple[Any, str], ...] = ()


CASES = [
    Case("text", str, ("", "é\n\\\"'{},", "null"), (("a\0b", "must not hold NUL"), (b"", "a str"))),
    Case("varchar(3)", str, ("abc", "ü☃é"), (("abc ", "3 characters at most"),)),
    Case("text COLLATE ignoring", str, ("a", "A")),
    Case("colour", Colour, (Colour.RED, Colour.GREEN), (("red", "a member of its Enum"),)),
    Case("colour", str, ("red",), (("blue", "a label of its column's type"), (1, "a str"))),
    Case("colour", Literal["red"], ("red",), (("green", "one of those of its Literal"),)),
    Case("small", int, (1, 9)),
    Case(
        "smallint", int, (-(2**15), 2**15 - 1), ((2**15, "-2**15 to 2**15 - 1"), (True, "an int"))
    ),
    Case("integer", int, (2**31 - 1,), ((-(2**31) - 1, "-2**31 to 2**31 - 1"),)),
    Case("bigint", int, (-(2**63), 2**63 - 1), ((2**63, "2**63 - 1"), (1.0, "an int"))),
    Case("double precision", float, (1e308, 5e-324, float("inf"), 1), ((2**60 + 1, "exactly"),)),
    Case("boolean", bool, (True, False), ((1, "a bool"),)),
    Case("bytea", bytes, (b"", b"\0\xff\\"), (("x", "bytes"),)),
    Case("uuid", UUID, (UUID(int=2**128 - 1),), (("x", "a UUID"),)),
    Case(
        "numeric",
        Decimal,
        (Decimal("1E+3"), Decimal("-0.00001"), Decimal("1" * 100)),
        (
            (Decimal("NaN"), "finite"),
            (Decimal("1E+131072"), "no more digits than numeric has"),
            (Decimal("1E-16384"), "no more digits than numeric has"),
            (1, "a Decimal"),
        ),
    ),
    Case(
        "numeric(5, 2)",
        Decimal,
        (Decimal("999.99"), Decimal("1.500"), Decimal("-0")),
        ((Decimal("1.005"), "5 digits at most, 2 after"), (Decimal(1000), "5 digits at most")),
    ),
    Case(
        "timestamptz",
        datetime,
        (DAY, datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
        ((datetime(2026, 1, 1), "aware"), (DAY.date(), "a datetime")),  # noqa: DTZ001  # that is it
    ),
    Case(
        "timestamptz(3)",
        datetime,
        (DAY.replace(microsecond=123000),),
        ((DAY.replace(microsecond=123400), "3 digits of a second at most"),),
    ),
    Case("date", date, (date.min, date.max), ((DAY, "a date"),)),
    Case(
        "time",
        time,
        (time.min, time.max),
        ((time(tzinfo=UTC), "without a tzinfo"), (DAY, "a time")),
    ),
    Case("time(0)", time, (time(1, 2, 3),), ((time(microsecond=1), "0 digits of a second"),)),
    Case(
        "interval",
        timedelta,
        (timedelta(-1, 1, 1), timedelta.max, timedelta.min, timedelta(0)),
        ((1, "a timedelta"),),
    ),
    Case(
        "jsonb",
        dict[str, Any],
        ({}, {"a": [1, None, "\\u0000", 1e16], "é": "5e7"}, {"e": 5e-324}),
        (
            ({"a": "\0"}, "must not hold NUL"),
            ({"a": float("nan")}, "JSON"),
            ({"a": 1e300}, "no float that jsonb turns into another number"),
            ([], "JSON"),
        ),
    ),
    Case("jsonb", list[float], ([1e300, 1e-300, 1.0],)),
    Case("json", list[int], ([], [1, 2]), (([True], "JSON"),)),
    Case("text", tuple[int, str], ((1, "x\0"),), (((1,), "JSON"),)),
    Case("bigint[]", list[int], ([], [1, -5]), (([2**63], "2**63"), ((1,), "a list, not tuple"))),
    Case("tags", frozenset[str], (frozenset({"a", "b"}), frozenset())),
    Case(
        "text[]",
        tuple[str | None, ...],
        (("", None, "NULL", '{"\\,é'),),
        ((("a\0",), "must not hold NUL"),),
    ),
    Case(
        "double precision[]",
        list[list[float]],
        ([[1.5, 2.0], [float("inf"), -0.5]],),
        (([[1.0], [1.0, 2.0]], "rows of one length"), ([[]], "no empty rows"), ([1.0], "a list")),
    ),
    Case("bytea[]", list[bytes], ([b"\\", b'"', b"\0"],)),
    Case("uuid[]", set[UUID], ({UUID(int=1), UUID(int=2)},)),
    Case("timestamptz[]", list[datetime], ([DAY],)),
    Case("boolean[]", list[bool], ([True, False],)),
    Case("numeric(3, 1)[]", list[Decimal], ([Decimal("1.5")],), (([Decimal("1.25")], "1 after"),)),
    Case("interval[]", list[timedelta], ([timedelta(-1, 5)],)),
    Case("colour[]", list[Colour], ([Colour.RED, Colour.GREEN],)),
    Case("small[]", list[int], ([1, 9], []), (([2**15], "2**15 - 1"),)),
    Case("short[]", tuple[str, ...], (("abc", "ü☃é"),), ((("abcd",), "3 characters at most"),)),
    Case("hue[]", list[list[Colour]], ([[Colour.RED], [Colour.GREEN]],)),
]
MAKE_TYPES = """
    CREATE TYPE colour AS ENUM ('red', 'green', 'other');
    CREATE DOMAIN nonzero AS smallint CHECK (VALUE <> 0);
    CREATE DOMAIN small AS nonzero CHECK (VALUE < 10);
    CREATE DOMAIN tags AS text[];
    CREATE DOMAIN short AS varchar(3);
    CREATE DOMAIN hue AS colour CHECK (VALUE <> 'other');
    CREATE COLLATION ignoring (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
"""


@pytest.fixture
async def with_icu(schema: str) -> AsyncGenerator[Place]:
    """A place on a server that has collations of ICU, as Debian's, with types of one's own."""
    for server in (postgres(), other_postgres()):
        async with Client(server.dsn) as client:
            known = await client.value("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'")
            if known in {0, 1}:  # "unicode" is there even without ICU
                continue
            await client.execute(f"CREATE SCHEMA {quoted(schema)}")
            somewhere = Place(schema, client, server.dsn)
            await somewhere.execute(MAKE_TYPES)
            yield somewhere
            return
    pytest.skip("no server here has collations of ICU")


async def test_what_a_column_can_hold_comes_back_as_it_was_and_nothing_else_is_stored(
    with_icu: Place,
) -> None:
    place = with_icu
    for number, case in enumerate(CASES):
        kind = thing(case.kind | None if case.column != "json" else case.kind)
        table = place.table(kind, f"t{number}")
        await place.execute(f"CREATE TABLE t{number} (id bigint PRIMARY KEY, value {case.column})")
        async with place.open(table, bridge="thread") as repository:
            entries = [kind(at, value) for at, value in enumerate(case.good)]
            assert await repository.upsert_many(entries) == len(entries), case
            found = await repository.get_many(range(len(entries)))
            assert [one.value for one in found.values()] == [one.value for one in entries], case
            assert await repository.upsert_many(entries) == 0, case
            for at, value in enumerate(case.good):
                assert type(found[at].value) is type(value) or value == 1, case
            for value, text in case.bad:
                with pytest.raises(EntryRejectedError, match=r"^value ") as caught:
                    await repository.upsert_many([*entries, kind(99, value)])
                assert text in str(caught.value), case
                assert (caught.value.index, caught.value.field) == (len(entries), "value"), case
            if case.column != "json":
                assert await repository.upsert_many([kind(0, None)]) == 1
                assert (await repository.get_many([0]))[0].value is None


@dataclasses.dataclass(frozen=True)
class Keyed:
    """A key of every kind that may be one."""

    text: str
    number: int
    flag: bool
    blob: bytes
    uuid: UUID
    day: date
    at: datetime
    colour: Colour


async def test_keys_of_every_kind_find_their_rows_again(place: Place) -> None:
    names = [field.name for field in dataclasses.fields(Keyed)]
    table = Table(Keyed, "keyed", schema=place.schema, key=tuple(names))
    entries = [
        Keyed(f"{n}'", n, bool(n % 2), bytes([n]), UUID(int=n), DAY.date(), DAY, Colour.RED)
        for n in range(3)
    ]
    async with place.open(table, create=True) as repository:
        assert await repository.upsert_many(entries) == 3
        assert await repository.upsert_many(entries) == 0
        keys = [table.key(entry) for entry in entries]
        assert await repository.get_many(keys) == dict(zip(keys, entries, strict=True))
        assert await repository.delete_many(keys[1:]) == 2
        for name in names:
            assert await repository.delete_where(**{name: getattr(entries[0], name)}) == 1
            await repository.upsert_many(entries[:1])


# Whether the table fits


MISFITS: list[tuple[str, type[Any], str]] = [
    ("", Note, "there is no table 't' in schema"),
    ("CREATE TABLE t (id bigint PRIMARY KEY, text text)", Note, "it has no column 'version'"),
    (
        "CREATE TABLE t (id bigint, text text, version bigint)",
        Note,
        'it has no unique index on exactly its key "id"',
    ),
    (
        "CREATE TABLE t (id bigint, text text, version bigint, UNIQUE (id, version))",
        Note,
        "no unique index",
    ),
    (
        "CREATE TABLE t (id bigint UNIQUE DEFERRABLE, text text, version bigint)",
        Note,
        "no unique index",
    ),
    (
        """CREATE TABLE t (id bigint, text text, version bigint);
        CREATE UNIQUE INDEX ON t (id) WHERE version > 0;
        CREATE UNIQUE INDEX ON t ((id + 0))""",
        Note,
        "no unique index",
    ),
    (
        "CREATE TABLE t (id bigint PRIMARY KEY, text text, version bigint, more int NOT NULL)",
        Note,
        "column 'more' is NOT NULL and has no default, and no field fills it",
    ),
    (
        """CREATE TABLE t (
            id bigint PRIMARY KEY, text text, version bigint GENERATED ALWAYS AS (id) STORED
        )""",
        Note,
        "column 'version' is generated",
    ),
    (
        """CREATE TABLE t (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text, version bigint
        )""",
        Note,
        "column 'id' is generated",
    ),
    (
        "CREATE TABLE t (id real PRIMARY KEY, text text, version bigint)",
        Note,
        "column 'id' of type real can't hold a int unchanged; int8 or int4 or int2 can",
    ),
    (
        "CREATE TABLE t (id bigint PRIMARY KEY, text character(3), version bigint)",
        Note,
        "column 'text' of type character(3) can't hold a str unchanged",
    ),
    (
        "CREATE TABLE t (id bigint PRIMARY KEY, text text[], version bigint)",
        Note,
        "column 'text' of type text[] can't hold a str unchanged",
    ),
    (
        "CREATE TABLE t (id bigint PRIMARY KEY, value interval(3))",
        thing(timedelta),
        "column 'value' of type interval(3) can't hold a timedelta",
    ),
    (
        "CREATE TABLE t (id bigint PRIMARY KEY, value jsonb[])",
        thing(list[dict[str, int]]),
        "column 'value' of type jsonb[] can't hold a JSON unchanged",
    ),
    (
        "CREATE TABLE t (id bigint PRIMARY KEY, value int)",
        thing(dict[str, int]),
        "column 'value' of type integer can't hold a JSON unchanged; jsonb or json or text can",
    ),
    (
        "CREATE TYPE colour AS ENUM ('red'); CREATE TABLE t (id bigint PRIMARY KEY, value colour)",
        thing(Colour),
        ".colour has no label 'green'",
    ),
    (
        """CREATE TABLE u (id bigint PRIMARY KEY, text text, version bigint);
        CREATE MATERIALIZED VIEW t AS SELECT * FROM u""",
        Note,
        "it is a materialized view, into which PostgreSQL can't upsert",
    ),
]


async def test_a_table_that_does_not_fit_is_named_with_its_column(place: Place) -> None:
    for statements, kind, text in MISFITS:
        await place.execute(
            "DROP TABLE IF EXISTS u CASCADE; DROP TABLE IF EXISTS t CASCADE;"
            f" DROP TYPE IF EXISTS colour; {statements}"
        )
        async with place.open(kind) as repository:
            with pytest.raises(StoreMisconfiguredError) as caught:
                await repository.check()
        assert text in str(caught.value)
        assert caught.value.table == "t"
        assert caught.value.column in {None, "more", "version", "id", "text", "value"}


async def test_a_key_whose_collation_takes_different_texts_for_equal_is_refused(
    with_icu: Place,
) -> None:
    await with_icu.execute(
        "CREATE TABLE t (id bigint, text text COLLATE ignoring PRIMARY KEY, version bigint)"
    )
    table = with_icu.table(Note, key="text")
    async with with_icu.open(table) as repository:
        with pytest.raises(StoreMisconfiguredError, match='its key "text" has a collation'):
            await repository.check()


async def test_versions_are_ordered_by_code_point_whatever_the_collation(with_icu: Place) -> None:
    """By the rules of "en", a < B; by code point, B < a."""
    await with_icu.execute(
        'CREATE TABLE t (id text COLLATE "en-x-icu" PRIMARY KEY,'
        ' value text COLLATE "en-x-icu", least text COLLATE "en-x-icu", n text COLLATE ignoring)'
    )
    kind = msgspec.defstruct("Texts", [("id", str), ("value", str), ("least", str), ("n", str)])
    table = with_icu.table(kind, newer="value", merge={"least": "least"})
    versions = [kind("k", "B", "a", "x"), kind("k", "a", "B", "X"), kind("k", "C", "Z", "y")]
    async with with_icu.open(table) as repository:
        for one in versions:
            await repository.upsert_many([one])
        assert await repository.get_many(["k"]) == {"k": kind("k", "a", "B", "X")}
        # What a collation takes for equal is written all the same, and found by what it is.
        assert await repository.upsert_many([kind("k", "a", "B", "x")]) == 1
        assert await repository.delete_where(n="X") == 0
        assert await repository.delete_where(n="x", before="b") == 1


# What else there is in a database


async def test_quoted_names_and_the_search_path_are_taken_as_they_are(place: Place) -> None:
    await place.execute(
        'CREATE TABLE "T ""1"" %s" ("I d" bigint PRIMARY KEY, "te""xt" text, "Version" bigint)'
    )
    columns = {"id": "I d", "text": 'te"xt', "version": "Version"}
    named = Table(Note, 'T "1" %s', key="id", columns=columns)
    one = Note(1, "x", 2)
    path = {"search_path": quoted(place.schema)}
    async with open_postgres_repository(place.dsn, table=named, server_settings=path) as repository:
        assert await repository.upsert_many([one]) == 1
        assert await repository.get_many([1]) == {1: one}
    async with open_postgres_repository(place.dsn, table=named) as repository:
        with pytest.raises(StoreMisconfiguredError, match="in the search path"):
            await repository.check()


async def test_partitions_views_defaults_and_generated_columns_work(place: Place) -> None:
    await place.execute("""
        CREATE TABLE parted (
            id bigint, text text, version bigint, PRIMARY KEY (id, version),
            at timestamptz NOT NULL DEFAULT now(), number serial,
            twice bigint GENERATED ALWAYS AS (id * 2) STORED
        ) PARTITION BY RANGE (version);
        CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10);
        CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20);
        CREATE VIEW t AS SELECT id, text, version FROM parted WHERE id < 100
            WITH CHECK OPTION;
    """)
    for name in ("parted", "t"):
        table = place.table(Note, name, key=("id", "version"))
        async with place.open(table) as repository:
            entries = [Note(n, name, n % 20) for n in range(40)]
            assert await repository.upsert_many(entries) == 40
            assert await repository.upsert_many(entries) == 0
            assert len(await repository.get_many(map(table.key, entries))) == 40
            assert await repository.delete_many([(1, 1), (12, 12)]) == 2
            assert await repository.delete_where(id=2) == 1
    async with place.open(place.table(Note, "parted", key=("id", "version"))) as repository:
        with pytest.raises(StoreMisconfiguredError) as caught:  # somebody has to attach one
            await repository.upsert_many([Note(1, version=99)])
        assert caught.value.sqlstate == "23514"
    async with place.open(place.table(Note, "t", key=("id", "version"))) as repository:
        with pytest.raises(EntryRejectedError) as refused:
            await repository.upsert_many([Note(1), Note(100)])
        assert refused.value.sqlstate == "44000"


async def test_a_view_with_triggers_instead_can_not_be_upserted_into(place: Place) -> None:
    await place.execute("""
        CREATE TABLE u (id bigint PRIMARY KEY, text text, version bigint);
        CREATE VIEW t AS SELECT id, max(text) AS text, 0::bigint AS version FROM u GROUP BY id;
        CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
        CREATE TRIGGER i INSTEAD OF INSERT ON t FOR EACH ROW EXECUTE FUNCTION skip();
    """)
    async with place.open(Note) as repository:
        with pytest.raises(StoreMisconfiguredError):
            await repository.check()


async def test_a_row_whose_parent_is_on_its_way_is_tried_again(place: Place) -> None:
    await place.execute("""
        CREATE TABLE parent (id bigint PRIMARY KEY);
        CREATE TABLE t (id bigint PRIMARY KEY, text text, version bigint REFERENCES parent);
    """)
    async with place.open(Note) as repository:
        with pytest.raises(TransientStoreError) as caught:
            await repository.upsert_many([Note(5, version=7)])
        assert (caught.value.sqlstate, caught.value.table) == ("23503", "t")
        await place.execute("INSERT INTO parent VALUES (7)")
        assert await repository.upsert_many([Note(5, version=7)]) == 1


async def test_what_row_security_forbids_is_the_row_s_fault_and_a_missing_grant_is_not(
    place: Place,
) -> None:
    role = f"role of {place.schema}"
    await place.execute(f"""
        CREATE TABLE t (id bigint PRIMARY KEY, text text, version bigint, hidden text);
        ALTER TABLE t ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON t USING (id < 10);
        CREATE ROLE {quoted(role)};
        GRANT USAGE ON SCHEMA {quoted(place.schema)} TO {quoted(role)};
        GRANT SELECT (id, text, version), INSERT (id, text, version), UPDATE (text, version) ON t
            TO {quoted(role)};
    """)
    settings = {"role": role}
    async with place.open(Note, server_settings=settings) as repository:
        await repository.check()
        assert await repository.upsert_many([Note(1)]) == 1
        with pytest.raises(EntryRejectedError) as caught:
            await repository.upsert_many([Note(2), Note(11)])
        assert caught.value.sqlstate == "42501"
        assert await repository.get_many([1, 2]) == {1: Note(1)}
        await place.execute(f"REVOKE UPDATE (version) ON t FROM {quoted(role)}")
        with pytest.raises(StoreMisconfiguredError) as denied:
            await repository.upsert_many([Note(1, "x")])
        assert denied.value.sqlstate == "42501"


async def test_a_sequence_that_fills_a_column_and_may_not_be_used_is_named_with_its_grant(
    place: Place,
) -> None:
    role = f"role of {place.schema}"
    await place.execute(f"""
        CREATE SEQUENCE "of t";
        CREATE TABLE t (
            row bigint DEFAULT nextval('"of t"') PRIMARY KEY,
            id bigserial UNIQUE, text text, version bigint,
            number bigint GENERATED BY DEFAULT AS IDENTITY
        );
        CREATE ROLE {quoted(role)};
        GRANT USAGE ON SCHEMA {quoted(place.schema)} TO {quoted(role)};
        GRANT SELECT, INSERT, UPDATE ON t TO {quoted(role)};
    """)
    grant = f"GRANT USAGE ON SEQUENCE {place.name('of t')} TO {quoted(role)}"
    async with place.open(Note, server_settings={"role": role}) as repository:
        with pytest.raises(StoreMisconfiguredError) as unchecked:
            await repository.check()
        assert unchecked.value.column == "row"
        assert f"column 'row' of table {place.name('t')} takes" in str(unchecked.value)
        assert str(unchecked.value).endswith(grant)
        with pytest.raises(StoreMisconfiguredError, match="permission denied for sequence of t"):
            await repository.upsert_many([Note(1)])
        await place.execute(grant)
        await repository.check()
        assert await repository.upsert_many([Note(1)]) == 1
        await place.execute(f"""
            REVOKE USAGE ON SEQUENCE "of t" FROM {quoted(role)};
            GRANT UPDATE ON SEQUENCE "of t" TO {quoted(role)}
        """)
        await repository.check()
        assert await repository.upsert_many([Note(2)]) == 1


async def test_what_a_trigger_or_a_check_refuses_is_named_by_its_place(place: Place) -> None:
    await place.execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, text text CHECK (text <> 's3cr3t'), version bigint)"
    )
    async with place.open(Note) as repository:
        with pytest.raises(EntryRejectedError) as caught:
            await repository.upsert_many([Note(1), Note(12), Note(2, "s3cr3t")])
        error = caught.value
        assert (error.index, error.sqlstate, error.constraint) == (2, "23514", "t_text_check")
        assert "s3cr3t" not in repr(vars(error)) + str(error)
        assert await repository.count() == 0


SHOWN = [
    (str, "x" * 99, "y"),
    (bool, True, False),
    (bytes, b"\0" * 40, b""),
    (UUID, UUID(int=5), UUID(int=6)),
    (date, DAY.date(), date.min),
    (Colour, Colour.RED, Colour.GREEN),
]


async def test_the_index_is_found_by_keys_of_most_kinds_where_they_come_first(
    place: Place,
) -> None:
    for number, (kind, poison, healthy) in enumerate(SHOWN):
        entry = msgspec.defstruct("Keyed", [("key", kind), ("n", int)])
        table = place.table(entry, f"t{number}", key="key")
        async with place.open(table, create=True) as repository:
            await repository.check()
            await place.execute(f"ALTER TABLE t{number} ADD CHECK (n > 0)")
            with pytest.raises(EntryRejectedError) as caught:
                await repository.upsert_many([entry(healthy, 1), entry(poison, 0)])
            assert caught.value.index == 1, kind


async def test_no_index_is_guessed_where_the_detail_is_about_something_else(place: Place) -> None:
    await place.execute(
        "CREATE TABLE t (version bigint UNIQUE, id bigint PRIMARY KEY, text text);"
        " INSERT INTO t VALUES (1, 99, '');"
        " CREATE TABLE u (id bigint PRIMARY KEY, version bigint UNIQUE, text text);"
        " INSERT INTO u VALUES (99, 1, '')"
    )
    for name in ("t", "u"):  # in one of them the key comes first
        async with place.open(place.table(Note, name)) as repository:
            with pytest.raises(EntryRejectedError) as caught:
                await repository.upsert_many([Note(1, version=5), Note(2, version=1)])
            assert caught.value.index is None


async def test_no_index_is_guessed_where_no_entry_has_such_a_key(place: Place) -> None:
    await place.execute("""
        CREATE TABLE t (id bigint PRIMARY KEY, text text, version bigint);
        CREATE TABLE log (id bigint CHECK (id < 0));
    """)
    async with place.open(Note) as repository:
        assert await repository.upsert_many([Note(1)]) == 1
        trigger = f"FOR EACH ROW EXECUTE FUNCTION {place.name('log')}()"
        body = f"BEGIN INSERT INTO {place.name('log')} VALUES (99); RETURN NEW; END"
        await place.execute(
            "CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql"
            f" AS $${body}$$; CREATE TRIGGER log BEFORE INSERT ON t {trigger}"
        )
        with pytest.raises(EntryRejectedError) as caught:
            await repository.upsert_many([Note(2), Note(3)])
        assert (caught.value.index, caught.value.table) == (None, "log")


# Migrations while it runs


async def test_a_migration_while_it_runs_is_seen_at_the_next_call(place: Place) -> None:
    async with place.open(Note, create=True) as repository:
        assert await repository.upsert_many([Note(1, "x")]) == 1
        steps: Sequence[tuple[str, str | None]] = [
            ("ADD COLUMN more int NOT NULL DEFAULT 5", None),
            ("ALTER COLUMN more DROP DEFAULT", "column 'more' is NOT NULL and has no default"),
            ("DROP COLUMN more", None),
            ("ALTER COLUMN version TYPE smallint", None),
            ("ALTER COLUMN text TYPE varchar(5)", None),
            ("ALTER COLUMN text TYPE bytea USING ''", "column 'text' of type bytea"),
            ("ALTER COLUMN text TYPE text USING ''", None),
            ("RENAME COLUMN text TO words", "it has no column 'text'"),
            ("RENAME COLUMN words TO text", None),
            ("DROP CONSTRAINT t_pkey", "no unique index"),
            ("ADD UNIQUE (id)", None),
            ("RENAME TO other", "there is no table 't'"),
        ]
        for number, (step, text) in enumerate(steps):
            await place.execute(f"ALTER TABLE t {step}")
            fresh = Note(number + 2, "y", number)
            if text is None:
                assert await repository.upsert_many([fresh]) == 1, step
                assert await repository.get_many([fresh.id]) == {fresh.id: fresh}, step
            else:
                with pytest.raises(StoreMisconfiguredError, match=re.escape(text)):
                    await repository.upsert_many([fresh])


async def test_a_column_that_got_too_small_refuses_the_entry_and_not_the_batch(
    place: Place,
) -> None:
    letters = MemoryDeadLetters[Note]()
    async with (
        place.open(Note, create=True) as repository,
        open_write_behind_queue(repository, dead_letters=letters) as queue,
    ):
        await queue.persist(Note(1))
        await place.execute("ALTER TABLE t ALTER COLUMN text TYPE varchar(2)")
        await queue.enqueue_many([Note(2, "ok"), Note(3, "long"), Note(4, "ok")])
        await queue.flush()
        assert [letter.entry for letter in letters.letters] == [Note(3, "long")]
        assert letters.letters[0].field == "text"
        assert len(await repository.get_many(range(5))) == 3


async def test_what_was_packed_before_a_migration_is_packed_anew(place: Place) -> None:
    async with place.open(Note, create=True) as repository:
        assert await repository.prepare([Note(1)]) == [Note(1)]  # nobody has looked yet
        await repository.check()
        prepared = await repository.prepare([Note(1, "red", 5)])
        await place.execute(
            "CREATE TYPE colour AS ENUM ('red');"
            " ALTER TABLE t ALTER COLUMN text TYPE colour USING text::colour"
        )
        assert await repository.upsert_many(prepared) == 1
        assert await repository.get_many([1]) == {1: Note(1, "red", 5)}


async def test_connections_that_looked_before_look_again(place: Place) -> None:
    async with place.open(Note, create=True, write_connections=2) as repository:
        async with trio.open_nursery() as nursery:  # both connections
            nursery.start_soon(repository.upsert_many, [Note(1)])
            nursery.start_soon(repository.upsert_many, [Note(2)])
        await place.execute("ALTER TABLE t ALTER COLUMN text TYPE varchar(3)")
        with pytest.raises(EntryRejectedError, match="3 characters at most"):
            await repository.upsert_many([Note(3, "long")])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repository.upsert_many, [Note(4, "new")])
            nursery.start_soon(repository.upsert_many, [Note(5, "new")])
        assert await repository.count() == 4


# Making a table


async def test_whoever_found_no_table_before_another_connection_made_it_finds_it_then(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = TableInDatabase._read
    overtaken: list[TableInDatabase[Any]] = []

    async def read_late(it: TableInDatabase[Any], connection: asyncpg.Connection) -> str | None:
        document = await read(it, connection)
        if document is None and not overtaken:
            overtaken.append(it)
            while it.plan is None:  # noqa: ASYNC110  # nobody sets an event
                await asyncio.sleep(0.001)
        return document

    monkeypatch.setattr(TableInDatabase, "_read", read_late)
    async with place.open(Note, create=True, write_connections=2) as repository:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repository.upsert_many, [Note(1)])
            nursery.start_soon(repository.upsert_many, [Note(2)])
        assert await repository.count() == 2
    assert overtaken


async def test_a_table_without_a_schema_is_made_where_the_search_path_says(place: Place) -> None:
    path = {"search_path": quoted(place.schema)}
    async with open_postgres_repository(
        place.dsn, table=Table(Note, "t", key="id"), create=True, server_settings=path
    ) as repository:
        assert await repository.upsert_many([Note(1)]) == 1
    assert await place.rows("SELECT count(*) FROM t") == [(1,)]


async def test_programs_that_make_a_table_at_once_make_one(schema: str) -> None:
    table = Table(Note, "t", schema=schema, key="id")

    async def store(number: int) -> None:
        async with open_postgres_repository(
            postgres().dsn, table=table, create=True, bridge="thread"
        ) as repository:
            assert await repository.upsert_many([Note(number)]) == 1

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(store, number)
    async with open_postgres_repository(postgres().dsn, table=table) as repository:
        assert await repository.count() == 4


async def test_a_table_that_is_made_has_the_fields_types_and_an_index_of_expiry(
    place: Place,
) -> None:
    kind = msgspec.defstruct(
        "Made", [("id", str), ("until", datetime | None), ("price", Decimal), ("d", list[int])]
    )
    async with place.open(place.table(kind, expires="until"), create=True) as repository:
        await repository.check()
        await repository.upsert_many(
            [kind(f"{n}", DAY + timedelta(n), Decimal(n), [n]) for n in range(5)]
        )
        assert await repository.delete_expired(DAY + timedelta(1), 1) == 1
        assert sorted(await repository.get_many(["01234"])) == []
        assert sorted(await repository.get_many(list("01234"))) == ["1", "2", "3", "4"]
    columns = await place.rows(
        "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
        " WHERE attrelid = 't'::regclass AND attnum > 0"
    )
    assert columns == [
        ("id", "text", True),
        ("until", "timestamp with time zone", False),
        ("price", "numeric", True),
        ("d", "jsonb", True),
    ]
    indexes = await place.rows("SELECT indexdef FROM pg_indexes WHERE tablename = 't'")
    assert any("(until)" in str(index) for (index,) in indexes)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"table": "t"}, TypeError, "table must be a Table, not str"),
        ({"schema": "s", "table": Table(Note, "t", key="id")}, TypeError, "schema: the table"),
        ({"table": Table(Note, "é" * 32, key="id")}, ValueError, "table: the name must be 1 to 63"),
        ({"table": Table(Note, "t", schema="x" * 64, key="id")}, ValueError, "table: schema must"),
        (
            {"table": Table(Note, "t", key="id", columns={"text": "x" * 64})},
            ValueError,
            "table: the column of field 'text' must be 1 to 63",
        ),
    ],
)
def test_a_declaration_that_postgres_can_not_have_is_refused_at_once(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    opening: Callable[..., object] = partial(open_postgres_repository, "postgresql://x")
    with pytest.raises(error, match=text):
        opening(**options)


async def test_rows_of_somebody_else_that_are_no_entries_are_named_by_column(place: Place) -> None:
    await place.execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, value text[]);"
        " INSERT INTO t VALUES (1, NULL), (2, '{{a}}'), (3, '{x}')"
    )
    kind = thing(list[str])
    async with place.open(kind) as repository:
        assert await repository.get_many([3]) == {3: kind(3, ["x"])}
        for key in (1, 2):
            with pytest.raises(StoreMisconfiguredError, match="column 'value' holds") as caught:
                await repository.get_many([key])
            assert caught.value.column == "value"


# In a queue


@each_bridge
async def test_a_queue_over_a_table_survives_an_outage_and_a_poison(
    place: Place, bridge: BridgeKind
) -> None:
    letters = MemoryDeadLetters[Note]()
    table = place.table(Note, newer="version")
    options = WriteBehindOptions(batch_size=50, retry_base_seconds=0.01, retry_cap_seconds=0.05)
    settings = {"application_name": bridge}
    async with place.open(
        table, create=True, bridge=bridge, server_settings=settings
    ) as repository:
        await repository.check()
        await place.execute("ALTER TABLE t ADD CHECK (text <> 'bad')")
        async with open_write_behind_queue(repository, options, dead_letters=letters) as queue:
            await queue.enqueue_many([Note(n, "bad" if n == 7 else "a", n) for n in range(100)])
            await place.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE application_name = '{bridge}'"
            )
            await queue.enqueue_many([Note(n, "b", n + 1) for n in range(0, 100, 2)])
            await queue.flush()
        assert queue.metrics().total_failed == 1
    assert [letter.entry for letter in letters.letters] == [Note(7, "bad", 7)]
    rows = await place.rows("SELECT count(*), count(*) FILTER (WHERE text = 'b') FROM t")
    assert rows == [(99, 50)]


async def test_a_column_that_is_not_null_refuses_none_before_it_is_sent(place: Place) -> None:
    await place.execute("CREATE TABLE t (id bigint PRIMARY KEY, value text NOT NULL)")
    kind = thing(str | None)
    async with place.open(kind) as repository:
        with pytest.raises(EntryRejectedError, match="value must be a str, not NoneType") as caught:
            await repository.upsert_many([kind(1, "x"), kind(2, None)])
        assert (caught.value.index, caught.value.sqlstate) == (1, None)
    await place.execute(
        "DROP TABLE t; CREATE TABLE t (id bigint PRIMARY KEY, value jsonb NOT NULL)"
    )
    document = thing(dict[str, int] | None)
    async with place.open(document) as repository:
        assert await repository.upsert_many([document(1, {"a": 1})]) == 1
        with pytest.raises(EntryRejectedError, match="value must not be None"):
            await repository.upsert_many([document(2, None)])


# Deleting many


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_plan", "_repository", "_requests"):
        monkeypatch.setattr(f"provcache_trio.postgres.{module}.MOST_DELETED_AT_ONCE", 3)


async def looks(place: Place, name: str = "t") -> int:
    """Return how often the table was read from its beginning; statistics come late."""
    await place.execute("SELECT pg_stat_force_next_flush()")
    [(number,)] = await place.rows(
        f"SELECT seq_scan FROM pg_stat_user_tables WHERE relid = '{place.name(name)}'::regclass"
    )
    assert isinstance(number, int)
    return number


@pytest.mark.parametrize("pgbouncer", [False, True])
async def test_many_rows_are_deleted_in_steps(
    place: Place, few_at_once: None, monkeypatch: pytest.MonkeyPatch, pgbouncer: bool
) -> None:
    async with place.open(Note, create=True, pgbouncer=pgbouncer) as repository:
        if pgbouncer:  # a pooler need not keep the connection that a cursor is on
            monkeypatch.delattr(type(repository), "_delete_listed")
        await repository.upsert_many([Note(number) for number in range(20)])
        await repository.upsert_many([Note(number, "other") for number in range(20, 24)])
        assert await repository.delete_where(text="") == 20
        assert await repository.delete_where(text="") == 0
        assert await repository.delete_where(text="other") == 4
        assert await repository.count() == 0


@pytest.mark.parametrize("pgbouncer", [False, True])
async def test_rows_that_a_trigger_keeps_are_not_deleted_for_ever(
    place: Place, few_at_once: None, pgbouncer: bool
) -> None:
    async with place.open(Note, create=True, pgbouncer=pgbouncer) as repository:
        await repository.upsert_many([Note(number) for number in range(20)])
        await place.execute(
            "CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        )
        await place.execute(
            "CREATE TRIGGER kept BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION kept()"
        )
        with trio.fail_after(30):
            assert await repository.delete_where(text="") == 0
        assert await repository.count() == 20


@pytest.fixture
async def elsewhere(schema: str) -> AsyncGenerator[Place]:
    """A place on the oldest server that is here."""
    async with Client(other_postgres().dsn) as client:
        await client.execute(f"CREATE SCHEMA {quoted(schema)}")
        yield Place(schema, client, other_postgres().dsn)


async def test_rows_of_every_kind_of_key_are_deleted_in_steps(
    elsewhere: Place, few_at_once: None
) -> None:
    place = elsewhere
    names = [field.name for field in dataclasses.fields(Keyed)]
    table = Table(Keyed, "keyed", schema=place.schema, key=tuple(names))
    # To servers before 18, "IST" is Israel's time, wherever they are.
    settings = {"DateStyle": "SQL, DMY", "TimeZone": "Asia/Kolkata", "bytea_output": "escape"}
    entries = [
        Keyed(f"{n}'\\", n, bool(n % 2), bytes([n, 92]), UUID(int=n), DAY.date(), DAY, Colour.RED)
        for n in range(12)
    ]
    async with place.open(table, create=True, server_settings=settings) as repository:
        assert await repository.upsert_many(entries) == 12
        assert await repository.delete_where(colour=Colour.RED) == 12


def between_steps(
    repository: PostgresRepository[Any],
    do: Callable[[], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Do something before more rows are asked for, while some are deleted."""
    run = repository._run

    async def watched(pool: SessionPool[Any], statement: Statement[Any, object]) -> object:
        if statement is next_keys:
            await do()
        return await run(pool, statement)

    monkeypatch.setattr(repository, "_run", watched)


async def test_rows_that_change_while_others_are_deleted_are_looked_at_again(
    place: Place, few_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [  # one moves, one no longer matches, and one comes
        f"UPDATE {place.name('t')} SET version = 1 WHERE id = 18",
        f"UPDATE {place.name('t')} SET text = 'x' WHERE id = 19",
        f"INSERT INTO {place.name('t')} VALUES (99, '', 0)",
    ]

    async def change() -> None:
        while changes:
            await place.execute(changes.pop())

    async with place.open(Note, create=True) as repository:
        await repository.upsert_many([Note(number) for number in range(20)])
        between_steps(repository, change, monkeypatch)
        assert await repository.delete_where(text="") == 19
        assert set(await repository.get_many(range(100))) == {19, 99}


async def test_a_column_that_is_renamed_while_rows_are_deleted_is_a_person_s_matter(
    place: Place, few_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.open(Note, create=True) as repository:
        await repository.upsert_many([Note(number) for number in range(20)])
        delete_listed = repository._delete_listed

        async def after_a_migration(deletion: Any) -> int:  # noqa: ANN401  # of a plan
            await place.execute(f"ALTER TABLE {place.name('t')} RENAME text TO words")
            return await delete_listed(deletion)

        monkeypatch.setattr(repository, "_delete_listed", after_a_migration)
        with pytest.raises(StoreMisconfiguredError, match="'text'"):
            await repository.delete_where(text="")


async def test_to_delete_many_rows_looks_through_the_table_twice_at_most(
    place: Place, few_at_once: None
) -> None:
    async with place.open(Note, create=True) as repository:
        await repository.upsert_many([Note(number, "ab"[number % 2]) for number in range(60)])
        before = await looks(place)
        assert await repository.delete_where(text="a") == 30
        await place.execute("SELECT pg_stat_clear_snapshot()")
        # The first step finds as many as it may delete; then a cursor goes through all.
        assert await looks(place) <= before + 2


@pytest.mark.parametrize("ending", ["cancelled", "lost"])
async def test_no_transaction_is_left_when_deleting_many_rows_ends_early(
    place: Place, few_at_once: None, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    name = place.schema

    async def page_is_gone() -> bool:
        return await place.rows(f"SELECT count(*) FROM {place.name('t')}") == [(20 - 6,)]

    listing = f"application_name = '{name}' AND state = 'idle in transaction'"

    async def end() -> None:
        await until(page_is_gone)  # the one under way
        if ending == "cancelled":
            scope.cancel()
            return
        await place.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listing}"
        )
        await until(lambda: repository._lister.idle[0].will_connect)

    expected = {
        "cancelled": pytest.raises(trio.Cancelled),
        "lost": pytest.raises(StoreUnavailableError, match="some rows had been deleted"),
    }
    async with place.open(
        Note, create=True, server_settings={"application_name": name}
    ) as repository:
        await repository.upsert_many([Note(number) for number in range(20)])
        between_steps(repository, end, monkeypatch)
        with trio.CancelScope() as scope, expected[ending]:
            await repository.delete_where(text="")
        assert await connections(place.client, name, listing) == 0
        assert await repository.count() == 20 - 6  # two steps
        monkeypatch.undo()
        assert await repository.delete_where(text="") == 20 - 6


async def test_a_repository_is_left_in_time_while_many_rows_are_being_deleted(
    place: Place, few_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleting = trio.Event()

    async def wait() -> None:
        deleting.set()
        await trio.sleep_forever()

    async def delete() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await repository.delete_where(text="")

    async with trio.open_nursery() as nursery, place.open(Note, create=True) as repository:
        await repository.upsert_many([Note(number) for number in range(20)])
        between_steps(repository, wait, monkeypatch)
        nursery.start_soon(delete)
        await deleting.wait()
