"""Dead letters, and files of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import trio

from provcache_trio import DeadLetter, ProvcacheEntry
from provcache_trio.dead_letters import open_dead_letters

from tests.cli.support import NOW, entry

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SECOND = timedelta(seconds=1)


def letter(number: int, **changes: Any) -> DeadLetter[ProvcacheEntry]:  # noqa: ANN401
    one = entry(number, **changes)
    return DeadLetter(
        entry=one,
        key=one.veri_key,
        error_class="UniqueViolationError",
        sqlstate="23505",
        constraint="one_per_key",
        attempts=2,
        opened_at=NOW - SECOND,
        failed_at=NOW + number * SECOND,
    )


def put(path: Path, letters: Iterable[DeadLetter[object]], kind: type[object]) -> None:
    async def work() -> None:
        async with open_dead_letters(path, entry_type=kind) as store:
            await store.put_many(list(letters))

    trio.run(work)


def put_entries(path: Path, *letters: DeadLetter[ProvcacheEntry]) -> None:
    put(path, letters, ProvcacheEntry)


def left_in(path: Path) -> list[int]:
    """Return the numbers of the letters."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id FROM provcache_dead_letters ORDER BY id")
        return [number for (number,) in rows]
