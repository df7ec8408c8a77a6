"""Ten tables as applications have them, and entries for each: by number of key and version."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from uuid import UUID

import attrs
import msgspec

from provcache_trio import Table

if TYPE_CHECKING:
    from collections.abc import Callable

START: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class PageView:
    """How often a page was seen."""

    path: str
    seen_at: datetime
    hits: int
    first_seen_at: datetime | None = None


@dataclasses.dataclass(frozen=True)
class OrderLine:
    """A line of an order: a composite key, an exact price."""

    order_id: UUID
    line: int
    revision: int
    article: str
    quantity: int
    price: Decimal
    note: str | None = None


class SensorReading(msgspec.Struct, frozen=True):
    """What a sensor measured in an hour."""

    sensor: bytes
    hour: datetime
    latest: float
    highest: int
    lowest: int


class Outcome(enum.Enum):
    """How something ended."""

    DONE = "done"
    DENIED = "denied"


@attrs.frozen
class AuditEvent:
    """Who did what: written once."""

    event_id: UUID
    actor: str
    outcome: Outcome
    details: dict[str, str | int | None]
    at: datetime


class FeatureVector(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers that describe something."""

    subject: int
    model: str
    computed_on: date
    features: list[float]
    labels: frozenset[str] = frozenset()


@dataclasses.dataclass
class Session:
    """Somebody's session, which expires."""

    token: str
    user: int
    data: dict[str, Any]
    touched_at: datetime
    expires_at: datetime | None = None


class Setting(msgspec.Struct, frozen=True):
    """A key, a value: the last one wins."""

    name: str
    value: str | None


class Member(msgspec.Struct, frozen=True):
    """Somebody belongs to something: there is a key, and nothing else."""

    group: str
    user: int


class Build(msgspec.Struct, frozen=True, rename="camel"):
    """What became of a build."""

    commit: bytes
    attempt: int
    state: Literal["queued", "running", "passed", "failed"]
    took: timedelta | None
    artefacts: tuple[str, ...] = ()


class Rate(msgspec.Struct, frozen=True, tag=True):
    """What one currency costs in another, on a day."""

    pair: str
    day: date
    rate: Decimal
    bid: Decimal | None = None
    is_final: bool = False


class Shape(NamedTuple):
    """A table, an entry of a number and a version, and one that can't be stored."""

    table: Table[Any]
    make: Callable[[int, int], Any]
    refused: Callable[[int], Any]


def _later(version: int) -> datetime:
    return START + timedelta(microseconds=version)


SHAPES: Final = (
    Shape(
        Table(
            PageView,
            "page view",
            key="path",
            newer="seen_at",
            merge={"hits": "greatest", "first_seen_at": "least"},
        ),
        lambda n, v: PageView(f"/ä/{n}", _later(v), 9 - v, _later(-v) if v % 2 else None),
        lambda n: PageView(f"/ä/{n}", START.replace(tzinfo=None), 0),
    ),
    Shape(
        Table(OrderLine, "order", key=("order_id", "line"), newer="revision"),
        lambda n, v: OrderLine(UUID(int=n), n, v, f"a'{v}", v, Decimal(v) / 100),
        lambda n: OrderLine(UUID(int=n), n, 1, "a", 1, Decimal("NaN")),
    ),
    Shape(
        Table(
            SensorReading,
            "reading",
            key=("sensor", "hour"),
            merge={"highest": "greatest", "lowest": "least"},
        ),
        lambda n, v: SensorReading(bytes([n % 256, n // 256]), START, v / 3, v, -v),
        lambda n: SensorReading(bytes([n % 256, n // 256]), START, "hot", 0, 0),  # type: ignore[arg-type]  # that is it
    ),
    Shape(
        Table(
            AuditEvent,
            "audit",
            key="event_id",
            merge=dict.fromkeys(("actor", "outcome", "details", "at"), "keep"),
        ),
        lambda n, v: AuditEvent(UUID(int=n), "me", Outcome.DONE, {"v": v, "x": None}, _later(v)),
        lambda n: AuditEvent(UUID(int=n), "\ud800", Outcome.DENIED, {}, START),
    ),
    Shape(
        Table(FeatureVector, "features", key=("subject", "model"), newer="computed_on"),
        lambda n, v: FeatureVector(
            subject=n,
            model="m",
            computed_on=START.date() + timedelta(v),
            features=[v / 7, 1e300],
            labels=frozenset({"a", f"{v}"}),
        ),
        lambda n: FeatureVector(
            subject=n, model="m", computed_on=START.date(), features=[float("nan")]
        ),
    ),
    Shape(
        Table(Session, "session", key="token", newer="touched_at", expires="expires_at"),
        lambda n, v: Session(f"{n}", v, {"seen": [v, "\\u0000"]}, _later(v), _later(v + 1)),
        lambda n: Session(f"{n}", 2**63, {}, START),
    ),
    Shape(
        Table(Setting, "setting", key="name"),
        lambda n, v: Setting(f"{n}", None if v == 2 else '{null,"x\\'[: v + 4]),
        lambda n: Setting(f"{n}", 5),  # type: ignore[arg-type]  # that is it
    ),
    Shape(
        Table(Member, "member", key=("group", "user")),
        lambda n, _: Member("g", n),
        lambda n: Member("g", n + 0.5),  # type: ignore[arg-type]  # that is it
    ),
    Shape(
        Table(Build, "build", key="commit", newer="attempt", columns={"took": "duration"}),
        lambda n, v: Build(f"{n}".encode(), v, "passed", timedelta(-1, v), ("x", f'"{v}\\')),
        lambda n: Build(f"{n}".encode(), 1, "lost", None),  # type: ignore[arg-type]  # that is it
    ),
    Shape(
        Table(Rate, "rate", key=("pair", "day"), newer="rate", merge={"bid": "greatest"}),
        lambda n, v: Rate(f"{n}", START.date(), Decimal(v) * 10**v, Decimal(-v), v > 1),
        lambda n: Rate(f"{n}", START, Decimal(1)),
    ),
)
