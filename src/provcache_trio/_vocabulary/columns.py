"""How hashes and times are stored by every database."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, cast

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_is_key: Final = re.compile(r"sha256:[0-9a-f]{64}").fullmatch


def blob_of(text: str) -> bytes:
    """Return the 32 bytes of a hash."""
    return bytes.fromhex(text[7:])


def text_of(blob: bytes) -> str:
    """Return the hash whose bytes these are."""
    return f"sha256:{blob.hex()}"


def microseconds_of(moment: datetime) -> int:
    """Return the microseconds since 1970, exactly; a float would not hold them."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(microseconds: int) -> datetime:
    """Return the moment that is so many microseconds after 1970.

    Raises:
        OverflowError: it is before year 1 or after year 9999.
    """
    return _EPOCH + timedelta(microseconds=microseconds)


# Annotated as object: callers may give what their annotations do not allow.


def blobs_of(keys: object) -> dict[str, bytes]:
    """Return what each of ``keys``, an iterable of str, is stored as; each key once.

    Raises:
        TypeError: ``keys`` is no iterable of str.
        ValueError: one of them does not have the form of a VeriKey.
    """
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise TypeError(f"keys must be an iterable of str, not {type(keys).__name__}")
    blobs: dict[str, bytes] = {}
    for key in cast("Iterable[object]", keys):
        if type(key) is not str:
            raise TypeError(f"each of keys must be a str, not {type(key).__name__}")
        if not _is_key(key):
            raise ValueError("each of keys must be 'sha256:' and 64 lower-case hex digits")
        blobs[key] = blob_of(key)
    return blobs
