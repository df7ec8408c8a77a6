"""Entries in a journal: JSON documents that read back equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

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

    def entry_of(self, document: bytes) -> E:
        """Return the entry in a document, with the help of ``upgrade`` if it does not fit.

        Raises:
            Exception: it is not an entry of this type.
        """
        return self._read(document)
