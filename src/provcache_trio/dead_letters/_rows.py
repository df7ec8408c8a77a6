"""Converts dead letters to rows and back."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import msgspec

from provcache_trio._disk.documents import reader_of
from provcache_trio._vocabulary.columns import microseconds_of
from provcache_trio._vocabulary.errors import EntryRejectedError
from provcache_trio._vocabulary.keys import key_text
from provcache_trio._vocabulary.protocols import DeadLetter
from provcache_trio._vocabulary.type_names import name_of

from ._file import NewRow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from ._file import FoundRow

E = TypeVar("E")

# Types that allow any entry; with them, letters with any entry can be read.
_ANYTHING: Final[tuple[object, ...]] = (msgspec.Raw, dict, Any, object)

# Other messages of msgspec, and those of a user's own checks, may quote a value.
_is_misfit: Final = re.compile(
    r"(?:Object )?(missing required field `\w+`|Expected `[^`]+`, got `\w+`)( - at `[^`]+`)"
).fullmatch

# Deterministic, as two equal sets may be iterated in different orders.
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode_any: Final = msgspec.json.Decoder(DeadLetter[object]).decode


class UnreadableLetterError(Exception):
    """A row does not hold a letter with an entry of this type.

    Attributes:
        reason: why the entry was refused, if the row is a letter with an entry of this type.
        misfit: in what the entry does not fit this type, without any of its values.
    """

    def __init__(self, reason: str | None = None, misfit: str | None = None) -> None:
        super().__init__()
        self.reason = reason
        self.misfit = misfit


class LetterRows(Generic[E]):
    """Converts letters whose entries are of one type to rows and back.

    Raises:
        TypeError: msgspec can't decode that type.
    """

    def __init__(
        self,
        entry_type: type[E],
        *,
        upgrade: Callable[[Any], Any] | None = None,
        aliases: Collection[str] = (),
    ) -> None:
        # Parametrised at run time, which type checkers do not follow.
        kind = cast("type[DeadLetter[E]]", DeadLetter[entry_type])  # type: ignore[valid-type]
        self._decode = reader_of(kind, None, about=entry_type)
        self._read = reader_of(kind, upgrade, inside="entry")
        self.entry_type = entry_type
        self._name = name_of(entry_type)
        self._names = {self._name, *aliases}
        self._reads_all = entry_type in _ANYTHING

    def rows_of(self, letters: Iterable[DeadLetter[E]]) -> Iterator[NewRow]:
        """Yield the row of every letter.

        Raises:
            EntryRejectedError: one is not a letter, or its key has no text; ``index`` is its
                position.
        """
        for index, letter in enumerate(letters):
            try:
                yield self._row_of(letter)
            except Exception as error:  # noqa: BLE001  # some of it is a user's entry and key
                name = type(error).__name__
                raise EntryRejectedError(
                    "a letter can't be stored as JSON", index=index, error_class=name
                ) from None

    def _row_of(self, letter: DeadLetter[E]) -> NewRow:
        plain = DeadLetter(
            entry=letter.entry,
            key=key_text(letter.key),
            error_class=text_of(letter.error_class),
            sqlstate=None if letter.sqlstate is None else text_of(letter.sqlstate),
            constraint=None if letter.constraint is None else text_of(letter.constraint),
            field=None if letter.field is None else text_of(letter.field),
            reason=None if letter.reason is None else text_of(letter.reason),
            attempts=letter.attempts,
            opened_at=letter.opened_at,
            failed_at=letter.failed_at,
        )
        document = self._document_of(plain)
        return NewRow(
            identity=hashlib.sha256(document).digest(),
            entry_type=self._name_for(letter.entry),
            key=str(plain.key),
            failed_at=microseconds_of(plain.failed_at),
            size=len(document),
            letter=document,
        )

    def _name_for(self, entry: object) -> str:
        """Return the name of the type of ``entry``, which may be of another type than ours."""
        # It may be a union.
        kind = cast("object", self.entry_type)
        is_another = isinstance(kind, type) and not self._reads_all and type(entry) is not kind
        return name_of(type(entry)) if is_another else self._name

    def _document_of(self, letter: DeadLetter[E]) -> bytes:
        """Return a letter as JSON.

        An entry that does not fit its type was refused for that reason, and is kept all the same,
        for a person and for ``upgrade=``: as its JSON or else its repr.
        """
        try:
            document = _encode(letter)
            back = self._decode(document)
            # Compare documents, too: an entry may not define equality, or may hold an int in a float field.
            if back == letter or _encode(back) == document:
                return document
        except Exception:  # noqa: BLE001, S110  # a user's type may raise anything; it is tried below
            pass
        kept: object = text_of(repr(letter.entry))
        with suppress(Exception):  # likewise
            plain = msgspec.to_builtins(letter.entry, str_keys=True)
            if msgspec.json.decode(_encode(plain)) == plain:
                kept = plain
        document = _encode(msgspec.structs.replace(cast("DeadLetter[object]", letter), entry=kept))
        # Raises if more than the entry is wrong.
        _decode_any(document)
        return document

    def letter_of(self, row: FoundRow) -> DeadLetter[E]:
        """Return the letter of a row.

        Raises:
            UnreadableLetterError: the row does not hold a letter of this type.
        """
        if not self._reads_all and row[3] not in self._names:
            raise UnreadableLetterError
        try:
            return self._read(cast("bytes", row[2]))
        except Exception as error:  # noqa: BLE001  # some of it is the check of a user's type
            raise UnreadableLetterError(_reason_in(row[2]), _misfit_in(error)) from None


def _reason_in(document: object) -> str | None:
    """Return why the entry of a letter was refused, as far as it is known."""
    try:
        letter = _decode_any(cast("bytes", document))
    except Exception:  # noqa: BLE001  # a damaged row may hold anything
        return None
    return letter.reason or (letter.field and f"field {letter.field}")


def _misfit_in(error: Exception) -> str | None:
    """Return what msgspec says of a field, unless it may quote a value."""
    found = _is_misfit(str(error)) if isinstance(error, msgspec.ValidationError) else None
    return found and f"{found[1]}{found[2]}".replace("`$.entry", "`$").removesuffix(" - at `$`")


def text_of(value: object) -> str:
    """Return a str, or else the repr of ``value``, with lone surrogates escaped."""
    text = value if isinstance(value, str) else repr(value)
    return text.encode("utf-8", "backslashreplace").decode()
