"""The type of a command's entries: ``ProvcacheEntry``, or that of the table in ``--table``."""

from __future__ import annotations

import importlib
import os
import re
import sys
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from provcache_trio import ProvcacheEntry, Table
from provcache_trio._vocabulary.keys import key_text
from provcache_trio._vocabulary.type_names import class_of, name_of

from .misuse import MisuseError
from .text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType, TracebackType

    from provcache_trio._vocabulary.fields import TableField

_is_veri_key: Final = re.compile(r"sha256:[0-9a-f]{64}").fullmatch
_IN_WORDS: Final = {
    "int": "an int",
    "bytes": "bytes in Base64",
    "datetime": "a datetime such as 2026-11-25T12:00:00Z",
    "date": "a date such as 2026-11-25",
}
_OURS: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120  # as frames have it


class Entries:
    """The type of the entries, and what commands do by it: here ``ProvcacheEntry``.

    A store's ``Target`` has one. ``TableEntries`` is for other types.

    Attributes:
        table: the argument ``table`` of repositories.
        entry_type: the argument ``entry_type`` of journals and dead letters.
        any_type: the same, where any type is accepted unless a table is named.
        aliases: former names of that type, which journals and dead letters may still have.
        no_such_key: the message for an entry that was not found.
        hint: what the user may have forgotten, where a store holds something else; or "".
    """

    table: Table[Any] | None = None
    entry_type: Any = ProvcacheEntry
    any_type: Any = msgspec.Raw
    no_such_key = "no entry has this VeriKey"

    def __init__(self, aliases: Sequence[str] = (), hint: str = "") -> None:
        self.aliases = tuple(aliases)
        self.hint = hint

    @property
    def name(self) -> str:
        """The name of an entry in messages."""
        return class_of(self.entry_type).__name__

    @property
    def type_name(self) -> str:
        """The name of the type in journals."""
        return name_of(class_of(self.entry_type))

    def read_key(self, words: Sequence[str]) -> object:
        """Return the key that a command line names.

        Raises:
            MisuseError: ``words`` are not a key.
        """
        if len(words) != 1 or not _is_veri_key(words[0]):
            raise MisuseError(f"a VeriKey is 'sha256:' and 64 lower-case hex digits{self.hint}")
        return words[0]

    def letter_key(self, word: str) -> str:
        """Return a key as text, as dead letters have it.

        Raises:
            MisuseError: it is not a key of the table.
        """
        parts = _array_in(word)
        return word if parts == (word,) else key_text(tuple(parts))

    def may_mean_another(self, word: str) -> bool:
        """Return whether ``word`` may be a key that dead letters have in other words."""
        return not _is_veri_key(word)

    def label_of(self, entry: Any) -> str:  # noqa: ANN401  # of that type
        """Return the key of an entry, for messages."""
        key: str = entry.veri_key
        return key


class TableEntries(Entries):
    """The entries of a user's table."""

    no_such_key = "no entry has this key"

    def __init__(self, table: Table[Any], aliases: Sequence[str] = ()) -> None:
        super().__init__(aliases)
        self.table = self.entry_type = self.any_type = table
        self._declared = table

    def read_key(self, words: Sequence[str]) -> object:
        """Return the key from its values, one by one or as a JSON array.

        Raises:
            MisuseError: ``words`` are not a key; the message names the field.
        """
        fields = self._declared.key_fields
        values: Sequence[object] = words
        if len(words) == 1 and len(fields) > 1:
            values = _array_in(words[0])
        if len(values) != len(fields):
            wanted = ", ".join(field.name for field in fields)
            raise MisuseError(f"the key of {self._declared.name} has to be given in full: {wanted}")
        key = [*map(_key_value, fields, values)]
        return key[0] if len(key) == 1 else tuple(key)

    def letter_key(self, word: str) -> str:
        return key_text(self.read_key([word]))

    def may_mean_another(self, word: str) -> bool:  # noqa: ARG002  # see above
        return False

    def label_of(self, entry: Any) -> str:  # noqa: ANN401  # of that type
        return printable(key_text(self._declared.key(entry)))


PROVCACHE: Final = Entries()
_HINT: Final = "; or give --table MODULE:NAME, if the entries are those of a table of yours"
_NOT_NAMED: Final = Entries(hint=_HINT)


def entries_of(named: str | None, aliases: Sequence[str] | None = None) -> Entries:
    """Return the type of the entries.

    The module is imported as ``python -m`` would find it: from the current directory, too.

    Args:
        named: the value of ``--table``.
        aliases: the values of ``--alias``.

    Raises:
        MisuseError: it does not name a table.
    """
    if named is None:
        return Entries(aliases, _HINT) if aliases else _NOT_NAMED
    module_name, colon, attribute = named.partition(":")
    if not (colon and _are_names(module_name) and _are_names(attribute)):
        # Not quoted, as it may be a URL with a password.
        raise MisuseError("--table is MODULE:NAME, such as shop.tables:ORDERS")
    module = _imported(module_name)
    found: object = module
    for name in attribute.split("."):
        found = _member(module, found, name, named)
    if not isinstance(found, Table):
        what = f"the class {found.__name__}" if isinstance(found, type) else _an(type(found))
        raise MisuseError(f"--table: {named} is {what}, not a Table{_tables_in(module)}")
    return TableEntries(cast("Any", found), aliases or ())


def _are_names(dotted: str) -> bool:
    return all(name.isidentifier() for name in dotted.split("."))


def _an(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}"


def _imported(name: str) -> ModuleType:
    here = os.getcwd()  # noqa: PTH109  # as sys.path has it
    if not (sys.flags.safe_path or here in sys.path):
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if f"{name}.".startswith(f"{missing}."):
            part = "" if name == missing else f": {missing!r} is not there"
            too = f" (looked in {here}, too)" if here in sys.path else ""
            raise MisuseError(f"--table: there is no module {name!r}{part}{too}") from None
        raise _failed_import(name, error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001
        # Whatever the user's module raises, including sys.exit().
        raise _failed_import(name, error) from None


def _failed_import(name: str, error: BaseException) -> MisuseError:
    """Return an error that names the class of ``error`` and its place."""
    what = type(error).__name__
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    else:
        where, is_ours = place_of(error.__traceback__)
        # Our own checks name fields, and Python names modules; other messages may quote a secret.
        if isinstance(error, ImportError) or (
            is_ours and isinstance(error, (TypeError, ValueError))
        ):
            what = f"{what} ({error})"
    return MisuseError(f"--table: module {name!r} can't be imported: {what} at {where}")


def place_of(traceback: TracebackType | None) -> tuple[str, bool]:
    """Return the innermost line outside this package, and whether it called this package."""
    place, is_ours = "", False
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        is_ours = file.startswith(_OURS)
        if not (is_ours or file.startswith("<frozen")):
            place = f"{file}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place, is_ours


def _member(module: ModuleType, of: object, name: str, named: str) -> object:
    where = f"module {module.__name__!r}" if of is module else f"{_an(type(of))} in {named}"
    try:
        found: object = getattr(of, name)
    except AttributeError:
        raise MisuseError(
            f"--table: {where} has no attribute {name!r}{_tables_in(module)}"
        ) from None
    except Exception as error:  # noqa: BLE001  # whatever a user's __getattr__ raises
        what = type(error).__name__
        raise MisuseError(f"--table: attribute {name!r} of {where} raised {what}") from None
    return found


def _tables_in(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Table)]
    return f"; its tables are {', '.join(names)}" if names else ""


# Keys


def _array_in(text: str) -> Sequence[object]:
    try:
        values: list[object] = msgspec.json.decode(text, type=list[object])
    except (msgspec.DecodeError, UnicodeError):
        return (text,)
    return values


def _key_value(field: TableField, value: object) -> object:
    """Return the value of a field for ``value``, which is text or from JSON."""
    with suppress(msgspec.ValidationError):
        found: object = msgspec.convert(value, field.annotation, strict=not isinstance(value, str))
        if not isinstance(found, datetime) or found.tzinfo is not None:
            return found
    kind = _IN_WORDS.get(field.kind, f"a {field.kind}")
    if field.members is not None:
        kind = f"one of {', '.join(map(repr, field.members))}"
    raise MisuseError(f"the key's field {field.name!r} has to be {kind}")
