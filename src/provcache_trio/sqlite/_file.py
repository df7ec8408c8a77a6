"""The SQLite file with the entries, as worker threads read and write it."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from provcache_trio._disk.sqlite_connection import (
    FULL,
    Application,
    SQLiteConnection,
    number_of,
)
from provcache_trio._vocabulary.errors import (
    EntryRejectedError,
    StoreMisconfiguredError,
    StoreUnavailableError,
)
from provcache_trio._vocabulary.values import report_unfilled

from ._catalogue import prepare, read_plan, schema_version, statements_for
from ._plan import TablePlan
from ._rows import APPLICATION_ID, ENTRIES, SCHEMA, SCHEMA_VERSION, delete_where

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
    from datetime import datetime

    from provcache_trio._vocabulary.table import Table

    from ._cells import Cell
    from ._plan import Plan

E = TypeVar("E")

# The entries that are deleted at once on a full disk.
_SMALL_STEP: Final = 64
# The same otherwise, so that others may write in between.
_STEP: Final = 10_000
# The room that a small step takes at most in the -wal file and its index.
_ROOM: Final = "about 1 MiB"


class SQLiteFile(SQLiteConnection, Generic[E]):
    """A file with a table of entries; see ``SQLiteConnection``.

    Every method but ``close`` and ``interrupt`` raises:
        StoreUnavailableError: the file is locked, the disk is full or fails, or the call was
            interrupted.
        StoreMisconfiguredError: the file can't be opened or written, is not a database of ours, or
            does not have the declared table.
        EntryRejectedError: a constraint or a trigger refused a change.
    """

    def __init__(self, path: str, table: Table[E] | None, *, create: bool) -> None:
        ours = Application(APPLICATION_ID, SCHEMA_VERSION, SCHEMA) if table is None else None
        super().__init__(path, ours, create=create)
        self._table = table
        # For a table, set once its catalogue has been read.
        self._plan: Plan[E] = cast("Plan[E]", ENTRIES)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        if self._table is None:
            super()._set_up(connection)
            return
        prepare(connection)
        connection.execute("BEGIN")
        plan = read_plan(connection, self._table)
        is_empty = not number_of(connection, "SELECT count(*) FROM sqlite_master")
        connection.execute("COMMIT")
        if plan is None and self._create:
            plan = self._make_table(connection, self._table, is_empty=is_empty)
        self._plan = self._found(plan)

    def _make_table(
        self, connection: sqlite3.Connection, table: Table[E], *, is_empty: bool
    ) -> TablePlan[E] | None:
        if is_empty:
            # A file that another program filled keeps its mode.
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if read_plan(connection, table) is None:
            # Nobody else has made it meanwhile.
            for statement in statements_for(table):
                connection.execute(statement)
        plan = read_plan(connection, table)
        connection.execute("COMMIT")
        return plan

    def _found(self, plan: TablePlan[E] | None) -> TablePlan[E]:
        if plan is None:
            name = self._table.name if self._table is not None else ""
            raise StoreMisconfiguredError(
                f"the file has no table {name!r}; make it, or open the repository with create=True",
                table=name,
            )
        return plan

    @contextmanager
    def _planned(self, begin: str) -> Generator[tuple[sqlite3.Connection, Plan[E]]]:
        """Begin a transaction in which the table is what the plan says."""
        with self._transaction(begin) as connection:
            if self._table is not None:
                plan = cast("TablePlan[E]", self._plan)
                if schema_version(connection) != plan.version:
                    # A table was changed meanwhile.
                    self._plan = self._found(read_plan(connection, self._table))
            yield connection, self._plan

    def upsert(self, entries: Sequence[E]) -> int:
        """Store every entry, or none; return how many rows were added or changed."""
        index: int | None = None

        def rows(plan: Plan[E]) -> Iterator[Sequence[Cell]]:
            nonlocal index
            # The index of the row that is being made or stored.
            index = 0
            for row in plan.cells_of(entries):
                if self.stopped:
                    self._raise_if_stopped()
                yield row
                index += 1

        try:
            with self._planned("BEGIN IMMEDIATE") as (connection, plan):
                changed = connection.executemany(plan.upsert, rows(plan)).rowcount
                # All rows were taken; an error of COMMIT is about no single row.
                index = None
        except EntryRejectedError as error:
            error.index = index
            raise
        return changed

    def get(self, keys: Sequence[Hashable]) -> list[E]:
        """Return the stored entries of ``keys``, all read at one instant."""
        found: list[E] = []
        with self._planned("BEGIN") as (connection, plan):
            for key in keys:
                self._raise_if_stopped()
                row = connection.execute(plan.select, plan.key_cells(key)).fetchone()
                if row is not None:
                    found.append(plan.entry_of(row))
        return found

    def count(self) -> int:
        """Return how many entries are stored."""
        with self._planned("BEGIN") as (connection, plan):
            return number_of(connection, plan.count)

    def delete(self, keys: Sequence[Hashable]) -> int:
        """Delete the entries of ``keys``; return how many there were."""

        def rows(plan: Plan[E]) -> Iterator[Sequence[Cell]]:
            for key in keys:
                self._raise_if_stopped()
                yield plan.key_cells(key)

        with self._planned("BEGIN IMMEDIATE") as (connection, plan):
            return connection.executemany(plan.delete, rows(plan)).rowcount

    def delete_where(self, before: object, equals: Mapping[str, object]) -> int:
        """Delete the entries whose fields have these values, in steps; return how many."""
        deleted = 0
        while True:
            self._raise_if_stopped()
            with self._planned("BEGIN IMMEDIATE") as (connection, plan):
                find = plan.delete_where if isinstance(plan, TablePlan) else delete_where
                statement, cells = find(before, equals)
                some = connection.execute(statement, (*cells, _STEP)).rowcount
            deleted += some
            if some < _STEP:
                return deleted

    def delete_expired(self, now: datetime, limit: int) -> int:
        """Delete at most ``limit`` entries that have expired at ``now``; return how many.

        On a full disk it deletes in small steps, for which the -wal file may have room.
        """
        try:
            return self._delete_expired(now, limit)
        except StoreUnavailableError as error:
            if error.error_class not in FULL:
                raise
        step, deleted = _SMALL_STEP, 0
        while step:
            try:
                some = self._delete_expired(now, min(step, limit - deleted))
            except StoreUnavailableError:
                step //= 4
            else:
                deleted += some
                if some < step:
                    return deleted
                self._start_log_over()
        if not deleted:
            raise StoreUnavailableError(
                f"the disk is full: to delete expired entries takes {_ROOM} of room there",
                error_class="SQLITE_FULL",
            )
        return deleted

    def _delete_expired(self, now: datetime, limit: int) -> int:
        with self._planned("BEGIN IMMEDIATE") as (connection, plan):
            # The repository has checked that entries can expire.
            statement = cast("str", plan.delete_expired)
            return connection.execute(statement, (plan.moment_cell(now), limit)).rowcount

    def _start_log_over(self) -> None:
        """Move the contents of the -wal file into the file, so that its room can be used again."""
        # It fails while another connection reads.
        with suppress(sqlite3.Error):
            self._connected().execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def check(self) -> None:
        """Raise unless entries could be written now."""
        with self._planned("BEGIN IMMEDIATE") as (connection, plan):
            connection.execute(plan.probe)
        if isinstance(plan, TablePlan):
            report_unfilled(plan.table, plan.unfilled)
