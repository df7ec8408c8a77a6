"""How every database stores an entry: its columns, its hashes and its times."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from .entries import DecisionDigest, ProvcacheEntry, ReplaySeed
from .errors import StoreMisconfiguredError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HASHES: Final = ("veri_key", "verdict_hash", "proof_root", "policy_hash", "signer_set_hash")
# The columns taken from the version of a key that was created later.
PAYLOAD: Final = (
    *HASHES[1:],
    "digest_version",
    "feed_epoch",
    "replay_seed",
    "trust_score",
    "created_at",
    "expires_at",
)
# The fields by which ``delete_where`` of a built-in repository selects.
CONDITIONS: Final = ("policy_hash", "signer_set_hash", "feed_epoch")
COLUMNS: Final = ("veri_key", *PAYLOAD, "hit_count", "last_accessed_at")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_is_key: Final = re.compile(r"sha256:[0-9a-f]{64}").fullmatch


def blob_of(text: str) -> bytes:
    """Return the 32 bytes of a hash."""
    return bytes.fromhex(text[7:])


def text_of(blob: bytes) -> str:
    """Return the hash that consists of these bytes."""
    return f"sha256:{blob.hex()}"


def microseconds_of(moment: datetime) -> int:
    """Return the microseconds since 1970, exactly; a float would not hold them."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(microseconds: int) -> datetime:
    """Return the moment that many microseconds after 1970.

    Raises:
        OverflowError: the moment is before year 1 or after year 9999.
    """
    return _EPOCH + timedelta(microseconds=microseconds)


def hashes_as_text(as_hex: str) -> str:
    """Return the columns of hashes as a view shows them.

    Args:
        as_hex: how the database writes a blob in lower-case hex; the blob is at ``{}``.
    """
    return ",\n    ".join(f"'sha256:' || {as_hex.format(name)} AS {name}" for name in HASHES)


def entry_of(row: Sequence[Any], moment: Callable[[Any], datetime]) -> ProvcacheEntry:
    """Return the entry that ``row``, in the order of ``COLUMNS``, holds.

    Args:
        row: the cells as the database returns them; the replay seed is JSON.
        moment: converts the cell of a time column into a moment.

    Raises:
        StoreMisconfiguredError: the row was written by another program, and is not an entry.
    """
    key, verdict, proof, policy, signers = row[:5]
    version, epoch, seed, score, created, expires, hits, accessed = row[5:]
    try:
        return ProvcacheEntry(
            veri_key=text_of(key),
            decision=DecisionDigest(
                digest_version=version,
                verdict_hash=text_of(verdict),
                proof_root=text_of(proof),
                replay_seed=msgspec.json.decode(seed, type=ReplaySeed),
                trust_score=score,
            ),
            policy_hash=text_of(policy),
            signer_set_hash=text_of(signers),
            feed_epoch=epoch,
            created_at=moment(created),
            expires_at=moment(expires),
            hit_count=hits,
            last_accessed_at=None if accessed is None else moment(accessed),
        )
    # A hash may be NULL, and a time may be before year 1 or after year 9999.
    except (AttributeError, msgspec.MsgspecError, OverflowError, TypeError, ValueError):
        raise StoreMisconfiguredError(
            "a row of table entries is no ProvcacheEntry: something else has written it"
        ) from None


# Annotated as object: callers may give what their annotations do not allow.


def hash_blob(name: str, value: object) -> bytes:
    """Return the 32 bytes of an argument that is a hash.

    Raises:
        TypeError: it is not a str.
        ValueError: it does not have the form of a hash.
    """
    if type(value) is not str:
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not _is_key(value):
        raise ValueError(f"{name} must be 'sha256:' and 64 lower-case hex digits")
    return blob_of(value)


def condition_of(name: str, value: object) -> bytes | str:
    """Return the cell for ``value`` in a column by which entries may be deleted.

    Raises:
        TypeError: ``value`` is not a str.
        ValueError: entries can't be deleted by this field, or a hash is malformed.
    """
    if name not in CONDITIONS:
        raise ValueError(f"entries are deleted by {', '.join(CONDITIONS)}, not by {name!r}")
    if name in HASHES:
        return hash_blob(name, value)
    if type(value) is not str:
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return value


def blobs_of(keys: object) -> dict[str, bytes]:
    """Return the cell of each of ``keys``, an iterable of str, by key.

    Raises:
        TypeError: ``keys`` is not an iterable of str.
        ValueError: one of them does not have the form of a VeriKey.
    """
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        kind = "a single str" if isinstance(keys, str) else type(keys).__name__
        raise TypeError(f"keys must be an iterable of str, not {kind}")
    blobs: dict[str, bytes] = {}
    for key in cast("Iterable[object]", keys):
        blobs[cast("str", key)] = hash_blob("each of keys", key)
    return blobs
