"""The table of the built-in repository, partitioned by hash as docs/using/postgres.md says."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from provcache_trio import (
    EntryRejectedError,
    StoreMisconfiguredError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters

from tests.support.bridges import Client, somebody
from tests.support.entries import DAY, NOW, key_of
from tests.support.postgres import quoted, raises, row, schema, store
from tests.support.programs import ROOT
from tests.support.waiting import until

if TYPE_CHECKING:
    from provcache_trio import ProvcacheEntry
    from provcache_trio.postgres import PostgresRepository

__all__ = ["schema", "somebody", "store"]  # fixtures

POISON: Final = 77  # with so many hits, an entry is refused
ROWS: Final = 40  # some in each partition
SOON: Final = WriteBehindOptions(
    batch_size=ROWS, flush_interval_seconds=0, retry_base_seconds=0.01, retry_cap_seconds=0.1
)


@pytest.fixture
async def inside(store: PostgresRepository, schema: str, somebody: Client) -> str:
    """Partition the table, which holds the rows from 0 to 9, by the page's own statements."""
    await store.upsert_many([row(number) for number in range(10)])
    page = (ROOT / "docs/using/postgres.md").read_text("utf-8")
    (recipe,) = re.findall(r"```sql\n(BEGIN;\nALTER TABLE.*?)```", page, re.DOTALL)
    within = quoted(schema)
    await somebody.execute(recipe.replace("provcache.", f"{within}."))
    await somebody.execute(f"ALTER TABLE {within}.entries ADD CHECK (hit_count <> {POISON})")
    return within


async def test_rows_and_view_are_there_as_before(
    store: PostgresRepository, inside: str, somebody: Client
) -> None:
    await store.check()
    assert await store.get_many(map(key_of, range(20))) == {
        key_of(number): row(number) for number in range(10)
    }
    assert await somebody.value(f"SELECT count(*) FROM {inside}.entries_readable") == 10


async def test_every_call_does_in_partitions_what_it_does_in_one_table(
    store: PostgresRepository, inside: str
) -> None:
    def all_rows(**changes: object) -> list[ProvcacheEntry]:
        return [row(number, **changes) for number in range(ROWS)]

    assert await store.upsert_many(all_rows()) == ROWS - 10  # ten are there, and the same
    assert await store.upsert_many(all_rows(hit_count=5)) == ROWS
    assert await store.upsert_many(all_rows(hit_count=3)) == 0
    assert await store.count() == ROWS
    assert await store.delete_many([key_of(0), key_of(1), key_of(99)]) == 2
    assert await store.upsert_many([row(0, feed_epoch="old"), row(1, feed_epoch="old")]) == 2
    assert await store.delete_where(feed_epoch="old") == 2
    last = row(2).expires_at + timedelta(seconds=1)
    await store.upsert_many([row(50, created_at=last, expires_at=last + DAY)])
    assert await store.delete_expired(max(last, NOW + 365 * DAY), 1000) >= 1


async def test_a_constraint_names_the_entry_that_it_refused_in_any_partition(
    store: PostgresRepository, inside: str
) -> None:
    for bad in range(12):
        batch = [row(number, hit_count=POISON if number == bad else 0) for number in range(12)]
        with raises(EntryRejectedError, index=bad, sqlstate="23514"):
            await store.upsert_many(batch)


async def test_of_a_batch_only_what_was_refused_becomes_a_dead_letter(
    store: PostgresRepository, inside: str
) -> None:
    letters: MemoryDeadLetters[ProvcacheEntry] = MemoryDeadLetters()
    bad = {3, 17, 28}
    async with open_write_behind_queue(store, SOON, dead_letters=letters) as queue:
        for number in range(ROWS):
            await queue.enqueue(row(number, hit_count=POISON if number in bad else 0))
    assert {letter.key for letter in letters.letters} == set(map(key_of, bad))
    assert await store.count() == ROWS - len(bad - set(range(10)))


async def test_what_has_no_partition_waits_until_there_is_one(
    store: PostgresRepository, inside: str, somebody: Client
) -> None:
    await somebody.execute(f"ALTER TABLE {inside}.entries DETACH PARTITION {inside}.entries_2")
    batch = [row(number, hit_count=1) for number in range(ROWS)]
    with raises(StoreMisconfiguredError, sqlstate="23514"):
        await store.upsert_many(batch)
    letters: MemoryDeadLetters[ProvcacheEntry] = MemoryDeadLetters()
    async with open_write_behind_queue(store, SOON, dead_letters=letters) as queue:
        await queue.enqueue_many(batch)
        await until(lambda: queue.metrics().state == "waiting")
        await somebody.execute(
            f"ALTER TABLE {inside}.entries ATTACH PARTITION {inside}.entries_2"
            " FOR VALUES WITH (MODULUS 4, REMAINDER 2)"
        )
    assert await store.get_many(map(key_of, range(ROWS))) == {
        key_of(n): row(n, hit_count=1) for n in range(ROWS)
    }
    assert not letters.letters
