"""What the values of a table's fields are in SQLite, by the field and by the type of its column."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from provcache_trio._vocabulary.columns import microseconds_of, moment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provcache_trio._vocabulary.table import TableField

Cell: TypeAlias = str | int | float | bytes | None
Affinity: TypeAlias = str  # "TEXT", "INTEGER", "REAL", "NUMERIC" or "BLOB", which changes nothing

MOST: Final = 2**63 - 1
_MICROSECOND: Final = timedelta(microseconds=1)
DECIMAL_ORDER: Final = "provcache_decimal"  # the collation by which decimals are compared


class UnfitError(Exception):
    """A value, or a cell, is not what its field may be. The message does not quote it."""


def _one_by_one(_: Sequence[Any]) -> None:
    return None


class Codec(NamedTuple):
    """How values become cells and cells values.

    Attributes:
        encode: returns the cell of a value; raises ``UnfitError``.
        decode: returns the value of a cell; raises ``UnfitError``.
        encode_all: returns the cells of many values in less time, or None: each has to be
            looked at by itself, and one of them may not fit.
    """

    encode: Callable[[Any], Cell]
    decode: Callable[[Any], object]
    encode_all: Callable[[Sequence[Any]], Sequence[Cell] | None] = _one_by_one


# https://www.sqlite.org/datatype3.html#determination_of_column_affinity
def affinity_of(declared: str) -> Affinity:
    """Return how a column of that declared type changes what is put into it."""
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


# By kind: the affinities of columns that hold its values unchanged; a new column has the first.
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
    """Return how the values of ``field`` are stored in a column of that affinity."""
    if field.members is not None:
        codec = _member(field)
    elif field.kind == "JSON":
        codec = _document(field.annotation)
    elif field.kind == "datetime":
        codec = _MOMENT_AS_NUMBER if affinity == "INTEGER" else _MOMENT_AS_TEXT
    else:
        codec = _CODECS[field.kind]
    return _or_null(codec) if field.optional else codec


def compare_decimals(one: str, other: str) -> int:
    """Order the texts of two decimals; somebody else's that are none are smaller than all."""
    first, second = _number(one), _number(other)
    return (first > second) - (first < second)


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return Decimal("-Infinity")
    return number if number.is_finite() else Decimal("-Infinity")


# Values


def _misfit(kind: str, value: object) -> UnfitError:
    return UnfitError(f"must be {kind}, not {type(value).__name__}")


def _text(value: object) -> str:
    if type(value) is not str:
        raise _misfit("a str", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnfitError("must not hold a lone surrogate") from None
    return value


def _int(value: object) -> int:
    if type(value) is not int:
        raise _misfit("an int", value)
    if not -MOST - 1 <= value <= MOST:
        raise UnfitError("must be -2**63 to 2**63 - 1")
    return value


def _float(value: object) -> float:
    if type(value) is int:
        try:
            as_float = float(value)
        except OverflowError:
            as_float = math.inf
        if as_float != value:
            raise UnfitError("must be a float; this int is none exactly")
        return as_float
    if type(value) is not float:
        raise _misfit("a float", value)
    if math.isnan(value):
        raise UnfitError("must not be NaN, which SQLite stores as NULL")
    return value


def _bool(value: object) -> int:
    if type(value) is not bool:
        raise _misfit("a bool", value)
    return int(value)


def _bytes(value: object) -> bytes:
    if type(value) is not bytes:
        raise _misfit("bytes", value)
    return value


def _uuid(value: object) -> str:
    if not isinstance(value, UUID):  # drivers have classes of their own
        raise _misfit("a UUID", value)
    return str(value)


def _decimal(value: object) -> str:
    if type(value) is not Decimal:
        raise _misfit("a Decimal", value)
    if not value.is_finite():
        raise UnfitError("must be a finite Decimal")
    return str(value)


def _in_utc(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise _misfit("a datetime", value)
    if value.tzinfo is UTC:
        return value
    try:
        offset = value.utcoffset()
        if offset is not None:
            return value.replace(tzinfo=UTC) - offset
    except OverflowError:
        raise UnfitError("must be from year 1 to 9999 in UTC") from None
    except Exception:  # noqa: BLE001  # whatever somebody's tzinfo raised
        raise UnfitError("must have a tzinfo that gives its UTC offset") from None
    raise UnfitError("must be an aware datetime, not a naive one")


def _moment_as_text(value: object) -> str:
    # Of one width, so that text is compared as moments are.
    return _in_utc(value).isoformat(timespec="microseconds")


def _moment_as_number(value: object) -> int:
    return microseconds_of(_in_utc(value))


def _date(value: object) -> str:
    if type(value) is not date:  # a datetime is one, too
        raise _misfit("a date", value)
    return value.isoformat()


def _time(value: object) -> str:
    if type(value) is not time:
        raise _misfit("a time", value)
    try:
        text = value.isoformat()
        same = time.fromisoformat(text) == value
    except Exception:  # noqa: BLE001  # whatever somebody's tzinfo raised
        text, same = "", False
    if not same:
        raise UnfitError("must be a time that its ISO text says wholly")
    return text


def _duration(value: object) -> int:
    if type(value) is not timedelta:
        raise _misfit("a timedelta", value)
    microseconds = value // _MICROSECOND
    if not -MOST - 1 <= microseconds <= MOST:
        raise UnfitError("must be shorter than 2**63 microseconds")
    return microseconds


# Cells


def _cell(kind: type, value: object) -> Any:  # noqa: ANN401  # it is one of that kind
    if type(value) is not kind:
        raise UnfitError(f"holds {type(value).__name__}, not {kind.__name__}")
    return value


def _read(kind: type, convert: Callable[[Any], object]) -> Callable[[object], object]:
    """Return a function that converts a cell of that type."""

    def read(cell: object) -> object:
        try:
            return convert(_cell(kind, cell))
        except (ArithmeticError, ValueError):
            raise UnfitError(f"holds {kind.__name__} that says no such value") from None

    return read


def _same(value: Any) -> Any:  # noqa: ANN401  # of any type
    return value


def _truth(number: int) -> bool:
    if number not in {0, 1}:
        raise ValueError
    return number == 1


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError
    return found.astimezone(UTC)


def _number_as_float(cell: object) -> float:
    if type(cell) is int:  # of a column without a type, or one that somebody else filled
        return float(cell)
    found: float = _cell(float, cell)
    return found


# Many at once: by what is written in C, and only if nothing about them is unusual.


def _are(kind: type, values: Sequence[Any]) -> bool:
    return {*map(type, values)} == {kind}


def _texts(values: Sequence[Any]) -> Sequence[Cell] | None:
    if not _are(str, values):
        return None
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return None
    return values


def _ints(values: Sequence[Any]) -> Sequence[Cell] | None:
    fits = _are(int, values) and min(values) >= -MOST - 1 and max(values) <= MOST
    return values if fits else None


def _floats(values: Sequence[Any]) -> Sequence[Cell] | None:
    return values if _are(float, values) and not any(map(math.isnan, values)) else None


def _bools(values: Sequence[Any]) -> Sequence[Cell] | None:
    return [*map(int, values)] if _are(bool, values) else None


def _blobs(values: Sequence[Any]) -> Sequence[Cell] | None:
    return values if _are(bytes, values) else None


def _uuids(values: Sequence[Any]) -> Sequence[Cell] | None:
    return [*map(str, values)] if _are(UUID, values) else None


def _decimals(values: Sequence[Any]) -> Sequence[Cell] | None:
    return [*map(str, values)] if _are(Decimal, values) and all(map(_is_finite, values)) else None


def _are_in_utc(values: Sequence[Any]) -> bool:
    return _are(datetime, values) and all(zone is UTC for zone in map(_zone_of, values))


def _moments_as_text(values: Sequence[Any]) -> Sequence[Cell] | None:
    if not _are_in_utc(values):
        return None
    return [value.isoformat(timespec="microseconds") for value in values]


def _moments_as_numbers(values: Sequence[Any]) -> Sequence[Cell] | None:
    return [*map(microseconds_of, values)] if _are_in_utc(values) else None


def _dates(values: Sequence[Any]) -> Sequence[Cell] | None:
    return [*map(date.isoformat, values)] if _are(date, values) else None


_is_finite: Final = Decimal.is_finite
_zone_of: Final = attrgetter("tzinfo")
_MOMENT_AS_TEXT: Final = Codec(_moment_as_text, _read(str, _moment), _moments_as_text)
_MOMENT_AS_NUMBER: Final = Codec(_moment_as_number, _read(int, moment_of), _moments_as_numbers)
_CODECS: Final[dict[str, Codec]] = {
    "str": Codec(_text, _read(str, _same), _texts),
    "int": Codec(_int, _read(int, _same), _ints),
    "float": Codec(_float, _number_as_float, _floats),
    "bool": Codec(_bool, _read(int, _truth), _bools),
    "bytes": Codec(_bytes, _read(bytes, _same), _blobs),
    "UUID": Codec(_uuid, _read(str, UUID), _uuids),
    "Decimal": Codec(_decimal, _read(str, Decimal), _decimals),
    "date": Codec(_date, _read(str, date.fromisoformat), _dates),
    "time": Codec(_time, _read(str, time.fromisoformat)),
    "timedelta": Codec(_duration, _read(int, lambda number: number * _MICROSECOND)),
}


def _or_null(codec: Codec) -> Codec:
    def encode(value: object) -> Cell:
        return None if value is None else codec.encode(value)

    def decode(cell: Cell) -> object:
        return None if cell is None else codec.decode(cell)

    def encode_all(values: Sequence[Any]) -> Sequence[Cell] | None:
        if None not in values:
            return codec.encode_all(values)
        there = [value for value in values if value is not None]
        cells = codec.encode_all(there) if there else ()
        if cells is None:
            return None
        each = iter(cells)
        return [None if value is None else next(each) for value in values]

    return Codec(encode, decode, encode_all)


def _member(field: TableField) -> Codec:
    """Return how the members of an Enum or a Literal are stored."""
    members = field.members or {}
    # 1 == True, so their types count.
    cells = {(type(member), member): cell for cell, member in members.items()}
    what = "one of those of its Literal" if field.is_literal else "a member of its Enum"

    def encode(value: object) -> Cell:
        try:
            return cells[type(value), value]
        except (KeyError, TypeError):  # TypeError: it has no hash
            raise UnfitError(f"must be {what}") from None

    def decode(cell: object) -> object:
        if type(cell) in {str, int} and cell in members:
            return members[cell]  # type: ignore[index]  # it is one
        raise UnfitError(f"holds no value of {what}")

    return Codec(encode, decode)


def _document(annotation: object) -> Codec:
    """Return how whatever else there is is stored, as JSON."""
    encoder = msgspec.json.Encoder()
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(annotation)

    def encode(value: object) -> str:
        try:
            document = encoder.encode(value)
            back = decoder.decode(document)
            same = back == value
            if not same and type(value).__eq__ is object.__eq__:
                same = encoder.encode(back) == document
        except Exception:  # noqa: BLE001  # some of it is somebody's type
            same, document = False, b""
        if not same:
            raise UnfitError("must be written as JSON and read back as it is")
        return document.decode()

    def decode(cell: object) -> object:
        try:
            return decoder.decode(_cell(str, cell))
        except UnfitError:
            raise
        except Exception:  # noqa: BLE001  # some of it is somebody's type
            raise UnfitError("holds JSON that says no such value") from None

    return Codec(encode, decode)
