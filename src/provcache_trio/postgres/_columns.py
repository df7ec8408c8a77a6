"""The description of a column, and which types hold which values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# By kind: the types of columns that store its values unchanged; a new column gets the first.
FITTING: Final[Mapping[str, tuple[str, ...]]] = {
    "str": ("text", "varchar"),
    "int": ("int8", "int4", "int2"),
    "float": ("float8",),
    "bool": ("bool",),
    "bytes": ("bytea",),
    "UUID": ("uuid",),
    "Decimal": ("numeric",),
    "datetime": ("timestamptz",),
    "date": ("date",),
    "time": ("time",),
    "timedelta": ("interval",),
    "JSON": ("jsonb", "json", "text"),
}


class Column(NamedTuple):
    """A column, or the elements of an array column.

    Attributes:
        name: its name in the catalogue.
        declared: its type as people write it.
        type: the name of its base type, or of the elements' in an array; "" unless it is in
            pg_catalog.
        named: the same in its schema, quoted; of an array of a domain, that domain.
        is_array: whether it is an array.
        modifier: the packed length, precision or scale of the type; -1: none.
        refuses_null: whether it is NOT NULL.
        has_default: whether it has a default.
        is_generated: whether only the server fills it.
        is_deterministic: whether its collation treats only identical texts as equal.
        labels: the labels of an enum; None for other types.
    """

    name: str
    declared: str
    type: str
    named: str
    is_array: bool
    modifier: int
    refuses_null: bool
    has_default: bool
    is_generated: bool
    is_deterministic: bool
    labels: list[str] | None

    # How types pack them: numerictypmodin, varchartypmodin, timestamptztypmodin

    @property
    def length(self) -> int | None:
        """The most characters that it holds; None: no limit."""
        return None if self.modifier == -1 else self.modifier - 4

    @property
    def precision(self) -> int | None:
        """The most digits of a numeric; None: no limit."""
        return None if self.modifier == -1 else (self.modifier - 4) >> 16 & 0xFFFF

    @property
    def scale(self) -> int:
        """How many of these are after the point; if negative, digits before it are rounded off."""
        return (((self.modifier - 4) & 0x7FF) ^ 0x400) - 0x400

    @property
    def digits(self) -> int:
        """How many fractional digits of a second it keeps."""
        return 6 if self.modifier == -1 else self.modifier
