"""``open_postgres_repository``, and what may be done with what it opens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Self, TypeVar, cast, final

import asyncpg
import trio

from provcache_trio._asyncio.bridge import DEFAULT_KIND, make_bridge
from provcache_trio._vocabulary.checks import (
    check_int,
    check_moment,
    check_seconds,
    check_text,
    check_type,
)
from provcache_trio._vocabulary.columns import blobs_of, entry_of, microseconds_of
from provcache_trio._vocabulary.entries import ProvcacheEntry
from provcache_trio._vocabulary.errors import EntryRejectedError
from provcache_trio._vocabulary.opening import Opening

from ._pool import SessionPool, close_all
from ._rows import (
    COMMIT_IN_LOG,
    COUNT,
    DELETE,
    DELETE_EXPIRED,
    SELECT,
    UPSERT,
    UPSERT_CHANGES,
    arguments_of,
    check_entries,
    once_each,
    pack,
    refused_index,
    unsound_index,
)
from ._schema import Schema
from ._session import Connector, Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from provcache_trio._asyncio.bridge import Bridge

    from ._rows import Slice

T = TypeVar("T")

_ROWS_BETWEEN_CHECKPOINTS: Final = 200  # to read
_ROWS_IN_SLICE: Final = 250  # to write; they take half a millisecond
_ROUNDS_TO_SEND: Final = 2
_MANY: Final = 0.1  # of the rows of a call; to look costs more than to lock fewer
_MOST_CONNECTIONS: Final = 100
_MOST_SECONDS: Final = 3600
_LATE_SECONDS: Final = 600  # far more than a server goes on with what was cut off


def open_postgres_repository(
    dsn: str,
    *,
    schema: str = "provcache",
    create: bool = False,
    write_connections: int = 4,
    connect_timeout_seconds: float = 5,
    command_timeout_seconds: float = 10,
    server_settings: Mapping[str, str] | None = None,
    pgbouncer: bool = False,
    bridge: Literal["trio-asyncio", "thread"] = DEFAULT_KIND,
) -> AbstractAsyncContextManager[PostgresRepository]:
    """Open a repository in PostgreSQL 12 or later, for the length of an ``async with``.

    Opening connects to nothing, and so always succeeds, but for OSError when the process has
    no descriptors left: connections are made when they are needed, and again when they are
    lost. Call ``check`` to learn at once whether that works.

    Leaving the block cancels the calls that other tasks have under way, and closes the
    connections. That is shielded from cancellation, and takes some two seconds at most, also
    when the network is silent.

    Args:
        dsn: a ``postgresql://`` URL, as asyncpg takes it; what it leaves out comes from the
            environment (``PGHOST``, ``PGPASSWORD`` and so on) and the password file.
        schema: the schema of the tables; 1 to 63 bytes of UTF-8.
        create: make the schema if it is not there, and bring an older one up to date, at the
            first connection. Several programs may do so at once.
        write_connections: most connections that write at a time; one is made when the others
            are busy. A queue needs as many as it has ``writers``. One more is made to read.
        connect_timeout_seconds: for making one connection.
        command_timeout_seconds: for one statement. The server ends it a tenth earlier, and
            waits half as long for a lock.
        server_settings: PostgreSQL's run-time parameters for the connections. They win over
            those in the URL's query, and both win over ours: ``application_name``,
            ``statement_timeout``, ``lock_timeout``, ``idle_in_transaction_session_timeout``,
            ``client_connection_check_interval``, ``tcp_keepalives_idle``, ``_interval`` and
            ``_count``, ``default_transaction_isolation``, ``array_nulls``,
            ``enable_seqscan``, ``jit``, ``plan_cache_mode``.
        pgbouncer: there is a PgBouncer, or a pooler like it, in between: send only the
            ``server_settings`` given here, and prepare no statements. In any mode; but in
            that of statements, ``create`` can't make the schema.
        bridge: where asyncpg's event loop runs: "trio-asyncio", inside trio's, or "thread".

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that it can't have.
        ImportError: ``bridge`` is "trio-asyncio", and that is not installed, or can't be
            imported by this Python.
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
        schema=(named := Schema(schema)),
        create=create,
        connect_timeout_seconds=connect_timeout_seconds,
        command_timeout_seconds=command_timeout_seconds,
        server_settings=_checked_settings(server_settings),
        pgbouncer=pgbouncer,
    )
    opened = make_bridge(bridge)
    repository = PostgresRepository(connector, named, write_connections, opened)
    return _Opening(repository, opened)


@final
class _Opening(Opening["PostgresRepository"]):
    """What ``open_postgres_repository`` returns."""

    what = "a repository"
    function = "open_postgres_repository"

    def __init__(self, repository: PostgresRepository, bridge: Bridge) -> None:
        self.one_task = bridge.one_task
        self._repository = repository
        self._bridge = bridge

    async def _open(self) -> PostgresRepository:
        await self._bridge.open()
        return self._repository

    async def _close(self, _error: BaseException | None, /) -> None:
        await self._repository._close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # the only one who may


@final
class PostgresRepository:
    """Returned by ``open_postgres_repository``; do not instantiate.

    May be used by several tasks and queues at once. A call that is cancelled before it is
    sent has no effect. One that is cancelled later tells the server, which takes a second at
    most, and raises ``trio.Cancelled``; what it wrote may be stored, or not, or a moment
    later. Whatever comes late, no row goes back to a version with an older ``created_at``.

    Besides what its own section tells, every method raises:
        StoreUnavailableError: the server can't be reached, does not answer in time, is full
            or shutting down or a read-only standby, or somebody holds a lock. What was
            written may be stored.
        StoreMisconfiguredError: a person is needed: the password, the certificate, the
            database, the schema, its version or a grant is wrong or missing.
        TransientStoreError: the server rolled back: deadlock, or serialization failure.
        StoreError: itself, neither of these: the server reported what should not happen.
        trio.ClosedResourceError: the ``async with`` block was left.

    Their ``error_class`` is asyncpg's name for the error, and ``sqlstate`` is set if the
    server reported it. After any error, the next call may succeed.
    """

    entry_type: Final = ProvcacheEntry
    db_system_name: Final = "postgresql"  # in the semantic conventions of OpenTelemetry

    def __init__(
        self, connector: Connector, schema: Schema, write_connections: int, bridge: Bridge
    ) -> None:
        self._schema = schema
        self._bridge = bridge
        # A plan that was made while the table was small is kept while it grows. And to compile
        # the statement takes longer than to run it.
        writing = {"enable_seqscan": "off", "jit": "off"}
        self._writers = SessionPool([Session(connector, writing) for _ in range(write_connections)])
        reading = {"plan_cache_mode": "force_custom_plan"}
        self._reader = SessionPool([Session(connector, reading)])
        self._calls: set[trio.CancelScope] = set()
        self._call_ended = trio.lowlevel.ParkingLot()
        self._in_doubt_since = math.inf  # it is not
        # So rows that would stay as they are, are looked for. At first, since a journal may bring
        # what is stored; after an error, since a batch that is tried again may; and after many.
        self._expects_repeats = True
        self._closed = False

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``.

        An entry whose key is stored already is merged with it as ``merge_entries`` does.
        Other tasks wait for a millisecond at a time while entries are encoded.

        Returns:
            How many rows were added or changed.

        Raises:
            EntryRejectedError: an entry is no ``ProvcacheEntry``, or a constraint or a
                trigger that somebody added refused it; ``index`` tells which, if the server
                did.
        """
        if not isinstance(entries, _Prepared):
            entries = await self._pack(tuple(entries))
        arguments = entries.arguments
        index: int | None = None
        began = trio.current_time()
        in_doubt = self._in_doubt_since < math.inf
        statement = UPSERT_CHANGES if self._expects_repeats else UPSERT

        async def upsert(connection: asyncpg.Connection) -> int:
            nonlocal index
            try:
                changed = await self._affected(connection, statement, *arguments)
            except asyncpg.PostgresError as error:
                index = refused_index(error, entries)
                raise
            if in_doubt and not changed:
                # Perhaps an earlier call stored the rows, and was cut off while it waited for
                # a standby to have them. A commit that writes nothing would not wait for it.
                await connection.execute(COMMIT_IN_LOG)
            return changed

        try:
            changed = await self._run(self._writers, upsert)
        except EntryRejectedError as error:
            error.index = index
            raise
        except BaseException:
            # However late it is tried again: only what is in the log behind it settles that.
            self._in_doubt_since = trio.current_time()
            self._expects_repeats = True
            raise
        self._expects_repeats = changed <= (1 - _MANY) * entries.rows
        if began > self._in_doubt_since + _LATE_SECONDS:
            self._in_doubt_since = math.inf
        return changed

    async def prepare(self, entries: Sequence[ProvcacheEntry], /) -> Sequence[ProvcacheEntry]:
        """Return ``entries`` with what is sent for them; see ``Repository``.

        Raises:
            EntryRejectedError: as ``upsert_many`` does for an entry that it can't send.
        """
        # A call that was made a moment ago is sent two rounds of trio's scheduler later. The
        # server should have its work first.
        for _ in range(_ROUNDS_TO_SEND):
            await trio.lowlevel.checkpoint()
        return await self._pack(tuple(entries))

    async def _pack(self, entries: tuple[ProvcacheEntry, ...]) -> _Prepared:
        check_entries(entries)
        once = once_each(entries)
        slices: list[Slice] = []
        for start in range(0, len(once), _ROWS_IN_SLICE):
            if start:
                await trio.lowlevel.checkpoint()
            try:
                slices.append(pack(once[start : start + _ROWS_IN_SLICE]))
            except (TypeError, ValueError) as error:
                name = type(error).__name__
                raise EntryRejectedError(
                    "an entry was changed after it was made",
                    index=unsound_index(entries),
                    error_class=name,
                ) from None
        return _Prepared(entries, arguments_of(slices), len(once))

    async def get_many(self, keys: Iterable[str]) -> dict[str, ProvcacheEntry]:
        """Return the stored entries of ``keys``, expired ones too, by key.

        All are read at one instant.

        Raises:
            TypeError: ``keys`` is not an iterable of str.
            ValueError: a key does not have the form of a VeriKey.
        """
        blobs = blobs_of(keys)
        statement = self._schema.fill_in(SELECT)
        rows = await self._run(
            self._reader, lambda connection: connection.fetch(statement, list(blobs.values()))
        )
        found: dict[str, ProvcacheEntry] = {}
        for number, row in enumerate(rows, 1):
            entry = entry_of(tuple(row), _as_it_is)
            found[entry.veri_key] = entry
            if number % _ROWS_BETWEEN_CHECKPOINTS == 0:
                await trio.lowlevel.checkpoint()
        return found

    async def count(self) -> int:
        """Return how many entries are stored. PostgreSQL counts them, which takes time."""
        statement = self._schema.fill_in(COUNT)
        number: int = await self._run(
            self._reader, lambda connection: connection.fetchval(statement)
        )
        return number

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete the entries of ``keys``, or none, and return how many there were.

        Raises:
            TypeError: ``keys`` is not an iterable of str.
            ValueError: a key does not have the form of a VeriKey.
            EntryRejectedError: a constraint or a trigger that somebody added refused it.
        """
        blobs = list(blobs_of(keys).values())
        return await self._run(
            self._writers, lambda connection: self._affected(connection, DELETE, blobs)
        )

    async def delete_expired(self, now: datetime, limit: int) -> int:
        """Delete entries whose ``expires_at`` has come, those that expired first first.

        Those that are being written at this moment are left for the next call.

        Args:
            now: aware; an entry that expires at this very instant has expired.
            limit: most entries to delete, 1 to 2**63 - 1.

        Returns:
            How many were deleted.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: ``now`` is naive, or ``limit`` is out of its range.
            EntryRejectedError: a constraint or a trigger that somebody added refused it.
        """
        check_moment("now", now)
        check_int("limit", limit, at_least=1)
        moment = microseconds_of(now)
        return await self._run(
            self._writers,
            lambda connection: self._affected(connection, DELETE_EXPIRED, moment, limit),
        )

    async def check(self) -> None:
        """Return if entries could be written now."""
        # To store nothing asks for every right, table and column, and for a server that writes.
        await self._run(
            self._reader,
            lambda connection: self._affected(connection, UPSERT_CHANGES, *arguments_of(())),
        )

    async def _affected(
        self, connection: asyncpg.Connection, statement: str, *arguments: object
    ) -> int:
        """Run ``statement`` and return how many rows it added, changed or deleted."""
        tag: str = await connection.execute(self._schema.fill_in(statement), *arguments)
        return int(tag.rpartition(" ")[2])

    # Protected: Ctrl-C between taking a session and giving it back would keep it for good.
    @trio.lowlevel.enable_ki_protection
    async def _run(
        self, pool: SessionPool, statement: Callable[[asyncpg.Connection], Awaitable[T]]
    ) -> T:
        with trio.CancelScope() as scope:
            self._raise_if_closed()
            self._calls.add(scope)
            try:
                return await pool.run(self._bridge, statement)
            finally:
                self._calls.remove(scope)
                self._call_ended.unpark_all()
        self._raise_if_closed()
        raise AssertionError("unreachable")

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the repository is closed")

    async def _close(self) -> None:
        self._closed = True
        interrupt: KeyboardInterrupt | None = None
        try:
            with trio.CancelScope(shield=True):  # every wait below is bounded on asyncio's side
                while True:
                    try:
                        await self._end_calls()
                    except KeyboardInterrupt as error:
                        interrupt = error
                    else:
                        break
        finally:  # whatever happened: a nursery that is left open breaks trio
            # Not in our scope, which it did not begin in.
            await self._bridge.close()  # noqa: ASYNC102  # shielded
        if interrupt is not None:
            raise interrupt

    async def _end_calls(self) -> None:
        for scope in self._calls:
            scope.cancel()
        while self._calls:
            await self._call_ended.park()
        sessions = [*self._writers.idle, *self._reader.idle]
        await self._bridge.run(partial(close_all, sessions))


@final
class _Prepared(tuple["ProvcacheEntry", ...]):  # noqa: SLOT001  # a tuple can have none
    """Entries, the arguments of the statement that stores them, and how many rows they are."""

    arguments: tuple[bytes | str, ...]
    rows: int

    def __new__(
        cls, entries: tuple[ProvcacheEntry, ...], arguments: tuple[bytes | str, ...], rows: int
    ) -> Self:
        self = super().__new__(cls, entries)
        self.arguments = arguments
        self.rows = rows
        return self


def _as_it_is(moment: datetime) -> datetime:
    return moment


# Annotated as object: callers may give what their annotations do not allow.


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
