"""The contract for repositories of one's own: good ones pass, and each broken promise is told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.lowlevel

from provcache_trio import EntryRejectedError, Table
from provcache_trio._asyncio.bridge import DEFAULT_KIND
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository, check_repository

from tests.support.entries import DAY, MICROSECOND, NOW, entry
from tests.support.items import Item
from tests.support.servers import postgres, unused_schema
from tests.support.tables import READINGS, Reading

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from pathlib import Path

    from trio.testing import MockClock

    from provcache_trio import ProvcacheEntry
    from provcache_trio._asyncio.bridge import BridgeKind


def item(number: int, version: int) -> Item:
    return Item(f"{number}", version)


def newer(old: Item, new: Item) -> Item:
    return new if new.version >= old.version else old


def an_entry(number: int, version: int) -> ProvcacheEntry:
    return entry(
        number,
        created_at=NOW + version * MICROSECOND,
        expires_at=NOW + version * DAY,
        hit_count=7 - version,
    )


def a_reading(number: int, version: int) -> Reading:
    return Reading("a", number, version=version, value=version / 2, least=-version)


# Good ones


async def test_sqlite_keeps_its_promises(tmp_path: Path) -> None:
    numbers = count()
    await check_repository(
        lambda: open_sqlite_repository(tmp_path / f"{next(numbers)}.db"), an_entry, writers=2
    )


async def test_a_table_in_sqlite_keeps_its_promises(tmp_path: Path) -> None:
    numbers = count()

    def bad(number: int) -> Reading:
        return Reading("a", number, value="x")  # type: ignore[arg-type]  # that is it

    await check_repository(
        lambda: open_sqlite_repository(
            tmp_path / f"{next(numbers)}.db", table=READINGS, create=True
        ),
        a_reading,
        refused=bad,
        writers=3,
    )


@pytest.mark.parametrize("bridge", sorted({"thread", DEFAULT_KIND}))
async def test_postgres_keeps_its_promises(bridge: BridgeKind) -> None:
    await check_repository(
        lambda: open_postgres_repository(
            postgres().dsn, schema=unused_schema(), create=True, bridge=bridge
        ),
        an_entry,
        writers=2,
    )


async def test_memory_keeps_its_promises(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[MemoryRepository[Item]]:
        repository = MemoryRepository[Item](merge=newer, latency_seconds=0.005)
        repository.reject("refused")
        yield repository

    await check_repository(opened, item, merge=newer, refused=lambda _: Item("refused"))


# Bad ones


class Good:
    """A repository in a dict that breaks no promise; those below break one each."""

    def __init__(self) -> None:
        self.rows: dict[str, Item] = {}

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        await trio.sleep(0.005)
        for index, one in enumerate(entries):
            if one.version < 0:
                raise EntryRejectedError("negative", index=index)
        return sum(self.put(one) for one in entries)

    def put(self, one: Item) -> bool:
        old = self.rows.get(one.veri_key)
        self.rows[one.veri_key] = one if old is None else newer(old, one)
        return old != self.rows[one.veri_key]

    async def get_many(self, keys: Iterable[str]) -> dict[str, Item]:
        await trio.lowlevel.checkpoint()
        return {key: self.rows[key] for key in keys if key in self.rows}


async def check(
    kind: Callable[[], Any], *, refused: Callable[[int], Item] | None = None, writers: int = 1
) -> None:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Any]:
        yield kind()

    await check_repository(opened, item, merge=newer, refused=refused, writers=writers)


def negative(number: int) -> Item:
    return Item(f"{number}", -1)


async def test_a_good_one_passes(autojump_clock: MockClock) -> None:
    await check(Good, refused=negative, writers=2)
    await check(Good)


class Dirty(Good):
    def __init__(self) -> None:
        super().__init__()
        self.rows = {"0": Item("0")}


class Silent(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        await super().upsert_many(entries)
        return 0


class Truth(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        return bool(await super().upsert_many(entries))


class Lossy(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        return await super().upsert_many(entries[:-1]) + 1


class Adding(Good):
    def put(self, one: Item) -> bool:
        old = self.rows.get(one.veri_key, Item(one.veri_key))
        self.rows[one.veri_key] = Item(one.veri_key, old.version + one.version)
        return True


class Counting(Good):
    calls = 0

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        await super().upsert_many(entries)
        self.calls += 1
        return self.calls * len(entries)


class LastWins(Good):
    def put(self, one: Item) -> bool:
        self.rows[one.veri_key] = one
        return True


class Bounded(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        if len(entries) > 100:
            raise ValueError("too many")
        return await super().upsert_many(entries)


class Alone(Good):
    """Whoever comes second takes the entries of whoever was first."""

    entries: Sequence[Item] = ()

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        self.entries = entries
        await trio.sleep(0.005)
        return sum(self.put(one) for one in self.entries)


class Partial(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        for one in entries:
            await trio.sleep(0.00005)
            self.put(one)
        return len(entries)


class Stubborn(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(6)
        return await super().upsert_many(entries)


class Swallowing(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        try:
            return await super().upsert_many(entries)
        except trio.Cancelled:  # noqa: ASYNC103  # that is what it does wrong
            return 0  # noqa: ASYNC104  # likewise


class Abandoning(Good):
    """As one that leaves its thread behind, with abandon_on_cancel=True."""

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        try:
            return await super().upsert_many(entries)
        except trio.Cancelled:
            trio.lowlevel.spawn_system_task(self.go_on, entries)
            raise

    async def go_on(self, entries: Sequence[Item]) -> None:
        await trio.sleep(0.3)
        for one in entries:
            self.put(one)


class GivingUp(Abandoning):
    """As one that asks its server to stop, and leaves it when it has not answered in time."""

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        try:
            return await super().upsert_many(entries)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            raise

    async def go_on(self, entries: Sequence[Item]) -> None:
        await trio.sleep(0.9)
        await super().go_on(entries)


class Broken(Good):
    stuck = False

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        if self.stuck:
            return len(entries)
        self.stuck = True
        changed = await super().upsert_many(entries)
        self.stuck = False
        return changed


class Preparing(Good):
    async def prepare(self, entries: Sequence[Item], /) -> Sequence[Item]:
        return entries[1:]


class Forgetting(Good):
    async def prepare(self, entries: Sequence[Item], /) -> Sequence[Item]:
        return Prepared(entries)

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        return 0 if isinstance(entries, Prepared) else await super().upsert_many(entries)


class Prepared(tuple[Item, ...]):
    __slots__ = ()


class Right(Good):
    """Prepares, and does it well."""

    async def prepare(self, entries: Sequence[Item], /) -> Sequence[Item]:
        return tuple(entries)


class Wrong(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        try:
            return await super().upsert_many(entries)
        except EntryRejectedError as error:
            error.index = 0
            raise


class Vague(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        try:
            return await super().upsert_many(entries)
        except EntryRejectedError:
            raise ValueError("one of them") from None


class Greedy(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        return sum(self.put(one) for one in entries)


class Half(Good):
    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        await trio.lowlevel.checkpoint()
        for one in entries:
            if one.version < 0:
                raise EntryRejectedError("negative")
            self.put(one)
        return len(entries)


class Offended(Good):
    offended = False

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        if self.offended:
            return 0
        try:
            return await super().upsert_many(entries)
        except EntryRejectedError:
            self.offended = True
            raise


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Dirty, "open gave one that has rows"),
        (Silent, "upsert_many returned 0 for 20 rows that were not there"),
        (Truth, "upsert_many returned True for 20 rows"),
        (Lossy, "what get_many returned was not what was stored"),
        (Adding, "the same entries once more changed what is stored"),
        (Counting, "upsert_many returned 40 for 20 entries once more"),
        (LastWins, r"versions that arrived in the order \(2, 1\) were not stored as merge says"),
        (Bounded, "many are stored at once: it raised ValueError: too many"),
        (Alone, "2 calls at a time with different keys did not store"),
        (Partial, "a call that was cancelled after 0.001 s stored .* of 500 entries"),
        (Stubborn, "a call that was cancelled after 0.0 s took more than 5 s to return"),
        (Swallowing, "a call that was cancelled after 0.0 s returned, and stored nothing"),
        (Abandoning, "a call that was cancelled after 0.0 s went on writing when it had returned"),
        (Broken, "after a call was cancelled, the next one did not store its entries"),
        (Preparing, "prepare did not return the same entries"),
        (Forgetting, "what prepare returned was not stored"),
        (Wrong, "EntryRejectedError.index was 0 for entry 10; None is better than a wrong one"),
        (Vague, "did not raise EntryRejectedError, but ValueError"),
        (Greedy, "an entry that the store can't take was taken"),
        (Half, "a call with an entry that was refused stored others"),
        (Offended, "the others could not be stored without it"),
    ],
)
async def test_each_broken_promise_is_told(
    autojump_clock: MockClock, kind: type[Good], text: str
) -> None:
    with pytest.raises(
        AssertionError, match=rf"^the repository breaks \d of its promises:\n(.|\n)*{text}"
    ):
        await check(kind, refused=negative, writers=2)


async def test_every_broken_promise_is_a_line(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError) as caught:
        await check(Lossy, refused=negative)
    head, *lines = str(caught.value).splitlines()
    assert head == f"the repository breaks {len(lines)} of its promises:"
    assert len(lines) > 2
    assert all(line.startswith("- ") for line in lines)


async def test_one_that_waits_for_a_server_and_then_gives_it_up_passes(
    autojump_clock: MockClock,
) -> None:
    await check(GivingUp)


async def test_one_that_prepares_well_passes(autojump_clock: MockClock) -> None:
    await check(Right)


async def test_entries_that_are_changed_are_told(autojump_clock: MockClock) -> None:
    class Mutable(msgspec.Struct):
        veri_key: int
        version: int

    class Changing:
        def __init__(self) -> None:
            self.rows: dict[int, Mutable] = {}

        async def upsert_many(self, entries: Sequence[Mutable], /) -> int:
            await trio.lowlevel.checkpoint()
            for one in entries:
                one.version += 1
                self.rows[one.veri_key] = one
            return len(entries)

        async def get_many(self, keys: Iterable[int]) -> dict[int, Mutable]:
            await trio.lowlevel.checkpoint()
            return {key: self.rows[key] for key in keys if key in self.rows}

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Changing]:
        yield Changing()

    with pytest.raises(AssertionError, match="upsert_many changed its entries"):
        await check_repository(opened, Mutable)


async def test_a_repository_that_can_not_be_read_can_not_be_checked() -> None:
    class Blind:
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            await trio.lowlevel.checkpoint()
            return len(entries)

    with pytest.raises(TypeError, match="needs a repository with get_many"):
        await check(Blind)


NUMBERS = count()


class Visit(msgspec.Struct, frozen=True):
    url: str
    version: int = 0


@asynccontextmanager
async def good() -> AsyncGenerator[Any]:
    yield Good()


async def forgetful() -> AsyncGenerator[Any]:  # noqa: ASYNC124  # a decorator is forgotten
    yield Good()


@pytest.mark.parametrize(
    ("opened", "make", "reason"),
    [
        (good(), item, "open must be a function, not _AsyncGeneratorContextManager"),
        (forgetful, item, "open must return what 'async with' enters, not async_generator"),
        (good, Item("a"), "make must be a function, not Item"),
        (
            good,
            lambda number, _: Visit(f"{number}"),
            "the key of a Visit can't be read or hashed (AttributeError); it is entry.veri_key, ",
        ),
        (good, lambda number, _: Item({number}), "the key of a Item can't be read or hashed"),  # type: ignore[arg-type]  # that is it
        (good, lambda _, version: Item("a", version), "make(number, version): number alone"),
        (good, lambda number, version: Item(f"{number} {version}"), "make(number, version): "),
        (good, lambda number, _: Item(f"{number}", next(NUMBERS)), "make must return the same"),
    ],
)
async def test_a_wrong_argument_is_named(opened: Any, make: Any, reason: str) -> None:  # noqa: ANN401  # that is it
    with pytest.raises(TypeError) as caught:
        await check_repository(opened, make)
    assert str(caught.value).startswith(reason)


async def test_what_was_expected_and_what_is_stored_are_shown(autojump_clock: MockClock) -> None:
    text = (
        r"in the order \(2, 1\) were not stored as merge says: of key '1' "
        r"Item\(veri_key='1', version=2\) was expected, and Item\(veri_key='1', version=1\) is stored"
    )
    with pytest.raises(AssertionError, match=text):
        await check(LastWins)


async def test_errors_in_a_group_are_shown(autojump_clock: MockClock) -> None:
    class Grouping(Good):
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            raise ExceptionGroup("several", [ValueError("too many"), OSError(f"{len(entries)}")])

    with pytest.raises(AssertionError, match="it raised ValueError: too many, OSError: 20"):
        await check(Grouping)


async def test_an_error_of_type_is_one_of_the_repository(autojump_clock: MockClock) -> None:
    class Typed(Good):
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            raise TypeError(f"oops {len(entries)}")

    with pytest.raises(AssertionError, match="it raised TypeError: oops"):
        await check(Typed)


async def test_key_and_merge_are_those_of_the_table(autojump_clock: MockClock) -> None:
    table = Table(Item, "item", key="veri_key", newer="version")

    @asynccontextmanager
    async def opened() -> AsyncGenerator[MemoryRepository[Item]]:
        yield MemoryRepository(table=table)

    await check_repository(opened, item)
