"""Tables as people have them: what their entries are, how many, and what has to be left of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from provcache_trio import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PageView:
    """An entry of six columns."""

    id: UUID
    seen_at: datetime
    visitor: str
    page: str
    seconds: float
    scrolled: int | None


@dataclass(frozen=True, slots=True)
class Order:
    """An entry of twelve."""

    id: UUID
    changed_at: datetime
    customer: str
    article: str
    status: str
    quantity: int
    returned: int
    price: Decimal
    weight: float
    paid: bool
    due: date
    note: str | None


def _view(number: int, key: int) -> PageView:
    return PageView(
        id=_id(key),
        seen_at=BEGAN + timedelta(seconds=number),
        visitor=f"visitor {number % 1000}",
        page=f"/articles/{number % 97}",
        seconds=number / 8,
        scrolled=number % 3 or None,
    )


def _order(number: int, key: int) -> Order:
    return Order(
        id=_id(key),
        changed_at=BEGAN + timedelta(seconds=number),
        customer=f"customer {number % 1000}",
        article=f"article {number % 97}",
        status=("new", "packed", "sent")[number % 3],
        quantity=number % 7,
        returned=number % 2,
        price=Decimal(number) / 100,
        weight=number / 8,
        paid=number % 5 > 0,
        due=BEGAN.date() + timedelta(days=number % 60),
        note=None if number % 4 else f"leave it at door {number % 30}",
    )


def _id(key: int) -> UUID:
    return UUID(int=(key * 0x9E3779B97F4A7C15 % 2**64) << 64)  # in no order


class Kind(NamedTuple):
    """A table, and what is written into it.

    Attributes:
        table: its declaration.
        make: returns an entry, by its number and that of its key.
        newer: name of the column that says which version is newer.
    """

    table: Table[Any]
    make: Callable[[int, int], Any]
    newer: str

    def entries(self, number: int) -> list[Any]:
        """Return so many entries; each row is there once before, far from its newer version."""
        return [self.make(each, each % (number // 2)) for each in range(number)]

    def row(self, entry: Any) -> Sequence[object]:  # noqa: ANN401  # of that table
        """Return the values of an entry."""
        return self.table.values(entry)


KINDS: Final = {
    6: Kind(
        Table(PageView, "page_view", key="id", newer="seen_at", merge={"scrolled": "greatest"}),
        _view,
        "seen_at",
    ),
    12: Kind(
        Table(Order, "orders", key="id", newer="changed_at", merge={"returned": "greatest"}),
        _order,
        "changed_at",
    ),
}
