"""What is sent to the server in one call; this is asyncio's side of the bridge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar, final

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._plan import Plan

E = TypeVar("E")
T = TypeVar("T")

Request: TypeAlias = tuple[str, tuple[object, ...]]  # a statement and its arguments


@final
class Prepared(tuple[E, ...], Generic[E]):  # noqa: SLOT001  # a tuple can have none
    """Entries, and what is sent for them.

    Attributes:
        plan: how the table is that it is sent to.
        arguments: those of the statement that stores them.
        rows: how many rows they are.
        refused: which of them the server refused when it was sent last, if it told.
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
        """Return how many rows were added or changed."""
        self.refused = None
        try:
            return await affected(connection, statement, self.arguments)
        except asyncpg.PostgresError as error:
            self.refused = self.plan.index_of(error, self)
            raise


async def plan_of_connection(_: asyncpg.Connection, plan: Plan[E]) -> Plan[E]:  # noqa: ASYNC124  # as all that a session runs
    """Return how entries are stored, as the connection saw it."""
    return plan


async def send(
    known: Plan[E],
    request: Request,
    answered: Callable[[asyncpg.Connection, str, tuple[object, ...]], Awaitable[T]],
    connection: asyncpg.Connection,
    plan: Plan[E],
) -> tuple[T] | None:
    """Return the answer; None: the table is no longer as it was known when it was asked."""
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
