"""The store of dead letters: letters, limits, the file and its owner, and crashes."""

from __future__ import annotations

import dataclasses
import enum
import fcntl
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from uuid import UUID

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from provcache_trio import (
    DeadLetter,
    DrainTimeoutError,
    EntryRejectedError,
    ProvcacheEntry,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    dead_letters as module,
    open_write_behind_queue,
)
from provcache_trio._disk import owner_lock
from provcache_trio._disk.owner_lock import OwnerLock
from provcache_trio.dead_letters import (
    DeadLetters,
    DeadLettersFullError,
    StoredLetter,
    UnreadableLetter,
    _file as _dead_letters_file,
    open_dead_letters,
)
from provcache_trio.journal import open_journal
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from tests.support.cuts import cancel_after_the_first
from tests.support.entries import MICROSECOND, NOW, entry, key_of
from tests.support.files import descriptors, mode_of, names, query, run
from tests.support.items import Item, assert_settled, items
from tests.support.letters import letter, numbered
from tests.support.programs import press_ctrl_c, run_python
from tests.support.strategies import provcache_entries
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")

SECRET = "s3cr3t"  # noqa: S105  # what no message may quote
IN_USE = r"in use: (another part of this process|process \d+) owns it$"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dead.db"


@pytest.fixture
async def store(path: Path) -> AsyncGenerator[DeadLetters[ProvcacheEntry]]:
    async with open_dead_letters(path) as letters:
        yield letters


async def contents(store: DeadLetters[T]) -> list[DeadLetter[T]]:
    """Return all letters; there is none that can't be read."""
    found = await store.letters(limit=1_000_000)
    assert all(isinstance(each, StoredLetter) for each in found)
    return [each.letter for each in found if isinstance(each, StoredLetter)]


def connection_of(store: DeadLetters[T]) -> sqlite3.Connection:
    connection = store._file._connection
    assert connection is not None
    return connection


def touch(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def remove_all(*paths: Path) -> None:
    for each in paths:
        each.unlink()


# Letters


async def test_letters_come_back_as_they_were_and_in_order(
    store: DeadLetters[ProvcacheEntry],
) -> None:
    other_zone = timezone(timedelta(hours=-3, minutes=30))
    put = [
        numbered(1),
        numbered(2, sqlstate=None, constraint=None),
        numbered(3, opened_at=datetime(1, 1, 1, tzinfo=UTC), failed_at=NOW.astimezone(other_zone)),
    ]
    await store.put_many(put)
    found = await store.letters()
    assert [each.letter for each in found if isinstance(each, StoredLetter)] == put
    assert [each.id for each in found] == [1, 2, 3]
    assert await store.get(2) == found[1]
    assert await store.get(4) is None
    assert await store.count() == 3


@settings(max_examples=settings().max_examples // 3)
@given(st.lists(provcache_entries(), max_size=5))
def test_every_entry_comes_back(entries: list[ProvcacheEntry]) -> None:
    put = [letter(each, each.veri_key, attempts=place) for place, each in enumerate(entries)]

    async def main(directory: Path) -> None:
        async with open_dead_letters(directory / "dead.db") as store:
            await store.put_many(put)
            assert await contents(store) == put

    with TemporaryDirectory() as directory:
        trio.run(main, Path(directory))


class Meter(msgspec.Struct, frozen=True):
    """Its value is a float, which nobody checks."""

    name: str
    value: float
    tags: frozenset[str] = frozenset()


@dataclasses.dataclass(eq=False)
class Plain:
    """Two of them are never equal."""

    name: str


@pytest.mark.parametrize(
    ("kind", "one"),
    [
        (Item, Item("a", 7)),
        (Meter, Meter("a", 1)),
        (Meter, Meter("a", 0.1, frozenset("abcdef"))),
        (dict[str, int], {"b": 1, "a": 2**63}),
        (str, "\0 \U0001f680 \x9b"),
        (bytes, b"\xff"),
        (list, []),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_any_entry_that_msgspec_writes_and_reads_will_do(
    path: Path, kind: type[object], one: object
) -> None:
    async with open_dead_letters(path, entry_type=kind) as store:
        await store.put_many([letter(one)])
        assert await contents(store) == [letter(one)]


async def test_an_entry_need_not_define_equality(path: Path) -> None:
    async with open_dead_letters(path, entry_type=Plain) as store:
        await store.put_many([letter(Plain("a"))])
        (found,) = await contents(store)
    assert found.entry.name == "a"


class Color(enum.Enum):
    """A part of a key."""

    RED = "red"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("as it is \0 ü", "as it is \0 ü"),
        ("", ""),
        ("\udcff", "\\udcff"),
        (7, "7"),
        ((1, "x"), '[1,"x"]'),
        (
            (Color.RED, datetime(2026, 11, 30, 11, tzinfo=timezone(timedelta(hours=1)))),
            '["red","2026-11-30T10:00:00Z"]',
        ),
        (NOW.replace(tzinfo=None), NOW.isoformat()[:-6]),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (None, "null"),
        (Fraction(1, 2), "Fraction(1, 2)"),
    ],
    ids=repr,
)
async def test_a_key_that_is_no_text_is_shown_as_json_or_else_as_its_repr(
    store: DeadLetters[ProvcacheEntry], key: object, shown: str
) -> None:
    await store.put_many([letter(entry(), key)])
    (found,) = await contents(store)
    assert found.key == shown
    if isinstance(key, str):
        assert await store.count(key=key) == 1
    assert await store.count(key=shown) == 1


async def test_names_of_errors_may_be_anything(store: DeadLetters[ProvcacheEntry]) -> None:
    odd = numbered(1, error_class="\udcff", sqlstate=7, constraint=("a", "b"))
    await store.put_many([odd])
    (found,) = await contents(store)
    assert (found.error_class, found.sqlstate, found.constraint) == ("\\udcff", "7", "('a', 'b')")


async def test_the_same_letter_again_is_stored_once(path: Path) -> None:
    for _ in range(2):
        async with open_dead_letters(path) as store:
            await store.put_many([numbered(1), numbered(2), numbered(1)])
            await store.put_many([numbered(2), numbered(3)])
            await store.put_many([numbered(1)])
            assert await contents(store) == [numbered(1), numbered(2), numbered(3)]


async def test_two_equal_sets_make_the_same_letter(path: Path) -> None:
    one, other = frozenset([0, 8]), frozenset([8, 0])
    assert list(one) != list(other)
    async with open_dead_letters(path, entry_type=frozenset[int]) as store:
        await store.put_many([letter(one), letter(other)])
        assert await store.count() == 1


async def test_several_letters_of_one_key_are_all_kept(store: DeadLetters[ProvcacheEntry]) -> None:
    put = [
        numbered(1),
        letter(entry(1, hit_count=1), key_of(1)),
        numbered(1, attempts=3),
        numbered(1, opened_at=NOW),
        numbered(1, failed_at=NOW + MICROSECOND),
        numbered(1, sqlstate="23514"),
        numbered(1, constraint=None),
        numbered(1, error_class="CheckViolationError"),
    ]
    await store.put_many(put)
    await store.put_many(put)
    assert await contents(store) == put
    assert await store.count(key=key_of(1)) == len(put)


class Special(ProvcacheEntry, frozen=True, kw_only=True):
    more: str = SECRET


class Nameless:
    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


SPECIAL = Special(**msgspec.structs.asdict(entry("special")))


@pytest.mark.parametrize(
    ("kind", "entry_type", "bad", "kept"),
    [
        (ProvcacheEntry, f"{__name__}.Special", SPECIAL, None),
        (ProvcacheEntry, "builtins.str", "x", "x"),
        (
            Meter,
            f"{Meter.__module__}.Meter",
            Meter("a", cast("float", None)),
            {"name": "a", "value": None, "tags": []},
        ),
        (
            Meter,
            f"{Meter.__module__}.Meter",
            Meter("a", float("nan")),
            "Meter(name='a', value=nan, tags=frozenset())",
        ),
        (Item, f"{Item.__module__}.Item", Item("\udcff"), None),
        (Item, f"{Item.__module__}.Item", Item(["x"]), {"veri_key": ["x"], "version": 0}),  # type: ignore[arg-type]
        (object, "builtins.object", range(3), "range(0, 3)"),
    ],
    ids=[
        "a subclass",
        "another type",
        "None in a float",
        "not a number",
        "a lone surrogate",
        "a field of another type",
        "an object",
    ],
)
async def test_an_entry_that_is_not_what_its_type_says_is_kept_for_a_person(
    path: Path, kind: type[object], entry_type: str, bad: object, kept: object
) -> None:
    async with open_dead_letters(path, entry_type=kind) as store:
        good = {Item: Item("a"), Meter: Meter("a", 1.0), object: "a"}.get(kind, entry())
        await store.put_many([letter(good, "good"), letter(bad, "bad")])
        found = await store.letters()
        assert [one.id for one in found] == [1, 2]
        assert isinstance(found[0], StoredLetter)
        assert found[0].letter.entry == good
        if kind is not object:
            assert isinstance(found[1], UnreadableLetter)
            assert (found[1].id, found[1].key, found[1].reason) == (2, "bad", None)
    async with open_dead_letters(path, entry_type=object) as store:
        raw = await store.get(2)
        assert isinstance(raw, StoredLetter)
        assert raw.entry_type == entry_type
        assert kept is None or raw.letter.entry == kept


async def test_an_entry_that_was_not_what_its_type_says_comes_back_by_upgrade(path: Path) -> None:
    bad: Meter = Meter("a", None)  # type: ignore[arg-type]  # that is it

    def repair(found: dict[str, object]) -> dict[str, object]:
        return {**found, "value": 0.0}

    async with open_dead_letters(path, entry_type=Meter) as store:
        await store.put_many([letter(bad, "bad")])
    async with open_dead_letters(path, entry_type=Meter, upgrade=repair) as store:
        (found,) = await store.letters()
        assert isinstance(found, StoredLetter)
        assert found.letter.entry == Meter("a", 0.0)


@pytest.mark.parametrize(
    "bad",
    [
        letter(entry(), Nameless()),
        letter(entry(), failed_at=NOW.replace(tzinfo=None)),
        letter(entry(), attempts=SECRET),
        letter(SPECIAL, attempts=SECRET),
        SECRET,
    ],
    ids=["a key without a repr", "a naive time", "no number", "no number of another", "no letter"],
)
async def test_what_is_no_letter_is_refused_by_its_place(
    path: Path, bad: DeadLetter[ProvcacheEntry]
) -> None:
    async with open_dead_letters(path) as store:
        with pytest.raises(EntryRejectedError) as caught:
            await store.put_many([letter(entry()), bad])
        assert caught.value.index == 1
        assert caught.value.error_class is not None
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert await store.count() == 0
        await store.put_many([letter(entry())])


async def test_a_row_that_can_not_be_read_is_told_by_its_number_and_stops_nothing(
    store: DeadLetters[ProvcacheEntry], path: Path
) -> None:
    await store.put_many([numbered(number) for number in range(12)])
    damage = [
        "letter = x'5b'",
        "letter = x'ff'",
        "letter = ''",
        "letter = 7",
        "letter = replace(letter, '\"attempts\":2', '\"attempts\":2.5')",
        "letter = replace(letter, 'sha256:', 'sha512:')",
        "letter = CAST(x'22ff22' AS TEXT)",
        "letter = x'" + "5b" * 100_000 + "'",
        "letter = x'7b7d', key = CAST(x'ff' AS TEXT)",
        "letter = x'7b7d', key = x'00'",
    ]
    for number, each in enumerate(damage, 1):
        run(path, f"UPDATE provcache_dead_letters SET {each} WHERE id = {number}")
    found = await store.letters()
    assert [each.id for each in found] == list(range(1, 13))
    unreadable = [each for each in found if isinstance(each, UnreadableLetter)]
    assert [each.id for each in unreadable] == list(range(1, 11))
    assert [each.key for each in unreadable] == [
        *map(key_of, range(8)),
        "\ufffd",
        r"b'\x00'",
    ]
    assert [each.letter for each in found if isinstance(each, StoredLetter)] == [
        numbered(10),
        numbered(11),
    ]
    assert await store.get(1) == unreadable[0]
    assert await store.remove([1, 12]) == 2


class Picky(msgspec.Struct, frozen=True):
    """Takes nothing."""

    veri_key: str
    version: int

    def __post_init__(self) -> None:
        raise RuntimeError(SECRET)


class Former(msgspec.Struct, frozen=True):
    """What was kept before fields were added."""

    veri_key: str
    version: str


class Chosen(msgspec.Struct, frozen=True):
    """Allows only some versions."""

    veri_key: str
    version: Literal["new"]


class Checked(Former, frozen=True):
    """Says the value that it refuses."""

    def __post_init__(self) -> None:
        raise ValueError(self.version)


class Grown(Former, frozen=True, kw_only=True):
    """Has a field more."""

    source: str


@pytest.mark.parametrize(
    ("kind", "misfit"),
    [
        (Grown, "missing required field `source`"),
        (Item, "Expected `int`, got `str` - at `$.version`"),
        (Chosen, None),
        (Checked, None),
    ],
)
async def test_the_misfit_of_a_letter_names_a_field_and_never_a_value(
    path: Path, kind: type[object], misfit: str | None
) -> None:
    async with open_dead_letters(path, entry_type=Former) as store:
        await store.put_many([letter(Former("a", SECRET), "a")])
    former = f"{Former.__module__}.Former"
    async with open_dead_letters(path, entry_type=kind, aliases=[former]) as store:
        assert await store.get(1) == UnreadableLetter(id=1, key="a", misfit=misfit)


async def test_a_row_of_another_type_can_not_be_read(path: Path) -> None:
    async with open_dead_letters(path, entry_type=Item) as store:
        await store.put_many([letter(Item(key_of(1)), key_of(1))])
    for kind in (ProvcacheEntry, Picky):
        async with open_dead_letters(path, entry_type=kind) as other:
            assert await other.letters() == [UnreadableLetter(id=1, key=key_of(1))]
    async with open_dead_letters(path, entry_type=msgspec.Raw) as raw:
        (found,) = await contents(raw)
    assert msgspec.json.decode(found.entry, type=Item) == Item(key_of(1))


# Finding and removing


async def test_letters_come_page_by_page(store: DeadLetters[ProvcacheEntry]) -> None:
    await store.put_many([numbered(number) for number in range(250)])
    sizes: list[int] = []
    seen: list[int] = []
    while page := await store.letters(after=seen[-1] if seen else 0):
        sizes.append(len(page))
        seen += [each.id for each in page]
    assert sizes == [100, 100, 50]
    assert seen == list(range(1, 251))
    assert [each.id for each in await store.letters(after=100, limit=1)] == [101]


async def test_letters_are_found_by_key_and_time(store: DeadLetters[ProvcacheEntry]) -> None:
    await store.put_many(
        [numbered(number % 3, failed_at=NOW + number * MICROSECOND) for number in range(9)]
    )

    async def found(key: str | None, since: datetime | None) -> list[int]:
        page = await store.letters(key=key, since=since)
        assert await store.count(key=key, since=since) == len(page)
        return [each.id for each in page]

    since = NOW + 4 * MICROSECOND
    assert await found(None, None) == list(range(1, 10))
    assert await found(key_of(1), None) == [2, 5, 8]
    assert await found(None, since.astimezone(timezone(timedelta(hours=5)))) == [5, 6, 7, 8, 9]
    assert await found(key_of(1), since) == [5, 8]
    assert await found("none", None) == []
    page = await store.letters(after=5, limit=1, key=key_of(1), since=since)
    assert [each.id for each in page] == [8]


async def test_removing_tells_how_many_there_were_and_gives_no_number_twice(path: Path) -> None:
    async with open_dead_letters(path) as store:
        await store.put_many([numbered(1), numbered(2)])
        assert await store.remove(iter([2, 2, 7])) == 1
        assert await store.remove([]) == 0
        assert await contents(store) == [numbered(1)]
    async with open_dead_letters(path) as store:
        await store.put_many([numbered(2)])
        ids = [each.id for each in await store.letters()]
    assert ids[0] == 1
    assert ids[1] > 2


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda store: store.letters(after="1"), TypeError, "after"),
        (lambda store: store.letters(after=-1), ValueError, "after"),
        (lambda store: store.letters(limit=True), TypeError, "limit"),
        (lambda store: store.letters(limit=0), ValueError, "limit"),
        (lambda store: store.letters(limit=2**63), ValueError, "limit"),
        (lambda store: store.letters(key=7), TypeError, "key"),
        (lambda store: store.letters(since="2026"), TypeError, "since"),
        (lambda store: store.letters(since=NOW.replace(tzinfo=None)), ValueError, "since"),
        (lambda store: store.count(key=b"x"), TypeError, "key"),
        (lambda store: store.get(1.0), TypeError, "number"),
        (lambda store: store.get(-1), ValueError, "number"),
        (lambda store: store.remove(1), TypeError, "numbers"),
        (lambda store: store.remove(["1"]), TypeError, "numbers"),
        (lambda store: store.remove([1, 2**63]), ValueError, "numbers"),
    ],
)
async def test_arguments_are_checked(
    store: DeadLetters[ProvcacheEntry],
    call: Callable[[DeadLetters[ProvcacheEntry]], Awaitable[object]],
    error: type[Exception],
    named: str,
) -> None:
    await store.put_many([numbered(1), numbered(2)])
    with pytest.raises(error, match=named):
        await call(store)
    assert await store.count() == 2


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"max_letters": 0}, ValueError, "max_letters"),
        ({"max_letters": 1.0}, TypeError, "max_letters"),
        ({"max_bytes": True}, TypeError, "max_bytes"),
        ({"lock_timeout_seconds": -1}, ValueError, "lock_timeout_seconds"),
        ({"max_bytes": 2**63}, ValueError, "max_bytes"),
        ({"create": 1}, TypeError, "create"),
        ({"read_only": None}, TypeError, "read_only"),
        ({"entry_type": Item | Meter}, TypeError, "entry_type"),
    ],
    ids=str,
)
def test_options_are_checked(
    path: Path, options: dict[str, object], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        open_dead_letters(path, **options)  # type: ignore[call-overload]
    assert names(path.parent) == set()


# When it is full


async def test_when_it_is_full_it_takes_nothing_and_drops_nothing(path: Path) -> None:
    async with open_dead_letters(path, max_letters=3) as store:
        await store.put_many([numbered(1), numbered(2)])
        with pytest.raises(DeadLettersFullError, match="3 letters") as caught:
            await store.put_many([numbered(3), numbered(4)])
        assert isinstance(caught.value, StoreUnavailableError)
        assert await contents(store) == [numbered(1), numbered(2)]
        await store.put_many([numbered(3)])
        for _ in range(2):
            with pytest.raises(DeadLettersFullError):
                await store.put_many([numbered(4)])
        await store.put_many([numbered(1), numbered(3)])  # they have found room
        await store.remove([1])
        await store.put_many([numbered(4)])
        assert await contents(store) == [numbered(2), numbered(3), numbered(4)]


async def test_bytes_are_bounded_too_and_counted_exactly(path: Path) -> None:
    async with open_dead_letters(path, entry_type=str) as store:
        await store.put_many([letter("")])
        alone = await store.size()
    async with open_dead_letters(path, entry_type=str, max_bytes=2 * alone + 10) as store:
        with pytest.raises(DeadLettersFullError, match=f"{2 * alone + 10} bytes"):
            await store.put_many([letter("x" * 11)])
        await store.put_many([letter("x" * 10)])
        assert await store.size() == 2 * alone + 10
        await store.remove([1])
        assert await store.size() == alone + 10
        ((found,),) = query(path, "SELECT length(letter) FROM provcache_dead_letters")
        assert found == alone + 10


async def test_limits_that_were_lowered_keep_what_is_there(path: Path) -> None:
    async with open_dead_letters(path) as store:
        await store.put_many([numbered(1), numbered(2)])
    async with open_dead_letters(path, max_letters=1) as store:
        await store.put_many([numbered(2)])
        with pytest.raises(DeadLettersFullError):
            await store.put_many([numbered(3)])
        assert await contents(store) == [numbered(1), numbered(2)]


async def test_being_full_is_logged_once_per_change(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    async with open_dead_letters(path, max_letters=1) as store:
        for number in (2, 4):
            await store.put_many([numbered(number)])
            for _ in range(3):
                with pytest.raises(DeadLettersFullError):
                    await store.put_many([numbered(number + 1)])
            await store.remove(each.id for each in await store.letters())
        await store.put_many([numbered(6)])
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    room = f"{path}: no room: at most 1 letter and 268,435,456 bytes"
    help_ = "send some again, purge some, or raise max_letters or max_bytes"
    full = f"dead letters are full, new ones wait: {room}; {help_}"
    assert told == [("ERROR", full), ("INFO", "dead letters have room again")] * 2


@pytest.mark.one_lane
async def test_a_queue_keeps_the_letters_that_find_no_room_and_hands_them_back(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repository = MemoryRepository[Item]()
    repository.reject(*map(str, range(6)))
    options = WriteBehindOptions(batch_size=2, drain_timeout_seconds=0.3, retry_cap_seconds=0.1)
    async with open_dead_letters(path, entry_type=Item, max_letters=3) as store:
        with pytest.raises(DrainTimeoutError) as caught:
            async with open_write_behind_queue(repository, options, dead_letters=store) as queue:
                for number in range(6):
                    await queue.enqueue(Item(str(number)))
                await until(
                    lambda: (
                        queue.metrics().state == "paused"
                        and (error := queue.metrics().last_error) is not None
                        and error.error_class == "DeadLettersFullError"
                    )
                )
        kept = [each.entry for each in await contents(store)]
        assert len(kept) in {2, 3}
        assert [*kept, *caught.value.undelivered] == items(range(6))
    assert sum("dead letters are full" in each.getMessage() for each in caplog.records) == 1


# With a queue


async def test_a_queue_leaves_there_what_the_store_refuses(tmp_path: Path, path: Path) -> None:
    cache = tmp_path / "cache.db"
    async with (
        open_sqlite_repository(cache) as repository,
        open_dead_letters(path) as store,
        open_write_behind_queue(repository, dead_letters=store) as queue,
    ):
        await repository.check()
        run(
            cache,
            "CREATE TRIGGER picky BEFORE INSERT ON provcache_entries"
            " WHEN NEW.hit_count = 7 BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        await queue.enqueue_many([entry(1), entry(2, hit_count=7), entry(3)])
        await queue.flush()
        (found,) = await contents(store)
        assert await repository.count() == 2
    assert found.entry == entry(2, hit_count=7)
    assert found.key == key_of(2)
    assert found.error_class == "SQLITE_CONSTRAINT_TRIGGER"
    assert queue.metrics().total_failed == 1


async def test_several_queues_may_share_it(path: Path) -> None:
    repository = MemoryRepository[Item]()
    repository.reject("a", "b")
    async with (
        open_dead_letters(path, entry_type=Item) as store,
        open_write_behind_queue(repository, dead_letters=store, name="1") as first,
        open_write_behind_queue(repository, dead_letters=store, name="2") as second,
    ):
        async with trio.open_nursery() as nursery:
            for queue, key in ((first, "a"), (second, "b")):
                await queue.enqueue(Item(key))
                nursery.start_soon(queue.flush)
        assert {each.key for each in await contents(store)} == {"a", "b"}
    assert_settled(first, failed=1)


# The file


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
async def test_what_is_made_is_for_its_owner_only(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "one" / "two" / "dead.db"
    before = os.umask(umask)
    try:
        async with open_dead_letters(path) as store:
            await store.put_many([numbered(1)])
            modes = {name: mode_of(path.with_name(name)) for name in names(path.parent)}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("dead.db", "dead.db-wal", "dead.db-shm", "dead.db.lock"), 0o600)
    assert mode_of(path.parent) == mode_of(path.parent.parent) == 0o700


async def test_the_names_of_new_directories_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(place_of(descriptor))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    async with open_dead_letters(tmp_path / "one" / "two" / "dead.db"):
        assert synced == [tmp_path, tmp_path / "one"]


def place_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


async def test_a_directory_that_is_there_is_left_alone_and_a_file_is_made_private(
    tmp_path: Path, path: Path
) -> None:
    touch(tmp_path, 0o755)
    for suffix in ("", "-wal"):
        touch(path.with_name(path.name + suffix), 0o666)
    async with open_dead_letters(path) as store:
        await store.put_many([numbered(1)])
        assert mode_of(tmp_path) == 0o755
        assert mode_of(path) == 0o600
        assert mode_of(path.with_name("dead.db-wal")) == 0o600


async def test_it_is_written_ahead_and_synced_in_full(store: DeadLetters[ProvcacheEntry]) -> None:
    await store.put_many([numbered(1)])
    connection = connection_of(store)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {_dead_letters_file._TOTALS}").fetchall()
    assert "COVERING INDEX" in str(plan)


async def refusal(path: Path, **options: Any) -> str:  # noqa: ANN401  # whatever it takes
    """Return why the file can't be opened, which is named; it leaves nothing open."""
    with pytest.raises(StoreMisconfiguredError) as caught:
        async with open_dead_letters(path, **options):
            raise AssertionError("unreachable")
    assert descriptors(path.parent) == []
    assert caught.value.__cause__ is None
    assert str(caught.value) == caught.value.reason
    named, separator, why = str(caught.value).partition(f"{path}: ")
    assert (named, bool(separator)) == ("", True)
    return why


@pytest.mark.parametrize("suffix", ["", ".lock"])
@pytest.mark.parametrize("there", [False, True])
async def test_a_symbolic_link_is_not_followed(
    tmp_path: Path, path: Path, suffix: str, there: bool
) -> None:
    other = tmp_path / "other.db"
    if there:
        async with open_dead_letters(other):
            pass
    link(path.with_name(path.name + suffix), other)
    before = content_of(other)
    assert "symbolic link" in await refusal(path)
    assert content_of(other) == before
    if not suffix:
        assert "symbolic link" in await refusal(path, read_only=True)


async def test_a_link_that_is_put_there_while_it_is_opened_is_not_followed(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.db"
    async with open_dead_letters(other), open_dead_letters(path):
        pass
    connect = sqlite3.connect

    def swap(where: str, **more: object) -> object:
        if "immutable" in where:  # a look at what it is
            return connect(where, **more)  # type: ignore[call-overload]
        path.rename(tmp_path / "away")
        path.symlink_to(other)
        opened = connect(where, **more)  # type: ignore[call-overload]
        path.unlink()
        path.hardlink_to(other)
        return opened

    monkeypatch.setattr(sqlite3, "connect", swap)
    with pytest.raises(StoreUnavailableError, match="replaced"):
        async with open_dead_letters(path):
            raise AssertionError("unreachable")
    assert descriptors(tmp_path) == []


async def test_what_is_no_file_is_refused(tmp_path: Path, path: Path) -> None:
    os.mkdir(path)  # noqa: PTH102
    assert await refusal(path) == "it is no regular file"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert await refusal(pipe) == "it is no regular file"
    os.mkdir(tmp_path / "x.db.lock")  # noqa: PTH102
    assert await refusal(tmp_path / "x.db") == (
        f"its lock file {tmp_path / 'x.db.lock'} can't be opened: Is a directory"
    )


async def test_a_place_in_which_no_file_can_be_made_is_refused(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "file", 0o600)
    assert "Not a directory" in await refusal(tmp_path / "file" / "dead.db")
    assert "Not a directory" in await refusal(tmp_path / "file" / "more" / "dead.db")

    def denied(*_: object) -> None:
        raise PermissionError(13, SECRET)

    with monkeypatch.context() as patched:
        patched.setattr(_dead_letters_file, "create_file", denied)
        assert await refusal(path) == "the file can't be made: Permission denied"
    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", denied)
        why = await refusal(tmp_path / "more" / "dead.db")
        assert why == "the directory can't be made: Permission denied"


async def test_a_file_of_another_version_or_application_is_refused_by_name(path: Path) -> None:
    async with open_dead_letters(path) as store:
        await store.put_many([numbered(1)])
    for version in (0, 3, 41):
        run(path, f"PRAGMA user_version = {version}")
        before = content_of(path)
        expected = f"the file has schema version {version}, and this program knows 2 only"
        assert await refusal(path) == await refusal(path, read_only=True) == expected
        assert content_of(path) == before
    run(path, "PRAGMA application_id = 7")
    assert await refusal(path) == "the file is a database of another application"


async def test_a_repository_and_dead_letters_do_not_open_each_others_files(tmp_path: Path) -> None:
    cache, dead = tmp_path / "cache.db", tmp_path / "dead.db"
    async with open_sqlite_repository(cache) as repository, open_dead_letters(dead):
        await repository.check()
    assert await refusal(cache) == "the file is a database of another application"
    async with open_sqlite_repository(dead) as repository:
        with pytest.raises(StoreMisconfiguredError, match="another application"):
            await repository.check()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    await trio.Path(path).write_bytes(b"garbage " * 1000)
    assert await refusal(path) == (
        "SQLite reported SQLITE_NOTADB: the file is no SQLite database; name another one"
    )
    assert await trio.Path(path).read_bytes() == b"garbage " * 1000


async def test_an_empty_file_is_filled_unless_that_is_not_wanted(path: Path) -> None:
    await trio.Path(path).touch()
    assert await refusal(path, create=False) == "the file is empty"
    assert await refusal(path, read_only=True) == "the file is empty"
    async with open_dead_letters(path) as store:
        await store.put_many([numbered(1)])


async def test_nothing_is_made_where_that_is_not_wanted(tmp_path: Path, path: Path) -> None:
    for missing in (path, tmp_path / "none" / "dead.db"):
        for options in ({"create": False}, {"read_only": True}):
            assert await refusal(missing, **options) == "there is no such file"
    assert names(tmp_path) == set()


@pytest.mark.parametrize("wrong", ["", ":memory:", "\0"])
def test_a_path_names_a_file(wrong: str) -> None:
    with pytest.raises(ValueError, match="path"):
        open_dead_letters(wrong)


async def test_a_file_that_is_removed_is_made_anew(
    store: DeadLetters[ProvcacheEntry], tmp_path: Path, path: Path
) -> None:
    await store.put_many([numbered(1)])
    remove_all(*(tmp_path / name for name in names(tmp_path)))
    await store.put_many([numbered(2)])
    assert await contents(store) == [numbered(2)]
    assert names(tmp_path) == {"dead.db", "dead.db-wal", "dead.db-shm", "dead.db.lock"}
    with pytest.raises(StoreUnavailableError, match=IN_USE):
        async with open_dead_letters(path):
            raise AssertionError("unreachable")


async def test_a_full_disk_loses_nothing(store: DeadLetters[ProvcacheEntry]) -> None:
    await store.put_many([numbered(1)])
    connection_of(store).execute("PRAGMA max_page_count = 10")
    many = [numbered(number) for number in range(100)]
    with pytest.raises(StoreUnavailableError) as caught:
        await store.put_many(many)
    assert caught.value.error_class == "SQLITE_FULL"
    assert not isinstance(caught.value, DeadLettersFullError)
    await store.put_many(many)
    assert await store.count() == 100


# One owner


async def test_there_is_one_owner_at_a_time_within_a_process(path: Path) -> None:
    async with open_dead_letters(path) as store:
        with pytest.raises(StoreUnavailableError, match=IN_USE) as caught:
            async with open_dead_letters(path):
                raise AssertionError("unreachable")
        assert type(caught.value) is StoreUnavailableError
        await store.put_many([numbered(1)])
    async with open_dead_letters(path) as store:
        assert await store.count() == 1
    assert descriptors(path.parent) == []


OPEN = """
import sys, trio
from provcache_trio import StoreUnavailableError
from provcache_trio.dead_letters import open_dead_letters

async def main():
    try:
        async with open_dead_letters(sys.argv[1]) as store:
            print(await store.count())
    except StoreUnavailableError as error:
        print(error)

trio.run(main)
"""


@pytest.mark.whole_process
async def test_there_is_one_owner_at_a_time_among_processes(path: Path) -> None:
    async with open_dead_letters(path):
        said = await run_python(OPEN, str(path))
        assert f"in use: process {os.getpid()} owns it\n".encode() in said
    assert await run_python(OPEN, str(path)) == b"0\n"


@pytest.mark.parametrize("locks", ["1: FLOCK  ADVISORY  WRITE 1 00:00:1 0 EOF\n", None])
async def test_an_owner_that_the_kernel_does_not_name_is_not_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, locks: str | None
) -> None:
    listed = path.with_name("locks")
    if locks is not None:
        listed.write_text(locks)
    monkeypatch.setattr(owner_lock, "_LOCKS", listed)
    # As if another process had taken it.
    with path.with_name("dead.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailableError, match="another process, or another part of this"):
            async with open_dead_letters(path):
                raise AssertionError("unreachable")


@pytest.mark.parametrize("letters_first", [True, False])
async def test_a_successor_waits_for_its_predecessor_whatever_it_opens_first(
    path: Path, caplog: pytest.LogCaptureFixture, letters_first: bool
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    log = path.with_name("journal")
    letters: AbstractAsyncContextManager[object] = open_dead_letters(
        path, lock_timeout_seconds=HANG_SECONDS
    )
    journal: AbstractAsyncContextManager[object] = open_journal(
        log, lock_timeout_seconds=HANG_SECONDS
    )
    first, second = (letters, journal) if letters_first else (journal, letters)
    entered = trio.Event()

    async def succeed() -> None:
        async with first, second:
            entered.set()

    waits = "waiting for it, at most"
    async with trio.open_nursery() as nursery:
        async with open_journal(log), open_dead_letters(path):
            nursery.start_soon(succeed)
            await until(lambda: waits in caplog.text)
        await entered.wait()
    place = f"dead letters: {path}" if letters_first else f"journal {log}"
    [said] = [line for line in caplog.messages if waits in line and line.startswith(place)]
    assert said.startswith(
        f"{place}: in use: another part of this process owns it; {waits} {HANG_SECONDS:g} s: it should be"
    )


def make_damaged(path: Path) -> None:
    path.write_bytes(b"no database at all, and longer than a header of SQLite is" * 9)


async def test_a_lock_is_waited_for_no_longer_than_was_asked_and_other_trouble_is_not(
    path: Path,
) -> None:
    async with open_dead_letters(path):
        with pytest.raises(StoreUnavailableError, match=IN_USE):
            async with open_dead_letters(path, lock_timeout_seconds=0.01):
                raise AssertionError("unreachable")
    make_damaged(path)
    with trio.fail_after(HANG_SECONDS / 2), pytest.raises(StoreMisconfiguredError):
        async with open_dead_letters(path, lock_timeout_seconds=HANG_SECONDS):
            raise AssertionError("unreachable")


async def test_files_of_one_directory_have_owners_of_their_own(tmp_path: Path) -> None:
    async with open_dead_letters(tmp_path / "a.db"), open_dead_letters(tmp_path / "b.db"):
        pass


async def test_anybody_may_read_meanwhile_and_not_write(path: Path) -> None:
    async with open_dead_letters(path) as store:
        await store.put_many([numbered(1)])
        async with open_dead_letters(path, read_only=True) as reader:
            assert await contents(reader) == [numbered(1)]
            await store.put_many([numbered(2)])
            assert await reader.count() == 2
            for change in (reader.put_many([numbered(3)]), reader.remove([1])):
                with pytest.raises(StoreMisconfiguredError) as caught:
                    await change
                assert caught.value.error_class == "SQLITE_READONLY"
            assert await store.count() == 2
        await store.put_many([numbered(3)])
    before = content_of(path)
    async with open_dead_letters(path, read_only=True) as reader:
        assert await reader.count() == 3
    assert content_of(path) == before
    assert names(path.parent) == {"dead.db", "dead.db.lock"}


async def test_an_owner_whose_lock_was_removed_takes_it_again_or_stops(path: Path) -> None:
    async with open_dead_letters(path) as store:
        remove_all(path.with_name("dead.db.lock"))
        await store.put_many([numbered(1)])
        with pytest.raises(StoreUnavailableError, match=IN_USE):
            async with open_dead_letters(path):
                raise AssertionError("unreachable")
        remove_all(path.with_name("dead.db.lock"))
        async with open_dead_letters(path) as thief:
            with pytest.raises(StoreUnavailableError, match=IN_USE):
                await store.put_many([numbered(2)])
            assert await contents(thief) == [numbered(1)]
        await store.put_many([numbered(2)])


async def test_a_lock_file_that_is_never_the_one_just_opened_ends_the_try(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    why = await refusal(path)
    assert why == f"its lock file {path}.lock is replaced again and again"


def test_an_owner_that_leaves_frees_the_file_though_a_child_has_a_copy(path: Path) -> None:
    file = _dead_letters_file.DeadLettersFile(
        str(path), create=True, read_only=False, max_letters=1, max_bytes=1
    )
    file.open()
    assert file._lock is not None
    assert file._lock._descriptor is not None
    copy = os.dup(file._lock._descriptor)  # as a fork that Python knows nothing of makes one
    file.end()
    try:
        file.open()
    finally:
        os.close(copy)
        file.end()


ORPHAN = """
import os, signal, sys, time, trio
from provcache_trio.dead_letters import open_dead_letters

async def main():
    async with open_dead_letters(sys.argv[1]):
        child = os.fork()
        if not child:
            os.close(1)
            time.sleep(60)
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


@pytest.mark.whole_process
async def test_a_lock_ends_with_a_process_that_is_killed_though_its_child_lives(
    path: Path,
) -> None:
    done = await trio.run_process(
        [sys.executable, "-W", "ignore", "-c", ORPHAN, str(path)], capture_stdout=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    try:
        async with open_dead_letters(path) as store:
            await store.put_many([numbered(1)])
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_own_the_file_and_leaves_it_to_its_parent(path: Path) -> None:
    file = _dead_letters_file.DeadLettersFile(
        str(path), create=True, read_only=False, max_letters=1, max_bytes=1
    )
    file.open()
    lock_of_nobody = OwnerLock(f"{path}.other")
    child = os.fork()
    if not child:
        status = 1
        with suppress(BaseException):
            try:
                file.remove([1])
            except StoreUnavailableError:
                status = 0
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    lock_of_nobody.release()
    file.open()
    other = _dead_letters_file.DeadLettersFile(
        str(path), create=True, read_only=False, max_letters=1, max_bytes=1
    )
    with pytest.raises(StoreUnavailableError):
        other.open()
    file.end()
    other.open()
    other.end()


# Entering, leaving, and calls that are cut short

CALLS: list[Callable[[DeadLetters[ProvcacheEntry]], Awaitable[object]]] = [
    lambda store: store.put_many([numbered(1)]),
    lambda store: store.letters(),
    lambda store: store.get(1),
    lambda store: store.count(),
    lambda store: store.size(),
    lambda store: store.remove([1]),
]


async def test_nothing_works_after_the_block(path: Path) -> None:
    opening = open_dead_letters(path)
    async with opening as store:
        pass
    for call in CALLS:
        with pytest.raises(trio.ClosedResourceError):
            await call(store)
    with pytest.raises(RuntimeError, match="entered once"):
        async with opening:
            raise AssertionError("unreachable")
    assert descriptors(path.parent) == []
    assert names(path.parent) == {"dead.db", "dead.db.lock"}


@pytest.mark.parametrize("call", CALLS)
async def test_every_call_is_a_checkpoint(
    store: DeadLetters[ProvcacheEntry],
    call: Callable[[DeadLetters[ProvcacheEntry]], Awaitable[object]],
) -> None:
    with trio.testing.assert_checkpoints():
        await call(store)


async def test_opening_in_a_cancelled_scope_opens_nothing(path: Path) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_dead_letters(path):
            raise AssertionError("unreachable")
    assert scope.cancelled_caught
    assert names(path.parent) == set()


async def test_opening_that_is_cancelled_leaves_nobody_the_owner(path: Path) -> None:
    for turn in range(30):
        with trio.move_on_after(turn / 10_000):
            async with open_dead_letters(path) as store:
                await store.put_many([numbered(turn)])
                await trio.sleep_forever()
        assert descriptors(path.parent) == []
    async with open_dead_letters(path):
        pass


async def test_leaving_closes_the_file_also_in_a_cancelled_scope(path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_dead_letters(path) as store:
            await store.put_many([numbered(1)])
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert descriptors(path.parent) == []
    assert names(path.parent) == {"dead.db", "dead.db.lock"}


async def test_what_the_block_raises_arrives_as_it_was(path: Path) -> None:
    error = StopAsyncIteration()
    with pytest.raises(StopAsyncIteration) as caught:
        async with open_dead_letters(path):
            raise error
    assert caught.value is error
    assert error.__context__ is None


def test_ctrl_c_does_not_keep_the_file_open(path: Path) -> None:
    async def main() -> None:
        async with open_dead_letters(path):
            press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert descriptors(path.parent) == []


ENDLESS = """
CREATE VIEW endless AS WITH RECURSIVE numbers(n) AS (
    SELECT 1 UNION ALL SELECT n + 1 FROM numbers
) SELECT n FROM numbers;
CREATE TRIGGER slow BEFORE INSERT ON provcache_dead_letters WHEN NEW.key = 'slow'
BEGIN SELECT max(n) FROM endless; END;
"""


async def test_a_call_that_is_cancelled_leaves_nothing_and_can_be_repeated(
    store: DeadLetters[ProvcacheEntry], path: Path
) -> None:
    run(path, ENDLESS)
    put = [numbered(1), letter(entry(2), "slow")]
    with trio.move_on_after(0.1) as scope:
        await store.put_many(put)
    assert scope.cancelled_caught
    assert await store.count() == 0
    run(path, "DROP TRIGGER slow")
    await store.put_many(put)
    assert await contents(store) == put


OF_MANY: dict[str, Callable[[DeadLetters[ProvcacheEntry]], Awaitable[object]]] = {
    _dead_letters_file._INSERT: lambda store: store.put_many([numbered(1), numbered(2)]),
    _dead_letters_file._DELETE: lambda store: store.remove([1, 2]),
}


@pytest.mark.parametrize("statement", OF_MANY, ids=["put_many", "remove"])
async def test_a_call_is_cut_short_between_two_letters(
    store: DeadLetters[ProvcacheEntry], statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put_many([numbered(0)])
    with trio.CancelScope() as scope:
        cancel_after_the_first(statement, store._file, scope, monkeypatch)
        await OF_MANY[statement](store)
    assert scope.cancelled_caught
    assert await contents(store) == [numbered(0)]


@pytest.mark.one_lane  # both letters are posted at once
async def test_a_queue_gives_a_slow_store_its_letters_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provcache_trio._core.outbox._SINK_TIMEOUT_SECONDS", 0.1)
    repository = MemoryRepository[Item]()
    repository.reject("slow", "b")
    options = WriteBehindOptions(retry_base_seconds=0.01)
    async with open_dead_letters(path, entry_type=Item) as store:
        run(path, ENDLESS)
        async with open_write_behind_queue(repository, options, dead_letters=store) as queue:
            await queue.enqueue_many(items(["slow", "b", "c"]))
            await until(lambda: queue.metrics().last_error and queue._outbox.failing)
            assert await store.count() == 0
            run_when_free(path, "DROP TRIGGER slow")
            await queue.flush()
        assert {each.key for each in await contents(store)} == {"slow", "b"}
        assert await store.count() == 2


def run_when_free(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        connection.executescript(script)


def test_names_are_public() -> None:
    assert module.__all__ == sorted(module.__all__)
    assert DeadLetters.__final__  # type: ignore[attr-defined]
    for name in module.__all__:
        offered = getattr(module, name)
        if isinstance(offered, type) and not issubclass(offered, msgspec.Struct):
            assert offered.__module__ == "provcache_trio.dead_letters"


# Crashes

PUT = """
import sys, trio
from tests.support.letters import numbered
from provcache_trio.dead_letters import open_dead_letters

async def main():
    async with open_dead_letters(sys.argv[1]) as store:
        for first in range(int(sys.argv[2]), 1_000_000, 10):
            await store.put_many([numbered(n) for n in range(first, first + 10)])
            print(first + 10, flush=True)

trio.run(main)
"""


async def test_what_was_taken_survives_a_process_that_is_killed(path: Path) -> None:
    await killed_while_putting(path, 0, random.Random(0), at_least=3)  # noqa: S311  # no secret


@pytest.mark.heavy
async def test_a_process_that_is_killed_at_any_moment_loses_none_and_doubles_none(
    path: Path, counts: Callable[[int, int], int]
) -> None:
    chance = random.Random(0)  # noqa: S311  # no secret
    for number in range(counts(2, 20)):
        taken = 0
        for _ in range(4):
            file = path.with_name(f"{number}.db")
            taken = await killed_while_putting(file, taken, chance, at_least=0)


async def killed_while_putting(
    path: Path, first: int, chance: random.Random, *, at_least: int
) -> int:
    """Kill a process that puts letters; return how many letters there must be."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", PUT, str(path), str(first)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert process.stdout is not None
    told = b""
    while told.count(b"\n") < max(1, at_least):
        more = await process.stdout.receive_some()
        assert more, "it ended by itself"
        told += more
    await trio.sleep(chance.uniform(0, 0.05))
    process.kill()
    async for more in process.stdout:
        told += more
    assert await process.wait() == -signal.SIGKILL
    acknowledged = int(told.split()[-1])
    async with open_dead_letters(path) as store:
        assert connection_of(store).execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = await contents(store)
        # All that was told, and all or nothing of the call that was cut off.
        assert len(found) in {acknowledged, acknowledged + 10}
        again = [numbered(number) for number in range(acknowledged + 10)]
        await store.put_many(again)
        assert await contents(store) == again
    return acknowledged + 10
