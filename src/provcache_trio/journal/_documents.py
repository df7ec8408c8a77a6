"""Entries in a journal: JSON documents that read back equal."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast, get_origin, get_type_hints

import msgspec

from provcache_trio._disk.documents import reader_of
from provcache_trio._vocabulary.entries import ProvcacheEntry
from provcache_trio._vocabulary.type_names import name_of

from ._records import MOST_PAYLOAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

E = TypeVar("E")


class Documents(Generic[E]):
    """Writes entries of one type as JSON, and reads them.

    Raises:
        TypeError: msgspec can't decode that type.
    """

    def __init__(self, entry_type: type[E], *, upgrade: Callable[[Any], Any] | None = None) -> None:
        self.entry_type = entry_type
        self.type_name: str = name_of(entry_type)
        self._decode = reader_of(entry_type, None)
        self._read = reader_of(entry_type, upgrade)
        self._encode = msgspec.json.Encoder().encode
        # Tests ensure that each of these reads back equal.
        self._trusted = ProvcacheEntry if entry_type is ProvcacheEntry else None

    def documents_of(self, entries: Iterable[E]) -> list[bytes | None]:
        """Return each entry as JSON, or None for one that would not read back equal."""
        return [self.document_of(entry) for entry in entries]

    def document_of(self, entry: E) -> bytes | None:
        """Return an entry as JSON, or None if it would not read back equal."""
        try:
            document = self._encode(entry)
            if type(entry) is not self._trusted:
                back = self._decode(document)
                # Compare documents, too: an entry may not define equality.
                if back != entry and self._encode(back) != document:
                    return None
        except Exception:  # noqa: BLE001  # a user's type may raise anything
            return None
        return document if len(document) < MOST_PAYLOAD_BYTES // 2 else None

    def fault_of(self, entry: object) -> str:
        """Return why an entry has no document, in words that name types and fields and no value."""
        # It may be a union.
        kind = cast("object", self.entry_type)
        if isinstance(kind, type) and not isinstance(entry, kind):
            found = type(entry).__name__
            return f"it is a {found}, not a {kind.__name__}; see entry_type of the journal"
        # Looking at a user's type may raise anything.
        with suppress(Exception):
            if len(self._encode(entry)) >= MOST_PAYLOAD_BYTES // 2:
                return f"it is larger than {MOST_PAYLOAD_BYTES // 2:,} bytes"
        with suppress(Exception):
            hints = get_type_hints(kind, include_extras=True).items()
            fields = ((name, hint) for name, hint in hints if get_origin(hint) is not ClassVar)
            for name, hint in fields:
                if not _reads_back(getattr(entry, name), hint):
                    return f"its field {name!r} does not"
        return "see its fields, and entry_type of the journal"

    def entry_of(self, document: bytes) -> E:
        """Return the entry in a document, with the help of ``upgrade`` if it does not fit.

        Raises:
            Exception: it is not an entry of this type.
        """
        return self._read(document)


def _reads_back(value: object, hint: object) -> bool:
    try:
        back: object = msgspec.json.decode(msgspec.json.encode(value), type=hint)
    except Exception:  # noqa: BLE001  # a user's type may raise anything
        return False
    return back == value
