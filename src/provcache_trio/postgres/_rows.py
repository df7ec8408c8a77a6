"""How ``ProvcacheEntry``, the first of all tables, is stored in PostgreSQL."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, cast

from provcache_trio._vocabulary.checks import check_moment
from provcache_trio._vocabulary.columns import COLUMNS, HASHES, blobs_of, condition_of, entry_of
from provcache_trio._vocabulary.entries import ProvcacheEntry, merge_entries
from provcache_trio._vocabulary.errors import EntryRejectedError, unfit

from ._codecs import in_braces, in_brackets, listed
from ._plan import Comparison, Plan
from ._statements import Argument, StoredColumn, statements_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import PostgresError

    from ._statements import ColumnRule

# The server quotes at most 64 characters of each value of a row, of which "\\x" is two.
_FIRST_VALUE: Final = re.compile(r"\(\\x([0-9a-f]{62})(?:\.\.\.|[0-9a-f]{2})[,)]").search
_OTHER_COLUMN: Final = re.compile(r"\((?!veri_key\))[^()]*\)=\(").search

_HASH_BYTES: Final = 32
_ROW_OF_HASHES: Final = _HASH_BYTES * len(HASHES)
_RULES: Final[dict[str, ColumnRule]] = {
    "veri_key": "key",
    "created_at": "newer",
    "hit_count": "greatest",
    "last_accessed_at": "greatest",
}


def _column(name: str) -> StoredColumn:
    return StoredColumn(
        name=name, rule=_RULES.get(name, "newest"), may_be_null=name == "last_accessed_at"
    )


def _texts(values: Sequence[str]) -> bytes:
    # Raises TypeError unless all are str; JSON would convert other types.
    "".join(values)
    return listed(values)


def _hash_of(number: int) -> str:
    first = _ROW_OF_HASHES - _HASH_BYTES * number - 1
    return f"substring({{}}::bytea FROM (place * {_ROW_OF_HASHES} - {first})::int FOR 32)"


def _blob(values: Sequence[str]) -> bytes:
    """Return the bytes of the hashes, five for each entry."""
    blob = bytes.fromhex("".join(values))
    if len(blob) != len(values) * _HASH_BYTES:
        raise ValueError("a hash must have 64 digits")
    return blob


def _only(pieces: Sequence[Any]) -> object:
    (piece,) = pieces
    return piece


def _array(name: str, of: str) -> Argument:
    return Argument(((name, "{row}"),), f"unnest({{}}::text::{of}[])", listed, in_braces)


def _text(name: str) -> Argument:
    return Argument(((name, "{row}"),), "jsonb_array_elements_text({}::jsonb)", _texts, in_brackets)


_SENT: Final = (
    Argument(
        tuple((name, _hash_of(number)) for number, name in enumerate(HASHES)),
        None,
        _blob,
        b"".join,
    ),
    _text("digest_version"),
    _text("feed_epoch"),
    Argument((("replay_seed", "{row}"),), "jsonb_array_elements({}::jsonb)", listed, in_brackets),
    _array("trust_score", "int2"),
    _array("created_at", "timestamptz"),
    _array("expires_at", "timestamptz"),
    _array("hit_count", "int8"),
    _array("last_accessed_at", "timestamptz"),
)
_KEYS: Final = (Argument((("veri_key", "{row}"),), "unnest({}::bytea[])", list, _only),)


def entries_plan(target: str) -> Plan[ProvcacheEntry]:
    """Return the plan for the table ``target``, whose name is quoted."""
    columns = tuple(map(_column, COLUMNS))
    return Plan(
        target=target,
        columns=columns,
        sent=_SENT,
        sent_keys=_KEYS,
        statements=statements_of(target, columns, _SENT, _KEYS, "expires_at"),
        key=attrgetter("veri_key"),
        merge=merge_entries,
        refusal=_refusal,
        split=_split,
        split_keys=lambda keys: ([*blobs_of(keys).values()],),
        entry_of=lambda row: entry_of(row, _as_it_is),
        index_of=_refused_index,
        fields_by_column={},
        comparison=_comparison,
        newer="created_at",
        report=_nothing_is_odd,
    )


def _split(entries: Sequence[ProvcacheEntry]) -> Sequence[Sequence[Any]]:
    if {*map(type, entries)} - {ProvcacheEntry}:
        # A subclass would lose fields.
        raise TypeError("there is an entry of another type")
    decisions = [entry.decision for entry in entries]
    hashes = [""] * (len(entries) * len(HASHES))
    hashes[0::5] = [entry.veri_key[7:] for entry in entries]
    hashes[1::5] = [decision.verdict_hash[7:] for decision in decisions]
    hashes[2::5] = [decision.proof_root[7:] for decision in decisions]
    hashes[3::5] = [entry.policy_hash[7:] for entry in entries]
    hashes[4::5] = [entry.signer_set_hash[7:] for entry in entries]
    return (
        hashes,
        [decision.digest_version for decision in decisions],
        [entry.feed_epoch for entry in entries],
        [decision.replay_seed for decision in decisions],
        [decision.trust_score for decision in decisions],
        [entry.created_at for entry in entries],
        [entry.expires_at for entry in entries],
        [entry.hit_count for entry in entries],
        [entry.last_accessed_at for entry in entries],
    )


def _nothing_is_odd() -> None:
    """Report nothing: the table is ours."""


def _as_it_is(moment: datetime) -> datetime:
    return moment


def _refusal(entry: ProvcacheEntry) -> EntryRejectedError | None:
    """Return the error for an entry that can't be sent, or None."""
    if type(entry) is not ProvcacheEntry:
        return unfit(f"an entry must be a ProvcacheEntry, not {type(entry).__name__}")
    try:
        entry.__post_init__()
        entry.decision.__post_init__()
        entry.decision.replay_seed.__post_init__()
    except (TypeError, ValueError) as error:
        name = type(error).__name__
        return unfit("an entry was changed after it was made", error_class=name)
    return None


def _refused_index(error: PostgresError, entries: Sequence[ProvcacheEntry]) -> int | None:
    """Return the index of the refused entry, if the error names it.

    The detail of an error about our table, or a partition of it with any name, quotes the row
    ("Failing row contains (...)") or the key ("Key (veri_key)=(...)"), in the server's language.
    The queue treats the index as a hint, so a wrong one, from a detail about another table, does no
    harm.
    """
    detail = error.detail if error.table_name else None
    if isinstance(detail, str) and _OTHER_COLUMN(detail):
        # The value may be the key of another entry.
        return None
    named = _FIRST_VALUE(detail) if isinstance(detail, str) else None
    if named is None:
        # The server could not read an argument.
        return next((index for index, one in enumerate(entries) if _refusal(one)), None)
    key = f"sha256:{named[1]}"
    refused = (index for index, one in enumerate(entries) if one.veri_key.startswith(key))
    return next(refused, None)


def _comparison(name: str) -> Comparison:
    if name == "created_at":
        return Comparison(name, "", _array(name, "timestamptz"), _created)
    sent = _text(name)
    if name in HASHES:
        sent = Argument(((name, "{row}"),), "unnest({}::bytea[])", list, _only)
    return Comparison(name, "", sent, partial(condition_of, name))


def _created(value: object) -> datetime:
    check_moment("before", value)
    return cast("datetime", value).astimezone(UTC)
