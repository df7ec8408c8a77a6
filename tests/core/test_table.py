"""What a table is declared as, and which of two versions is kept."""

from __future__ import annotations

import copy
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import attr
import msgspec
import pytest
from hypothesis import given, strategies as st

from provcache_trio import Table, open_write_behind_queue
from provcache_trio.testing import MemoryRepository

from tests.support.tables import (
    EVERYTHING,
    NOW,
    READINGS,
    Everything,
    Grade,
    Reading,
    folded,
    readings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock


class View(msgspec.Struct, frozen=True):
    """A page view."""

    id: int
    seen: datetime
    weight: float = 0.0
    tags: list[str] = []
    maybe: int | None = None
    grade: Grade = Grade.GOOD
    mode: Literal["a", "b"] = "a"


def declare(**arguments: Any) -> Table[View]:  # noqa: ANN401  # as callers may
    return Table(View, **{"name": "view", "key": "id", **arguments})


@dataclasses.dataclass
class NoInit:
    id: int
    size: int = dataclasses.field(init=False, default=0)


@dataclasses.dataclass
class Mixed:
    id: int
    mode: Literal["a", 1] = "a"


class Unknown(msgspec.Struct):
    id: "NoSuchType"  # type: ignore[name-defined]  # noqa: F821  # that is it


class Tuple(NamedTuple):
    id: int


# What is declared


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: declare(name=""), ValueError, "name must not be empty"),
        (lambda: declare(name=1), TypeError, "name must be a str, not int"),
        (lambda: declare(name="a\0"), ValueError, "name must not hold NUL"),
        (lambda: declare(name="\ud800"), ValueError, "name must not hold a lone surrogate"),
        (lambda: declare(key="od"), ValueError, "View has no field 'od'; it has id, seen"),
        (lambda: declare(key=1), TypeError, "key must be a str or a tuple of str, not int"),
        (lambda: declare(key=(1,)), TypeError, "a field's name must be a str, not int"),
        (lambda: declare(key=()), ValueError, "key must name at least one field"),
        (lambda: declare(key=("id", "id")), ValueError, "key must name no field twice"),
        (lambda: declare(key="weight"), TypeError, "key: field 'weight' .* is a float"),
        (lambda: declare(key="tags"), TypeError, "key: field 'tags' .* is of another type"),
        (lambda: declare(key="mode"), TypeError, "key: field 'mode' .* is a Literal"),
        (lambda: declare(key="maybe"), TypeError, "key: field 'maybe' must not allow None"),
        (lambda: declare(newer="weight"), TypeError, "newer: field 'weight' .* is a float"),
        (lambda: declare(newer="grade"), TypeError, "newer: field 'grade' .* is an Enum"),
        (lambda: declare(newer="id"), ValueError, "newer: field 'id' is part of the key"),
        (lambda: declare(newer="none"), ValueError, "has no field 'none'"),
        (lambda: declare(merge={"weight": "greatest"}), TypeError, "merge: field 'weight'"),
        (lambda: declare(merge={"maybe": "sum"}), ValueError, "'maybe' must be one of 'newest'"),
        (lambda: declare(merge={"nope": "keep"}), ValueError, "has no field 'nope'"),
        (lambda: declare(merge={"id": "keep"}), ValueError, "field 'id' is part of the key"),
        (
            lambda: declare(merge={"seen": "keep"}, newer="seen"),
            ValueError,
            "field 'seen' says which version is newer",
        ),
        (lambda: declare(merge=["seen"]), TypeError, "merge must be a mapping, not list"),
        (lambda: declare(merge={1: "keep"}), TypeError, "merge must map str to str"),
        (lambda: declare(columns={"sean": "x"}), ValueError, "columns: View has no field 'sean'"),
        (lambda: declare(columns={"seen": ""}), ValueError, "column of field 'seen' must not be"),
        (lambda: declare(columns={"seen": "id"}), ValueError, "two fields have the column 'id'"),
        (lambda: declare(expires="id"), TypeError, "expires: field 'id' .* is an int"),
        (lambda: Table(int, "t", key="id"), TypeError, "int is none"),
        (lambda: Table(Tuple, "t", key="id"), TypeError, "Tuple is none"),
        (
            lambda: Table(cast("Any", object()), "t", key="id"),
            TypeError,
            "a class, not an object of type",
        ),
        (lambda: Table(type("X", (), {"a": 1}), "t", key="a"), TypeError, "X is none"),
        (lambda: Table(Unknown, "t", key="id"), TypeError, "msgspec can't decode Unknown"),
        (lambda: Table(NoInit, "t", key="id"), TypeError, "field 'size' of NoInit has init=False"),
        # msgspec 0.21 itself can't describe it.
        (lambda: Table(Mixed, "t", key="id"), TypeError, "'mode' must all be|can't decode Mixed"),
    ],
)
def test_what_can_not_be_a_table_is_refused_by_the_name_of_the_field(
    make: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make()


def test_a_table_says_what_it_is() -> None:
    assert repr(READINGS) == "<Table 'reading' of Reading>"
    kinds = {field.name: (field.kind, field.optional) for field in EVERYTHING.fields}
    assert kinds["grade"] == ("str", False)
    assert kinds["level"] == ("int", False)
    assert kinds["later"] == ("datetime", True)
    assert kinds["odd"] == ("JSON", True)
    assert READINGS.field("first").column == "first value"


def test_a_struct_a_dataclass_and_an_attrs_class_may_be_entries() -> None:
    @attr.define(frozen=True)
    class Attrs:
        id: int
        newest: int = 0
        kept: int = 0

    table = Table(Attrs, "t", key="id", merge={"kept": "keep"})
    assert table.merge(Attrs(1, 1, 1), Attrs(1, 2, 2)) == Attrs(1, 2, 1)
    assert table.make((1, 2, 3)) == Attrs(1, 2, 3)
    assert READINGS.make(READINGS.values(reading := Reading("a", 1, 2))) == reading
    assert EVERYTHING.make(EVERYTHING.values(one := Everything(id=UUID(int=0)))) == one


def test_a_table_of_one_field_has_it_as_its_key() -> None:
    only = msgspec.defstruct("Only", [("id", int)])
    table = Table(only, "t", key="id")
    assert table.values(only(1)) == (1,)
    assert table.merge(only(1), only(1)) == only(1)


# Which version is kept


@given(st.lists(readings(), max_size=8), st.integers(0, 8))
def test_it_does_not_matter_when_versions_meet(versions: list[Reading], cut: int) -> None:
    early, late = folded(READINGS, versions[:cut]), folded(READINGS, versions[cut:])
    assert folded(READINGS, [*early.values(), *late.values()]) == folded(READINGS, versions)


@given(readings(), readings())
def test_a_version_that_comes_again_changes_nothing(one: Reading, other: Reading) -> None:
    other = dataclasses.replace(other, sensor=one.sensor, hour=one.hour)
    once = READINGS.merge(one, other)
    assert READINGS.merge(once, other) == once


def test_every_rule_does_what_it_says() -> None:
    older = Reading("a", 1, version=2, value=1.0, least=3, greatest="B", first=None)
    later = Reading("a", 1, version=1, value=2.0, least=5, greatest="a", first="x")
    before = copy.deepcopy((older, later))
    assert READINGS.merge(older, later) == Reading(
        "a", 1, version=2, value=1.0, least=3, greatest="a", first=None
    )
    assert (older, later) == before
    later = dataclasses.replace(later, version=2)
    assert READINGS.merge(older, later).value == 2.0
    assert READINGS.merge(dataclasses.replace(older, version=None), later).value == 2.0
    assert READINGS.merge(later, dataclasses.replace(older, version=None)).value == 2.0


def test_a_version_that_wins_as_it_is_is_no_copy() -> None:
    older, later = Reading("a", 1, version=1), Reading("a", 1, version=2)
    assert READINGS.merge(older, later) is later
    assert READINGS.merge(later, older) is later


def test_versions_of_different_keys_are_not_merged() -> None:
    with pytest.raises(ValueError, match="must have the same key"):
        READINGS.merge(Reading("a", 1), Reading("a", 2))


def test_moments_are_compared_as_moments_when_clocks_go_back() -> None:
    table = declare(newer="seen")
    zone = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 45, tzinfo=zone)
    second = datetime(2026, 10, 25, 2, 15, fold=1, tzinfo=zone)  # half an hour later
    assert second < first  # as Python compares them
    one, other = View(1, first), View(1, second)
    assert table.merge(one, other) is other
    assert table.merge(other, one) is other


# In a queue


async def test_the_queue_takes_key_and_merge_from_the_table(autojump_clock: MockClock) -> None:
    repository = MemoryRepository(table=READINGS)
    versions = [Reading("a", 1, version=2), Reading("a", 1, version=1, least=1), Reading("b", 1)]
    async with open_write_behind_queue(repository) as queue:
        for version in versions:
            await queue.enqueue(version)
        assert queue.metrics().total_coalesced == 1
    assert repository.rows == folded(READINGS, versions)
    assert await repository.delete_expired(NOW, 10) == 0


async def test_what_is_given_beside_the_table_wins(autojump_clock: MockClock) -> None:
    repository = MemoryRepository(table=READINGS, key=lambda reading: reading.hour)
    async with open_write_behind_queue(
        repository, key=lambda reading: reading.hour, merge=lambda older, _: older
    ) as queue:
        await queue.enqueue(Reading("a", 1))
        await queue.enqueue(Reading("b", 1))
    assert repository.rows == {1: Reading("a", 1)}


async def test_another_s_attribute_of_that_name_is_none_of_ours(autojump_clock: MockClock) -> None:
    repository = MemoryRepository[Reading](key=READINGS.key)
    repository.table = "reading"  # type: ignore[assignment]  # as a repository of somebody's has
    async with open_write_behind_queue(repository, key=READINGS.key) as queue:
        await queue.enqueue(Reading("a", 1))
    assert repository.rows == {("a", 1): Reading("a", 1)}


async def test_rows_of_memory_expire_by_the_field_of_the_table(autojump_clock: MockClock) -> None:
    repository = MemoryRepository(table=READINGS)
    await repository.upsert_many(
        [Reading("a", hour, until=NOW + timedelta(hours=hour)) for hour in range(3)]
        + [Reading("never", 1)]
    )
    assert await repository.delete_expired(NOW.astimezone(UTC), 10) == 1
    assert len(repository.rows) == 3
