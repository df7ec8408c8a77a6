"""An entry out of a line of JSON."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, Final

import msgspec

from provcache_trio import DecisionDigest, ProvcacheEntry, ReplaySeed
from provcache_trio._cli.input import LONGEST_LINE


class BadLineError(Exception):
    """A line is no entry; the message tells why, without any of its content."""


def _shape_of(struct: type[msgspec.Struct], **nested: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return what has the fields of ``struct``, with anything in them, and no others."""
    fields = [(name, nested.get(name, Any), None) for name in struct.__struct_fields__]
    return msgspec.defstruct(struct.__name__, fields, forbid_unknown_fields=True)


_seed: Final = _shape_of(ReplaySeed)
_digest: Final = _shape_of(DecisionDigest, replay_seed=_seed)
_check_shape: Final = msgspec.json.Decoder(_shape_of(ProvcacheEntry, decision=_digest)).decode
# The name of an unknown field is content, which may even look like a place.
_nameless: Final = re.compile(
    r"(?s)unknown field `.*?`( - at `\$\.decision(?:\.replay_seed)?`)?$"
).sub
_LEAP_SECOND: Final = "; a leap second, :60, can't be stored: write :59"
_has_leap_second: Final = re.compile(rb":60(\.\d+)?([Zz+-])").search
# How what is no lines of JSON in UTF-8 begins: what it is, and what makes lines of it.
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
_decode: Final = msgspec.json.Decoder(ProvcacheEntry).decode


def read_entry(line: bytes | None, *, strict: bool = False) -> ProvcacheEntry:
    """Return the entry that ``line`` holds.

    Args:
        line: JSON in UTF-8, or None: it was too long to be held.
        strict: whether it must not have a field that entries have not.

    Raises:
        BadLineError: it is no entry.
    """
    if line is None:
        raise BadLineError(f"longer than {LONGEST_LINE:,} bytes")
    try:
        entry = _decode(line)
        if strict:
            _check_shape(line)
            json.loads(line, object_pairs_hook=_once_each)
    except msgspec.DecodeError as error:  # names fields and kinds, like the structs' own checks
        leap = _LEAP_SECOND if "RFC3339" in str(error) and _has_leap_second(line) else ""
        raise BadLineError(_nameless(r"an unknown field\1", str(error)) + leap) from None
    except UnicodeDecodeError:
        raise BadLineError("not UTF-8") from None
    except RecursionError:
        raise BadLineError("nested too deeply") from None
    return entry


def _once_each(pairs: list[tuple[str, object]]) -> None:
    """Raise BadLineError if an object has a field twice: readers differ in which one they take."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            known = f"`{name}`" if name in _FIELDS else "an unknown field"
            raise BadLineError(f"Object contains {known} twice")


_FIELDS: Final = frozenset(
    name
    for struct in (ProvcacheEntry, DecisionDigest, ReplaySeed)
    for name in struct.__struct_fields__
)


def why_not_lines(beginning: bytes, label: str) -> str:
    """Return what an input is instead of lines of JSON, and what to do; empty if it may be those.

    Args:
        beginning: its first bytes.
        label: what to call it.
    """
    text = beginning.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
    for start, what, command in _OTHER_FORMS:
        if beginning.startswith(start) or text.startswith(start):
            return f"{label} is {what}, not one entry per line: {command} FILE | provcache ingest -"
    if _begins_over_lines(text):
        return f"{label} has entries over several lines: jq -c . FILE | provcache ingest -"
    return ""
