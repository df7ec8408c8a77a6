"""A store of your own over psycopg, in a thread: psycopg_store.py postgresql://..."""

import socket
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter

import psycopg
import trio
from in_thread import in_thread, line_of

from provcache_trio import (
    EntryRejectedError,
    StoreError,
    StoreUnavailableError,
    open_write_behind_queue,
    store_error_of,
)


@dataclass(frozen=True)
class Reading:
    sensor: str
    taken_at: datetime
    celsius: float


MAKE = """
CREATE TABLE IF NOT EXISTS reading
    (sensor text PRIMARY KEY, taken_at timestamptz NOT NULL, celsius float8 NOT NULL)
"""
# Newer wins, so that it may be repeated and come late; what would change nothing is not written.
UPSERT = """
INSERT INTO reading AS t VALUES (%s, %s, %s) ON CONFLICT (sensor) DO UPDATE
SET taken_at = excluded.taken_at, celsius = excluded.celsius
WHERE excluded.taken_at >= t.taken_at
    AND (excluded.taken_at, excluded.celsius) IS DISTINCT FROM (t.taken_at, t.celsius)
"""
# The server gives up before we do, and soon when we are gone.
LIMITS = "-c statement_timeout=8s -c lock_timeout=4s -c client_connection_check_interval=2s"


def newer(older: Reading, later: Reading) -> Reading:
    """Return what the statement keeps of two readings of one sensor."""
    return later if later.taken_at >= older.taken_at else older


class PsycopgStore:
    def __init__(self, dsn: str, *, seconds: float = 10) -> None:
        self._connect = partial(psycopg.connect, dsn, connect_timeout=5, options=LIMITS)
        self._connection: psycopg.Connection | None = None
        self._line: socket.socket | None = None  # the connection's, which any thread may cut
        self._seconds = seconds
        self._turn = trio.Lock()  # of whoever uses the connection

    async def upsert_many(self, readings: Sequence[Reading], /) -> int:
        # In order of their keys, so that no two writers wait for each other.
        rows = sorted(astuple(reading) for reading in readings)
        return await in_thread(
            partial(self._upsert, rows), self.stop, self._turn, seconds=self._seconds
        )

    async def get_many(self, sensors: Iterable[str]) -> Mapping[str, Reading]:
        work = partial(self._get, [*sensors])
        return await in_thread(work, self.stop, self._turn, seconds=self._seconds)

    def _upsert(self, rows: Sequence[tuple[object, ...]]) -> int:
        with self._transaction() as connection:
            cursor = connection.cursor()
            cursor.executemany(UPSERT, rows)
            return max(cursor.rowcount, 0)

    def _get(self, sensors: list[str]) -> dict[str, Reading]:
        query = "SELECT * FROM reading WHERE sensor = ANY(%s)"
        with self._transaction() as connection:
            rows = connection.execute(query, [sensors]).fetchall()
        return {sensor: Reading(sensor, at.astimezone(UTC), value) for sensor, at, value in rows}

    @contextmanager
    def _transaction(self) -> Generator[psycopg.Connection]:
        try:
            if self._connection is None or self._connection.closed or self._line is None:
                self.close()
                connection = self._connect(autocommit=True)
                self._line = line_of(connection)
                self._connection = connection
                connection.execute(MAKE)
            with self._connection.transaction():
                yield self._connection
        except psycopg.Error as error:
            raise verdict_on(error) from None  # its message may quote the row

    def stop(self) -> None:
        """Make the thread that uses the connection end: ask the server, then cut the line."""
        line, self._line = self._line, None  # so that nobody uses the connection again
        if self._connection is not None and line is not None:
            with suppress(psycopg.Error):
                self._connection.cancel_safe(timeout=1)
            with line, suppress(OSError):  # it is cut already
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in (self._connection, self._line):
            if each is not None:
                each.close()


def verdict_on(error: psycopg.Error) -> StoreError | EntryRejectedError:
    name = type(error).__name__
    if error.sqlstate is not None:
        said = error.diag
        return store_error_of(
            error.sqlstate,
            error_class=name,
            function=said.source_function,
            constraint=said.constraint_name,
        )
    if isinstance(error, psycopg.DataError):  # psycopg can't send it: a text holds NUL
        return EntryRejectedError("a value can't be sent", error_class=name)
    return StoreUnavailableError("no answer from the server", error_class=name)


async def main(dsn: str) -> None:
    store = PsycopgStore(dsn)
    try:
        async with open_write_behind_queue(store, key=attrgetter("sensor"), merge=newer) as queue:
            for celsius in (20.5, 21.0):
                await queue.enqueue(Reading("attic", datetime.now(UTC), celsius))
    finally:
        store.close()
    print(f"{queue.metrics().total_persisted} written")


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
