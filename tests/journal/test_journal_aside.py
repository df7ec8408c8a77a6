"""What a journal can't use: renamed types, new fields, damage, files that are somebody else's."""

from __future__ import annotations

import math
import stat
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from provcache_trio import JournalError, WriteBehindOptions, open_write_behind_queue
from provcache_trio.journal import (
    Restored,
    SetAside,
    count_set_aside,
    open_journal,
    restore_set_aside,
)
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, items
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


class Renamed(msgspec.Struct, frozen=True):
    """What a deploy made of ``Item``."""

    veri_key: str
    version: int
    region: str  # required, and new


FORMER = "tests.support.items.Item"


def aside(entries: int = 0, *, damaged_bytes: int = 0) -> SetAside:
    """Return what was set aside, if all of it is of the former type."""
    types = (FORMER,) if entries else ()
    return SetAside(entries=entries, entry_types=types, damaged_bytes=damaged_bytes)


def upgrade(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "region": "eu"}


def names_in(path: Path) -> set[str]:
    return {found.name for found in path.parent.iterdir()}


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


async def leave_behind(path: Path, left: list[Item]) -> None:
    """Leave entries in a journal, as a program does that dies."""
    async with open_journal(path, entry_type=Item, durability="always") as journal:
        await journal.append([(item, ()) for item in left], ())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal"


@pytest.fixture
def store() -> MemoryRepository[Renamed]:
    return MemoryRepository[Renamed]()


async def replay(
    path: Path,
    store: MemoryRepository[Renamed],
    **how: Any,  # noqa: ANN401  # as given
) -> None:
    async with (
        open_journal(path, entry_type=Renamed, **how) as journal,
        open_write_behind_queue(store, WriteBehindOptions(batch_size=2), journal=journal) as queue,
    ):
        await until(lambda: not queue.metrics().recovering)


async def test_a_renamed_type_is_refused_until_its_former_name_is_given(
    path: Path, store: MemoryRepository[Renamed]
) -> None:
    await leave_behind(path, items("ab"))
    before = bytes_of(path)
    with pytest.raises(JournalError, match=rf"{path} holds entries of type {FORMER}.* aliases="):
        await replay(path, store)
    assert bytes_of(path) == before
    await replay(path, store, aliases=[FORMER], upgrade=upgrade)
    assert store.rows == {key: Renamed(key, 0, "eu") for key in "ab"}
    await replay(path, store)  # it has the new name now


async def test_what_upgrade_can_not_mend_is_set_aside_and_stops_nothing(
    path: Path, store: MemoryRepository[Renamed], caplog: pytest.LogCaptureFixture
) -> None:
    def choosy(old: dict[str, Any]) -> dict[str, Any]:
        if old["veri_key"] == "b":
            raise KeyError("region")
        return upgrade(old) if old["veri_key"] != "c" else old

    await leave_behind(path, items("abcd"))
    await replay(path, store, aliases=[FORMER], upgrade=choosy)
    assert set(store.rows) == {"a", "d"}
    assert "(KeyError), and is set aside" in caplog.text
    assert "(ValidationError), and is set aside" in caplog.text
    assert count_set_aside(path) == aside(2)


@pytest.mark.one_lane
async def test_a_deploy_that_adds_a_field_loses_nothing_once_it_is_told_how(
    path: Path, store: MemoryRepository[Renamed], caplog: pytest.LogCaptureFixture
) -> None:
    many = items(range(20))
    await leave_behind(path, many)
    for _ in range(3):
        await replay(path, store, aliases=[FORMER])
    assert not store.rows
    assert count_set_aside(path) == aside(20)
    assert "the same of" not in caplog.text
    restored = await restore_set_aside(path, entry_type=Renamed, aliases=[FORMER])
    assert restored == Restored(entries=0, left=aside(20))
    restored = await restore_set_aside(path, entry_type=Renamed, aliases=[FORMER], upgrade=upgrade)
    assert restored == Restored(entries=20, left=aside())
    assert "journal.set-aside" not in names_in(path)
    await replay(path, store)
    assert list(store.rows.values()) == [Renamed(item.veri_key, 0, "eu") for item in many]


async def test_many_unreadable_records_are_a_few_lines_of_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await leave_behind(path, items(range(20)))
    async with open_journal(path, entry_type=Renamed, aliases=[FORMER]) as journal:
        assert await journal.replay(0, 100) == []
    assert caplog.text.count("is no entry of its type") == 5
    assert "the same of 15 more records" in caplog.text


async def test_as_they_are_entries_go_back_whatever_their_type_and_the_next_queue_upgrades_them(
    path: Path, store: MemoryRepository[Renamed]
) -> None:
    await leave_behind(path, items("abc"))
    await replay(path, store, aliases=[FORMER])
    restored = await restore_set_aside(path, entry_type=msgspec.Raw)
    assert restored == Restored(entries=0, left=aside(3))  # the journal has the new name
    restored = await restore_set_aside(path, entry_type=msgspec.Raw, aliases=[FORMER])
    assert restored == Restored(entries=3, left=aside())
    await replay(path, store)  # without a word of how: set aside once more, and not lost
    assert not store.rows
    restored = await restore_set_aside(path, entry_type=msgspec.Raw)
    assert restored.entries == 3
    await replay(path, store, upgrade=upgrade)
    assert store.rows == {key: Renamed(key, 0, "eu") for key in "abc"}


@pytest.mark.parametrize("empty", [False, True])
async def test_without_a_type_nothing_is_made_to_restore_into(path: Path, *, empty: bool) -> None:
    write(path, b"")
    if not empty:
        path.unlink()  # noqa: ASYNC240  # nobody waits
    before = names_in(path)
    with pytest.raises(JournalError, match=f"there is no journal {path}, or it is an empty file"):
        await restore_set_aside(path, entry_type=msgspec.Raw)
    assert names_in(path) == before


async def test_of_another_type_nothing_is_restored(path: Path) -> None:
    await leave_behind(path, items("ab"))
    async with open_journal(path, entry_type=Renamed, aliases=[FORMER]) as journal:
        assert await journal.replay(0, 100) == []
        await journal.rewrite([])
    restored = await restore_set_aside(path, entry_type=Renamed)
    assert restored == Restored(entries=0, left=aside(2))


async def test_what_does_not_come_back_as_it_is_stays_set_aside(path: Path) -> None:
    await leave_behind(path, items("a"))
    async with open_journal(path, entry_type=Renamed, aliases=[FORMER]) as journal:
        assert await journal.replay(0, 100) == []
    restored = await restore_set_aside(path, entry_type=Growing, aliases=[FORMER])
    assert restored.left == aside(1)


class Growing(msgspec.Struct):
    veri_key: str
    version: int

    def __post_init__(self) -> None:
        self.version += 1


@pytest.mark.one_lane
async def test_sound_entries_that_were_where_they_can_not_be_are_restored(path: Path) -> None:
    await leave_behind(path, items(["one", "two", "three"]))
    data = bytes_of(path)
    two = data.index(b"\xf7pvj", data.index(b"one"))
    three = data.index(b"\xf7pvj", data.index(b"two"))
    write(path, data[:two] + data[three:] + data[two:three] + b"torn")
    async with open_journal(path, entry_type=Item) as journal:
        assert [entry.veri_key for _, entry in await journal.replay(0, 9)] == ["one", "three"]
    assert count_set_aside(path).damaged_bytes == three - two + 4
    restored = await restore_set_aside(path, entry_type=Item)
    assert restored == Restored(entries=1, left=aside(damaged_bytes=4))
    async with open_journal(path, entry_type=Item) as journal:
        found = [entry.veri_key for _, entry in await journal.replay(0, 9)]
    assert found == ["one", "three", "two"]


async def test_of_damage_nothing_is_restored_and_nothing_is_lost(path: Path) -> None:
    await leave_behind(path, items(["first", "second"]))
    overwrite(path, b"second", b"SECOND")
    for _ in range(3):
        async with open_journal(path, entry_type=Item):
            pass
        damaged = count_set_aside(path).damaged_bytes
        restored = await restore_set_aside(path, entry_type=Item)
        assert restored == Restored(entries=0, left=aside(damaged_bytes=damaged))
    assert b"SECOND" in bytes_of(path.with_name("journal.set-aside"))


def test_without_a_journal_nothing_was_set_aside(path: Path) -> None:
    assert count_set_aside(path) == aside()


@pytest.mark.parametrize(
    ("argument", "value"), [("upgrade", 7), ("aliases", "one"), ("aliases", 7), ("aliases", [7])]
)
def test_arguments_are_checked(path: Path, argument: str, value: object) -> None:
    arguments: dict[str, Any] = {argument: value}
    with pytest.raises(TypeError, match=argument):
        open_journal(path, **arguments)


# Whose file it is

FOREIGN = {
    "text": b"dear diary\n" * 100,
    "another journal": b"provcache journal, or so it begins",
    "an archive": b"x" * 500 + b"provcache journal\n",
    "binary": bytes(range(256)) * 10,
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_file_that_is_no_journal_is_left_as_it_is(path: Path, data: bytes) -> None:
    write(path, data)
    with pytest.raises(JournalError, match=rf"{path} is no journal.* left as it is"):
        async with open_journal(path):
            pass
    assert bytes_of(path) == data
    assert mode_of(path) == 0o644
    assert names_in(path) == {"journal"}


async def test_a_journal_inside_of_another_file_is_not_taken_for_one(path: Path) -> None:
    await leave_behind(path, items("a"))
    data = b"PK archive" + bytes_of(path)
    other = path.with_name("archive")
    write(other, data)
    with pytest.raises(JournalError, match="is no journal"):
        async with open_journal(other, entry_type=Item):
            pass
    assert bytes_of(other) == data


async def test_a_journal_of_version_0_1_is_refused_by_name_and_left_as_it_is(path: Path) -> None:
    from provcache_trio.journal._records import MAGIC_LINE, RecordKind, pack  # noqa: PLC0415

    beginning = b'{"format":1,"entry_type":"provcache_trio.ProvcacheEntry","identity":"00"}'
    data = MAGIC_LINE + pack(RecordKind.BEGINNING, 1, beginning) + pack(RecordKind.ENTRY, 2, b"{}")
    write(path, data)
    with pytest.raises(JournalError, match=rf"{path} was written by version 0\.1.* status"):
        async with open_journal(path):
            pass
    assert bytes_of(path) == data
    assert mode_of(path) == 0o644
    assert names_in(path) == {"journal"}


async def test_an_empty_file_is_an_empty_journal(
    path: Path, store: MemoryRepository[Renamed]
) -> None:
    write(path, b"")
    await replay(path, store)
    assert mode_of(path) == 0o600
    async with open_journal(path, entry_type=Renamed) as journal:
        assert not journal.holds_entries


async def test_a_journal_that_was_emptied_by_somebody_is_said_to_miss_what_it_had(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await leave_behind(path, items("ab"))
    write(path, b"")
    async with open_journal(path, entry_type=Item) as journal:
        assert not journal.holds_entries
    assert "records 1 to 2 are missing" in caplog.text


@pytest.mark.parametrize("at", [3, 50])
async def test_one_damaged_beginning_does_no_harm_as_there_are_two(path: Path, at: int) -> None:
    await leave_behind(path, items("ab"))
    data = bytearray(bytes_of(path))
    data[at] ^= 0xFF
    write(path, bytes(data))
    async with open_journal(path, entry_type=Item) as journal:
        assert journal.overgrown
        assert [entry for _, entry in await journal.replay(0, 9)] == items("ab")
        await journal.tidy()
        assert journal.tidy_at == math.inf
    assert bytes_of(path).startswith(b"provcache journal\n")


async def test_a_type_with_a_long_name_is_known_by_its_beginning_and_a_hash(path: Path) -> None:
    long, other = (type(f"{'Long' * 500}{n}", (Renamed,), {}) for n in range(2))
    async with open_journal(path, entry_type=long):
        pass
    async with open_journal(path, entry_type=long):
        pass
    with pytest.raises(JournalError, match="aliases="):
        async with open_journal(path, entry_type=other):
            pass
