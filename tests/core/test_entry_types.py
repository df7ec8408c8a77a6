"""Repository, journal and dead letters have to be about the same entries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar

import pytest

from provcache_trio import ProvcacheEntry, Table, open_write_behind_queue
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.journal import open_journal
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, items

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

T = TypeVar("T")
ITEM = "tests.support.items.Item"
ENTRY = "provcache_trio.ProvcacheEntry"


class States:
    """A repository, a journal and a sink that says what its entries are."""

    always = False
    sync_interval_seconds = 1.0
    holds_entries = False
    overgrown = False

    def __init__(self, entry_type: object) -> None:
        self.entry_type = entry_type

    async def upsert_many(self, entries: Sequence[object], /) -> int:
        return len(entries)

    async def put_many(self, letters: Sequence[object], /) -> None:
        """Take them."""

    async def append(self, *_: object) -> list[int]:
        return []


async def test_a_journal_for_other_entries_than_the_repository_is_refused(tmp_path: Path) -> None:
    async with (
        open_sqlite_repository(tmp_path / "cache.db") as store,
        open_journal(tmp_path / "journal", entry_type=Item) as journal,
    ):
        wrong: Any = journal
        with pytest.raises(
            TypeError,
            match=re.escape(
                f"repository is for entries of type {ENTRY}, and journal for {ITEM}: give each of "
                "them the same entry_type"
            ),
        ):
            open_write_behind_queue(store, journal=wrong)


async def test_dead_letters_for_other_entries_than_the_repository_are_refused(
    tmp_path: Path,
) -> None:
    async with (
        open_postgres_repository("postgresql://host/database") as store,
        open_dead_letters(tmp_path / "dead.db", entry_type=Item) as letters,
    ):
        wrong: Any = letters
        message = f"repository is for entries of type {ENTRY}, and dead_letters for {ITEM}"
        with pytest.raises(TypeError, match=message):
            open_write_behind_queue(store, dead_letters=wrong)


async def test_an_entry_type_that_was_forgotten_once_is_noticed_before_anything_is_accepted(
    tmp_path: Path,
) -> None:
    async with (
        open_journal(tmp_path / "journal") as journal,
        open_dead_letters(tmp_path / "dead.db", entry_type=Item) as letters,
    ):
        wrong: Any = journal
        with pytest.raises(TypeError, match=f"journal is for .*{ENTRY}, and dead_letters for"):
            open_write_behind_queue(MemoryRepository[Item](), journal=wrong, dead_letters=letters)


class Forwards:
    """A wrapper around a repository, which says what that is for."""

    def __init__(self, table: Table[Any]) -> None:
        self.table = table

    async def upsert_many(self, entries: Sequence[Any], /) -> int:
        return len(entries)


async def test_a_table_says_it_for_repository_journal_and_dead_letters(tmp_path: Path) -> None:
    table = Table(Item, "item", key="veri_key")
    (one,) = items("a")
    async with (
        open_sqlite_repository(tmp_path / "cache.db", table=table, create=True) as store,
        open_journal(tmp_path / "journal", entry_type=table) as journal,
        open_dead_letters(tmp_path / "dead.db", entry_type=table) as letters,
        open_write_behind_queue(store, journal=journal, dead_letters=letters) as queue,
    ):
        await queue.persist(one)
        assert await store.get_many(["a"]) == {"a": one}
    async with open_journal(tmp_path / "journal", entry_type=Item):
        pass  # the file names the class
    async with open_journal(tmp_path / "other") as other:
        wrong: Any = other
        with pytest.raises(TypeError, match=f"repository is for entries of type {ITEM}, and"):
            open_write_behind_queue(Forwards(table), journal=wrong)


class Special(ProvcacheEntry, frozen=True):
    """An entry and more."""


class Record(TypedDict):
    veri_key: str


class HasKey(Protocol):
    veri_key: str


class Box(Generic[T]):
    """Something parametrised."""


@pytest.mark.parametrize(
    "other",
    [ProvcacheEntry, Special, object, Any, Item | None, Record, HasKey, Box[int], "Item", None],
    ids=str,
)
def test_what_agrees_or_can_not_be_compared_is_opened(other: object) -> None:
    stated = States(ProvcacheEntry)
    half_of_one: Any = stated
    open_write_behind_queue(half_of_one, dead_letters=States(other))
    open_write_behind_queue(States(other), key=str, journal=half_of_one)


@pytest.mark.parametrize("other", [Item, dict, str, Box])
def test_what_does_not_agree_is_refused_in_every_pair(other: type) -> None:
    one: Any = States(ProvcacheEntry)
    another: Any = States(other)
    with pytest.raises(TypeError, match=r"repository is for .* and journal for"):
        open_write_behind_queue(one, journal=another)
    with pytest.raises(TypeError, match=r"repository is for .* and dead_letters for"):
        open_write_behind_queue(another, dead_letters=one)
    with pytest.raises(TypeError, match=r"journal is for .* and dead_letters for"):
        open_write_behind_queue(MemoryRepository[Any](), journal=one, dead_letters=another)
