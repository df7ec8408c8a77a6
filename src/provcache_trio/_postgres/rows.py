"""How an entry is stored in PostgreSQL: the statements, and rows in both directions.

Statements name ``{schema}``, which stands for the quoted name of the schema.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from provcache_trio._entries import DecisionDigest, ProvcacheEntry, ReplaySeed, merge_entries
from provcache_trio._errors import EntryRejectedError, StoreMisconfiguredError
from provcache_trio._stored import blob_of, microseconds_of, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncpg import PostgresError

Columns: TypeAlias = tuple[list[object], ...]

# A row is quoted with at most 64 characters of each value, of which "\\x" is two.
_FIRST_VALUE: Final = re.compile(r"\(\\x([0-9a-f]{62})(?:\.\.\.|[0-9a-f]{2})[,)]").search
_OTHER_COLUMN: Final = re.compile(r"\((?!veri_key\))[^()]*\)=\(").search

_PAYLOAD: Final = (
    "verdict_hash",
    "proof_root",
    "policy_hash",
    "signer_set_hash",
    "digest_version",
    "feed_epoch",
    "replay_seed",
    "trust_score",
    "created_at",
    "expires_at",
)
_COLUMNS: Final = ("veri_key", *_PAYLOAD, "hit_count", "last_accessed_at")
_TIMES: Final = frozenset({"created_at", "expires_at", "last_accessed_at"})
# What is sent for each column. Times are sent as microseconds since 1970.
_SENT: Final = {
    "digest_version": "text",
    "feed_epoch": "text",
    "replay_seed": "jsonb",
    "trust_score": "int2",
    **dict.fromkeys((*_TIMES, "hit_count"), "int8"),
}


def _arriving(column: str) -> str:
    if column not in _TIMES:
        return column
    # Seconds and microseconds apart: a product of int8 and interval is rounded to 53 bits.
    return (
        f"timestamptz 'epoch' + {column} / 1000000 * interval '1 s'"
        f" + {column} % 1000000 * interval '1 us' AS {column}"
    )


def _list(columns: Iterable[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{column}" for column in columns)


_ARRAYS: Final = ", ".join(
    f"${number}::{_SENT.get(column, 'bytea')}[]" for number, column in enumerate(_COLUMNS, 1)
)
_WINNERS: Final = ", ".join(
    f"{column} = CASE WHEN excluded.created_at >= t.created_at"
    f" THEN excluded.{column} ELSE t.{column} END"
    for column in _PAYLOAD
)


def _changes(new: str) -> str:
    """Return the condition that ``new``, merged with row ``t``, is not ``t``."""
    return f"""(
    {new}.created_at >= t.created_at
        AND ({_list(_PAYLOAD, "t.")}) IS DISTINCT FROM ({_list(_PAYLOAD, f"{new}.")})
    OR {new}.hit_count > t.hit_count
    OR {new}.last_accessed_at > t.last_accessed_at
    OR t.last_accessed_at IS NULL AND {new}.last_accessed_at IS NOT NULL
)"""


# The rule of ``merge_entries``. Keys are locked in their order, by every writer: none waits
# for another that waits for it. Rows that would stay as they are, are left out first, since
# ON CONFLICT would lock them, and even that is written to the log.
UPSERT: Final = f"""
WITH arriving AS (
    SELECT {", ".join(map(_arriving, _COLUMNS))}
    FROM unnest({_ARRAYS}) AS sent ({_list(_COLUMNS)})
)
INSERT INTO {{schema}}.entries AS t ({_list(_COLUMNS)})
SELECT {_list(_COLUMNS, "a.")}
FROM arriving AS a LEFT JOIN LATERAL (
    SELECT * FROM {{schema}}.entries AS e WHERE e.veri_key = a.veri_key OFFSET 0
) AS t ON true
WHERE t.veri_key IS NULL OR {_changes("a")}
ORDER BY a.veri_key
ON CONFLICT (veri_key) DO UPDATE SET
    {_WINNERS},
    hit_count = greatest(t.hit_count, excluded.hit_count),
    last_accessed_at = greatest(t.last_accessed_at, excluded.last_accessed_at)
WHERE {_changes("excluded")}
"""  # noqa: S608  # made of names from here
SELECT: Final = f"""
SELECT {_list(_COLUMNS)} FROM {{schema}}.entries WHERE veri_key = ANY($1::bytea[])
"""  # noqa: S608  # likewise
COUNT: Final = "SELECT count(*) FROM {schema}.entries"
# An array, not a join: a plan that was made for a small table is kept while it grows.
DELETE: Final = """
WITH doomed AS (
    SELECT veri_key FROM {schema}.entries WHERE veri_key = ANY($1::bytea[])
    ORDER BY veri_key FOR UPDATE
)
DELETE FROM {schema}.entries WHERE veri_key = ANY(ARRAY(SELECT veri_key FROM doomed))
"""
# Rows that are being written are left for the next time: to wait for them while holding
# others, which are in the order of their expiry, could end in a deadlock.
DELETE_EXPIRED: Final = """
WITH doomed AS (
    SELECT veri_key FROM {schema}.entries
    WHERE expires_at <= timestamptz 'epoch'
        + $1::int8 / 1000000 * interval '1 s' + $1::int8 % 1000000 * interval '1 us'
    ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
DELETE FROM {schema}.entries WHERE veri_key = ANY(ARRAY(SELECT veri_key FROM doomed))
"""
# Written to the log, so that COMMIT waits for standbys, if it waits for any.
COMMIT_IN_LOG: Final = "SELECT pg_logical_emit_message(true, 'provcache_trio', '')"


def check_entries(entries: Sequence[ProvcacheEntry]) -> None:
    """Return if each of ``entries`` is a ``ProvcacheEntry``; of a subclass, fields would be lost.

    Raises:
        EntryRejectedError: one is not; ``index`` tells which.
    """
    for index, entry in enumerate(entries):
        if type(entry) is not ProvcacheEntry:
            kind = type(entry).__name__
            raise EntryRejectedError(f"an entry must be a ProvcacheEntry, not {kind}", index=index)


def once_each(entries: Sequence[ProvcacheEntry]) -> Sequence[ProvcacheEntry]:
    """Return ``entries`` with the versions of a key merged: a statement takes a key once."""
    if len({entry.veri_key for entry in entries}) == len(entries):
        return entries
    merged: dict[str, ProvcacheEntry] = {}
    for entry in entries:
        old = merged.get(entry.veri_key)
        merged[entry.veri_key] = entry if old is None else merge_entries(old, entry)
    return tuple(merged.values())


def columns_of(entries: Sequence[ProvcacheEntry]) -> Columns:
    """Return what is sent for ``entries``: a list for each column."""
    decisions = [entry.decision for entry in entries]
    return (
        [blob_of(entry.veri_key) for entry in entries],
        [blob_of(decision.verdict_hash) for decision in decisions],
        [blob_of(decision.proof_root) for decision in decisions],
        [blob_of(entry.policy_hash) for entry in entries],
        [blob_of(entry.signer_set_hash) for entry in entries],
        [decision.digest_version for decision in decisions],
        [entry.feed_epoch for entry in entries],
        [msgspec.json.encode(decision.replay_seed).decode() for decision in decisions],
        [decision.trust_score for decision in decisions],
        [microseconds_of(entry.created_at) for entry in entries],
        [microseconds_of(entry.expires_at) for entry in entries],
        [entry.hit_count for entry in entries],
        [
            None if (accessed := entry.last_accessed_at) is None else microseconds_of(accessed)
            for entry in entries
        ],
    )


def refused_index(error: PostgresError, entries: Sequence[ProvcacheEntry]) -> int | None:
    """Return which of ``entries`` was refused, if that can be told.

    Its detail tells, if it is about our table: it quotes the row ("Failing row contains
    (...)") or the key ("Key (veri_key)=(...)"), in the server's language.
    """
    detail = error.detail if error.table_name == "entries" else None
    if isinstance(detail, str) and _OTHER_COLUMN(detail):
        return None  # its value may be the key of another entry
    named = _FIRST_VALUE(detail) if isinstance(detail, str) else None
    if named is None:
        # asyncpg, or the server when it reads what was sent, refuses what is no value of a
        # column. Then an entry was changed after it was made.
        refused = (index for index, one in enumerate(entries) if not _is_sound(one))
    else:
        key = f"sha256:{named[1]}"
        refused = (index for index, one in enumerate(entries) if one.veri_key.startswith(key))
    return next(refused, None)


def _is_sound(entry: ProvcacheEntry) -> bool:
    try:
        entry.__post_init__()
        entry.decision.__post_init__()
        entry.decision.replay_seed.__post_init__()
    except (TypeError, ValueError):
        return False
    return True


def entry_of(row: Sequence[Any]) -> ProvcacheEntry:
    """Return the entry that ``row`` was stored for.

    Raises:
        StoreMisconfiguredError: somebody else wrote the row, and it is no entry.
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
            created_at=created,
            expires_at=expires,
            hit_count=hits,
            last_accessed_at=accessed,
        )
    except (msgspec.MsgspecError, TypeError, ValueError):
        raise StoreMisconfiguredError("a stored row is not an entry") from None
