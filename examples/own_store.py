"""An entry type and a store of your own: the highest value that each sensor ever showed."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

import trio

from provcache_trio import (
    DeadLetter,
    EntryRejectedError,
    StoreUnavailableError,
    open_write_behind_queue,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Peak:
    """An entry: immutable, because the queue keeps the object itself until it is stored."""

    sensor: str
    value: float


def higher(old: Peak, new: Peak) -> Peak:
    """Make one of two entries of one sensor. Must agree with what the store does."""
    return new if new.value > old.value else old


class PeakRepository:
    """Peaks in a SQLite table."""

    # To take the higher value can be repeated without harm. To add up values could not: after
    # an unknown outcome the queue writes the same entries again.
    UPSERT = """
        INSERT INTO peaks VALUES (?, ?)
        ON CONFLICT (sensor) DO UPDATE SET value = excluded.value
        WHERE excluded.value > peaks.value
    """

    def __init__(self, path: str) -> None:
        # Calls come from several threads, but one at a time: that is the queue's promise.
        self._connection = sqlite3.connect(path, timeout=0.1, check_same_thread=False)
        with self._connection:
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS peaks"
                " (sensor TEXT PRIMARY KEY, value REAL NOT NULL CHECK (value >= -273.15))"
            )

    async def upsert_many(self, peaks: Sequence[Peak], /) -> int:
        """Store every peak or none, and return how many rows changed."""
        # Cancelled, this still waits for the thread, and tells the truth about the rows.
        return await trio.to_thread.run_sync(self._upsert, peaks)

    def _upsert(self, peaks: Sequence[Peak]) -> int:
        before = self._connection.total_changes
        try:
            with self._connection:  # commits, or rolls back if anything is raised
                for index, peak in enumerate(peaks):
                    self._upsert_one(index, peak)
        except sqlite3.OperationalError as error:  # locked, disk full, ...
            raise StoreUnavailableError(
                "the file can't be written", error_class=type(error).__name__
            ) from None
        return self._connection.total_changes - before

    def _upsert_one(self, index: int, peak: Peak) -> None:
        try:
            self._connection.execute(self.UPSERT, (peak.sensor, peak.value))
        except sqlite3.IntegrityError as error:  # this row is wrong, its neighbours are not
            raise EntryRejectedError(
                "a constraint refused the peak", index=index, error_class=type(error).__name__
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class PrintDeadLetters:
    """Where refused entries go. A real sink keeps them."""

    async def put_many(self, letters: Sequence[DeadLetter[Peak]], /) -> None:
        """Take every letter."""
        await trio.lowlevel.checkpoint()
        for letter in letters:
            print(f"refused ({letter.error_class}): {letter.entry}")


async def main() -> None:
    """Record some peaks, one of them impossible."""
    repository = PeakRepository("peaks.db")
    try:
        async with open_write_behind_queue(
            repository,
            key=attrgetter("sensor"),
            merge=higher,
            dead_letters=PrintDeadLetters(),
        ) as queue:
            await queue.enqueue(Peak("boiler", 71.5))
            await queue.enqueue(Peak("boiler", 68.0))  # lower: the entry in line stays as it is
            await queue.enqueue(Peak("attic", -400.0))  # colder than anything can be
            await queue.enqueue(Peak("cellar", 12.0))
    finally:
        repository.close()
    metrics = queue.metrics()
    print(f"stored {metrics.total_persisted}, refused {metrics.total_failed}")


if __name__ == "__main__":
    trio.run(main)
