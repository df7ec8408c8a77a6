"""The requests of one call to the server. This is asyncio's side of the bridge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, final

import asyncpg

from provcache_trio._vocabulary.errors import StoreMisconfiguredError, StoreUnavailableError

from ._plan import MOST_DELETED_AT_ONCE
from ._statements import COMMIT_IN_LOG, CURSOR, FORBIDDEN_SEQUENCES, MAY_NOT_COMMIT_IN_LOG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._plan import Plan
    from ._statements import Request

E = TypeVar("E")
T = TypeVar("T")

# As texts, keys mean the same to another connection, whatever its settings are.
_PLAIN_TEXTS: Final = (
    "SELECT set_config('DateStyle', 'ISO', true), set_config('TimeZone', 'UTC', true)"
)


@final
class Prepared(tuple[E, ...], Generic[E]):  # noqa: SLOT001  # a tuple can have none
    """Entries and their packed form.

    Attributes:
        plan: the plan that they were packed for.
        arguments: the arguments of the statement that stores them.
        rows: the number of rows.
        refused: the index of the entry that the server refused at the last try, if it is known.
    """

    plan: Plan[E]
    arguments: tuple[object, ...]
    rows: int
    refused: int | None

    def __new__(
        cls, entries: tuple[E, ...], plan: Plan[E], arguments: tuple[object, ...], rows: int
    ) -> Self:
        self = super().__new__(cls, entries)
        self.plan = plan
        self.arguments = arguments
        self.rows = rows
        self.refused = None
        return self

    async def send(self, connection: asyncpg.Connection, statement: str) -> int:
        """Send the statement; return how many rows were added or changed."""
        self.refused = None
        try:
            return await affected(connection, statement, self.arguments)
        except asyncpg.PostgresError as error:
            self.refused = self.plan.index_of(error, self)
            raise


async def plan_of_connection(_: asyncpg.Connection, plan: Plan[E]) -> Plan[E]:  # noqa: ASYNC124  # as all that a session runs
    """Return the plan of the table as the connection saw it."""
    return plan


async def send(
    known: Plan[E],
    request: Request,
    answered: Callable[[asyncpg.Connection, str, tuple[object, ...]], Awaitable[T]],
    connection: asyncpg.Connection,
    plan: Plan[E],
) -> tuple[T] | None:
    """Return the answer; None if the table is not as ``plan`` describes it any more."""
    return None if plan is not known else (await answered(connection, *request),)


async def affected(
    connection: asyncpg.Connection, statement: str, arguments: Sequence[object]
) -> int:
    """Run ``statement`` and return how many rows it added, changed or deleted."""
    tag: str = await connection.execute(statement, *arguments)
    return int(tag.rpartition(" ")[2])


async def rows_of(
    connection: asyncpg.Connection, statement: str, arguments: Sequence[object]
) -> list[asyncpg.Record]:
    """Run ``statement`` and return its rows."""
    return await connection.fetch(statement, *arguments)


async def check(connection: asyncpg.Connection, plan: Plan[Any]) -> None:
    """Raise unless entries can be stored there, also by a retry after a failure."""
    statements = plan.statements
    # Storing nothing needs every right, table and column, and a server that accepts writes.
    await affected(connection, statements.upsert_changes, plan.arguments_of(()))
    if not statements.upsert_locks and await connection.fetchval(MAY_NOT_COMMIT_IN_LOG):
        raise StoreMisconfiguredError(
            "a retry would not wait for standbys: grant EXECUTE on"
            " pg_logical_emit_message(boolean, text, text) to this role"
        )
    await _check_sequences(connection, plan)
    plan.report()


async def _check_sequences(connection: asyncpg.Connection, plan: Plan[Any]) -> None:
    """Raise unless this role may use the sequences that fill columns which no field fills.

    Storing nothing takes no number from them, so the server has not asked for that right.
    """
    filled = [*plan.fields_by_column]
    denied = await connection.fetchrow(FORBIDDEN_SEQUENCES, plan.target, filled)
    if denied is not None:
        column, sequence, role = denied
        raise StoreMisconfiguredError(
            f"column {column!r} of table {plan.target} takes its default from a sequence that this role "
            f"may not use: GRANT USAGE ON SEQUENCE {sequence} TO {role}",
            column=column,
        )


async def commit_in_log(connection: asyncpg.Connection, packed: Prepared[Any]) -> int:
    """Commit something for which COMMIT waits; return how many rows that changed."""
    try:
        await connection.execute(COMMIT_IN_LOG)
    except asyncpg.InsufficientPrivilegeError:
        # The right to do that was revoked. Locking the rows writes to the log, too. A table whose
        # rows are never updated has no such locks; see ``check``.
        return await packed.send(connection, packed.plan.statements.upsert)
    return 0


# To delete many rows


async def found_and_deleted(
    connection: asyncpg.Connection, statement: str, arguments: Sequence[object]
) -> tuple[int, int]:
    """Run ``statement``; return how many rows it found, and how many it deleted."""
    [(found, deleted)] = await connection.fetch(statement, *arguments)
    return found, deleted


async def list_keys(
    connection: asyncpg.Connection, statement: str, arguments: Sequence[object]
) -> list[tuple[str, ...]]:
    """Open the cursor in a transaction; return the first keys that it lists, by column."""
    await connection.execute("BEGIN READ ONLY")
    await connection.execute(_PLAIN_TEXTS)
    await connection.execute(statement, *arguments)
    return await _next_keys(connection)


async def next_keys(connection: asyncpg.Connection, _: Plan[E]) -> list[tuple[str, ...]]:
    """Return the next keys that the cursor lists, by column, or an empty list at the end."""
    if not connection.is_in_transaction():
        raise StoreUnavailableError("the connection was lost when some rows had been deleted")
    return await _next_keys(connection)


async def _next_keys(connection: asyncpg.Connection) -> list[tuple[str, ...]]:
    rows = await connection.fetch(f"FETCH {MOST_DELETED_AT_ONCE} FROM {CURSOR}")
    return [*zip(*rows, strict=True)]
