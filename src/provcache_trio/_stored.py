"""How hashes and times are stored by every database, and arguments that all of them check."""

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


def check_moment(now: object) -> None:
    """Return if ``now`` is an aware datetime.

    Raises:
        TypeError: it is no datetime.
        ValueError: it is naive.
    """
    if not isinstance(now, datetime):
        raise TypeError(f"now must be a datetime, not {type(now).__name__}")
    if now.utcoffset() is None:
        raise ValueError("now must be an aware datetime, not a naive one")


def check_limit(limit: object) -> None:
    """Return if ``limit`` is 1 to 2**63 - 1.

    Raises:
        TypeError: it is no int.
        ValueError: it is out of that range.
    """
    if type(limit) is not int:
        raise TypeError(f"limit must be an int, not {type(limit).__name__}")
    if not 1 <= limit < 2**63:
        raise ValueError("limit must be 1 to 2**63 - 1")


def check_bool(name: str, value: object) -> None:
    """Return if ``value``, the argument ``name``, is a bool.

    Raises:
        TypeError: it is not.
    """
    if type(value) is not bool:
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
