"""Fields that are lists, tuples or sets, in array columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import inspect

from provcache_trio._vocabulary.fields import field_of, without_none
from provcache_trio._vocabulary.values import Codec, UnfitError, cell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provcache_trio._vocabulary.fields import TableField

_CONTAINERS: Final[Mapping[type[inspect.Type], type[Any]]] = {
    inspect.ListType: list,
    inspect.VarTupleType: tuple,
    inspect.SetType: set,
    inspect.FrozenSetType: frozenset,
}


def item_of(field: TableField) -> TableField | None:
    """Return the innermost items of the lists in ``field``, as a field; None if it holds no lists."""
    found, _ = without_none(inspect.type_info(field.annotation))
    item: TableField | None = None
    while type(found) in _CONTAINERS:
        inner = _item_type(found)
        item = field_of(inspect.Field(field.name, field.name, inner), object, field.column, None)
        found, _ = without_none(inner)
    return item


def _item_type(found: inspect.Type) -> inspect.Type:
    # Each of these kinds has an item type.
    return cast("inspect.ListType", found).item_type


def array_codec(field: TableField, of_items: Codec) -> Codec:
    """Return the codec that stores the value of ``field`` as an array.

    PostgreSQL has no arrays with rows of unequal length, and stores an array of empty rows as an
    empty one.
    """
    containers: list[type[Any]] = []
    found, _ = without_none(inspect.type_info(field.annotation))
    while type(found) in _CONTAINERS:
        containers.append(_CONTAINERS[type(found)])
        found, _ = without_none(_item_type(found))

    def encode(value: object) -> str:
        text, _ = _array(value, containers, of_items.encode)
        return text

    def decode(found: object) -> object:
        return _read(found, containers, of_items.decode)

    return Codec(encode, decode)


def _array(
    value: Any,  # noqa: ANN401  # of whatever is in the field
    containers: list[type[Any]],
    encode: Callable[[Any], Any],
) -> tuple[str, list[int]]:
    """Return the text of an array and its length in each dimension."""
    if not containers:
        return _text(encode(value)), []
    kind, *inner = containers
    if type(value) is not kind:
        raise UnfitError(f"must be a {kind.__name__}, not {type(value).__name__}")
    parts = [_array(one, inner, encode) for one in value]
    lengths: list[int] = parts[0][1] if parts else []
    if any(other != lengths for _, other in parts):
        raise UnfitError("must have rows of one length, as an array has")
    if 0 in lengths:
        raise UnfitError("must have no empty rows, as an array has none")
    texts = [text for text, _ in parts]
    if kind in {set, frozenset}:
        # Sorted, so that equal sets are stored alike.
        texts.sort()
    return f"{{{','.join(texts)}}}", [len(parts), *lengths]


def _text(item: object) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, bytes):
        return f'"\\\\x{item.hex()}"'
    escaped = str(item).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _read(found: object, containers: list[type[Any]], decode: Callable[[Any], object]) -> object:
    if not containers:
        return decode(found)
    kind, *inner = containers
    return kind(_read(one, inner, decode) for one in cell(list, found))
