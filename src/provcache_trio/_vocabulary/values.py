"""Checks and conversions of field values that all databases share."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast
from uuid import UUID

import msgspec

from .errors import EntryRejectedError, StoreMisconfiguredError, unfit
from .log import log

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from .fields import TableField
    from .table import Table

E = TypeVar("E")

# The largest value of a 64-bit column.
MOST: Final = 2**63 - 1


class UnfitError(Exception):
    """A value or a cell does not fit its field. The message does not quote it."""


def _one_by_one(_: Sequence[Any]) -> None:
    return None


class Codec(NamedTuple):
    """Converts the values of a field to cells, which go to a database, and back.

    Attributes:
        encode: returns the cell of a value; raises ``UnfitError``.
        decode: returns the value of a cell; raises ``UnfitError``.
        encode_all: returns the cells of many values in less time; or None if each has to be
            encoded by itself, as one of them may not fit.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any], object]
    encode_all: Callable[[Sequence[Any]], Sequence[Any] | None] = _one_by_one


# Values: each function returns its argument, perhaps converted, or raises ``UnfitError``


def misfit(kind: str, value: object) -> UnfitError:
    """Return the error for a value of another type."""
    return UnfitError(f"must be {kind}, not {type(value).__name__}")


def text(value: object) -> str:
    """Return ``value``, a str that UTF-8 can encode."""
    if type(value) is not str:
        raise misfit("a str", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnfitError("must not hold a lone surrogate") from None
    return value


def integer(bits: int) -> Callable[[object], int]:
    """Return a function that checks an int of ``bits`` bits."""
    limit = 2 ** (bits - 1)

    def check(value: object) -> int:
        if type(value) is not int:
            raise misfit("an int", value)
        if not -limit <= value < limit:
            raise UnfitError(f"must be -2**{bits - 1} to 2**{bits - 1} - 1")
        return value

    return check


def real(value: object) -> float:
    """Return ``value``, a float or an int, as a float that equals it."""
    if type(value) is int:
        try:
            as_float = float(value)
        except OverflowError:
            as_float = math.inf
        if as_float != value:
            raise UnfitError("must be a float; this int is none exactly")
        return as_float
    if type(value) is not float:
        raise misfit("a float", value)
    return value


def boolean(value: object) -> bool:
    """Return ``value``, a bool."""
    if type(value) is not bool:
        raise misfit("a bool", value)
    return value


def blob(value: object) -> bytes:
    """Return ``value``, bytes."""
    if type(value) is not bytes:
        raise misfit("bytes", value)
    return value


def uuid(value: object) -> UUID:
    """Return ``value`` as a plain UUID; drivers have subclasses of their own."""
    if not isinstance(value, UUID):
        raise misfit("a UUID", value)
    return value


def decimal(value: object) -> Decimal:
    """Return ``value``, a finite Decimal."""
    if type(value) is not Decimal:
        raise misfit("a Decimal", value)
    if not value.is_finite():
        raise UnfitError("must be a finite Decimal")
    return value


def moment(value: object) -> datetime:
    """Return ``value``, an aware datetime, in UTC."""
    if not isinstance(value, datetime):
        raise misfit("a datetime", value)
    if value.tzinfo is UTC:
        return value
    try:
        offset = value.utcoffset()
        if offset is not None:
            return value.replace(tzinfo=UTC) - offset
    except OverflowError:
        raise UnfitError("must be from year 1 to 9999 in UTC") from None
    except Exception:  # noqa: BLE001  # whatever a user's tzinfo raised
        raise UnfitError("must have a tzinfo that gives its UTC offset") from None
    raise UnfitError("must be an aware datetime, not a naive one")


def day(value: object) -> date:
    """Return ``value``, a date and not a datetime, which Python takes for a date."""
    if type(value) is not date:
        raise misfit("a date", value)
    return value


def clock(value: object) -> time:
    """Return ``value``, a time of day."""
    if type(value) is not time:
        raise misfit("a time", value)
    return value


def duration(value: object) -> timedelta:
    """Return ``value``, a timedelta."""
    if type(value) is not timedelta:
        raise misfit("a timedelta", value)
    return value


# Many at once: by functions written in C, and only if no value is unusual


def are(kind: type, values: Sequence[Any]) -> bool:
    """Return whether every value is exactly of type ``kind``."""
    return {*map(type, values)} == {kind}


def all_of(kind: type) -> Callable[[Sequence[Any]], Sequence[Any] | None]:
    """Return a function that returns its values if all are exactly of type ``kind``, or None."""

    def check(values: Sequence[Any]) -> Sequence[Any] | None:
        return values if are(kind, values) else None

    return check


def joined(values: Sequence[Any]) -> str | None:
    """Return all values as one text, or None if one is not a str or UTF-8 can't encode it."""
    if not are(str, values):
        return None
    whole = "".join(values)
    if not whole.isascii():
        try:
            whole.encode()
        except UnicodeEncodeError:
            return None
    return whole


def fit(bits: int, values: Sequence[Any]) -> bool:
    """Return whether every value is an int of ``bits`` bits."""
    limit = 2 ** (bits - 1)
    return are(int, values) and min(values) >= -limit and max(values) < limit


def are_finite(values: Sequence[Any]) -> bool:
    """Return whether every value is a finite Decimal."""
    return are(Decimal, values) and all(map(Decimal.is_finite, values))


def are_in_utc(values: Sequence[Any]) -> bool:
    """Return whether every value is a datetime in UTC."""
    return are(datetime, values) and all(zone is UTC for zone in map(_zone_of, values))


_zone_of: Final = attrgetter("tzinfo")

# Cells


def cell(kind: type, value: object) -> Any:  # noqa: ANN401  # it is one of that kind
    """Return ``value`` if it is exactly of type ``kind``."""
    if type(value) is not kind:
        raise UnfitError(f"holds {type(value).__name__}, not {kind.__name__}")
    return value


def read(kind: type, convert: Callable[[Any], object] | None = None) -> Callable[[object], object]:
    """Return a function that converts a cell of type ``kind``."""

    def converted(value: object) -> object:
        found = cell(kind, value)
        try:
            return found if convert is None else convert(found)
        except (ArithmeticError, ValueError):
            raise UnfitError(f"holds {kind.__name__} that says no such value") from None

    return converted


# Codecs that are made of others, or are the same everywhere


def or_null(codec: Codec) -> Codec:
    """Return a codec like ``codec``, in which None has the cell None."""

    def encode(value: object) -> object:
        return None if value is None else codec.encode(value)

    def decode(found: object) -> object:
        return None if found is None else codec.decode(found)

    def encode_all(values: Sequence[Any]) -> Sequence[Any] | None:
        if None not in values:
            return codec.encode_all(values)
        there = [value for value in values if value is not None]
        cells = codec.encode_all(there) if there else ()
        if cells is None:
            return None
        each = iter(cells)
        return [None if value is None else next(each) for value in values]

    return Codec(encode, decode, encode_all)


def of_members(field: TableField) -> Codec:
    """Return the codec of an Enum or a Literal, whose members are stored by their values."""
    members = field.members or {}
    # The types count, since 1 == True.
    cells = {(type(member), member): value for value, member in members.items()}
    what = "one of those of its Literal" if field.is_literal else "a member of its Enum"

    def encode(value: object) -> str | int:
        try:
            return cells[type(value), value]
        except (KeyError, TypeError):
            # TypeError: the value can't be hashed.
            raise UnfitError(f"must be {what}") from None

    def decode(found: object) -> object:
        if type(found) in {str, int} and found in members:
            return members[cast("str | int", found)]
        raise UnfitError(f"holds no value of {what}")

    return Codec(encode, decode)


def document(annotation: object) -> Codec:
    """Return the codec of any other type: JSON, if reading it gives an equal value."""
    encoder = msgspec.json.Encoder()
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(annotation)

    def encode(value: object) -> str:
        try:
            written = encoder.encode(value)
            back = decoder.decode(written)
            same = back == value
            if not same and type(value).__eq__ is object.__eq__:
                same = encoder.encode(back) == written
        except Exception:  # noqa: BLE001  # a user's type may raise anything
            same, written = False, b""
        if not same:
            raise UnfitError("must be written as JSON and read back as it is")
        return written.decode()

    def decode(found: object) -> object:
        written = cell(str, found)
        try:
            return decoder.decode(written)
        except Exception:  # noqa: BLE001  # a user's type may raise anything
            raise UnfitError("holds JSON that says no such value") from None

    return Codec(encode, decode)


# Entries and arguments


def is_tuple(value: object) -> bool:
    """Return whether ``value`` is a tuple, and not of a subclass."""
    return type(value) is tuple


def parts_of(table: Table[Any], key: Any) -> tuple[Any, ...]:  # noqa: ANN401  # of whatever type
    """Return the values of the key's fields.

    Raises:
        TypeError: the key has several fields, and ``key`` is not a tuple of as many values.
    """
    fields = table.key_fields
    if len(fields) == 1:
        return (key,)
    if not is_tuple(key) or len(key) != len(fields):
        raise TypeError(f"each of keys must be a tuple of {', '.join(one.name for one in fields)}")
    return cast("tuple[Any, ...]", key)


def checked_keys(keys: object) -> tuple[Hashable, ...]:
    """Return each of ``keys`` once.

    Raises:
        TypeError: ``keys`` is not an iterable of keys.
    """
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise TypeError(f"keys must be an iterable of keys, not {type(keys).__name__}")
    return tuple(dict.fromkeys(cast("Iterable[Hashable]", keys)))


def argument(field: TableField, codec: Codec, value: object) -> Any:  # noqa: ANN401  # a cell
    """Return the cell of ``value``, an argument of a call.

    Raises:
        TypeError: ``field`` can't have that value.
    """
    try:
        return codec.encode(value)
    except UnfitError as error:
        raise TypeError(f"{field.name} {error}") from None


def without_none(codec: Codec) -> Codec:
    """Return ``codec`` for a column that is NOT NULL."""

    def encode(value: object) -> Any:  # noqa: ANN401  # a cell
        if value is None:
            raise UnfitError("must not be None, as its column is NOT NULL")
        return codec.encode(value)

    def encode_all(values: Sequence[Any]) -> Sequence[Any] | None:
        return None if None in values else codec.encode_all(values)

    return codec._replace(encode=encode, encode_all=encode_all)


def report_unfilled(table: Table[Any], fields: Iterable[TableField]) -> None:
    """Log that ``fields`` may be None, though their columns are NOT NULL."""
    for field in fields:
        log(
            logging.WARNING,
            "table %s: column %s is NOT NULL, and field %s may be None; such an entry is refused",
            table.name,
            field.column,
            field.name,
            table=table.name,
            column=field.column,
            field=field.name,
        )


def wrong_type(table: Table[Any], entry: object) -> EntryRejectedError:
    """Return the error for an entry of another type than the table's."""
    return unfit(
        f"an entry must be a {table.entry_type.__name__}, not {type(entry).__name__}",
        table=table.name,
    )


def changed(table: Table[Any]) -> EntryRejectedError:
    """Return the error for an entry that could not be encoded before, and now can."""
    return unfit("an entry was changed while it was being stored", table=table.name)


def refusal(
    table: Table[Any], codecs: Mapping[str, Codec], entry: object
) -> EntryRejectedError | None:
    """Return the error for the first field of ``entry`` that can't be stored, or None."""
    for field in table.fields:
        try:
            codecs[field.name].encode(getattr(entry, field.name))
        except (AttributeError, UnfitError) as error:
            problem = error if isinstance(error, UnfitError) else "has no value"
            return unfit(
                f"{field.name} {problem}", table=table.name, column=field.column, field=field.name
            )
    return None


def entry_maker(table: Table[E], codecs: Mapping[str, Codec]) -> Callable[[Sequence[Any]], E]:
    """Return a function that makes an entry from a row's cells, in the order of the fields.

    That function raises:
        StoreMisconfiguredError: the row is not such an entry; the message names its column.
    """
    decoders = tuple(codecs[field.name].decode for field in table.fields)
    what = table.entry_type.__name__

    def entry_of(row: Sequence[Any]) -> E:
        values: list[object] = []
        try:
            for decode, found in zip(decoders, row, strict=True):
                # The number of values shows which cell failed.
                values.append(decode(found))
        except UnfitError as error:
            column = table.fields[len(values)].column
            raise StoreMisconfiguredError(
                f"table {table.name!r} has a row that is no {what}: column {column!r} {error}",
                table=table.name,
                column=column,
            ) from None
        try:
            return table.make(values)
        except Exception as error:  # noqa: BLE001  # of a user's class
            raise StoreMisconfiguredError(
                f"table {table.name!r} has a row that is no {what}: {what} raised "
                f"{type(error).__name__}",
                table=table.name,
            ) from None

    return entry_of
