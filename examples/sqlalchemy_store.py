"""A store of your own over SQLAlchemy Core, in a thread: sqlalchemy_store.py sqlite:///readings.db."""

import socket
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import trio
from in_thread import in_thread, line_of
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    MetaData,
    String,
    Table,
    create_engine,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from provcache_trio import (
    EntryRejectedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    open_write_behind_queue,
    store_error_of,
)


class Reading(NamedTuple):
    sensor: str
    taken_at: int  # microseconds since 1970: not every database keeps the zone of a datetime
    celsius: float


READINGS = Table(
    "reading",
    MetaData(),
    Column("sensor", String, primary_key=True),
    Column("taken_at", BigInteger, nullable=False),
    Column("celsius", Float(53), nullable=False),
)
# What a driver needs, so that nothing takes for ever.
LIMITS: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": 0.1},
    "postgresql": {
        "connect_timeout": 5,
        "options": "-c statement_timeout=8s -c lock_timeout=4s"
        " -c client_connection_check_interval=2s",
    },
}


def newer(older: Reading, later: Reading) -> Reading:
    """Return what the statement keeps of two readings of one sensor."""
    return later if later.taken_at >= older.taken_at else older


class SQLAlchemyStore:
    def __init__(self, url: str, *, seconds: float = 10) -> None:
        kind = url.partition(":")[0].partition("+")[0]
        # Its messages would quote rows.
        self._engine = create_engine(url, connect_args=LIMITS[kind], hide_parameters=True)
        insert = (sqlite.insert if kind == "sqlite" else postgresql.insert)(READINGS)
        new, old = insert.excluded, READINGS.c
        # Newer wins, so that it may be repeated and come late.
        self._upsert = insert.on_conflict_do_update(
            index_elements=[old.sensor],
            set_={"taken_at": new.taken_at, "celsius": new.celsius},
            where=or_(
                new.taken_at > old.taken_at,
                (new.taken_at == old.taken_at) & new.celsius.is_distinct_from(old.celsius),
            ),
        ).execution_options(preserve_rowcount=True)  # which upsert_many returns
        self._driver: Any = None  # its connection, while it is in use
        self._line: socket.socket | None = None  # of PostgreSQL, which any thread may cut
        self._was_cut = False
        self._seconds = seconds
        self._turn = trio.Lock()  # of whoever uses the connection

    async def upsert_many(self, readings: Sequence[Reading], /) -> int:
        # In order of their keys, so that no two writers wait for each other.
        rows = [reading._asdict() for reading in sorted(readings, key=itemgetter(0))]
        work = partial(self._write, rows)
        return await in_thread(work, self._stop, self._turn, seconds=self._seconds)

    async def get_many(self, sensors: Iterable[str]) -> Mapping[str, Reading]:
        work = partial(self._read, [*sensors])
        return await in_thread(work, self._stop, self._turn, seconds=self._seconds)

    def _write(self, rows: Sequence[Mapping[str, object]]) -> int:
        with self._transaction() as connection:
            return connection.execute(self._upsert, rows).rowcount if rows else 0

    def _read(self, sensors: list[str]) -> dict[str, Reading]:
        query = select(READINGS).where(READINGS.c.sensor.in_(sensors))
        with self._transaction() as connection:
            return {row.sensor: Reading(*row) for row in connection.execute(query)}

    @contextmanager
    def _transaction(self) -> Generator[Connection]:
        if self._was_cut:
            self._engine.dispose()  # so that nobody uses that connection again
            self._was_cut = False
        try:
            with self._engine.begin() as connection:
                driver: Any = connection.connection.driver_connection
                self._driver = driver
                self._line = line_of(driver) if hasattr(driver, "fileno") else None
                READINGS.create(connection, checkfirst=True)
                yield connection
        except SQLAlchemyError as error:
            raise verdict_on(error) from None
        finally:
            if self._line is not None:
                self._line.close()
            self._driver = self._line = None

    def _stop(self) -> None:
        """Make the thread that uses the connection end: ask the database, then cut the line."""
        driver, line = self._driver, self._line
        with suppress(Exception):  # it has ended
            driver.interrupt() if line is None else driver.cancel_safe(timeout=1)
        if line is not None:
            self._was_cut = True
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._engine.dispose()


def verdict_on(error: SQLAlchemyError) -> StoreError | EntryRejectedError:
    driver: Any = error.orig if isinstance(error, DBAPIError) else None
    name = type(driver or error).__name__
    if sqlstate := getattr(driver, "sqlstate", None):  # psycopg's
        return store_error_of(sqlstate, error_class=name, function=driver.diag.source_function)
    code = getattr(driver, "sqlite_errorname", "")  # sqlite3's
    if code.startswith("SQLITE_CONSTRAINT") or name == "DataError":
        return EntryRejectedError("the database refused a row", error_class=code or name)
    if code in {"SQLITE_ERROR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_NOTADB"}:
        return StoreMisconfiguredError("the database can't be used", error_class=code)
    return StoreUnavailableError("the database did not take it", error_class=code or name)


async def main(url: str) -> None:
    store = SQLAlchemyStore(url)
    now = datetime.now(UTC).timestamp() * 1_000_000
    try:
        async with open_write_behind_queue(store, key=attrgetter("sensor"), merge=newer) as queue:
            for number, celsius in enumerate((20.5, 21.0)):
                await queue.enqueue(Reading("attic", int(now) + number, celsius))
    finally:
        store.close()
    print(f"{queue.metrics().total_persisted} written")


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
