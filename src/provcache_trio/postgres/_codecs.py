"""How field values are sent to PostgreSQL and read, by the field and its column."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal
from itertools import chain
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import msgspec

from provcache_trio._vocabulary import values
from provcache_trio._vocabulary.values import Codec, UnfitError, read

from ._arrays import array_codec, item_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from provcache_trio._vocabulary.fields import TableField

    from ._columns import Column

_MICROSECOND_DIGITS: Final = 6
# https://www.postgresql.org/docs/current/datatype-numeric.html
_MOST_DIGITS_BEFORE_POINT: Final = 131072
_MOST_DIGITS_AFTER_POINT: Final = 16383
# jsonb writes 1e16 with all of its digits, which reads back as an int.
_LARGE_FLOAT: Final = re.compile(r"[0-9][eE]\+?[0-9]").search
_NUL_IN_JSON: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000").search


class ColumnCodec(NamedTuple):
    """How the values of one column are sent and read.

    Attributes:
        codec: converts values to what is sent, and back from what is read.
        rows: the function that yields rows of the argument ``{}``.
        made: the expression for the column, from a row ``{row}`` of these.
        pack: packs some cells into a piece.
        join: returns the argument made of all pieces.
        read: the expression that reads the column ``{}``.
        pack_values: packs some values in less time; returns None if one of them may not fit.
    """

    codec: Codec
    rows: str
    made: str
    pack: Callable[[Sequence[Any]], Any]
    join: Callable[[Sequence[Any]], object]
    read: str = "{}"
    pack_values: Callable[[Sequence[Any]], Any] | None = None

    def packed(self, many: Sequence[Any]) -> Any:  # noqa: ANN401  # of whatever is sent
        """Pack some values into a piece; raise ``UnfitError`` if one does not fit."""
        if self.pack_values is not None:
            piece = self.pack_values(many)
            if piece is not None:
                return piece
        cells = self.codec.encode_all(many)
        return self.pack([*map(self.codec.encode, many)] if cells is None else cells)


def codec_of(field: TableField, column: Column) -> ColumnCodec:
    """Return the codec for the values of ``field`` in ``column``, which can hold them."""
    if column.is_array:
        found = _of_array(field, column)
    elif field.kind == "JSON":
        found = _of_document(field, column)
    else:
        found = _of_scalar(field, column)
    if not field.optional:
        return found
    # Finds None before it is sent.
    if column.refuses_null:
        return found._replace(pack_values=None)
    return found._replace(codec=values.or_null(found.codec))


# How values are packed


def listed(cells: Sequence[Any]) -> bytes:
    """Return ``cells`` as JSON, without its brackets.

    PostgreSQL's arrays write numbers, times and null as JSON does.
    """
    return msgspec.json.encode(cells)[1:-1]


def in_brackets(pieces: Sequence[bytes]) -> str:
    """Return a JSON array of all pieces that ``listed`` returned."""
    return (b"[%b]" % b",".join(pieces)).decode()


def in_braces(pieces: Sequence[bytes]) -> str:
    """Return an array of PostgreSQL of all pieces that ``listed`` returned."""
    return (b"{%b}" % b",".join(pieces)).decode()


def _chained(pieces: Sequence[Sequence[Any]]) -> list[Any]:
    return [*chain.from_iterable(pieces)]


def _as_text(codec: Codec, cast: str = "") -> ColumnCodec:
    """Return the codec of a column that is sent and read as text."""
    return ColumnCodec(
        codec,
        "jsonb_array_elements_text({}::jsonb)",
        "{row}" + cast,
        listed,
        in_brackets,
        "{}::text",
    )


def _as_array(codec: Codec, of: str) -> ColumnCodec:
    """Return the codec of a column whose values PostgreSQL writes as JSON does."""
    rows = f"unnest({{}}::text::{of}[])"
    return ColumnCodec(codec, rows, "{row}", listed, in_braces, f"{{}}::{of}")


def _as_asyncpg_does(codec: Codec, of: str) -> ColumnCodec:
    """Return the codec of a column whose values asyncpg encodes fast enough."""
    rows = f"unnest({{}}::{of}[])"
    return ColumnCodec(codec, rows, "{row}", list, _chained, f"{{}}::{of}")


# Scalars


def _of_scalar(field: TableField, column: Column) -> ColumnCodec:
    kind = column.type
    if kind in {"text", "varchar"}:
        return _as_text(_member_or(field, _texts(column.length)))
    if column.labels is not None:
        return _as_text(_member_or(field, _labels(column.labels)), f"::{column.named}")
    if kind in _BITS:
        return _as_array(_member_or(field, _ints(_BITS[kind])), kind)
    if kind in _ARRAYS:
        return _as_array(_ARRAYS[kind](column), kind)
    return _as_asyncpg_does(_NATIVE.get(kind, _NATIVE["bytea"]), kind)


def _member_or(field: TableField, codec: Codec) -> Codec:
    if field.members is None:
        return codec
    return values.of_members(field)


def _texts(length: int | None) -> Codec:
    def encode(value: object) -> str:
        text = values.text(value)
        if "\0" in text:
            raise UnfitError("must not hold NUL")
        if length is not None and len(text) > length:
            raise UnfitError(f"must be {length} characters at most, as its column is")
        return text

    def encode_all(many: Sequence[Any]) -> Sequence[Any] | None:
        whole = values.joined(many)
        if whole is None or "\0" in whole:
            return None
        return many if length is None or max(map(len, many)) <= length else None

    return Codec(encode, read(str), encode_all)


def _labels(labels: Sequence[str]) -> Codec:
    known = frozenset(labels)

    def encode(value: object) -> str:
        if values.text(value) not in known:
            raise UnfitError("must be a label of its column's type")
        return values.text(value)

    return Codec(encode, read(str))


_BITS: Final = {"int2": 16, "int4": 32, "int8": 64}


def _ints(bits: int) -> Codec:
    def encode_all(many: Sequence[Any]) -> Sequence[Any] | None:
        return many if values.fit(bits, many) else None

    return Codec(values.integer(bits), read(int), encode_all)


def _bools(_: Column) -> Codec:
    return Codec(values.boolean, read(bool), values.all_of(bool))


def _decimals(column: Column) -> Codec:
    """Return the codec of numerics, which PostgreSQL would round silently."""
    if column.precision is None:
        return Codec(_any_decimal, _read_decimal, _any_decimals)
    context = Context(prec=column.precision, traps=[])
    unit = Decimal((0, (1,), -column.scale))
    what = f"must have {column.precision} digits at most, {column.scale} after the point"

    def encode(value: object) -> Decimal:
        number = values.decimal(value)
        if context.quantize(number, unit) != number:
            # The result is NaN if the number has too many digits.
            raise UnfitError(f"{what}, as its column has")
        return number

    return Codec(encode, _read_decimal)


def _any_decimal(value: object) -> Decimal:
    number = values.decimal(value)
    exponent = number.as_tuple().exponent
    before = number.adjusted() >= _MOST_DIGITS_BEFORE_POINT
    if before or (isinstance(exponent, int) and exponent < -_MOST_DIGITS_AFTER_POINT):
        raise UnfitError("must have no more digits than numeric has")
    return number


def _any_decimals(many: Sequence[Any]) -> Sequence[Any] | None:
    return [*map(_any_decimal, many)] if values.are_finite(many) else None


def _read_decimal(cell: object) -> Decimal:
    return values.decimal(cell)


def _has_digits(digits: int, microsecond: int) -> bool:
    unit: int = 10 ** (_MICROSECOND_DIGITS - digits)
    return microsecond % unit == 0


def _moments(column: Column) -> Codec:
    digits = column.digits

    def encode(value: object) -> datetime:
        moment = values.moment(value)
        if not _has_digits(digits, moment.microsecond):
            raise UnfitError(f"must have {digits} digits of a second at most, as its column has")
        return moment

    def encode_all(many: Sequence[Any]) -> Sequence[Any] | None:
        return many if digits == _MICROSECOND_DIGITS and values.are_in_utc(many) else None

    return Codec(encode, _read_moment, encode_all)


def _read_moment(cell: object) -> datetime:
    return values.moment(values.cell(datetime, cell))


def _dates(_: Column) -> Codec:
    return Codec(values.day, read(date), values.all_of(date))


def _clocks(column: Column) -> Codec:
    digits = column.digits

    def encode(value: object) -> time:
        clock = values.clock(value)
        if clock.tzinfo is not None:
            raise UnfitError("must be a time without a tzinfo, as its column has none")
        if not _has_digits(digits, clock.microsecond):
            raise UnfitError(f"must have {digits} digits of a second at most, as its column has")
        return clock

    return Codec(encode, read(time))


def _durations(_: Column) -> Codec:
    def encode(value: object) -> str:
        lasts = values.duration(value)
        return f"{lasts.days} days {lasts.seconds}.{lasts.microseconds:06} seconds"

    return Codec(encode, read(timedelta))


def _read_uuid(cell: object) -> UUID:
    # asyncpg has a UUID class of its own, which differs from what was stored.
    return UUID(int=values.uuid(cell).int)


_ARRAYS: Final[Mapping[str, Callable[[Column], Codec]]] = {
    "bool": _bools,
    "numeric": _decimals,
    "timestamptz": _moments,
    "date": _dates,
    "time": _clocks,
    "interval": _durations,
}
_NATIVE: Final[Mapping[str, Codec]] = {
    "float8": Codec(values.real, read(float), values.all_of(float)),
    "bytea": Codec(values.blob, read(bytes), values.all_of(bytes)),
    "uuid": Codec(values.uuid, _read_uuid, values.all_of(UUID)),
}

# Lists and JSON


def _of_array(field: TableField, column: Column) -> ColumnCodec:
    item = item_of(field)
    assert item is not None, "the catalogue asked"  # noqa: S101  # who calls has checked that it fits
    codec = array_codec(
        field, codec_of(item, column._replace(is_array=False, refuses_null=False)).codec
    )
    read_as = "text" if column.labels is not None else column.type
    return _as_text(codec, f"::{column.named}[]")._replace(read=f"{{}}::{read_as}[]")


def _as_jsonb_writes(text: str) -> str:
    plain: Any = json.loads(text, parse_float=_plain)
    return _numbers.encode(plain).decode()


def _plain(number: str) -> Decimal:
    return Decimal(f"{Decimal(number):f}")


_numbers: Final = msgspec.json.Encoder(decimal_format="number")


def _of_document(field: TableField, column: Column) -> ColumnCodec:
    codec = values.document(field.annotation)
    if column.type == "text":
        return _as_text(_or_no_null(codec))
    if column.type == "jsonb":
        codec = _as_jsonb_keeps_it(codec)
    return ColumnCodec(
        _raw(_or_no_null(codec)),
        "jsonb_array_elements({}::jsonb)",
        "nullif({row}, 'null')" + ("" if column.type == "jsonb" else "::json"),
        listed,
        in_brackets,
        "{}::text",
        None if field.optional and column.refuses_null else _packer(field),
    )


def _or_no_null(codec: Codec) -> Codec:
    def encode(value: object) -> str:
        text: str = codec.encode(value)
        if text == "null":
            # In a column that may be NULL, another codec handles None first.
            raise UnfitError("must not be None, as its column is NOT NULL")
        return text

    return codec._replace(encode=encode)


def _as_jsonb_keeps_it(codec: Codec) -> Codec:
    def encode(value: object) -> str:
        text: str = codec.encode(value)
        if _NUL_IN_JSON(text):
            raise UnfitError("must not hold NUL")
        if _LARGE_FLOAT(text) and codec.decode(_as_jsonb_writes(text)) != value:
            raise UnfitError("must hold no float that jsonb turns into another number")
        return text

    return codec._replace(encode=encode)


def _raw(codec: Codec) -> Codec:
    def encode(value: object) -> msgspec.Raw:
        return msgspec.Raw(codec.encode(value).encode())

    return codec._replace(encode=encode)


def _packer(field: TableField) -> Callable[[Sequence[Any]], bytes | None]:
    """Return a function that packs many documents at once, or returns None if one is unusual."""
    many_of_it = GenericAlias(list, (field.annotation,))
    decoder: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(many_of_it)

    def pack_values(many: Sequence[Any]) -> bytes | None:
        try:
            document = msgspec.json.encode(many)
            text = document.decode()
            if "\\u0000" in text or _LARGE_FLOAT(text) or decoder.decode(text) != [*many]:
                return None
        except Exception:  # noqa: BLE001  # a user's type may raise anything
            return None
        return document[1:-1]

    return pack_values
