"""Reads an entry from a line of JSON."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from provcache_trio import DecisionDigest, ProvcacheEntry, ReplaySeed
from provcache_trio._cli.entries import place_of
from provcache_trio._cli.input import LONGEST_LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provcache_trio import Table
    from provcache_trio._cli.entries import Entries


class BadLineError(Exception):
    """A line is not an entry; the message says why, without any of its content."""


def _shape_of(struct: type[msgspec.Struct], **nested: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return a struct with the fields of ``struct`` only, which may have any values."""
    fields = [(name, nested.get(name, Any), None) for name in struct.__struct_fields__]
    return msgspec.defstruct(struct.__name__, fields, forbid_unknown_fields=True)


_seed: Final = _shape_of(ReplaySeed)
_digest: Final = _shape_of(DecisionDigest, replay_seed=_seed)
_check_shape: Final = msgspec.json.Decoder(_shape_of(ProvcacheEntry, decision=_digest)).decode
# The name of an unknown field is content, and may even look like a place.
_nameless: Final = re.compile(
    r"(?s)unknown field `.*?`( - at `\$\.decision(?:\.replay_seed)?`)?$"
).sub
_LEAP_SECOND: Final = "; a leap second, :60, can't be stored: write :59"
_has_leap_second: Final = re.compile(rb":60(\.\d+)?([Zz+-])").search
# The first bytes of other inputs than lines of JSON in UTF-8, with their name and a remedy.
_OTHER_FORMS: Final = (
    (b"\x1f\x8b", "compressed by gzip", "zcat"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstdcat"),
    (b"BZh", "compressed by bzip2", "bzcat"),
    (b"\xfd7zXZ\x00", "compressed by xz", "xzcat"),
    (b"\xff\xfe", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"{\x00", "UTF-16", "iconv -f UTF-16LE -t UTF-8"),
    (b"\x00{", "UTF-16", "iconv -f UTF-16BE -t UTF-8"),
    (b"\x1e", "JSON with record separators", "tr -d '\\036' <"),
    (b"[", "one JSON array", "jq -c '.[]'"),
)
_begins_over_lines: Final = re.compile(rb"\{[ \t]*\r?\n").match
_FIELDS: Final = frozenset(
    name
    for struct in (ProvcacheEntry, DecisionDigest, ReplaySeed)
    for name in struct.__struct_fields__
)
# How msgspec begins a message about a value.
_NO_VALUE: Final = ("Invalid enum value", "Invalid value")
_fields_in: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def reader_of(entries: Entries) -> LineReader:
    """Return a reader of such entries."""
    return LineReader() if entries.table is None else TableLineReader(entries.table)


class LineReader:
    """Reads lines with a ``ProvcacheEntry`` each; ``TableLineReader`` is for other types."""

    fields: frozenset[str] = _FIELDS

    def __init__(self, entry_type: type = ProvcacheEntry) -> None:
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(entry_type).decode

    def read(self, line: bytes | None, *, strict: bool = False) -> Any:  # noqa: ANN401  # of that type
        """Return the entry in ``line``.

        Args:
            line: JSON in UTF-8, or None if the line was too long.
            strict: whether unknown fields are refused.

        Raises:
            BadLineError: it is not an entry.
        """
        if line is None:
            raise BadLineError(f"longer than {LONGEST_LINE:,} bytes")
        try:
            entry = self._decode(line)
            if strict:
                self.check_shape(line)
                json.loads(line, object_pairs_hook=self._once_each)
        except msgspec.DecodeError as error:
            leap = _LEAP_SECOND if "RFC3339" in str(error) and _has_leap_second(line) else ""
            raise BadLineError(self.reason_of(error) + leap) from None
        except UnicodeDecodeError:
            raise BadLineError("not UTF-8") from None
        except RecursionError:
            raise BadLineError("nested too deeply") from None
        return entry

    def check_shape(self, line: bytes) -> None:
        """Raise DecodeError or BadLineError if there is an unknown field."""
        _check_shape(line)

    def reason_of(self, error: msgspec.DecodeError) -> str:
        """Describe what is wrong, naming field and kind as the structs' own checks do."""
        return _nameless(r"an unknown field\1", str(error))

    def _once_each(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Raise if an object has a field twice, as readers differ in which one they use."""
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                known = f"`{name}`" if name in self.fields else "an unknown field"
                raise BadLineError(f"Object contains {known} twice")


class TableLineReader(LineReader):
    """Reads lines with an entry of a table each."""

    def __init__(self, table: Table[Any]) -> None:
        super().__init__(table.entry_type)
        known: Any = msgspec.inspect.type_info(table.entry_type)
        tag = getattr(known, "tag_field", None)
        self.fields = frozenset([*(field.encode_name for field in known.fields), tag or ""])

    def read(self, line: bytes | None, *, strict: bool = False) -> Any:  # noqa: ANN401  # of that type
        try:
            return super().read(line, strict=strict)
        except BadLineError:
            raise
        except Exception as error:  # noqa: BLE001
            # msgspec passes on other exceptions than TypeError and ValueError of a class's own checks.
            raise BadLineError(_refused_by_type(error)) from None

    def check_shape(self, line: bytes) -> None:
        """Raise BadLineError if the object has an unknown field; nested ones are not checked."""
        if _fields_in(line).keys() - self.fields:
            raise BadLineError("Object contains an unknown field")

    def reason_of(self, error: msgspec.DecodeError) -> str:
        """Describe what is wrong, without values, which msgspec and other checks may quote."""
        if error.__cause__ is not None:
            return _refused_by_type(error.__cause__)
        text = str(error)
        if text.startswith("Object contains unknown field"):
            return "Object contains an unknown field"
        if text.startswith(_NO_VALUE):
            # The value of a field must be one of several.
            return f"Invalid value - at {text.rpartition(' - at ')[2]}"
        return text


def _refused_by_type(error: BaseException) -> str:
    place, _ = place_of(error.__traceback__)
    return f"refused by its type: {type(error).__name__} at {place}"


def why_not_lines(beginning: bytes, label: str) -> str:
    """Return what an input is instead of lines of JSON, and what to do, or "".

    Args:
        beginning: its first bytes.
        label: its name in the message.
    """
    text = beginning.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
    for start, what, command in _OTHER_FORMS:
        if beginning.startswith(start) or text.startswith(start):
            return f"{label} is {what}, not one entry per line: {command} FILE | provcache ingest -"
    if _begins_over_lines(text):
        return f"{label} has entries over several lines: jq -c . FILE | provcache ingest -"
    return ""
