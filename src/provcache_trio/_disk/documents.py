"""Entries as JSON, and how to read those that an older program wrote."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


# Annotated as object, since callers may pass values that the annotations do not allow.


def check_evolution(upgrade: object, aliases: object) -> tuple[str, ...]:
    """Check both arguments; return ``aliases`` as a tuple.

    Raises:
        TypeError: ``upgrade`` can't be called, or ``aliases`` is not an iterable of str.
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
    """Return a function that decodes a document, with the help of ``upgrade`` if it does not fit.

    Args:
        kind: the type of the result.
        upgrade: called with the decoded JSON of a document that does not fit ``kind``.
        inside: the member of the document to pass to ``upgrade``; None: all of it.
        about: the type that messages name; None: ``kind``.

    Raises:
        TypeError: msgspec can't decode ``kind``.
    """
    try:
        decode = msgspec.json.Decoder(kind).decode
    except Exception as error:  # noqa: BLE001  # looking at a user's type may raise anything
        why = _why_not_decoded(about if about is not None else kind, error)
        raise TypeError(f"entry_type must be a type that msgspec can decode: {why}") from None
    if upgrade is None:
        return decode

    def read(document: bytes) -> T:
        try:
            return decode(document)
        except Exception:  # noqa: BLE001  # some of it is the check of a user's type
            found = msgspec.json.decode(document)
            if inside is None:
                found = upgrade(found)
            else:
                found[inside] = upgrade(found[inside])
            return decode(msgspec.json.encode(found))

    return read


def _why_not_decoded(kind: object, error: Exception) -> str:
    """Describe which field msgspec can't decode, and why, without any content of an entry."""
    name: str = getattr(kind, "__qualname__", repr(kind))
    # Looking at a user's type may raise anything.
    with suppress(Exception):
        for field, hint in get_type_hints(cast("type", kind)).items():
            try:
                msgspec.json.Decoder(hint)
            except Exception as of_field:  # noqa: BLE001  # likewise
                return f"field {field!r} of {name}: {of_field}"
    return f"{name}: {error}"
