"""``open_postgres_repository``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, cast, final, overload

from provcache_trio._asyncio.bridge import DEFAULT_KIND, make_bridge
from provcache_trio._vocabulary.checks import check_int, check_seconds, check_text, check_type
from provcache_trio._vocabulary.opening import Opening
from provcache_trio._vocabulary.table import Table

from ._repository import PostgresRepository
from ._schema import Schema
from ._session import Connector
from ._tables import TableInDatabase

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    # Only type checkers see the default, which Python's own TypeVar has from 3.13 on.
    from typing_extensions import TypeVar

    from provcache_trio._asyncio.bridge import Bridge
    from provcache_trio._vocabulary.entries import ProvcacheEntry

    from ._password import PasswordSource
    from ._session import Place

    E = TypeVar("E", default=ProvcacheEntry)
else:
    from typing import TypeVar

    E = TypeVar("E")

_MOST_CONNECTIONS: Final = 100
_MOST_SECONDS: Final = 3600


@overload
def open_postgres_repository(
    dsn: str,
    *,
    schema: str = "provcache",
    create: bool = False,
    password: PasswordSource = None,
    write_connections: int = 4,
    connect_timeout_seconds: float = 5,
    command_timeout_seconds: float = 10,
    server_settings: Mapping[str, str] | None = None,
    pgbouncer: bool = False,
    bridge: Literal["trio-asyncio", "thread"] = DEFAULT_KIND,
) -> AbstractAsyncContextManager[PostgresRepository]: ...


@overload
def open_postgres_repository(
    dsn: str,
    *,
    table: Table[E],
    create: bool = False,
    password: PasswordSource = None,
    write_connections: int = 4,
    connect_timeout_seconds: float = 5,
    command_timeout_seconds: float = 10,
    server_settings: Mapping[str, str] | None = None,
    pgbouncer: bool = False,
    bridge: Literal["trio-asyncio", "thread"] = DEFAULT_KIND,
) -> AbstractAsyncContextManager[PostgresRepository[E]]: ...


def open_postgres_repository(
    dsn: str,
    *,
    table: Table[Any] | None = None,
    schema: str | None = None,
    create: bool = False,
    password: PasswordSource = None,
    write_connections: int = 4,
    connect_timeout_seconds: float = 5,
    command_timeout_seconds: float = 10,
    server_settings: Mapping[str, str] | None = None,
    pgbouncer: bool = False,
    bridge: Literal["trio-asyncio", "thread"] = DEFAULT_KIND,
) -> AbstractAsyncContextManager[PostgresRepository[Any]]:
    """Open a repository in PostgreSQL 12 or later, for the length of an ``async with``.

    Opening does not connect, and so always succeeds, except for OSError when the process has no
    descriptors left. Connections are made when they are needed, and again when they are lost. Call
    ``check`` to find out at once whether that works.

    Leaving the block cancels the calls of other tasks that are under way, and closes the
    connections. That is shielded from cancellation, and takes about two seconds at most, even when
    the network is silent.

    **With a table**, the database may hold anything else, too. Each connection reads the table's
    definition from the catalogue, and reads it again when a statement fails as it would after a
    migration. A column may be text, varchar, an enum, bigint, integer, smallint, double precision,
    boolean, bytea, uuid, numeric, timestamptz, date, time, interval, jsonb or json, a domain over
    one of these, or an array of one. It must store the values of its field unchanged; ``check``
    names a column that does not. The privileges ``SELECT``, ``INSERT`` and ``UPDATE`` on the
    columns of the table are enough.

    Args:
        dsn: a ``postgresql://`` URL as for asyncpg; what it leaves out comes from the
            environment (``PGHOST``, ``PGPASSWORD`` and so on) and the password file.
        table: the type of the entries and their table; by default ``ProvcacheEntry``, in a schema
            of its own.
        schema: the schema of the tables, only without ``table``, which names its own; 1 to 63
            bytes of UTF-8; by default "provcache".
        create: at the first connection, create a missing schema, or bring an older one up to date;
            with ``table``, create a missing table, but never change an existing one. Several
            programs may do so at once.
        password: the password, which wins over that of ``dsn``; or an async function that
            returns it, such as a token that expires. The function is called in a trio task for
            each new connection, and has ``connect_timeout_seconds``; while it raises exceptions,
            the store is unavailable.
        write_connections: most connections for writing; another one is made when the others are
            busy. A queue needs as many as it has ``writers``. One more is made for reading, and
            one while many rows are deleted.
        connect_timeout_seconds: for making one connection.
        command_timeout_seconds: for one statement. The server ends it a tenth earlier, and
            waits half as long for a lock.
        server_settings: PostgreSQL's run-time parameters for the connections. They win over
            those in the URL's query, and both win over ours: ``application_name``,
            ``statement_timeout``, ``lock_timeout``, ``idle_in_transaction_session_timeout``,
            ``client_connection_check_interval``, ``tcp_keepalives_idle``, ``_interval`` and
            ``_count``, ``default_transaction_isolation``, ``array_nulls``,
            ``enable_seqscan``, ``jit``, ``plan_cache_mode``.
        pgbouncer: give True behind PgBouncer or a similar pooler: then only the
            ``server_settings`` given here are sent, and no statements are prepared. Every pool
            mode works; but in statement mode, ``create`` can't create the schema.
        bridge: where asyncpg's event loop runs: "trio-asyncio", inside trio's, or "thread".

    Raises:
        TypeError: an argument has the wrong type, or both ``table`` and ``schema`` are given.
        ValueError: an argument has an invalid value.
        ImportError: ``bridge`` is "trio-asyncio", which is not installed, or can't be imported by
            this Python.
    """
    check_text("dsn", dsn)
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise ValueError("dsn must begin with postgresql://")
    check_int("write_connections", write_connections, at_least=1, at_most=_MOST_CONNECTIONS)
    check_timeout = partial(check_seconds, positive=True, at_most=_MOST_SECONDS)
    check_timeout("connect_timeout_seconds", connect_timeout_seconds)
    check_timeout("command_timeout_seconds", command_timeout_seconds)
    check_type("create", create, bool)
    check_type("pgbouncer", pgbouncer, bool)
    connector = Connector(
        dsn,
        place=_place(table, schema, create=create),
        connect_timeout_seconds=connect_timeout_seconds,
        command_timeout_seconds=command_timeout_seconds,
        server_settings=_checked_settings(server_settings),
        pgbouncer=pgbouncer,
        password=password,
    )
    opened = make_bridge(bridge)
    repository = PostgresRepository(connector, table, write_connections, opened)
    return _Opening(repository, opened)


def _place(table: object, schema: str | None, *, create: bool) -> Place[Any]:
    if table is None:
        return Schema("provcache" if schema is None else schema, create=create)
    check_type("table", table, Table)
    if schema is not None:
        raise TypeError("schema: the table names its own, Table(..., schema=...)")
    return TableInDatabase(cast("Table[Any]", table), create=create)


@final
class _Opening(Opening["PostgresRepository[E]"], Generic[E]):
    """The context manager that ``open_postgres_repository`` returns."""

    what = "a repository"
    function = "open_postgres_repository"

    def __init__(self, repository: PostgresRepository[E], bridge: Bridge) -> None:
        self.one_task = bridge.one_task
        self._repository = repository
        self._bridge = bridge

    async def _open(self) -> PostgresRepository[E]:
        await self._bridge.open()
        return self._repository

    async def _close(self, _error: BaseException | None, /) -> None:
        await self._repository._close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # the only one who may


# Annotated as object, since callers may pass values that the annotations do not allow.


def _checked_settings(settings: object) -> dict[str, str]:
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise TypeError(f"server_settings must be a mapping, not {type(settings).__name__}")
    items = cast("Mapping[object, object]", settings).items()
    for name, value in items:
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError("server_settings must map str to str")
        if "\0" in name + value:
            raise ValueError("server_settings must not hold NUL")
    return cast("dict[str, str]", dict(items))
