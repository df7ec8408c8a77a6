"""A connection to PostgreSQL, made when it is needed. This is asyncio's side of the bridge."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeAlias, TypeVar, final

import asyncpg

from provcache_trio._vocabulary.errors import (
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    reworded,
)
from provcache_trio._vocabulary.sqlstates import PERSON

from ._dsn import Dsn, Server
from ._dsn_files import unreadable_tls_file
from ._errors import is_lost, meaning_of_error, timed_out, translated, wrong_parameters
from ._password import Password

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from provcache_trio._vocabulary.errors import EntryRejectedError

    from ._password import PasswordSource
    from ._plan import Plan

E = TypeVar("E")
T = TypeVar("T")
# A function that uses a connection to a table with this plan.
Statement: TypeAlias = "Callable[[asyncpg.Connection, Plan[E]], Awaitable[T]]"

_CLOSE_TIMEOUT_SECONDS: Final = 1
# The server's share of our time limit.
_OF_COMMAND_TIMEOUT: Final = 0.9
# A fraction of that time, as clocks and rounding differ.
_NEARLY: Final = 0.98
_HAS_CHECK_INTERVAL: Final = (14,)
_UNREADABLE: Final = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
# The reasons for which a statement may fail after the table was altered. By some of these the server
# means the entry, and by some the statement; reading the table again shows which.
_OF_ALTERED_TABLES: Final = frozenset(
    {
        "0A000",  # its result has another type
        "22001",  # a text is too long
        "22003",  # a number is too large
        "22P02",  # a text is no label of an enum
        "23502",  # a column must not be NULL
        "42703",  # no such column
        "42704",  # no such type
        "42804",  # a column has another type
        "42P01",  # no such table
        "42P10",  # no unique index on the key
    }
)
_WHO_SAID_READ_ONLY: Final = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN source END
FROM pg_settings WHERE name = 'default_transaction_read_only' AND setting = 'on'
"""
_SET_BY_A_PERSON: Final = frozenset({"client", "database", "database user", "user"})
_ASK_SECONDS: Final = 1
_KEEPALIVES: Final = {
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


class Place(Protocol[E]):
    """The place in the database where entries are stored."""

    @property
    def plan(self) -> Plan[E] | None:
        """The plan for that place; None until it was read."""
        ...

    async def look(self, connection: asyncpg.Connection, /) -> Plan[E]:
        """Read the place and return its plan, after creating it if need be."""
        ...


@final
class Connector(Generic[E]):
    """Makes connections; see ``open_postgres_repository`` for the arguments.

    Attributes:
        label: the URL, without what may be secret.
        place: where entries are stored.
        password: the password that the application gives.
        pgbouncer: whether there is a PgBouncer in between.
        statement_timeout_seconds: the server's time limit of a statement.
    """

    def __init__(
        self,
        dsn: str,
        *,
        place: Place[E],
        connect_timeout_seconds: float,
        command_timeout_seconds: float,
        server_settings: Mapping[str, str],
        pgbouncer: bool,
        password: PasswordSource = None,
    ) -> None:
        self._dsn = Dsn(dsn)
        self.label: str = self._dsn.label
        # The index of the host to try first, next time.
        self._turn = 0
        # The server of the last connection.
        self._server: Server | None = None
        self.place = place
        self._connect_timeout = self._dsn.connect_timeout_seconds or connect_timeout_seconds
        self.password: Password = Password(password, self._connect_timeout)
        self._command_timeout = command_timeout_seconds
        self._wanted = dict(server_settings)
        self.pgbouncer: bool = pgbouncer or self._dsn.pgbouncer
        # The server gives up before we do, as a call that we gave up may still be carried out.
        self.statement_timeout_seconds: float = command_timeout_seconds * _OF_COMMAND_TIMEOUT

    def begin_with_the_next_host(self) -> None:
        """Make the next try begin with another host."""
        self._turn += 1

    @property
    def hosts_to_ask(self) -> int:
        """How many tries, each beginning with another host, must fail before the network counts as silent."""
        return 1 if self._server is None else min(2, max(1, len(self._server.hosts)))

    async def connect(self, *, planner_settings: Mapping[str, str]) -> asyncpg.Connection:
        """Return a connection whose place has been read."""
        turn = self._turn
        # In case the next line raises.
        self._server = None
        self._server = server = self._dsn.server()
        try:
            return await self._connect(server, turn, planner_settings)
        except Exception as error:
            # The first host may have used up all of the time, if that machine is dead. And asyncpg
            # itself tries the next host only if there was no answer.
            self._turn = turn + 1
            if isinstance(error, _UNREADABLE) and (
                file := unreadable_tls_file(server.tls, server.hosts)
            ):
                name = type(error).__name__
                raise StoreMisconfiguredError(
                    f"a file of TLS, {file}, can't be read ({name})", error_class=name
                ) from None
            # It may be the socket of a server that is down.
            raise

    async def _connect(
        self, server: Server, turn: int, planner_settings: Mapping[str, str]
    ) -> asyncpg.Connection:
        turn %= max(1, len(server.hosts))
        turned = server.hosts[turn:] + server.hosts[:turn]
        async with asyncio.timeout(self._connect_timeout):
            connection = await asyncpg.connect(
                server.url,
                host=[host for host, _ in turned] or None,
                port=[port for _, port in turned] or None,
                user=server.user,
                password=self.password.value or server.password,
                database=server.database,
                timeout=self._connect_timeout,
                command_timeout=self._command_timeout,
                server_settings=self._settings(server, planner_settings),
                # A pooler gives us another server connection next time, without our statements.
                statement_cache_size=0 if self.pgbouncer else 100,
                # Otherwise each connection leaves timers in the loop for five minutes.
                max_cached_statement_lifetime=0,
            )
            try:
                await self._prepare(connection, server)
            except BaseException:
                await close(connection)
                raise
        return connection

    async def _prepare(self, connection: asyncpg.Connection, server: Server) -> None:
        try:
            await self._guard(connection, server)
            await self.place.look(connection)
        except Exception as error:
            if isinstance(error, OSError) or not is_lost(error, ended=connection.is_closed()):
                raise
            # asyncpg's own error on a connection that the server ended, which needs no person.
            name = type(error).__name__
            raise StoreUnavailableError(f"asyncpg reported {name}", error_class=name) from None

    def _settings(self, server: Server, planner_settings: Mapping[str, str]) -> dict[str, str]:
        theirs = {**server.settings, **self._wanted}
        if self.pgbouncer:
            return theirs
        milliseconds = self._command_timeout * 1000
        ours = {
            "application_name": "provcache_trio",
            "statement_timeout": str(max(1, round(self.statement_timeout_seconds * 1000))),
            "lock_timeout": str(max(1, round(milliseconds * 0.5))),
            # If the network fails, the server does not notice that we have ended. It would keep the
            # lock of a migration for good, and the connection for two hours by Linux's default.
            "idle_in_transaction_session_timeout": str(max(1, round(milliseconds))),
            **_KEEPALIVES,
            "default_transaction_isolation": "read committed",
            # A row may have no time, which is sent as a null in an array.
            "array_nulls": "on",
            **planner_settings,
        }
        names = self._names_of_settings(server)
        return {name: ours[name] for name in ours if name not in names} | theirs

    def _names_of_settings(self, server: Server) -> set[str]:
        """Return the names, in lower case, of run-time parameters that the user sets."""
        return {*server.names, *map(str.lower, self._wanted)}

    def server_named(self) -> str:
        """Name the server of the last try, for the beginning of a message."""
        return "" if self._server is None else f"{self._server}: "

    def hint(self, error: Exception) -> str:
        """Return what may be wrong with our connection parameters, as the server refused us; or ""."""
        server = self._server
        if server is not None and isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
            return server.why_no_password()
        return "" if server is None else wrong_parameters(error, self._names_of_settings(server))

    async def _guard(self, connection: asyncpg.Connection, server: Server) -> None:
        """Make the server notice soon when we have ended, so that it releases our locks."""
        name = "client_connection_check_interval"
        has_it = connection.get_server_version() >= _HAS_CHECK_INTERVAL
        if has_it and not self.pgbouncer and name not in self._names_of_settings(server):
            # It fails on systems that do not support this.
            with suppress(asyncpg.PostgresError):
                await connection.execute(f"SET {name} = '2s'")


@final
class Session(Generic[E]):
    """A connection that replaces itself when it is lost. One call at a time.

    Args:
        connector: makes the connections.
        planner_settings: run-time parameters for this kind of session.
    """

    def __init__(self, connector: Connector[E], planner_settings: Mapping[str, str]) -> None:
        self._connector = connector
        self._planner_settings = planner_settings
        self._connection: asyncpg.Connection | None = None
        # The plan as this connection read it.
        self._plan: Plan[E] | None = None

    async def run(self, statement: Statement[E, T]) -> T:
        """Return what ``statement`` returns, connecting first if need be.

        ``statement`` is called again if it failed because the table was altered meanwhile.

        When it is cancelled, the server is asked to stop, which takes a second at most.

        Raises:
            StoreError or a subclass, EntryRejectedError: see ``_errors``.
        """
        keep = False
        began = math.inf
        try:
            connection = self._connection
            if connection is None or connection.is_closed():
                self._connection = None
                connection = await self._connect()
            plan = await self._look(connection)
            began = asyncio.get_running_loop().time()
            result = await self._call(statement, connection, plan)
        except MemoryError:
            # A queue then sends less at once.
            raise
        except StoreError as error:
            failure: StoreError | EntryRejectedError = error
        except Exception as error:  # noqa: BLE001  # translated
            waited = asyncio.get_running_loop().time() - began
            failure, keep = await self._translate(error, waited)
        else:
            keep = True
            return result
        finally:
            if not keep:
                await self.close()
        # Not raised above, where asyncpg's error, which quotes rows, would be its context.
        raise reworded(failure, f"{self._connector.server_named()}{failure}")

    async def _translate(
        self, error: Exception, waited: float
    ) -> tuple[StoreError | EntryRejectedError, bool]:
        """Return the error to raise, and whether the connection is as good as before."""
        meaning = meaning_of_error(
            error,
            connected=self.connected,
            ended=self.will_connect,
            pgbouncer=self._connector.pgbouncer,
        )
        hint = self._connector.hint(error) if not self.connected else ""
        if await self._may_only_read(error):
            meaning, hint = PERSON, "default_transaction_read_only is set for this role or database"
        keep = meaning.keep
        too_slow = self._ended_by_our_limit(error, waited)
        if self.connected and timed_out(error):
            # Either the server is at work, or the network is silent; a fresh connection shows which. Or this
            # is a primary that was cut off from its standbys, and another host has taken over.
            await self.close()
            self._connector.begin_with_the_next_host()
            keep = too_slow = await self._answers()
        return translated(error, meaning, too_slow=too_slow, hint=hint), keep

    async def _connect(self) -> asyncpg.Connection:
        connector = self._connector
        connection = await connector.connect(planner_settings=self._planner_settings)
        self._connection = connection
        self._plan = connector.place.plan
        return connection

    async def _look(self, connection: asyncpg.Connection) -> Plan[E]:
        """Return the plan; read the place again if another connection found a change."""
        if self._plan is None or self._plan is not self._connector.place.plan:
            self._plan = await self._connector.place.look(connection)
        return self._plan

    async def _call(
        self, statement: Statement[E, T], connection: asyncpg.Connection, plan: Plan[E]
    ) -> T:
        try:
            return await statement(connection, plan)
        except asyncpg.PostgresError as error:
            if error.sqlstate not in _OF_ALTERED_TABLES:
                raise
            failure = error
        # Not raised above, where the error, which quotes rows, would be the context of another one.
        try:
            self._plan = await self._connector.place.look(connection)
            if self._plan is plan:
                raise failure
        finally:
            # Otherwise this frame would hold itself alive.
            del failure
        return await statement(connection, self._plan)

    async def _answers(self) -> bool:
        """Return whether a server answers on a fresh connection, which is kept for the next call."""
        # The next host may be dead, which says nothing about the one after it.
        for _ in range(self._connector.hosts_to_ask):
            # If it fails, the next call will see the same error.
            with suppress(Exception):
                await self._connect()
                return True
        return False

    async def _may_only_read(self, error: Exception) -> bool:
        """Return whether this role or the database was set to read only.

        If it was set for the whole server, it may be a failover or maintenance, which passes.
        """
        connection = self._connection
        if not isinstance(error, asyncpg.ReadOnlySQLTransactionError) or connection is None:
            return False
        source: object = None
        # If it fails, the next call will find out.
        with suppress(Exception):
            source = await connection.fetchval(_WHO_SAID_READ_ONLY, timeout=_ASK_SECONDS)
        return source in _SET_BY_A_PERSON

    def _ended_by_our_limit(self, error: Exception, waited: float) -> bool:
        """Return whether the server ended the statement at our time limit.

        An administrator's cancellation is reported as 57014, too. Waiting for a lock ends a
        statement earlier, and with another SQLSTATE.
        """
        of_server = isinstance(error, asyncpg.QueryCanceledError)
        return of_server and waited >= _NEARLY * self._connector.statement_timeout_seconds

    @property
    def will_connect(self) -> bool:
        """Whether the next call has to connect first, as far as is known."""
        return self._connection is None or self._connection.is_closed()

    @property
    def connected(self) -> bool:
        """Whether there is a connection to close."""
        return self._connection is not None

    async def close(self) -> None:
        """Close the connection, if there is one, in a second at most."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)


async def close(connection: asyncpg.Connection) -> None:
    """Close ``connection``, which first ends what it is doing, in a second at most."""
    # If it fails, the connection is dropped.
    with suppress(Exception):
        await connection.close(timeout=_CLOSE_TIMEOUT_SECONDS)
