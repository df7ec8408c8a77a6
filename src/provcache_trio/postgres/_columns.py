"""What there is to know of a column, and which types hold which values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# By kind: the types of columns that hold its values unchanged; a new column has the first.
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
    """A column, or the elements of one that is an array.

    Attributes:
        name: as the catalogue has it.
        declared: its type, as people write it.
        type: name of its base type in pg_catalog, of the elements if it is an array; "" of others.
        named: the same in its schema, quoted.
        is_array: whether it is an array of these.
        modifier: what the type's length, precision or scale is packed into; -1: has none.
        refuses_null: whether it must have a value.
        has_default: whether it needs none.
        is_generated: whether the server alone fills it.
        is_deterministic: whether texts that it takes for equal are the same.
        labels: those of an enum; None: it is none.
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
        """How many characters it holds; None: any number."""
        return None if self.modifier == -1 else self.modifier - 4

    @property
    def precision(self) -> int | None:
        """How many digits a numeric may have; None: as many as there are."""
        return None if self.modifier == -1 else (self.modifier - 4) >> 16 & 0xFFFF

    @property
    def scale(self) -> int:
        """How many of these come after the point; a negative number leaves out some before it."""
        return (((self.modifier - 4) & 0x7FF) ^ 0x400) - 0x400

    @property
    def digits(self) -> int:
        """How many digits of a second it keeps."""
        return 6 if self.modifier == -1 else self.modifier
