"""The repository that ``open_postgres_repository`` opens."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, cast, final

import trio

from provcache_trio._asyncio.calls import BridgeCalls, together
from provcache_trio._vocabulary.checks import check_int, check_moment
from provcache_trio._vocabulary.columns import blobs_of, microseconds_of
from provcache_trio._vocabulary.entries import ProvcacheEntry
from provcache_trio._vocabulary.errors import EntryRejectedError
from provcache_trio._vocabulary.values import UnfitError, checked_keys

from ._plan import MOST_DELETED_AT_ONCE
from ._pool import SessionPool, close_all
from ._requests import (
    Prepared,
    affected,
    check,
    commit_in_log,
    found_and_deleted,
    list_keys,
    next_keys,
    plan_of_connection,
    rows_of,
    send,
)
from ._session import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
    from datetime import datetime

    import asyncpg

    # Only type checkers see the default, which Python's own TypeVar has from 3.13 on.
    from typing_extensions import TypeVar

    from provcache_trio._asyncio.bridge import Bridge
    from provcache_trio._vocabulary.table import Table

    from ._plan import Plan, Slice
    from ._session import Connector, Statement
    from ._statements import Deletion, Request

    E = TypeVar("E", default=ProvcacheEntry)
else:
    from typing import TypeVar

    E = TypeVar("E")

T = TypeVar("T")
# After this many rows that were read, other tasks run.
_ROWS_BETWEEN_CHECKPOINTS: Final = 200
# Rows to write that are packed at once, in half a millisecond.
_ROWS_IN_SLICE: Final = 250
_ROUNDS_TO_SEND: Final = 2
# With a smaller share of repeated rows in a call, looking for them costs more than locking them.
_MANY: Final = 0.1
# A server stops working on a call that was cut off long before.
_LATE_SECONDS: Final = 600


@final
class PostgresRepository(Generic[E]):
    """Returned by ``open_postgres_repository``; do not instantiate.

    May be used by several tasks and queues at once. A call that is cancelled before it is sent
    has no effect. One that is cancelled later asks the server to stop, within a second, and raises
    ``trio.Cancelled``; its entries may be stored, now or a moment later, or not. Even then no row
    goes back to an older version, by ``created_at`` or by the ``newer`` field of the table.

    Besides the errors in its own section, every method raises:
        StoreUnavailableError: the server can't be reached, does not answer in time, is full,
            shutting down or a read-only standby, or another session holds a lock. The entries
            may be stored all the same.
        StoreMisconfiguredError: a person is needed: the password, the certificate, the
            database, the schema, its version, the table, one of its columns or a grant is
            wrong or missing.
        TransientStoreError: the server rolled back, after a deadlock or a serialization failure.
        StoreError: none of the subclasses above: the server reported an unknown error.
        trio.ClosedResourceError: the ``async with`` block was left.

    Their ``error_class`` is asyncpg's name for the error, and ``sqlstate`` is set if the
    server reported it. After any error, the next call may succeed.

    Attributes:
        table: the table given to ``open_postgres_repository``; None: entries are
            ``ProvcacheEntry``.
        label: the server and the database, as the log has them.
    """

    # As the semantic conventions of OpenTelemetry name it.
    db_system_name: Final = "postgresql"

    def __init__(
        self,
        connector: Connector[E],
        table: Table[E] | None,
        write_connections: int,
        bridge: Bridge,
    ) -> None:
        self.table: Table[E] | None = table
        self.label: str = connector.label
        self._place = connector.place
        # The server keeps a plan that it made while the table was small. And compiling the statement
        # takes longer than running it.
        writing = {"enable_seqscan": "off", "jit": "off"}
        writers = [Session(connector, writing) for _ in range(write_connections)]
        self._writers = SessionPool(writers, connector.password)
        reading = {"plan_cache_mode": "force_custom_plan"}
        self._reader = SessionPool([Session(connector, reading)], connector.password)
        # Connected only while many rows are being deleted.
        self._lister = SessionPool([Session(connector, reading)], connector.password)
        self._listing = trio.Lock()
        self._pooled = connector.pgbouncer
        self._calls = BridgeCalls(bridge, f"the repository of {connector.label}")
        # Infinity: nothing is in doubt.
        self._in_doubt_since = math.inf
        # If so, rows that would not change are looked for: at first, as a journal may replay stored
        # entries; after an error, as a retry may; and after a call with many such rows.
        self._expects_repeats = True

    @property
    def entry_type(self) -> type:
        """The class of the entries."""
        return ProvcacheEntry if self.table is None else self.table.entry_type

    async def upsert_many(self, entries: Sequence[E], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``.

        An entry whose key is stored already is merged with it as ``merge_entries`` does, or
        ``table.merge``. Other tasks wait for a millisecond at a time while entries are encoded.

        Returns:
            How many rows were added or changed.

        Raises:
            EntryRejectedError: an entry is not of the type ``entry_type``; a field has a value that
                the table can't hold unchanged; or a constraint or a trigger refused it. ``index``
                is the entry's position, and ``field`` the name of its field, if known.
        """
        while True:
            packed = await self._packed(entries)
            changed = await self._upsert(packed)
            if changed is not None:
                return changed

    async def _upsert(self, packed: Prepared[E]) -> int | None:
        """Return how many rows changed; None if the table did, so that all must be packed again."""
        began = trio.current_time()
        in_doubt = self._in_doubt_since < math.inf
        statements = packed.plan.statements
        statement = statements.upsert_changes if self._expects_repeats else statements.upsert

        async def upsert(connection: asyncpg.Connection, plan: Plan[E]) -> int | None:
            if plan is not packed.plan:
                return None
            changed = await packed.send(connection, statement)
            if in_doubt and not changed:
                # An earlier call may have stored the rows, and been cut off while it waited for a
                # standby. A commit that writes nothing would not wait for that standby.
                return await commit_in_log(connection, packed)
            return changed

        try:
            changed = await self._run(self._writers, upsert)
        except EntryRejectedError as error:
            error.index = packed.refused
            error.field = packed.plan.fields_by_column.get(error.column or "")
            raise
        except BaseException:
            # However late the retry comes, only a later record in the log settles the doubt.
            self._in_doubt_since = trio.current_time()
            self._expects_repeats = True
            raise
        if changed is None:
            return None
        self._expects_repeats = changed <= (1 - _MANY) * packed.rows
        if began > self._in_doubt_since + _LATE_SECONDS:
            self._in_doubt_since = math.inf
        return changed

    async def prepare(self, entries: Sequence[E], /) -> Sequence[E]:
        """Return ``entries`` in packed form; see ``Repository``.

        Raises:
            EntryRejectedError: as ``upsert_many`` does for an entry that it can't send.
        """
        # A call that began a moment ago is sent two rounds of trio's scheduler later. Let the server
        # have that work first.
        for _ in range(_ROUNDS_TO_SEND):
            await trio.lowlevel.checkpoint()
        plan = self._place.plan
        return entries if plan is None else await self._pack(tuple(entries), plan)

    async def _packed(self, entries: Sequence[E]) -> Prepared[E]:
        """Return ``entries``, packed for the table as it was last seen."""
        plan = await self._plan(self._writers)
        if isinstance(entries, Prepared) and entries.plan is plan:
            return entries
        return await self._pack(tuple(entries), plan)

    async def _pack(self, entries: tuple[E, ...], plan: Plan[E]) -> Prepared[E]:
        slices: list[Slice] = []
        once: Sequence[E] = ()
        failed = False
        try:
            once = plan.once_each(entries)
            for start in range(0, len(once), _ROWS_IN_SLICE):
                if start:
                    await trio.lowlevel.checkpoint()
                slices.append(plan.pack(once[start : start + _ROWS_IN_SLICE]))
        except (AttributeError, TypeError, UnfitError, ValueError):
            failed = True
        if failed:
            raise plan.unfit(entries)
        return Prepared(entries, plan, plan.arguments_of(slices), len(once))

    async def get_many(self, keys: Iterable[Any]) -> dict[Any, E]:
        """Return the stored entries of ``keys``, expired ones too, by key.

        All are read at one instant.

        Args:
            keys: VeriKeys; with a table, values of its key field, or tuples of them if it has
                several.

        Raises:
            TypeError: ``keys`` is not an iterable of keys.
            ValueError: a key does not have the form of a VeriKey.
        """
        checked = self._checked(keys)

        def asked(plan: Plan[E]) -> Request:
            return plan.statements.select, plan.key_arguments(checked)

        plan, rows = await self._ask(self._reader, asked, rows_of)
        found: dict[Any, E] = {}
        for number, row in enumerate(rows, 1):
            entry = plan.entry_of(tuple(row))
            found[plan.key(entry)] = entry
            if number % _ROWS_BETWEEN_CHECKPOINTS == 0:
                await trio.lowlevel.checkpoint()
        return found

    async def count(self) -> int:
        """Return how many entries are stored; slow, as PostgreSQL counts every row."""
        number: int = await self._run(
            self._reader, lambda connection, plan: connection.fetchval(plan.statements.count)
        )
        return number

    async def delete_many(self, keys: Iterable[Any]) -> int:
        """Delete the entries of ``keys``, or none, and return how many there were.

        Args:
            keys: as for ``get_many``.

        Raises:
            TypeError: ``keys`` is not an iterable of keys.
            ValueError: a key does not have the form of a VeriKey.
            EntryRejectedError: a constraint or a trigger that somebody added refused it.
        """
        checked = self._checked(keys)

        def asked(plan: Plan[E]) -> Request:
            return plan.statements.delete, plan.key_arguments(checked)

        _, deleted = await self._ask(self._writers, asked, affected)
        return deleted

    async def delete_where(self, *, before: object = None, **equals: object) -> int:
        """Delete the entries whose fields have these values, and return how many there were.

        They are deleted in steps, so that others may write in between; if the call is cancelled or
        fails, some may be deleted. ``flush`` the queue first, or the entries that it still holds
        are stored afterwards. The table is read once; if many rows match, by a separate connection
        in a transaction that stays open meanwhile. Behind PgBouncer it is read once for each step.

        Args:
            before: delete only versions whose ``newer`` field, or ``created_at``, has a smaller
                value, so that entries accepted afterwards stay.
            equals: values by field name; at least one. Without a table the fields are
                ``policy_hash``, ``signer_set_hash`` and ``feed_epoch``.

        Raises:
            TypeError: there is no condition; a value does not fit its field, or is stored as JSON;
                or ``before`` is given for a table without ``newer``.
            ValueError: there is no such field.
            EntryRejectedError: a constraint or a trigger refused it.
        """
        if not equals:
            raise TypeError("delete_where needs at least one field=value")
        if before is not None and self.table is not None and self.table.newer_field is None:
            raise TypeError(f"before: table {self.table.name!r} was declared without newer=")

        def deletion(plan: Plan[E]) -> Deletion:
            return plan.deletion(before, equals)

        deleted = 0
        while True:
            # By the reader, whose statements are planned for what the table holds now.
            _, (found, some) = await self._ask(
                self._reader, lambda plan: deletion(plan).first, found_and_deleted
            )
            deleted += some
            # Without a cursor, rows that a trigger or a policy keeps would be found for ever.
            if found < MOST_DELETED_AT_ONCE or (self._pooled and not some):
                return deleted
            # A cursor needs one connection throughout, which a pooler does not promise.
            if not self._pooled:
                async with self._listing:
                    listed = partial(self._delete_listed, deletion)
                    return deleted + await self._calls.run(listed)

    async def _delete_listed(self, deletion: Callable[[Plan[E]], Deletion]) -> int:
        """Delete the rows that a cursor lists; return how many there were."""
        deleted = 0
        keys: list[tuple[str, ...]] = []

        def of_keys(plan: Plan[E]) -> Request:
            return deletion(plan).of_listed(keys)

        async def delete() -> int:
            _, some = await self._ask(self._reader, of_keys, affected)
            return some

        async def list_more() -> list[tuple[str, ...]]:
            return await self._run(self._lister, next_keys)

        try:
            _, keys = await self._ask(self._lister, lambda plan: deletion(plan).listing, list_keys)
            while keys:
                # At the same time, as they keep different processes of the server busy.
                some, keys = await together(delete, list_more)
                deleted += some
        finally:
            # Bounded: closing takes a second at most.
            with trio.CancelScope(shield=True):
                await self._calls.bridge.run(partial(close_all, self._lister.idle))
        return deleted

    async def delete_expired(self, now: datetime, limit: int) -> int:
        """Delete entries whose ``expires_at`` has come, those that expired first first.

        Entries that are being written at this moment are left for the next call.

        Args:
            now: aware; an entry that expires at this very instant has expired.
            limit: most entries to delete, 1 to 2**63 - 1.

        Returns:
            How many were deleted.

        Raises:
            TypeError: an argument has the wrong type, or the table was declared without
                ``expires``.
            ValueError: ``now`` is naive, or ``limit`` is out of its range.
            EntryRejectedError: a constraint or a trigger that somebody added refused it.
        """
        check_moment("now", now)
        check_int("limit", limit, at_least=1)
        if self.table is not None and self.table.expires_field is None:
            raise TypeError(
                f"delete_expired: table {self.table.name!r} was declared without expires="
            )
        moment = microseconds_of(now)
        return await self._run(
            self._writers,
            lambda connection, plan: affected(
                connection, cast("str", plan.statements.delete_expired), (moment, limit)
            ),
        )

    async def check(self) -> None:
        """Raise unless entries could be written now."""
        await self._run(self._reader, check)

    async def _plan(self, pool: SessionPool[E]) -> Plan[E]:
        """Return the last known plan; connect to get one if there is none yet."""
        plan = self._place.plan
        return await self._run(pool, plan_of_connection) if plan is None else plan

    async def _ask(
        self,
        pool: SessionPool[E],
        asked: Callable[[Plan[E]], Request],
        answered: Callable[[asyncpg.Connection, str, tuple[object, ...]], Awaitable[T]],
    ) -> tuple[Plan[E], T]:
        """Send a statement; return the plan of the table then, and the answer.

        Args:
            pool: one of its sessions sends the statement.
            asked: returns the statement and its arguments; its exceptions are passed on.
            answered: an asyncio function that sends them.
        """
        while True:
            plan = await self._plan(pool)
            answer = await self._run(pool, partial(send, plan, asked(plan), answered))
            if answer is not None:
                return plan, answer[0]

    def _checked(self, keys: object) -> tuple[Hashable, ...]:
        """Return each of ``keys`` once."""
        return tuple(blobs_of(keys)) if self.table is None else checked_keys(keys)

    async def _run(self, pool: SessionPool[E], statement: Statement[E, T]) -> T:
        return await self._calls.run(partial(pool.run, self._calls.bridge, statement))

    async def _close(self) -> None:
        await self._calls.close(lambda: close_all([*self._writers.idle, *self._reader.idle]))
