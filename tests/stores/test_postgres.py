"""The Postgres repository: its schema, its sessions, and faults, all on real servers."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import msgspec
import pytest
import trio

from provcache_trio import (
    EntryRejectedError,
    ProvcacheEntry,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.postgres import _schema as schema_module, open_postgres_repository
from provcache_trio.postgres._requests import Prepared
from provcache_trio.postgres._rows import entries_plan
from provcache_trio.postgres._session import Connector, Session
from provcache_trio.testing import MemoryDeadLetters

from tests.support.bridges import Client, each_bridge, somebody
from tests.support.entries import DAY, NOW, by_key, entry, key_of
from tests.support.pgserver import run_postgres_server
from tests.support.postgres import (
    SECRET,
    connections,
    quoted,
    raises,
    role,
    row,
    schema,
    settings_of,
    store,
    table,
    until_locked_out,
)
from tests.support.programs import ROOT
from tests.support.servers import QUIET, postgres, unused_schema
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    import asyncpg

    from provcache_trio._asyncio.bridge import BridgeKind
    from provcache_trio.postgres import PostgresRepository
    from provcache_trio.postgres._plan import Plan

    from tests.support.pgserver import PostgresServer

__all__ = ["role", "schema", "somebody", "store", "table"]  # fixtures

POISON = 77  # with so many hits, an entry is refused
SOON = WriteBehindOptions(
    batch_size=20, flush_interval_seconds=0, retry_base_seconds=0.01, retry_cap_seconds=0.1
)


def kind(value: object) -> str:
    return type(value).__name__


@pytest.fixture(scope="module")
def own() -> Generator[PostgresServer]:
    """A server that may be stopped, and asks for a password."""
    with run_postgres_server(password=f"right {SECRET}", settings=QUIET) as server:
        yield server


@pytest.fixture
async def restricted(
    store: PostgresRepository, schema: str, role: str, somebody: Client
) -> AsyncGenerator[str]:
    """Give the URL of a role that may do what running the queue takes, and no more."""
    await somebody.execute(f"CREATE ROLE {quoted(role)} LOGIN")
    await somebody.execute(f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {quoted(role)}")
    await somebody.execute(
        f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {quoted(schema)} TO {quoted(role)}"
    )
    server = postgres()
    user = "".join(f"%{byte:02x}" for byte in role.encode())
    yield f"postgresql://{user}@{server.host}:{server.port}/postgres"
    await somebody.execute(f"DROP OWNED BY {quoted(role)}")
    await somebody.execute(f"DROP ROLE {quoted(role)}")


async def process_of(store: PostgresRepository) -> object:
    """Return the server's process of the connection that the next call that writes will use."""
    return await store._run(
        store._writers, lambda connection, _: connection.fetchval("SELECT pg_backend_pid()")
    )


async def set_in(store: PostgresRepository, setting: str) -> None:
    """Change a setting of the connection that the next call that writes will use."""
    await store._run(store._writers, lambda connection, _: connection.execute(f"SET {setting}"))


# Opening


@each_bridge
async def test_a_server_that_is_down_is_unavailable_until_it_is_up(
    own: PostgresServer, schema: str, bridge: BridgeKind
) -> None:
    await trio.to_thread.run_sync(own.stop)
    try:
        async with open_postgres_repository(
            own.dsn, schema=schema, create=True, bridge=bridge
        ) as store:
            with raises(StoreUnavailableError, sqlstate=None):
                await store.check()
            await trio.to_thread.run_sync(own.start)
            await store.check()
            assert await store.upsert_many([entry()]) == 1
    finally:
        if own._running() is None:
            own.start()


async def test_a_wrong_password_needs_a_person(own: PostgresServer, schema: str) -> None:
    wrong = f"postgresql://postgres:wrong{SECRET}@{own.host}:{own.port}/postgres"
    async with open_postgres_repository(wrong, schema=schema, create=True) as store:
        with raises(StoreMisconfiguredError, sqlstate="28P01"):
            await store.check()


async def test_no_password_needs_a_person(own: PostgresServer, schema: str) -> None:
    none = f"postgresql://postgres@{own.host}:{own.port}/postgres"
    async with open_postgres_repository(none, schema=schema, create=True) as store:
        with raises(StoreMisconfiguredError):
            await store.check()


async def test_a_database_that_is_missing_needs_a_person(own: PostgresServer, schema: str) -> None:
    async with open_postgres_repository(own.dsn_of("nowhere"), schema=schema) as store:
        with raises(StoreMisconfiguredError, sqlstate="3D000"):
            await store.check()


async def test_a_host_that_has_no_address_is_unavailable(schema: str) -> None:
    dsn = f"postgresql://user:{SECRET}@nowhere.invalid/postgres"
    async with open_postgres_repository(dsn, schema=schema) as store:
        with raises(StoreUnavailableError, error_class="gaierror"):
            await store.check()


# The schema


async def test_a_schema_that_is_missing_is_not_made_unasked(schema: str, somebody: Client) -> None:
    async with open_postgres_repository(postgres().dsn, schema=schema) as store:
        with pytest.raises(StoreMisconfiguredError, match="create=True"):
            await store.upsert_many([entry()])
        made = "SELECT count(*) FROM pg_namespace WHERE nspname = $1"
        assert await somebody.value(made, schema) == 0
        async with open_postgres_repository(postgres().dsn, schema=schema, create=True) as maker:
            await maker.check()
        assert await store.upsert_many([entry()]) == 1


@pytest.mark.parametrize("create", [False, True])
async def test_a_newer_schema_is_refused_by_its_version(
    store: PostgresRepository, schema: str, somebody: Client, create: bool
) -> None:
    await somebody.execute(f"UPDATE {quoted(schema)}.schema_version SET version = 7")
    async with open_postgres_repository(postgres().dsn, schema=schema, create=create) as older:
        with pytest.raises(StoreMisconfiguredError, match="version 7, and this program knows 1"):
            await older.check()
    assert await somebody.value(f"SELECT version FROM {quoted(schema)}.schema_version") == 7


async def test_programs_that_make_the_schema_at_once_make_one(somebody: Client) -> None:
    for _ in range(10):
        schema = unused_schema()

        async def check(schema: str = schema) -> None:
            async with open_postgres_repository(
                postgres().dsn, schema=schema, create=True
            ) as store:
                await store.check()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(check)
        assert await somebody.fetch(f"SELECT version FROM {quoted(schema)}.schema_version") == [
            (1,)
        ]


ONE_MORE = "ALTER TABLE {schema}.entries ADD COLUMN note text"


@pytest.fixture
async def old(store: PostgresRepository) -> ProvcacheEntry:
    """Store an entry in the schema of today, which is to be an old one."""
    await store.upsert_many([entry()])
    return entry()


def migrations(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """Let there be one version more, which these statements make."""
    more = (*schema_module.MIGRATIONS, statements)
    monkeypatch.setattr(schema_module, "MIGRATIONS", more)


async def columns_called_note(somebody: Client, schema: str) -> object:
    return await somebody.value(
        "SELECT count(*) FROM information_schema.columns"
        " WHERE table_schema = $1 AND column_name = 'note'",
        schema,
    )


async def test_an_older_schema_is_brought_up_to_date_once(
    old: ProvcacheEntry, schema: str, somebody: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations(monkeypatch, ONE_MORE)
    async with open_postgres_repository(postgres().dsn, schema=schema) as newer:
        with pytest.raises(StoreMisconfiguredError, match="version 1, and this program knows 2"):
            await newer.check()
    assert await columns_called_note(somebody, schema) == 0
    for _ in range(2):
        async with open_postgres_repository(postgres().dsn, schema=schema, create=True) as newer:
            assert await newer.get_many([old.veri_key]) == by_key([old])
        assert await columns_called_note(somebody, schema) == 1
    assert await somebody.fetch(f"SELECT version FROM {quoted(schema)}.schema_version") == [(2,)]


async def test_a_migration_that_fails_leaves_the_old_schema_whole(
    old: ProvcacheEntry,
    store: PostgresRepository,
    schema: str,
    somebody: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migrations(monkeypatch, ONE_MORE, "SELECT * FROM {schema}.missing")
    async with open_postgres_repository(postgres().dsn, schema=schema, create=True) as newer:
        with raises(StoreMisconfiguredError, sqlstate="42P01"):
            await newer.check()
    assert await columns_called_note(somebody, schema) == 0
    assert await somebody.fetch(f"SELECT version FROM {quoted(schema)}.schema_version") == [(1,)]
    assert await store.get_many([old.veri_key]) == by_key([old])


async def test_a_migration_that_the_stored_rows_refuse_gives_up_no_entry(
    old: ProvcacheEntry, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations(
        monkeypatch, "ALTER TABLE {schema}.entries ADD CONSTRAINT used CHECK (hit_count > 0)"
    )
    async with open_postgres_repository(postgres().dsn, schema=schema, create=True) as newer:
        with pytest.raises(StoreError) as caught:  # not EntryRejectedError
            await newer.upsert_many([entry(1)])
        assert caught.value.sqlstate == "23514"


async def test_a_view_shows_hashes_as_text(
    store: PostgresRepository, schema: str, somebody: Client
) -> None:
    one = entry()
    await store.upsert_many([one])
    shown = await somebody.fetch(
        "SELECT veri_key, verdict_hash, proof_root, policy_hash, signer_set_hash, feed_epoch,"
        f" created_at, expires_at FROM {quoted(schema)}.entries_readable"
    )
    assert shown == [
        (
            one.veri_key,
            one.decision.verdict_hash,
            one.decision.proof_root,
            one.policy_hash,
            one.signer_set_hash,
            one.feed_epoch,
            one.created_at,
            one.expires_at,
        )
    ]


async def test_hashes_are_stored_as_bytes(
    store: PostgresRepository, table: str, somebody: Client
) -> None:
    await store.upsert_many([entry()])
    assert await somebody.value(f"SELECT veri_key FROM {table}") == bytes.fromhex(key_of(0)[7:])


@pytest.mark.parametrize(
    "name",
    ['a"b', '"', "'; --", "{schema}", "a.b", "$1", "%s", "\\", "\n", " ", "é" * 31 + "x"],
)
async def test_a_schema_may_have_any_name_that_the_server_takes(
    name: str, own: PostgresServer
) -> None:
    async with open_postgres_repository(own.dsn, schema=name, create=True) as store:
        assert await store.upsert_many([entry()]) == 1
        assert await store.get_many([key_of(0)]) == by_key([entry()])
        assert await store.delete_many([key_of(0)]) == 1
    async with Client(own.dsn) as client:
        found = await client.value("SELECT count(*) FROM pg_namespace WHERE nspname = $1", name)
    assert found == 1


WRONG: list[tuple[str, object, type[Exception], str]] = [
    ("schema", "", ValueError, "empty"),
    ("schema", "x" * 64, ValueError, "1 to 63 bytes"),
    ("schema", "é" * 32, ValueError, "1 to 63 bytes"),
    ("schema", "a\0b", ValueError, "NUL"),
    ("schema", "a\udc80b", ValueError, "lone surrogate"),
    ("schema", "pg_x", ValueError, "'pg_'"),
    ("schema", b"x", TypeError, "not bytes"),
    ("dsn", None, TypeError, "not NoneType"),
    ("dsn", b"postgresql://", TypeError, "not bytes"),
    ("dsn", "", ValueError, "empty"),
    ("dsn", f"host=x password={SECRET}", ValueError, "postgresql://"),
    ("create", 1, TypeError, "not int"),
    ("pgbouncer", None, TypeError, "not NoneType"),
    ("write_connections", True, TypeError, "not bool"),
    ("write_connections", 1.0, TypeError, "not float"),
    ("write_connections", 0, ValueError, "1 to 100"),
    ("write_connections", 101, ValueError, "1 to 100"),
    ("connect_timeout_seconds", "5", TypeError, "not str"),
    ("connect_timeout_seconds", True, TypeError, "not bool"),
    ("connect_timeout_seconds", 0, ValueError, "above 0"),
    ("connect_timeout_seconds", float("nan"), ValueError, "above 0"),
    ("connect_timeout_seconds", float("inf"), ValueError, "at most 3600"),
    ("command_timeout_seconds", None, TypeError, "not NoneType"),
    ("command_timeout_seconds", -1, ValueError, "above 0"),
    ("command_timeout_seconds", 3601, ValueError, "at most 3600"),
    ("server_settings", [("a", "b")], TypeError, "not list"),
    ("server_settings", {"a": 1}, TypeError, "str to str"),
    ("server_settings", {1: "a"}, TypeError, "str to str"),
    ("server_settings", {"a": f"{SECRET}\0"}, ValueError, "NUL"),
    ("bridge", "uvloop", ValueError, "'trio-asyncio' or 'thread'"),
]


@pytest.mark.parametrize(("argument", "value", "kind", "told"), WRONG)
def test_an_argument_that_can_not_be_is_refused_by_its_name(
    argument: str, value: object, kind: type[Exception], told: str
) -> None:
    opening: Callable[..., object] = open_postgres_repository
    with pytest.raises(kind) as caught:
        opening(**{"dsn": "postgresql://", argument: value})
    assert str(caught.value).startswith(argument)
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


# Rights


async def test_a_role_that_may_select_insert_and_update_runs_the_queue(
    restricted: str, schema: str
) -> None:
    for create in (False, True):  # which asks for no right to make what is there
        async with open_postgres_repository(restricted, schema=schema, create=create) as store:
            await store.check()
            async with open_write_behind_queue(store) as queue:
                await queue.enqueue_many(
                    [row(number, hit_count=int(create)) for number in range(3)]
                )
            assert len(await store.get_many(map(key_of, range(3)))) == 3
            with raises(StoreMisconfiguredError, sqlstate="42501"):
                await store.delete_many([key_of(0)])
            with raises(StoreMisconfiguredError, sqlstate="42501"):
                await store.delete_expired(NOW + 2 * DAY, 9)
            assert await store.count() == 3


async def test_a_role_that_may_make_nothing_is_told_so(restricted: str, somebody: Client) -> None:
    schema = unused_schema()
    async with open_postgres_repository(restricted, schema=schema, create=True) as store:
        with raises(StoreMisconfiguredError, sqlstate="42501"):
            await store.check()


async def test_a_role_that_may_make_tables_in_a_schema_that_is_there_makes_them(
    restricted: str, role: str, somebody: Client
) -> None:
    schema = unused_schema()
    await somebody.execute(f"CREATE SCHEMA {quoted(schema)}")
    await somebody.execute(f"GRANT USAGE, CREATE ON SCHEMA {quoted(schema)} TO {quoted(role)}")
    async with open_postgres_repository(restricted, schema=schema, create=True) as store:
        assert await store.upsert_many([row(0)]) == 1


@pytest.mark.parametrize("right", ["SELECT", "INSERT", "UPDATE"])
async def test_a_right_that_is_taken_away_needs_a_person_until_it_is_given_back(
    restricted: str, schema: str, role: str, table: str, somebody: Client, right: str
) -> None:
    async with open_postgres_repository(restricted, schema=schema) as store:
        assert await store.upsert_many([row(0)]) == 1
        await somebody.execute(f"REVOKE {right} ON {table} FROM {quoted(role)}")
        with raises(StoreMisconfiguredError, sqlstate="42501"):
            await store.check()
        with raises(StoreMisconfiguredError, sqlstate="42501"):
            await store.upsert_many([row(0), row(1)])
        await somebody.execute(f"GRANT {right} ON {table} TO {quoted(role)}")
        await store.check()
        assert await store.upsert_many([row(0), row(1)]) == 1


async def test_a_role_that_may_only_read_needs_a_person_who_is_told_so(
    restricted: str, schema: str, role: str, somebody: Client
) -> None:
    await somebody.execute(f"ALTER ROLE {quoted(role)} SET default_transaction_read_only = on")
    async with open_postgres_repository(restricted, schema=schema) as store:
        with raises(StoreMisconfiguredError, sqlstate="25006"):
            await store.upsert_many([row(0)])
        with pytest.raises(StoreMisconfiguredError, match="default_transaction_read_only is set"):
            await store.check()
        assert await store.count() == 0
        await somebody.execute(f"ALTER ROLE {quoted(role)} RESET default_transaction_read_only")
        assert await store.upsert_many([row(0)]) == 1


# Entries that are refused


@pytest.mark.parametrize("position", range(4))
async def test_a_constraint_tells_which_entry_it_refused(
    store: PostgresRepository, table: str, somebody: Client, position: int
) -> None:
    await somebody.execute(
        f"ALTER TABLE {table} ADD CONSTRAINT not_too_many CHECK (hit_count <> {POISON})"
    )
    batch = [row(number, hit_count=POISON * (number == position)) for number in range(4)]
    # Of a key that comes twice, the first is named.
    batch = [row("twice"), row("twice", hit_count=1), *batch]
    process = await process_of(store)
    with raises(
        EntryRejectedError,
        index=position + 2,
        constraint="not_too_many",
        table="entries",
        sqlstate="23514",
        error_class="CheckViolationError",
    ):
        await store.upsert_many(batch)
    assert await store.count() == 0
    del batch[position + 2]
    assert await store.upsert_many(batch) == 4
    assert await process_of(store) == process


class OtherEntry(ProvcacheEntry, frozen=True):
    """An entry with a field that would be lost."""

    note: str = ""


@pytest.mark.parametrize(
    "other", [SECRET, None, OtherEntry(**msgspec.structs.asdict(entry(1)), note=SECRET)], ids=kind
)
async def test_what_is_no_entry_is_refused_by_its_place_and_nothing_is_stored(
    store: PostgresRepository, other: object
) -> None:
    batch = cast("list[ProvcacheEntry]", [row(0), other, row(2)])
    with raises(EntryRejectedError, index=1, sqlstate=None):
        await store.upsert_many(batch)
    assert await store.count() == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("feed_epoch", f"{SECRET}\0"),
        ("feed_epoch", f"{SECRET}\udc80"),
        ("feed_epoch", 5),
        ("policy_hash", f"sha256:{SECRET}"),
        ("policy_hash", "sha256:abcd"),
        ("hit_count", 2**63),
        ("hit_count", SECRET),
    ],
)
async def test_an_entry_that_was_changed_after_it_was_made_is_named(
    store: PostgresRepository, field: str, value: object
) -> None:
    forged = row(2)
    msgspec.structs.force_setattr(forged, field, value)
    process = await process_of(store)
    with raises(EntryRejectedError, index=3):
        await store.upsert_many([row(0), row(1), row(0, hit_count=1), forged, row(3)])
    assert await store.count() == 0
    assert await process_of(store) == process


async def test_entries_that_were_prepared_are_stored_like_others(store: PostgresRepository) -> None:
    entries = (row(0), row(1), row(0, hit_count=1))
    prepared = await store.prepare(entries)
    assert prepared == entries
    assert await store.upsert_many(prepared) == 2
    assert (await store.get_many([row(0).veri_key]))[row(0).veri_key].hit_count == 1


async def test_other_tasks_run_while_many_entries_are_prepared(store: PostgresRepository) -> None:
    entries = tuple(map(row, range(2_500)))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        prepared = await store.prepare(entries)
        assert turns > 3  # one or two of them before the first slice
        nursery.cancel_scope.cancel()
    assert await store.upsert_many(prepared) == len(entries)
    assert await store.get_many(one.veri_key for one in entries) == {
        one.veri_key: one for one in entries
    }


def test_slices_are_put_together_to_what_would_have_been_packed_at_once() -> None:
    entries = tuple(map(row, range(5)))
    plan = entries_plan("entries")
    in_slices = plan.arguments_of([plan.pack(entries[:2]), plan.pack(entries[2:])])
    assert in_slices == plan.arguments_of([plan.pack(entries)])


async def refuse_in_a_trigger(somebody: Client, schema: str, using: str = "") -> None:
    await somebody.execute(
        f"CREATE FUNCTION {quoted(schema)}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN RAISE EXCEPTION 'not {SECRET} %', NEW {using}; END $$;"
        f" CREATE TRIGGER refuse BEFORE INSERT ON {quoted(schema)}.entries FOR EACH ROW"
        f" WHEN (NEW.hit_count = {POISON}) EXECUTE FUNCTION {quoted(schema)}.refuse()"
    )


@pytest.mark.parametrize("using", ["", "USING DETAIL = 'too many (of those)'"])
async def test_a_trigger_refuses_without_telling_which(
    store: PostgresRepository, schema: str, somebody: Client, using: str
) -> None:
    await refuse_in_a_trigger(somebody, schema, using)
    with raises(EntryRejectedError, index=None, sqlstate="P0001"):
        await store.upsert_many([row(0), row(1, hit_count=POISON)])
    assert await store.count() == 0


@pytest.mark.parametrize("poisoned", [{0}, {1}, {2}, {3}, {4}, {0, 4}, {1, 2, 3}])
async def test_only_the_entries_that_a_trigger_refuses_become_dead_letters(
    store: PostgresRepository, schema: str, somebody: Client, poisoned: set[int]
) -> None:
    await refuse_in_a_trigger(somebody, schema)
    sink = MemoryDeadLetters[ProvcacheEntry]()
    batch = [row(number, hit_count=POISON * (number in poisoned)) for number in range(5)]
    async with open_write_behind_queue(store, SOON, dead_letters=sink) as queue:
        await queue.enqueue_many(batch)
    assert {letter.key for letter in sink.letters} == {key_of(number) for number in poisoned}
    assert {letter.sqlstate for letter in sink.letters} == {"P0001"}
    assert SECRET not in "".join(f"{one.error_class}{one.constraint}" for one in sink.letters)
    good = [one for number, one in enumerate(batch) if number not in poisoned]
    assert await store.get_many(by_key(batch)) == by_key(good)


async def test_a_stored_row_that_is_no_entry_needs_a_person(
    store: PostgresRepository, table: str, somebody: Client
) -> None:
    await store.upsert_many([row(0), row(1)])
    await somebody.execute(f"UPDATE {table} SET replay_seed = '[\"{SECRET}\"]'")
    with raises(StoreMisconfiguredError):
        await store.get_many([key_of(0)])


async def test_a_stored_row_without_a_hash_needs_a_person(
    store: PostgresRepository, table: str, somebody: Client
) -> None:
    await store.upsert_many([row(0)])
    await somebody.execute(
        f"ALTER TABLE {table} ALTER proof_root DROP NOT NULL; UPDATE {table} SET proof_root = NULL"
    )
    with raises(StoreMisconfiguredError):
        await store.get_many([key_of(0)])


# A server that does not answer


@each_bridge
async def test_a_lock_that_somebody_holds_is_waited_for_and_then_unavailable(
    store: PostgresRepository, schema: str, table: str, somebody: Client, bridge: BridgeKind
) -> None:
    async with open_postgres_repository(postgres().dsn, schema=schema, bridge=bridge) as other:
        process = await process_of(other)
        await set_in(other, "lock_timeout = 200")  # so long before ours that no pause matters
        await somebody.execute(f"BEGIN; LOCK TABLE {table}")
        with raises(StoreUnavailableError, sqlstate="55P03"):
            await other.upsert_many([row(0)])
        await somebody.execute("ROLLBACK")
        assert await other.upsert_many([row(0)]) == 1
        assert await process_of(other) == process


@each_bridge
async def test_the_servers_statement_timeout_is_unavailable(
    store: PostgresRepository, schema: str, table: str, somebody: Client, bridge: BridgeKind
) -> None:
    async with open_postgres_repository(postgres().dsn, schema=schema, bridge=bridge) as other:
        process = await process_of(other)
        await somebody.execute(f"BEGIN; LOCK TABLE {table}")
        await set_in(other, "statement_timeout = 200")
        with raises(StoreUnavailableError, sqlstate="57014"):
            await other.upsert_many([row(0)])
        await set_in(other, "statement_timeout = 0")
        await somebody.execute("ROLLBACK")
        assert await other.upsert_many([row(0)]) == 1
        assert await process_of(other) == process


@each_bridge
async def test_our_own_timeout_is_unavailable_and_leaves_nothing_on_the_server(
    store: PostgresRepository, schema: str, table: str, somebody: Client, bridge: BridgeKind
) -> None:
    settings = {"statement_timeout": "0", "lock_timeout": "0", "application_name": f"b{schema}"}
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        server_settings=settings,
        command_timeout_seconds=0.3,
        bridge=bridge,
    ) as other:
        await until(lambda: works(other.check()))
        await somebody.execute(f"BEGIN; LOCK TABLE {table}")
        with raises(StoreUnavailableError, error_class="TimeoutError"):
            await other.upsert_many([row(0)])

        async def nothing_is_left() -> bool:  # the lock is held: only what was cancelled ends
            return await connections(somebody, f"b{schema}", "state = 'active'") == 0

        await until(nothing_is_left)
        await somebody.execute("ROLLBACK")
        assert await store.count() == 0
        await until(lambda: works(other.upsert_many([row(0)])))
        assert await store.count() == 1


async def works(call: Awaitable[object]) -> bool:
    """Return whether the call was answered in time, as most are."""
    try:
        await call
    except StoreUnavailableError:
        return False
    return True


async def sleep_in_a_trigger(somebody: Client, schema: str) -> None:
    await somebody.execute(
        f"CREATE FUNCTION {quoted(schema)}.slow() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;"
        f" CREATE TRIGGER slow BEFORE INSERT ON {quoted(schema)}.entries FOR EACH ROW"
        f" EXECUTE FUNCTION {quoted(schema)}.slow()"
    )


NO_SERVER_LIMITS = {"statement_timeout": "0", "lock_timeout": "0"}


@each_bridge
@pytest.mark.parametrize(
    ("settings", "found"),
    [({}, {"sqlstate": "57014"}), (NO_SERVER_LIMITS, {"error_class": "TimeoutError"})],
    ids=["the server's limit", "the client's"],
)
async def test_a_statement_that_is_at_work_when_our_limit_is_up_was_too_slow(
    store: PostgresRepository,
    schema: str,
    somebody: Client,
    bridge: BridgeKind,
    settings: dict[str, str],
    found: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The server gives up long before the client does, however long that is stopped for.
    monkeypatch.setattr("provcache_trio.postgres._session._OF_COMMAND_TIMEOUT", 0.1)
    await sleep_in_a_trigger(somebody, schema)
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        command_timeout_seconds=0.4 if settings else 4,
        server_settings=settings,
        bridge=bridge,
    ) as other:
        with raises(StoreUnavailableError, too_slow=True, **found):
            await other.upsert_many([row(number) for number in range(100)])
        assert await other.upsert_many([row(0)]) == 1


async def test_a_batch_that_is_too_slow_for_its_limit_is_stored_in_parts(
    store: PostgresRepository, schema: str, somebody: Client
) -> None:
    await sleep_in_a_trigger(somebody, schema)
    async with open_postgres_repository(
        postgres().dsn, schema=schema, command_timeout_seconds=0.6
    ) as other:
        async with open_write_behind_queue(other) as queue:
            await queue.enqueue_many([row(number) for number in range(60)])
            with trio.fail_after(HANG_SECONDS):
                await queue.flush()
        assert queue.metrics().total_failed == 0
    assert await store.count() == 60


@each_bridge
async def test_neither_a_lock_nor_an_administrator_makes_a_statement_too_slow(
    store: PostgresRepository, schema: str, table: str, somebody: Client, bridge: BridgeKind
) -> None:
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        server_settings={"application_name": schema},
        command_timeout_seconds=2,
        bridge=bridge,
    ) as other:
        await other.check()
        await somebody.execute(f"BEGIN; LOCK TABLE {table}")
        with raises(StoreUnavailableError, sqlstate="55P03", too_slow=False):
            await other.upsert_many([row(0)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upsert_that_is_cancelled, other)
            # The server does not say when: it is asked.
            while not await connections(somebody, schema, "wait_event_type = 'Lock'"):  # noqa: ASYNC110
                await trio.sleep(0.01)
            cancel = (
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
            )
            await somebody.fetch(cancel, schema)
        await somebody.execute("ROLLBACK")


async def upsert_that_is_cancelled(store: PostgresRepository) -> None:
    with raises(StoreUnavailableError, sqlstate="57014", too_slow=False):
        await store.upsert_many([row(0)])


# Defects


def undefined(*_: object) -> object:
    """Raise NameError, which quotes what was in a row, as many errors of Python do."""
    return eval(f"_{SECRET}")  # noqa: S307  # no name of anything


@each_bridge
async def test_a_defect_on_a_connection_that_works_is_no_outage(
    store: PostgresRepository, schema: str, bridge: BridgeKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_postgres_repository(postgres().dsn, schema=schema, bridge=bridge) as other:
        await other.check()
        monkeypatch.setattr(Prepared, "send", undefined)
        with raises(StoreError, error_class="NameError", sqlstate=None):
            await other.upsert_many([row(0)])
        monkeypatch.undo()
        assert await other.upsert_many([row(0)]) == 1


@pytest.mark.one_lane
async def test_a_defect_that_some_entry_meets_costs_no_other_entry_and_is_seen_at_once(
    store: PostgresRepository, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Prepared.send

    async def fail_with_some(
        self: Prepared[ProvcacheEntry], connection: asyncpg.Connection, statement: str
    ) -> int:
        return await send(self, connection, undefined() if row(3) in self else statement)  # type: ignore[arg-type]

    monkeypatch.setattr(Prepared, "send", fail_with_some)
    letters = MemoryDeadLetters[ProvcacheEntry]()
    options = msgspec.structs.replace(SOON, max_retries=3)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        await queue.enqueue_many([row(number) for number in range(8)])
        with trio.fail_after(HANG_SECONDS):
            await queue.flush()
    assert [letter.entry for letter in letters.letters] == [row(3)]
    assert letters.letters[0].error_class == "NameError"
    assert await store.count() == 7
    first = next(record for record in caplog.records if record.levelname == "WARNING")
    assert re.fullmatch(
        r"default: batch failed and is retried: 8 entries, 127.*: a defect of provcache_trio or "
        r"its driver, to be reported: NameError at \S+/postgres/_repository\.py:\d+",
        first.getMessage(),
    )
    assert SECRET not in caplog.text


async def test_a_statement_that_is_called_wrongly_is_no_outage(store: PostgresRepository) -> None:
    with raises(StoreError, error_class="InterfaceError"):
        await store._run(store._writers, lambda one, _: one.execute("SELECT 1", "one too many"))
    assert await store.upsert_many([row(0)]) == 1


async def test_a_defect_while_connecting_blames_no_entry_and_needs_a_person(
    schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_postgres_repository(postgres().dsn, schema=schema, create=True) as other:
        monkeypatch.setattr(Connector, "_guard", undefined)
        with raises(StoreMisconfiguredError, error_class="NameError"):
            await other.upsert_many([row(0)])


async def test_a_batch_for_which_there_is_no_memory_is_stored_in_parts(
    store: PostgresRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Prepared.send

    async def fail_with_many(
        self: Prepared[ProvcacheEntry], connection: asyncpg.Connection, statement: str
    ) -> int:
        if len(self) > 3:
            raise MemoryError
        return await send(self, connection, statement)

    monkeypatch.setattr(Prepared, "send", fail_with_many)
    async with open_write_behind_queue(store, SOON) as queue:
        await queue.enqueue_many([row(number) for number in range(20)])
        with trio.fail_after(HANG_SECONDS):
            await queue.flush()
    assert await store.count() == 20
    assert queue.metrics().total_failed == 0


class Silent:
    """A connection that is lost, or makes others wait; asyncpg's interface as far as it is used."""

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109, ASYNC124  # asyncpg's
        """Be closed."""

    def is_closed(self) -> bool:
        return False


@pytest.mark.parametrize("error", [TimeoutError(), TimeoutError(110, "timed out")])
@pytest.mark.parametrize("answered", [True, False])
def test_a_client_s_timeout_counts_only_once_a_fresh_connection_is_answered(
    error: TimeoutError, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Silent] = []

    async def connect(_: Connector[Any], **__: object) -> Silent:  # noqa: ASYNC124
        if made and not answered:
            raise TimeoutError
        made.append(Silent())
        return made[-1]

    async def statement(*_: object) -> None:  # noqa: ASYNC124
        raise error

    monkeypatch.setattr(Connector, "connect", connect)
    session = Session(connector_for(postgres_url="postgresql://x"), {})
    with pytest.raises(StoreUnavailableError) as caught:
        asyncio.run(session.run(statement))
    assert caught.value.too_slow is (answered and error.errno is None)
    assert session.connected is caught.value.too_slow


def connector_for(postgres_url: str) -> Connector[ProvcacheEntry]:
    return Connector(
        postgres_url,
        place=schema_module.Schema("provcache", create=False),
        connect_timeout_seconds=1,
        command_timeout_seconds=1,
        server_settings={},
        pgbouncer=False,
    )


async def test_entries_are_deleted_by_policy_signers_and_epoch_and_by_version(
    store: PostgresRepository,
) -> None:
    policy, signers = key_of("policy"), key_of("signers")
    entries = [
        entry(0, policy_hash=policy),
        entry(1, policy_hash=policy, created_at=NOW + DAY, expires_at=NOW + 2 * DAY),
        entry(2, signer_set_hash=signers, feed_epoch="é"),
        entry(3, signer_set_hash=signers),
    ]
    await store.upsert_many(entries)
    assert await store.delete_where(policy_hash=policy, before=NOW + DAY) == 1
    assert await store.delete_where(signer_set_hash=signers, feed_epoch="é") == 1
    assert await store.delete_where(feed_epoch="none") == 0
    assert set(await store.get_many(map(key_of, range(4)))) == {key_of(1), key_of(3)}
    for conditions, error, text in (
        ({}, TypeError, "at least one field=value"),
        ({"trust_score": 1}, ValueError, "deleted by policy_hash, signer_set_hash, feed_epoch"),
        ({"policy_hash": "x"}, ValueError, "policy_hash must be 'sha256:'"),
        ({"policy_hash": 1}, TypeError, "policy_hash must be a str, not int"),
        ({"feed_epoch": 1}, TypeError, "feed_epoch must be a str, not int"),
        ({"feed_epoch": None}, TypeError, "feed_epoch must be a str, not NoneType"),
        ({"policy_hash": policy, "before": NOW.replace(tzinfo=None)}, ValueError, "before must"),
    ):
        with pytest.raises(error, match=text):
            await store.delete_where(**conditions)
    assert await store.count() == 2


async def partition(somebody: Client, schema: str) -> None:
    """Replace the table by a partitioned one, which has a place for half of the keys."""
    within = quoted(schema)
    await somebody.execute(
        f"ALTER TABLE {within}.entries RENAME TO before;"
        f" CREATE TABLE {within}.entries (LIKE {within}.before INCLUDING ALL)"
        " PARTITION BY RANGE (veri_key);"
        f' CREATE TABLE {within}."of 2026" PARTITION OF {within}.entries'
        " FOR VALUES FROM ('\\x00') TO ('\\x80');"
        f" ALTER TABLE {within}.entries ADD CONSTRAINT few CHECK (hit_count < {POISON})"
    )


async def test_a_missing_partition_needs_a_person_and_no_entry_is_refused(
    store: PostgresRepository, schema: str, somebody: Client
) -> None:
    await partition(somebody, schema)
    with raises(StoreMisconfiguredError, sqlstate="23514"):
        await store.upsert_many([row(0), entry(veri_key=f"sha256:{'f' * 64}")])
    assert await store.upsert_many([row(0)]) == 1


async def test_a_row_outside_of_what_is_itself_a_partition_needs_a_person(
    store: PostgresRepository, schema: str, somebody: Client
) -> None:
    within = quoted(schema)
    await somebody.execute(
        f"CREATE TABLE {within}.everything (LIKE {within}.entries INCLUDING CONSTRAINTS)"
        " PARTITION BY RANGE (veri_key);"
        f" ALTER TABLE {within}.everything ATTACH PARTITION {within}.entries"
        " FOR VALUES FROM ('\\x00') TO ('\\x80')"
    )
    with raises(StoreMisconfiguredError, sqlstate="23514"):
        await store.upsert_many([row(0), entry(veri_key=f"sha256:{'f' * 64}")])
    assert await store.upsert_many([row(0)]) == 1


async def test_a_constraint_of_a_partition_tells_which_entry_it_refused(
    store: PostgresRepository, schema: str, somebody: Client
) -> None:
    await partition(somebody, schema)
    with raises(EntryRejectedError, index=1, sqlstate="23514", constraint="few", table="of 2026"):
        await store.upsert_many([row(0), row(1, hit_count=POISON)])


TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"


@each_bridge
async def test_after_idle_connections_were_ended_at_most_one_call_finds_out(
    schema: str, somebody: Client, bridge: BridgeKind
) -> None:
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        create=True,
        server_settings={"application_name": schema},
        bridge=bridge,
    ) as store:
        for turn in range(10):
            await store.upsert_many([row(turn)])
            # The one of the turn before may not have ended yet.
            assert (True,) in await somebody.fetch(TERMINATE, schema)
            if turn % 2:  # at once, or when the loop has seen it
                await trio.sleep(0.01)
            try:
                await store.upsert_many([row(turn, hit_count=1)])
            except StoreUnavailableError as error:
                assert type(error) is StoreUnavailableError  # noqa: PT017
            await store.upsert_many([row(turn, hit_count=1)])
        assert await store.count() == 10


@each_bridge
async def test_an_idle_connection_that_was_seen_to_end_is_replaced_unnoticed(
    schema: str, somebody: Client, bridge: BridgeKind
) -> None:
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        create=True,
        server_settings={"application_name": schema},
        bridge=bridge,
    ) as store:
        await store.upsert_many([row(0)])
        connection = store._writers.idle[-1]._connection
        assert connection is not None
        await somebody.fetch(TERMINATE, schema)
        await until(connection.is_closed)
        assert await store.upsert_many([row(1)]) == 1


@each_bridge
async def test_a_connection_that_is_ended_in_a_call_is_unavailable_and_replaced(
    schema: str, table: str, somebody: Client, bridge: BridgeKind
) -> None:
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        create=True,
        server_settings={"application_name": schema},
        bridge=bridge,
    ) as store:
        await store.check()
        await somebody.execute(f"BEGIN; LOCK TABLE {table}")

        async def call() -> None:
            with raises(StoreUnavailableError):
                await store.upsert_many([row(0)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await until_locked_out(somebody, schema)
            await somebody.fetch(TERMINATE, schema)
        await somebody.execute("ROLLBACK")
        assert await store.upsert_many([row(0)]) == 1


async def test_a_connection_that_is_ended_before_its_first_call_calls_for_nobody(
    schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end(_: object, connection: asyncpg.Connection, __: object) -> None:  # noqa: ASYNC124
        connection.terminate()

    monkeypatch.setattr(Connector, "_guard", end)
    async with open_postgres_repository(postgres().dsn, schema=schema, create=True) as store:
        with raises(StoreUnavailableError, sqlstate=None):
            await store.check()
        monkeypatch.undo()
        await store.check()


@pytest.mark.heavy
@each_bridge
async def test_a_server_that_crashes_and_comes_back_loses_nothing_of_a_queue(
    own: PostgresServer, schema: str, bridge: BridgeKind
) -> None:
    async with open_postgres_repository(
        own.dsn, schema=schema, create=True, bridge=bridge
    ) as store:
        await store.check()
        everything = [row(number) for number in range(600)]
        stopped = trio.Event()

        async def produce() -> None:
            for one in everything:
                if one is everything[300]:
                    await stopped.wait()
                await queue.enqueue(one)
                await trio.sleep(0.002)

        async with open_write_behind_queue(store, SOON) as queue:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(produce)
                await until(lambda: queue.metrics().total_persisted)
                await trio.to_thread.run_sync(own.stop, "immediate")
                stopped.set()
                await until(lambda: queue.metrics().state == "waiting")
                await trio.to_thread.run_sync(own.start)
            await queue.flush()
        assert queue.undelivered == ()
        assert queue.metrics().total_persisted == 600
        assert await store.get_many(by_key(everything)) == by_key(everything)


# What is written


async def test_batches_that_change_nothing_write_nothing_and_wait_for_no_row(
    own: PostgresServer, schema: str, table: str
) -> None:
    async with (
        Client(own.dsn) as client,
        open_postgres_repository(own.dsn, schema=schema, create=True) as store,
    ):
        batch = [row(number, hit_count=number) for number in range(200)]
        assert await store.upsert_many(batch) == 200
        older = [row(number, created_at=NOW - DAY) for number in range(200)]
        for same in (batch, older):
            assert await store.upsert_many(same) == 0  # which may set hint bits
            before = await client.value("SELECT pg_current_wal_insert_lsn()")
            assert await store.upsert_many(same) == 0
            assert await client.value("SELECT pg_current_wal_insert_lsn()") == before
        await client.execute(f"BEGIN; SELECT * FROM {table} FOR UPDATE")
        assert await store.upsert_many(batch) == 0  # or it would give up


@pytest.mark.parametrize(
    ("news", "looks"), [(0, True), (1, True), (18, True), (19, False), (20, False)]
)
async def test_what_is_stored_is_looked_for_after_a_call_with_a_tenth_of_it(
    news: int, looks: bool, store: PostgresRepository, table: str, somebody: Client
) -> None:
    await store.upsert_many(STORED)
    batch = [row(number) for number in range(news, news + len(STORED))]
    assert await store.upsert_many(batch) == news
    assert await locks(store, somebody, table) is not looks


async def test_what_is_stored_is_looked_for_at_first_and_after_a_call_that_failed(
    schema: str, table: str, somebody: Client
) -> None:
    async with open_postgres_repository(postgres().dsn, schema=schema, create=True) as store:
        await store.upsert_many(STORED)
    async with open_postgres_repository(postgres().dsn, schema=schema) as store:
        assert not await locks(store, somebody, table)
        assert await store.upsert_many([row(-1)]) == 1
        assert await locks(store, somebody, table)
        assert await store.upsert_many([row(-2)]) == 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.upsert_many([row(-3)])
        assert not await locks(store, somebody, table)


async def test_a_call_with_no_entries_does_not_end_the_search_for_what_is_stored(
    store: PostgresRepository, table: str, somebody: Client
) -> None:
    await store.upsert_many(STORED)
    await store.upsert_many(STORED)
    await store.upsert_many([])
    assert not await locks(store, somebody, table)


STORED = [row(number) for number in range(20)]


async def locks(store: PostgresRepository, client: Client, table: str) -> bool:
    """Write again what is stored; return whether that was not left out, but locked its rows."""
    lockers = f"SELECT array_agg(xmax::text) FROM {table}"
    before = await client.value(lockers)
    assert await store.upsert_many(STORED) == 0
    return await client.value(lockers) != before


async def test_a_statement_that_was_planned_for_a_small_table_finds_keys_by_index(
    store: PostgresRepository, schema: str, table: str, somebody: Client
) -> None:
    await store.upsert_many([entry(number) for number in range(3)])
    await somebody.execute(f"ANALYZE {table}")

    async def explain(connection: asyncpg.Connection, plan: Plan[ProvcacheEntry]) -> list[str]:
        upsert = plan.statements.upsert_changes
        nothing = ", ".join(
            f"'{argument if isinstance(argument, str) else ''}'"
            for argument in plan.arguments_of(())
        )
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE planned AS {upsert}; EXECUTE planned({nothing})")
        return [text for (text,) in await connection.fetch(f"EXPLAIN EXECUTE planned({nothing})")]

    lines = await store._run(store._writers, explain)
    assert not [line for line in lines if "Seq Scan" in line]
    assert [line for line in lines if "Index Scan using entries_pkey" in line]


# Sessions

FOR_LOST_NETWORKS = (
    "idle_in_transaction_session_timeout",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
)
GUARDS = ("application_name", "statement_timeout", "lock_timeout", "enable_seqscan", "jit")


async def test_sessions_are_named_and_give_up_before_we_do(schema: str) -> None:
    async with open_postgres_repository(
        postgres().dsn, schema=schema, create=True, command_timeout_seconds=20
    ) as store:
        names = (*GUARDS, "client_connection_check_interval", *FOR_LOST_NETWORKS)
        guards = {
            "application_name": "provcache_trio",
            "statement_timeout": "18s",
            "lock_timeout": "10s",
            "client_connection_check_interval": "2s",
            "idle_in_transaction_session_timeout": "20s",
            "tcp_keepalives_idle": "60",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
        }
        assert await settings_of(store, *names) == guards | {"enable_seqscan": "off", "jit": "off"}
        assert await settings_of(store, *guards, reading=True) == guards
        assert await settings_of(store, "enable_seqscan", reading=True) == {"enable_seqscan": "on"}


async def test_the_settings_that_are_given_win(schema: str) -> None:
    given = {
        "application_name": "mine",
        "statement_timeout": "7s",
        "lock_timeout": "6s",
        "client_connection_check_interval": "5s",
        "idle_in_transaction_session_timeout": "4s",
        "tcp_keepalives_idle": "7",
        "enable_seqscan": "on",
        "jit": "on",
        "work_mem": "5MB",
    }
    async with open_postgres_repository(
        postgres().dsn, schema=schema, create=True, server_settings=given
    ) as store:
        assert await settings_of(store, *given) == given
        assert await settings_of(store, *given, reading=True) == given


async def test_the_settings_in_the_url_win_over_ours(schema: str) -> None:
    given = {
        "application_name": "theirs",
        "statement_timeout": "7s",
        "client_connection_check_interval": "5s",
        "jit": "on",
        "work_mem": "5MB",
    }
    dsn = f"{postgres().dsn}?{urlencode(given)}&Lock_Timeout=6s"
    async with open_postgres_repository(
        dsn, schema=schema, create=True, server_settings={"application_name": "mine"}
    ) as store:
        expected = given | {"application_name": "mine", "lock_timeout": "6s"}
        assert await settings_of(store, *expected) == expected


async def prepared(store: PostgresRepository) -> object:
    return await store._run(
        store._writers,
        lambda connection, _: connection.fetchval("SELECT count(*) FROM pg_prepared_statements"),
    )


async def test_behind_a_pooler_nothing_is_set_and_nothing_prepared(
    schema: str, somebody: Client
) -> None:
    names = (*GUARDS, "client_connection_check_interval", *FOR_LOST_NETWORKS, "work_mem")
    (defaults,) = await somebody.fetch(
        "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    )
    expected = dict(zip(names, defaults, strict=True)) | {"work_mem": "5MB"}
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        create=True,
        server_settings={"work_mem": "5MB"},
        pgbouncer=True,
    ) as store:
        await store.upsert_many([entry()])
        await store.delete_many([key_of(0)])
        assert await prepared(store) == 0
        assert await settings_of(store, *names) == expected


async def test_without_a_pooler_statements_are_prepared_once(store: PostgresRepository) -> None:
    async def write() -> object:
        for number in (0, 1, 1, 2):  # with what is stored, and without it
            await store.upsert_many([entry(number)])
        return await prepared(store)

    first = await write()
    assert first
    assert await write() == first


# Connections


@pytest.mark.one_lane
async def test_a_queue_uses_one_connection(schema: str, somebody: Client) -> None:
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        create=True,
        server_settings={"application_name": schema},
    ) as store:
        async with open_write_behind_queue(store, SOON) as queue:
            for number in range(200):
                await queue.enqueue(entry(number))
            await queue.flush()
        assert await connections(somebody, schema) == 1
        await store.count()
        assert await connections(somebody, schema) == 2


async def test_no_more_connections_write_than_may(schema: str, somebody: Client) -> None:
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        create=True,
        write_connections=3,
        server_settings={"application_name": schema},
    ) as store:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(store.upsert_many, [entry(number)])
        assert await connections(somebody, schema) == 3
        assert await store.count() == 30


@pytest.mark.heavy
@each_bridge
async def test_calls_that_are_cancelled_leave_no_connection_behind(
    schema: str, somebody: Client, bridge: BridgeKind
) -> None:
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        create=True,
        write_connections=2,
        server_settings={"application_name": schema},
        bridge=bridge,
    ) as store:
        for turn in range(100):
            with trio.move_on_after(turn % 20 / 1000):
                async with trio.open_nursery() as nursery:
                    for number in range(3):
                        nursery.start_soon(store.upsert_many, [entry(turn), entry(number)])
                    nursery.start_soon(store.count)

        async with trio.open_nursery() as nursery:  # which are not cancelled
            for number in range(3):
                nursery.start_soon(store.upsert_many, [entry(number)])
            nursery.start_soon(store.count)

        async def few_are_left() -> bool:  # the last goodbyes may be on their way
            return await connections(somebody, schema) <= 3

        await until(few_are_left)
        await store.check()
        assert len(store._writers.idle) == 2
        assert len(store._reader.idle) == 1


WRITE = """
import sys, time, trio
from datetime import timedelta
from provcache_trio.postgres import open_postgres_repository
from tests.support.entries import NOW, entry

dsn, schema, bridge, program = sys.argv[1:]

async def main():
    numbers = list(range(1000))
    if program == "1":
        numbers.reverse()
    version = 0
    async with open_postgres_repository(dsn, schema=schema, create=True, bridge=bridge) as store:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            version += 1
            created = NOW + timedelta(microseconds=version)
            batch = [
                entry(number, created_at=created, hit_count=version, feed_epoch=program)
                for number in numbers
            ]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.upsert_many, batch[:600])
                nursery.start_soon(store.upsert_many, batch[400:])
    print(version)

trio.run(main)
"""


@pytest.mark.heavy
@each_bridge
async def test_two_programs_that_write_the_same_keys_end_with_the_newest_of_each(
    schema: str, somebody: Client, bridge: BridgeKind
) -> None:
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await somebody.value(deadlocks)
    last: dict[str, int] = {}

    async def write(program: str) -> None:
        command = [sys.executable, "-c", WRITE, postgres().dsn, schema, bridge, program]
        done = await trio.run_process(command, capture_stdout=True, cwd=ROOT)
        last[program] = int(done.stdout)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "0")
        nursery.start_soon(write, "1")
    newest = max(last.values())
    async with open_postgres_repository(postgres().dsn, schema=schema) as store:
        rows = await store.get_many(map(key_of, range(1000)))
    assert len(rows) == 1000
    assert {one.hit_count for one in rows.values()} == {newest}
    assert {last[one.feed_epoch] for one in rows.values()} == {newest}
    assert await somebody.value(deadlocks) == before
