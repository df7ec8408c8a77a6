"""An entry out of a line of JSON."""

from __future__ import annotations

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
    except msgspec.DecodeError as error:  # names fields and kinds, like the structs' own checks
        raise BadLineError(_nameless(r"an unknown field\1", str(error))) from None
    except UnicodeDecodeError:
        raise BadLineError("not UTF-8") from None
    except RecursionError:
        raise BadLineError("nested too deeply") from None
    return entry
