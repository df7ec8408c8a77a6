"""The Postgres repository on servers, databases and roles that somebody has set up differently."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest
import trio

from provcache_trio import (
    EntryRejectedError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    Table,
    open_write_behind_queue,
)
from provcache_trio.postgres import _repository as postgres_module, open_postgres_repository
from provcache_trio.postgres._rows import entries_plan

from tests.support.bridges import Client, each_bridge, silent_server, somebody
from tests.support.entries import NOW, by_key, key_of
from tests.support.pgserver import run_postgres_server
from tests.support.postgres import (
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
from tests.support.servers import postgres
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path

    from provcache_trio._asyncio.bridge import BridgeKind
    from provcache_trio.postgres import PostgresRepository

    from tests.support.pgserver import PostgresServer

__all__ = ["role", "schema", "somebody", "store", "table"]  # fixtures


# Databases


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
async def database(request: pytest.FixtureRequest, somebody: Client) -> AsyncGenerator[str]:
    """Give the name of a database, which is its encoding."""
    name: str = request.param
    await somebody.execute(
        f"CREATE DATABASE {quoted(name)} ENCODING '{name}' TEMPLATE template0"
        " LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    yield name
    await somebody.execute(f"DROP DATABASE {quoted(name)} WITH (FORCE)")


async def test_a_database_that_can_not_hold_every_text_is_refused_by_its_encoding(
    database: str,
) -> None:
    one = row(0, feed_epoch="日本 é")
    async with open_postgres_repository(postgres().dsn_of(database), create=True) as store:
        if database == "SQL_ASCII":  # holds what it is given
            assert await store.upsert_many([one]) == 1
            assert await store.get_many([one.veri_key]) == by_key([one])
            return
        with pytest.raises(StoreMisconfiguredError, match="must be UTF8, not LATIN1"):
            await store.check()
        with pytest.raises(StoreMisconfiguredError, match="must be UTF8, not LATIN1"):
            await store.upsert_many([one])


# Transactions


@pytest.fixture
async def strict_role(somebody: Client, role: str) -> AsyncGenerator[str]:
    """Give the URL of a role whose transactions are repeatable reads."""
    await somebody.execute(f"CREATE ROLE {quoted(role)} LOGIN SUPERUSER")
    await somebody.execute(
        f"ALTER ROLE {quoted(role)} SET default_transaction_isolation = 'repeatable read'"
    )
    server = postgres()
    user = "".join(f"%{byte:02x}" for byte in role.encode())
    yield f"postgresql://{user}@{server.host}:{server.port}/postgres"
    await somebody.execute(f"DROP OWNED BY {quoted(role)} CASCADE")
    await somebody.execute(f"DROP ROLE {quoted(role)}")


@pytest.mark.parametrize("pgbouncer", [False, True])
async def test_programs_make_the_schema_at_once_whatever_isolation_their_role_has(
    strict_role: str, schema: str, pgbouncer: bool, somebody: Client
) -> None:
    async def check() -> None:
        async with open_postgres_repository(
            strict_role,
            schema=schema,
            create=True,
            pgbouncer=pgbouncer,
            server_settings={"application_name": schema},
        ) as store:
            await store.check()

    lock = "BEGIN; SELECT pg_advisory_xact_lock(x'70766373'::int, hashtext($lock${}$lock$))"
    await somebody.execute(lock.format(schema))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(check)
        await until_locked_out(somebody, schema)
        await somebody.execute("COMMIT")


async def test_statements_run_in_the_isolation_that_they_are_written_for(
    strict_role: str, schema: str
) -> None:
    async with open_postgres_repository(strict_role, schema=schema, create=True) as store:
        name = "transaction_isolation"
        assert await settings_of(store, name) == {name: "read committed"}


async def test_a_time_that_is_missing_is_stored_whatever_the_role_takes_null_for(
    strict_role: str, role: str, schema: str, somebody: Client
) -> None:
    await somebody.execute(f"ALTER ROLE {quoted(role)} SET array_nulls = off")
    async with open_postgres_repository(strict_role, schema=schema, create=True) as store:
        assert await store.upsert_many([row(0), row(1, last_accessed_at=NOW)]) == 2


# Standbys


@pytest.fixture(scope="module")
def synchronous() -> Generator[PostgresServer]:
    """A server that waits for a standby which does not exist, until it is told otherwise."""
    settings = {"fsync": "off", "synchronous_standby_names": "nobody"}
    with run_postgres_server(settings=settings) as server:
        yield server


async def test_a_primary_that_acknowledges_nothing_does_not_keep_the_others_from_being_tried(
    synchronous: PostgresServer, schema: str
) -> None:
    servers = (synchronous, postgres())
    async with Client(synchronous.dsn) as admin:
        await wait_for(admin, "")
        for server in servers:
            async with open_postgres_repository(server.dsn, schema=schema, create=True) as store:
                await store.check()
        await wait_for(admin, "nobody")  # as if it were cut off from its standbys
    places = ",".join(f"{server.host}:{server.port}" for server in servers)
    dsn = f"postgresql://postgres@{places}/postgres?target_session_attrs=read-write"
    async with open_postgres_repository(dsn, schema=schema, command_timeout_seconds=0.5) as store:
        with raises(StoreUnavailableError, sqlstate=None):
            await store.upsert_many([row(0)])
        assert await store.upsert_many([row(0)]) == 1
    async with open_postgres_repository(servers[1].dsn, schema=schema) as store:
        assert await store.count() == 1


GUEST = {"role": "guest"}
# What a hardened database may do: with the right gone, so is the mark in the log.
REVOKED = """
DO $$ BEGIN
    EXECUTE (
        SELECT string_agg(format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', oid::regprocedure), ';')
        FROM pg_proc WHERE proname = 'pg_logical_emit_message'
    );
END $$;
"""


@asynccontextmanager
async def hardened(server: PostgresServer, database: str, *made: str) -> AsyncGenerator[Client]:
    """Enter a database whose role ``guest`` may not mark the log; it waits for no standby."""
    async with Client(server.dsn) as postgres:
        await wait_for(postgres, "")
        await postgres.execute(f"CREATE DATABASE {database}")
        await postgres.execute("DROP ROLE IF EXISTS guest")
        await postgres.execute("CREATE ROLE guest")
    async with Client(server.dsn_of(database)) as admin:
        await admin.execute("SET synchronous_commit = local")
        try:
            for statement in (*made, REVOKED):
                await admin.execute(statement)
            yield admin
        finally:
            with trio.move_on_after(10, shield=True):
                await admin.execute("DROP OWNED BY guest")


async def wait_for(admin: Client, standby: str) -> None:
    """Have the server wait for ``standby``; "": for none."""
    await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'")
    await admin.execute("SELECT pg_reload_conf()")

    async def is_set() -> bool:
        return await admin.value("SHOW synchronous_standby_names") == standby

    await until(is_set)


async def is_acknowledged_only_with_a_standby(store: PostgresRepository, admin: Client) -> None:
    """Demand that no retry finds the row stored before a standby has it."""
    tries = 0
    # On the primary a try stores it, unless the time was over before it came that far.
    while tries < 3 or await admin.value("SELECT count(*) FROM provcache.entries") == 0:
        with raises(StoreUnavailableError):
            await store.upsert_many([row(0)])
        store._in_doubt_since -= 86_400  # a queue may wait for so long before it tries again
        tries += 1
    await wait_for(admin, "")

    async def stored() -> bool:
        try:
            return await store.upsert_many([row(0)]) == 0
        except StoreUnavailableError:
            return False

    await until(stored)


async def made(dsn: str) -> None:
    """Make the schema, which would wait for a standby, too."""
    settings = {"synchronous_commit": "local"}
    async with open_postgres_repository(dsn, server_settings=settings, create=True) as maker:
        await maker.check()


async def test_no_retry_is_acknowledged_before_a_standby_has_what_an_earlier_try_stored(
    synchronous: PostgresServer,
) -> None:
    await made(synchronous.dsn)
    async with (
        Client(synchronous.dsn) as admin,
        open_postgres_repository(synchronous.dsn, command_timeout_seconds=0.5) as store,
    ):
        await wait_for(admin, "nobody")
        await is_acknowledged_only_with_a_standby(store, admin)


async def test_a_role_that_may_not_mark_the_log_waits_for_a_standby_all_the_same(
    synchronous: PostgresServer,
) -> None:
    async with hardened(synchronous, "no_marks") as admin:
        dsn = synchronous.dsn_of("no_marks")
        await made(dsn)
        await admin.execute("GRANT USAGE ON SCHEMA provcache TO guest")
        await admin.execute(
            "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA provcache TO guest"
        )
        await wait_for(admin, "nobody")
        async with open_postgres_repository(dsn, server_settings=GUEST) as patient:
            await patient.check()
        async with open_postgres_repository(
            dsn, server_settings=GUEST, command_timeout_seconds=0.5
        ) as store:
            await is_acknowledged_only_with_a_standby(store, admin)


class Fact(msgspec.Struct, frozen=True):
    id: int
    text: str = ""


async def test_check_asks_for_the_mark_where_nothing_else_would_wait_for_a_standby(
    synchronous: PostgresServer,
) -> None:
    facts = Table(Fact, "fact", key="id", merge={"text": "keep"})
    fact = "CREATE TABLE fact (id bigint PRIMARY KEY, text text)"
    async with hardened(synchronous, "facts", fact) as admin:
        await admin.execute("GRANT SELECT, INSERT ON fact TO guest")
        await wait_for(admin, "")
        async with open_postgres_repository(
            synchronous.dsn_of("facts"), table=facts, server_settings=GUEST
        ) as store:
            await store.check()
            await store.upsert_many([Fact(1)])
            store._in_doubt_since = 0
            assert await store.upsert_many([Fact(1)]) == 0  # no error while the queue runs
            await wait_for(admin, "nobody")
            with pytest.raises(StoreMisconfiguredError, match="grant EXECUTE on pg_logical_emit"):
                await store.check()


async def test_what_is_identical_writes_to_the_log_only_after_a_call_in_doubt(
    store: PostgresRepository,
    schema: str,
    table: str,
    somebody: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def writes() -> bool:
        position = "SELECT pg_current_wal_insert_lsn()"
        before = await somebody.value(position)
        assert await store.upsert_many([row(0)]) == 0
        return await somebody.value(position) != before

    for _ in range(2):  # since the second time, what is stored is looked for
        await store.upsert_many([row(0)])
    assert not await writes()
    await somebody.execute(f"BEGIN; LOCK TABLE {table}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.upsert_many, [row(0)])
        await until_locked_out(somebody, schema)
        nursery.cancel_scope.cancel()
    await somebody.execute("ROLLBACK")
    for _ in range(2):  # what was cut off may be stored late
        assert await writes()
    monkeypatch.setattr(postgres_module, "_LATE_SECONDS", 0)
    assert await writes()
    assert not await writes()


# Hosts


@contextmanager
def silent_host() -> Generator[str]:
    """Give the address of what accepts connections and says nothing."""
    with silent_server() as dsn:
        yield dsn.partition("@")[2].partition("/")[0]


BY_URL, BY_QUERY, BY_ENVIRONMENT = "the URL", "its query", "the environment"


def dsn_of(hosts: str, how: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if how == BY_URL:
        return f"postgresql://postgres@{hosts}/postgres"
    if how == BY_QUERY:
        return f"postgresql://postgres@/postgres?host={hosts}"
    monkeypatch.setenv("PGHOST", hosts)
    return "postgresql://postgres@/postgres"


@each_bridge
@pytest.mark.parametrize("how", [BY_URL, BY_QUERY, BY_ENVIRONMENT])
async def test_a_first_host_that_is_silent_does_not_keep_the_others_from_being_tried(
    bridge: BridgeKind, how: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres()
    with silent_host() as silent:
        dsn = dsn_of(f"{silent},{server.host}:{server.port}", how, monkeypatch)
        async with open_postgres_repository(
            dsn, schema=schema, create=True, connect_timeout_seconds=0.5, bridge=bridge
        ) as store:
            async with trio.open_nursery() as nursery:
                for _ in range(4):  # each with a connection of its own
                    nursery.start_soon(_upsert_unavailable, store)
            async with open_write_behind_queue(store) as queue:
                await queue.persist(row(0))


async def _upsert_unavailable(store: PostgresRepository) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        await store.upsert_many([row(0)])
    assert caught.value.error_class == "TimeoutError"


async def answer_that_it_is_full(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    told = b"SFATAL\0C53300\0Msorry, too many clients already\0\0"
    await stream.send_all(b"E" + (len(told) + 4).to_bytes(4) + told)
    await stream.aclose()


async def test_a_first_host_that_is_full_does_not_keep_the_others_from_being_tried(
    schema: str,
) -> None:
    server = postgres()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, answer_that_it_is_full, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        hosts = f"127.0.0.1:{port},{server.host}:{server.port}"
        dsn = f"postgresql://postgres@{hosts}/postgres?sslmode=disable"
        async with open_postgres_repository(dsn, schema=schema, create=True) as store:
            with raises(StoreUnavailableError, sqlstate="53300"):
                await store.check()
            await store.check()
        nursery.cancel_scope.cancel()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[list[object]]:
    """Give the addresses of each try to connect, as asyncpg gets them."""
    each: list[list[object]] = []

    async def connect(_: str, **options: Any) -> None:  # noqa: ANN401, ASYNC124
        hosts, ports = options["host"] or [], options["port"] or []
        each.append(
            [
                host if host.startswith("/") else (host, port)
                for host, port in zip(hosts, ports, strict=True)
            ]
        )
        raise TimeoutError

    monkeypatch.setattr(asyncpg, "connect", connect)
    return each


async def try_three_times(
    dsn: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with open_postgres_repository(f"postgresql://{dsn}") as store:
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await store.check()


@pytest.mark.parametrize(
    ("dsn", "environment", "expected"),
    [
        ("u@a,b", {}, [("a", 5432), ("b", 5432)]),
        ("a:1,b", {}, [("a", 1), ("b", 5432)]),
        ("u@a:9,b", {"PGPORT": "1,2"}, [("a", 9), ("b", 2)]),
        ("u@a:9,b", {"PGPORT": "7"}, [("a", 9), ("b", 7)]),
        ("u@a:9,b/x?port=7,8", {}, [("a", 9), ("b", 5432)]),
        ("u@a:,%2Fb%2Fc/x?host=d,e", {"PGHOST": "f,g"}, [("a", 5432), "/b/c"]),
        ("u@[::1]:1,[::2]", {}, [("::1", 1), ("::2", 5432)]),
        ("u@/x?host=a:9,/b&port=7,8", {}, [("a", 7), "/b"]),
        ("u@/x?host=a:9,/b,[::1]:3", {"PGPORT": "7"}, [("a", 9), "/b", ("::1", 3)]),
        ("u@/x?port=7", {"PGHOST": "a:9,b"}, [("a", 7), ("b", 7)]),
        ("u@", {"PGHOST": "a,b", "PGPORT": "1,2"}, [("a", 1), ("b", 2)]),
        ("u@a", {}, [("a", 5432)]),
        ("u@", {}, []),
    ],
)
async def test_each_host_takes_its_port_along_when_it_is_its_turn_to_be_the_first(
    dsn: str,
    environment: dict[str, str],
    expected: list[object],
    tried: list[list[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await try_three_times(dsn, environment, monkeypatch)
    turns = [expected[turn:] + expected[:turn] for turn in range(max(1, len(expected)))]
    assert tried == [*turns, *turns, *turns][:3]


async def test_hosts_and_ports_of_the_environment_that_do_not_match_need_a_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPORT", "1,2,3")
    async with open_postgres_repository("postgresql://u@a,b") as store:
        with pytest.raises(StoreMisconfiguredError, match="there are 2 hosts and 3 ports"):
            await store.check()


async def test_with_no_host_that_writes_the_store_is_unavailable(
    synchronous: PostgresServer,
) -> None:
    dsn = f"{synchronous.dsn}?target_session_attrs=standby"
    async with open_postgres_repository(dsn) as store:
        with raises(StoreUnavailableError, error_class="TargetServerAttributeNotMatched"):
            await store.check()


# TLS


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert"])
@pytest.mark.parametrize("by_url", [True, False])
async def test_a_certificate_that_is_missing_needs_a_person(
    name: str, by_url: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing"
    dsn = f"{postgres().dsn}?sslmode=verify-full"
    if by_url:
        dsn += f"&{name}={missing}"
    else:
        monkeypatch.setenv(f"PG{name.upper()}", str(missing))
    async with open_postgres_repository(dsn) as store:
        with raises(StoreMisconfiguredError):
            await store.check()


@pytest.mark.parametrize("kind", ["a directory", "in a file", "no certificate"])
async def test_what_is_no_certificate_needs_a_person(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    await trio.Path(file).write_text("no certificate\n")
    path = {"a directory": tmp_path, "in a file": file / "x", "no certificate": file}[kind]
    async with open_postgres_repository(
        f"{postgres().dsn}?sslmode=verify-full&sslrootcert={path}"
    ) as store:
        with raises(StoreMisconfiguredError):
            await store.check()


async def test_a_socket_that_is_missing_is_a_server_that_is_down(tmp_path: Path) -> None:
    async with open_postgres_repository(f"postgresql://u@/postgres?host={tmp_path}") as store:
        with raises(StoreUnavailableError, error_class="FileNotFoundError"):
            await store.check()


# Tables


async def test_another_table_s_row_does_not_tell_which_entry_was_refused(
    store: PostgresRepository, schema: str, somebody: Client
) -> None:
    name = quoted(schema)
    await somebody.execute(
        f"CREATE TABLE {name}.seen (policy_hash bytea PRIMARY KEY);"
        f" CREATE FUNCTION {name}.see() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN INSERT INTO {name}.seen VALUES (NEW.policy_hash); RETURN NEW; END $$;"
        f" CREATE TRIGGER see BEFORE INSERT ON {name}.entries FOR EACH ROW"
        f" EXECUTE FUNCTION {name}.see()"
    )
    healthy = row(0, policy_hash=key_of("other"))
    await store.upsert_many([row(9, policy_hash=healthy.veri_key)])
    with raises(EntryRejectedError, index=None, table="seen"):
        await store.upsert_many([healthy, row(1, policy_hash=healthy.veri_key)])


async def test_another_column_s_value_does_not_tell_which_entry_was_refused(
    store: PostgresRepository, table: str, somebody: Client
) -> None:
    await somebody.execute(f"ALTER TABLE {table} ADD CONSTRAINT one_each UNIQUE (policy_hash)")
    healthy = row(0, policy_hash=key_of("other"))
    await store.upsert_many([row(9, policy_hash=healthy.veri_key)])
    with raises(EntryRejectedError, index=None, constraint="one_each"):
        await store.upsert_many([healthy, row(1, policy_hash=healthy.veri_key)])


async def test_a_time_of_somebody_else_that_python_can_not_hold_needs_a_person(
    store: PostgresRepository, table: str, somebody: Client
) -> None:
    await store.upsert_many([row(0)])
    await somebody.execute(f"UPDATE {table} SET last_accessed_at = '20000-01-01'")
    with raises(StoreMisconfiguredError, error_class="OverflowError"):
        await store.get_many([key_of(0)])
    assert await store.count() == 1


@pytest.mark.parametrize(
    ("statement", "types", "arguments"),
    [
        ("delete", "bytea[]", "ARRAY['x'::bytea, 'y'::bytea]"),
        ("delete_expired", "int8, int8", "0, 1000"),
    ],
    ids=["delete_many", "delete_expired"],
)
async def test_a_plan_made_while_the_table_was_small_does_not_join_two_loops(
    store: PostgresRepository,
    schema: str,
    table: str,
    somebody: Client,
    statement: str,
    types: str,
    arguments: str,
) -> None:
    await store.upsert_many([row(0)])
    settings = await settings_of(store, "enable_seqscan")
    statements = entries_plan(table).statements
    await somebody.execute(
        f"ANALYZE {table}; SET plan_cache_mode = force_generic_plan;"
        f" SET enable_seqscan = {settings['enable_seqscan']};"
        f" PREPARE it ({types}) AS {getattr(statements, statement)}"
    )
    lines = await somebody.fetch(f"EXPLAIN EXECUTE it ({arguments})")
    plan = "\n".join(str(line) for (line,) in lines)
    assert "Nested Loop" not in plan
    assert "Index Cond: (veri_key = ANY" in plan
