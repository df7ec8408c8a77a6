"""How entries of one type are stored in one table: its statements and their parameters."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from provcache_trio._vocabulary.fields import quoted
from provcache_trio._vocabulary.values import (
    UnfitError,
    argument,
    changed,
    entry_maker,
    parts_of,
    refusal,
    wrong_type,
)

from ._cells import DECIMAL_ORDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from provcache_trio._vocabulary.fields import TableField
    from provcache_trio._vocabulary.table import Table
    from provcache_trio._vocabulary.values import Codec

    from ._cells import Cell

E = TypeVar("E")

_ORDER: Final = {"Decimal": f" COLLATE {DECIMAL_ORDER}", "str": " COLLATE BINARY"}


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[E]):
    """The statements for a table, and the functions that convert parameters and rows.

    Attributes:
        upsert: stores the cells of one entry.
        select: reads the row of one key.
        probe: deletes no row, and fails where nothing can be written.
        count: counts rows.
        delete: deletes the row of one key.
        delete_expired: deletes rows that expired by a moment, up to a limit; None: rows never
            expire.
        cells_of: yields the cells of each entry; at an entry that can't be stored, it raises
            EntryRejectedError.
        entry_of: returns the entry of a row; raises StoreMisconfiguredError.
        key_cells: returns the cells of a key; raises TypeError or ValueError.
        moment_cell: returns the cell of a moment, to compare with the moments of expiry.
    """

    upsert: str
    select: str
    probe: str
    count: str
    delete: str
    delete_expired: str | None
    cells_of: Callable[[Sequence[E]], Iterable[Sequence[Cell]]]
    entry_of: Callable[[Sequence[Any]], E]
    key_cells: Callable[[Any], Sequence[Cell]]
    moment_cell: Callable[[datetime], Cell]


@dataclass(frozen=True, kw_only=True)
class TablePlan(Plan[E]):
    """The same for a user's table.

    Attributes:
        table: its declaration.
        codecs: the codec of each field, by name.
        version: the version of the schema, which changes with every change of a table.
        unfilled: the fields that may be None, though their columns are NOT NULL.
    """

    table: Table[E]
    codecs: Mapping[str, Codec]
    version: int
    unfilled: Sequence[TableField]

    def delete_where(self, before: object, equals: Mapping[str, object]) -> tuple[str, list[Cell]]:
        """Return the statement that deletes rows, and its parameters except the last, the limit.

        Raises:
            TypeError: a value does not fit its field, or can't be compared.
            ValueError: there is no such field.
        """
        conditions: list[str] = []
        cells: list[Cell] = []
        for name, value in equals.items():
            field = self.table.field(name)
            if field.kind == "JSON":
                raise TypeError(f"{name} is stored as JSON, so it can't be compared")
            conditions.append(f"{quoted(field.column)}{_collation(field)} IS ?")
            cells.append(self._cell(field, value))
        newer = self.table.newer_field
        if before is not None and newer is not None:
            # None is older than every other value.
            column = quoted(newer.column)
            conditions.append(f"({column} IS NULL OR {column}{_collation(newer)} < ?)")
            cells.append(self._cell(newer, before))
        return _delete_some(self.table, " AND ".join(conditions)), cells

    def _cell(self, field: TableField, value: object) -> Cell:
        cell: Cell = argument(field, self.codecs[field.name], value)
        return cell


def plan_of(
    table: Table[E], codecs: Mapping[str, Codec], version: int, unfilled: Sequence[TableField]
) -> TablePlan[E]:
    """Return the plan for ``table``, whose columns need these codecs."""
    name = quoted(table.name)
    columns = ", ".join(quoted(field.column) for field in table.fields)
    is_key = " AND ".join(
        f"{quoted(field.column)}{_collation(field)} = ?" for field in table.key_fields
    )
    expires = table.expires_field

    def moment_cell(moment: datetime) -> Cell:
        assert expires is not None, "asked for first"  # noqa: S101  # by the repository
        cell: Cell = argument(expires, codecs[expires.name], moment)
        return cell

    return TablePlan(
        table=table,
        codecs=codecs,
        version=version,
        unfilled=unfilled,
        upsert=_upsert(table, columns),
        select=f"SELECT {columns} FROM {name} WHERE {is_key}",
        probe=f"DELETE FROM {name} WHERE false",
        count=f"SELECT count(*) FROM {name}",
        delete=f"DELETE FROM {name} WHERE {is_key}",
        delete_expired=None
        if expires is None
        else _delete_some(table, f"{quoted(expires.column)} <= ?", quoted(expires.column)),
        cells_of=_cells_of(table, codecs),
        entry_of=entry_maker(table, codecs),
        key_cells=_key_cells(table, codecs),
        moment_cell=moment_cell,
    )


def _collation(field: TableField) -> str:
    # Stated, as the column may have another collation.
    return _ORDER.get(field.kind, "")


def _upsert(table: Table[E], columns: str) -> str:
    """Return the upsert that merges as ``table.merge`` does, and skips rows that would not change."""
    name = quoted(table.name)
    insert = (
        f"INSERT INTO {name} AS t ({columns}) VALUES ({', '.join('?' * len(table.fields))})\n"
        f"ON CONFLICT ({', '.join(quoted(field.column) for field in table.key_fields)}) "
    )
    wins = _wins(table)
    others = [field for field in table.fields if field not in table.key_fields]
    changes: list[str] = []
    conditions: list[str] = []
    newest = [field for field in others if field.rule == "newest"]
    for field in newest:
        column = quoted(field.column)
        changes.append(
            f"{column} = excluded.{column}"
            if wins is None
            else f"{column} = CASE WHEN {wins} THEN excluded.{column} ELSE t.{column} END"
        )
    if newest:
        differs = " OR ".join(_differs(field) for field in newest)
        conditions.append(differs if wins is None else f"{wins} AND ({differs})")
    for field in others:
        if field.rule in {"greatest", "least"}:
            column = quoted(field.column)
            beats = _beats(field)
            changes.append(
                f"{column} = CASE WHEN {beats} THEN excluded.{column} ELSE t.{column} END"
            )
            conditions.append(f"({beats})")
    if not changes:
        return f"{insert}DO NOTHING"
    assignments, where = ",\n    ".join(changes), " OR ".join(conditions)
    return f"{insert}DO UPDATE SET\n    {assignments}\nWHERE {where}"


def _wins(table: Table[Any]) -> str | None:
    """Return the condition under which the arriving version is newer; None: it always is."""
    if table.newer_field is None:
        return None
    column, collation = quoted(table.newer_field.column), _collation(table.newer_field)
    return f"(t.{column} IS NULL OR excluded.{column}{collation} >= t.{column})"


def _beats(field: TableField) -> str:
    column, collation = quoted(field.column), _collation(field)
    sign = ">" if field.rule == "greatest" else "<"
    return (
        f"excluded.{column}{collation} {sign} t.{column}"
        f" OR t.{column} IS NULL AND excluded.{column} IS NOT NULL"
    )


def _differs(field: TableField) -> str:
    column = quoted(field.column)
    # Not as decimals: the texts 1.0 and 1.00 differ for their readers.
    return f"excluded.{column} COLLATE BINARY IS NOT t.{column}"


def _delete_some(table: Table[Any], condition: str, order: str | None = None) -> str:
    name = quoted(table.name)
    key = ", ".join(quoted(field.column) for field in table.key_fields)
    ordered = "" if order is None else f" ORDER BY {order}"
    return (
        f"DELETE FROM {name} WHERE ({key}) IN (\n"
        f"    SELECT {key} FROM {name} WHERE {condition}{ordered} LIMIT ?\n)"
    )


def _cells_of(
    table: Table[E], codecs: Mapping[str, Codec]
) -> Callable[[Sequence[E]], Iterable[Sequence[Cell]]]:
    all_codecs = tuple(codecs[field.name] for field in table.fields)
    encoders = tuple(codec.encode for codec in all_codecs)
    entry_type, values_of = table.entry_type, table.values

    def one(entry: E) -> Sequence[Cell]:
        if type(entry) is not entry_type:
            # A subclass would lose fields.
            raise wrong_type(table, entry)
        try:
            return [encode(value) for encode, value in zip(encoders, values_of(entry), strict=True)]
        except (AttributeError, UnfitError):
            raise refusal(table, codecs, entry) or changed(table) from None

    def cells_of(entries: Sequence[E]) -> Iterable[Sequence[Cell]]:
        # By columns, as calling a function for each value takes twice as long.
        with suppress(AttributeError, UnfitError):
            if {*map(type, entries)} == {entry_type}:
                columns = zip(*map(values_of, entries), strict=True)
                return zip(*map(_encoded_column, all_codecs, columns), strict=True)
        # One by one, to find the entry that does not fit.
        return map(one, entries)

    return cells_of


def _encoded_column(codec: Codec, values: Sequence[Any]) -> Sequence[Cell]:
    cells = codec.encode_all(values)
    return [*map(codec.encode, values)] if cells is None else cells


def _key_cells(table: Table[E], codecs: Mapping[str, Codec]) -> Callable[[Any], Sequence[Cell]]:
    def key_cells(key: Any) -> Sequence[Cell]:  # noqa: ANN401  # of whatever type the key is
        parts = zip(table.key_fields, parts_of(table, key), strict=True)
        return [argument(field, codecs[field.name], part) for field, part in parts]

    return key_cells
