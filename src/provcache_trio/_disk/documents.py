"""Entries as JSON: how to read what an older program wrote."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


# Annotated as object: callers may give what their annotations do not allow.


def check_evolution(upgrade: object, aliases: object) -> tuple[str, ...]:
    """Return ``aliases`` as a tuple, if both arguments are what they should be.

    Raises:
        TypeError: ``upgrade`` can't be called, or ``aliases`` is no iterable of str.
    """
    if upgrade is not None and not callable(upgrade):
        raise TypeError(f"upgrade must be callable, not {type(upgrade).__name__}")
    if isinstance(aliases, str):
        raise TypeError("aliases must be an iterable of str, not a single str")
    try:
        names = tuple(cast("tuple[object, ...]", aliases))
    except TypeError:
        kind = type(aliases).__name__
        raise TypeError(f"aliases must be an iterable of str, not {kind}") from None
    if not all(isinstance(name, str) for name in names):
        raise TypeError("aliases must be an iterable of str")
    return cast("tuple[str, ...]", names)


def reader_of(
    kind: type[T],
    upgrade: Callable[[Any], Any] | None,
    *,
    inside: str | None = None,
    about: object = None,
) -> Callable[[bytes], T]:
    """Return a function that decodes a document, or else what ``upgrade`` makes of it.

    Args:
        kind: what a document is decoded to.
        upgrade: called with the decoded object of a document that is no ``kind``.
        inside: the member of the document that it is about; None: the whole.
        about: the type that a message is about; None: ``kind``.

    Raises:
        TypeError: msgspec can't decode ``kind``.
    """
    try:
        decode = msgspec.json.Decoder(kind).decode
    except Exception as error:  # noqa: BLE001  # whatever looking at somebody's type raises
        why = _why_not_decoded(about if about is not None else kind, error)
        raise TypeError(f"entry_type must be a type that msgspec can decode: {why}") from None
    if upgrade is None:
        return decode

    def read(document: bytes) -> T:
        try:
            return decode(document)
        except Exception:  # noqa: BLE001  # some of it is the check of somebody's type
            found = msgspec.json.decode(document)
            if inside is None:
                found = upgrade(found)
            else:
                found[inside] = upgrade(found[inside])
            return decode(msgspec.json.encode(found))

    return read


def _why_not_decoded(kind: object, error: Exception) -> str:
    """Return which field of a class msgspec can't decode, and why, without an entry's content."""
    name: str = getattr(kind, "__qualname__", repr(kind))
    with suppress(Exception):  # whatever looking at somebody's type raises
        for field, hint in get_type_hints(cast("type", kind)).items():
            try:
                msgspec.json.Decoder(hint)
            except Exception as of_field:  # noqa: BLE001  # likewise
                return f"field {field!r} of {name}: {of_field}"
    return f"{name}: {error}"
