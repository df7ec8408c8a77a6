"""How field values are stored in SQLite, by the field and by the type of its column."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID

from provcache_trio._vocabulary import values
from provcache_trio._vocabulary.columns import microseconds_of, moment_of
from provcache_trio._vocabulary.values import MOST, Codec, UnfitError, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provcache_trio._vocabulary.fields import TableField

Cell: TypeAlias = str | int | float | bytes | None
# "TEXT", "INTEGER", "REAL", "NUMERIC", or "BLOB", which stores values unchanged.
Affinity: TypeAlias = str

_MICROSECOND: Final = timedelta(microseconds=1)
_BITS: Final = 64
# The collation that compares decimals.
DECIMAL_ORDER: Final = "provcache_decimal"


# https://www.sqlite.org/datatype3.html#determination_of_column_affinity
def affinity_of(declared: str) -> Affinity:
    """Return the affinity of a column with the declared type ``declared``."""
    declared = declared.upper()
    for part, affinity in (
        ("INT", "INTEGER"),
        *((text, "TEXT") for text in ("CHAR", "CLOB", "TEXT")),
        ("BLOB", "BLOB"),
        *((real, "REAL") for real in ("REAL", "FLOA", "DOUB")),
    ):
        if part in declared:
            return affinity
    return "NUMERIC" if declared else "BLOB"


# By kind: the affinities of columns that store its values unchanged; a new column gets the first.
FITTING: Final[dict[str, tuple[Affinity, ...]]] = {
    "str": ("TEXT", "BLOB"),
    "int": ("INTEGER", "NUMERIC", "BLOB"),
    "float": ("REAL", "BLOB"),
    "bool": ("INTEGER", "NUMERIC", "BLOB"),
    "bytes": ("BLOB",),
    "UUID": ("TEXT", "BLOB"),
    "Decimal": ("TEXT", "BLOB"),
    "datetime": ("TEXT", "INTEGER"),
    "date": ("TEXT", "BLOB"),
    "time": ("TEXT", "BLOB"),
    "timedelta": ("INTEGER", "NUMERIC", "BLOB"),
    "JSON": ("TEXT", "BLOB"),
}


def codec_of(field: TableField, affinity: Affinity) -> Codec:
    """Return the codec for ``field`` in a column of that affinity."""
    if field.members is not None:
        codec = values.of_members(field)
    elif field.kind == "JSON":
        codec = values.document(field.annotation)
    elif field.kind == "datetime":
        codec = _MOMENT_AS_NUMBER if affinity == "INTEGER" else _MOMENT_AS_TEXT
    else:
        codec = _CODECS[field.kind]
    return values.or_null(codec) if field.optional else codec


def compare_decimals(one: str, other: str) -> int:
    """Order the texts of two decimals; a text that is not a decimal sorts first."""
    first, second = _number(one), _number(other)
    return (first > second) - (first < second)


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return Decimal("-Infinity")
    return number if number.is_finite() else Decimal("-Infinity")


# Values


def _float(value: object) -> float:
    number = values.real(value)
    if math.isnan(number):
        raise UnfitError("must not be NaN, which SQLite stores as NULL")
    return number


def _bool(value: object) -> int:
    return int(values.boolean(value))


def _uuid(value: object) -> str:
    return str(values.uuid(value))


def _decimal(value: object) -> str:
    return str(values.decimal(value))


def _date(value: object) -> str:
    return values.day(value).isoformat()


def _moment_as_text(value: object) -> str:
    # The width is fixed, so that texts compare as moments do.
    return values.moment(value).isoformat(timespec="microseconds")


def _moment_as_number(value: object) -> int:
    return microseconds_of(values.moment(value))


def _time(value: object) -> str:
    clock = values.clock(value)
    try:
        text = clock.isoformat()
        same = time.fromisoformat(text) == clock
    except Exception:  # noqa: BLE001  # whatever a user's tzinfo raised
        text, same = "", False
    if not same:
        raise UnfitError("must be a time that its ISO text says wholly")
    return text


def _duration(value: object) -> int:
    microseconds = values.duration(value) // _MICROSECOND
    if not -MOST - 1 <= microseconds <= MOST:
        raise UnfitError("must be shorter than 2**63 microseconds")
    return microseconds


# Cells


def _truth(number: int) -> bool:
    if number not in {0, 1}:
        raise ValueError
    return number == 1


def _times_microsecond(number: int) -> timedelta:
    return number * _MICROSECOND


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError
    return found.astimezone(UTC)


def _number_as_float(cell: object) -> float:
    if type(cell) is int:
        # The column has no type, or another program filled it.
        return float(cell)
    found: float = values.cell(float, cell)
    return found


# Many at once


def _texts(many: Sequence[Any]) -> Sequence[Cell] | None:
    return None if values.joined(many) is None else many


def _ints(many: Sequence[Any]) -> Sequence[Cell] | None:
    return many if values.fit(_BITS, many) else None


def _floats(many: Sequence[Any]) -> Sequence[Cell] | None:
    return many if values.are(float, many) and not any(map(math.isnan, many)) else None


def _bools(many: Sequence[Any]) -> Sequence[Cell] | None:
    return [*map(int, many)] if values.are(bool, many) else None


def _uuids(many: Sequence[Any]) -> Sequence[Cell] | None:
    if not values.are(UUID, many):
        return None
    # In less than half of the time that their own str() takes.
    digits = [value.int.to_bytes(16).hex() for value in many]
    return [f"{x[:8]}-{x[8:12]}-{x[12:16]}-{x[16:20]}-{x[20:]}" for x in digits]


def _decimals(many: Sequence[Any]) -> Sequence[Cell] | None:
    return [*map(str, many)] if values.are_finite(many) else None


def _moments_as_text(many: Sequence[Any]) -> Sequence[Cell] | None:
    if not values.are_in_utc(many):
        return None
    return [*map(datetime.isoformat, many, repeat("T"), repeat("microseconds"))]


def _moments_as_numbers(many: Sequence[Any]) -> Sequence[Cell] | None:
    return [*map(microseconds_of, many)] if values.are_in_utc(many) else None


def _dates(many: Sequence[Any]) -> Sequence[Cell] | None:
    return [*map(date.isoformat, many)] if values.are(date, many) else None


_MOMENT_AS_TEXT: Final = Codec(_moment_as_text, read(str, _moment), _moments_as_text)
_MOMENT_AS_NUMBER: Final = Codec(_moment_as_number, read(int, moment_of), _moments_as_numbers)
_CODECS: Final[dict[str, Codec]] = {
    "str": Codec(values.text, read(str), _texts),
    "int": Codec(values.integer(_BITS), read(int), _ints),
    "float": Codec(_float, _number_as_float, _floats),
    "bool": Codec(_bool, read(int, _truth), _bools),
    "bytes": Codec(values.blob, read(bytes), values.all_of(bytes)),
    "UUID": Codec(_uuid, read(str, UUID), _uuids),
    "Decimal": Codec(_decimal, read(str, Decimal), _decimals),
    "date": Codec(_date, read(str, date.fromisoformat), _dates),
    "time": Codec(_time, read(str, time.fromisoformat)),
    "timedelta": Codec(_duration, read(int, _times_microsecond)),
}
