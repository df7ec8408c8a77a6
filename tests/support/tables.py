"""Tables of every kind of field, and what may be in them."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from hypothesis import strategies as st

from provcache_trio import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Grade(enum.Enum):
    """How good something is."""

    GOOD = "good"
    BAD = "bad"


class Level(enum.IntEnum):
    """How high something is."""

    LOW = 1
    HIGH = 2


class Place(msgspec.Struct, frozen=True):
    """Something nested."""

    name: str
    at: tuple[float, float] | None = None


class Everything(msgspec.Struct, frozen=True, kw_only=True):
    """An entry with a field of every kind."""

    id: UUID
    text: str = ""
    number: Annotated[int, msgspec.Meta(title="a number")] = 0
    real: float = 0.0
    flag: bool = False
    blob: bytes = b""
    price: Decimal = Decimal(0)
    moment: datetime = NOW
    day: date = NOW.date()
    clock: time = time()
    lasts: timedelta = timedelta()
    grade: Grade = Grade.GOOD
    level: Level = Level.LOW
    colour: Literal["red", "green"] = "red"
    place: Place = Place("")
    numbers: list[int] = []
    words: frozenset[str] = frozenset()
    counts: dict[str, int] = {}
    perhaps: str | None = None
    later: datetime | None = None
    odd: int | str | None = None


EVERYTHING: Final = Table(Everything, "everything", key="id")


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a sensor said: a dataclass with a key of two fields, and a rule for every field."""

    sensor: str
    hour: int
    version: int | None = None
    value: float = 0.0
    least: int | None = None
    greatest: str | None = None
    price: Decimal | None = None
    until: datetime | None = None
    first: str | None = None


READINGS: Final = Table(
    Reading,
    "reading",
    key=("sensor", "hour"),
    newer="version",
    merge={
        "least": "least",
        "greatest": "greatest",
        "price": "greatest",
        "until": "least",
        "first": "keep",
    },
    columns={"first": "first value"},
    expires="until",
)

TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INTS: Final = st.integers(-(2**63), 2**63 - 1)
DECIMALS: Final = st.decimals(allow_nan=False, allow_infinity=False)
ZONES: Final = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(1, -1))]
)
MOMENTS: Final = st.datetimes(
    datetime(2, 1, 1),  # noqa: DTZ001  # hypothesis adds the zone
    datetime(9998, 12, 31),  # noqa: DTZ001  # likewise
    timezones=ZONES,
)
REALS: Final = st.floats(allow_nan=False)


def everything() -> st.SearchStrategy[Everything]:
    """Return entries with everything that may be in their fields."""
    return st.builds(
        Everything,
        id=st.uuids(),
        text=TEXTS,
        number=INTS,
        real=REALS,
        flag=st.booleans(),
        blob=st.binary(max_size=8),
        price=DECIMALS,
        moment=MOMENTS,
        day=st.dates(),
        clock=st.times(),
        lasts=st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6)),
        grade=st.sampled_from(Grade),
        level=st.sampled_from(Level),
        colour=st.sampled_from(["red", "green"]),
        place=st.builds(Place, TEXTS, st.none() | st.tuples(REALS, REALS).filter(_is_finite)),
        numbers=st.lists(INTS, max_size=3),
        words=st.frozensets(TEXTS, max_size=3),
        counts=st.dictionaries(TEXTS, INTS, max_size=3),
        perhaps=st.none() | TEXTS,
        later=st.none() | MOMENTS,
        odd=st.none() | INTS | TEXTS,
    )


def _is_finite(numbers: Iterable[float]) -> bool:
    return all(abs(number) < float("inf") for number in numbers)


def readings() -> st.SearchStrategy[Reading]:
    """Return versions of few keys, whose values are close, equal or missing."""
    small = st.integers(-2, 2)
    return st.builds(
        Reading,
        sensor=st.sampled_from(["a", "B"]),
        hour=st.integers(0, 1),
        version=st.none() | small,
        value=st.sampled_from([0.0, 1.5]),
        least=st.none() | small,
        greatest=st.none() | st.sampled_from(["", "a", "B", "é", "\uffff", "\U0001f600"]),
        price=st.none()
        | st.sampled_from([Decimal(text) for text in ("2", "10", "9.99", "-1", "1E+3")]),
        until=st.none()
        | st.sampled_from([NOW, NOW + timedelta(1), NOW.astimezone(timezone(timedelta(hours=1)))]),
        first=st.none() | st.sampled_from(["x", "y"]),
    )


def folded(table: Table[Any], entries: Iterable[Any]) -> dict[Any, Any]:
    """Return what is kept of entries that arrive in this order, by key."""
    kept: dict[Any, Any] = {}
    for entry in entries:
        key = table.key(entry)
        kept[key] = table.merge(kept[key], entry) if key in kept else entry
    return kept
