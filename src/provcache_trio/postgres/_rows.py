"""How an entry is stored in PostgreSQL: the statements, and what is sent for entries.

Statements name ``{schema}``, which stands for the quoted name of the schema.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from provcache_trio._vocabulary.columns import COLUMNS, HASHES, PAYLOAD
from provcache_trio._vocabulary.entries import ProvcacheEntry, merge_entries
from provcache_trio._vocabulary.errors import EntryRejectedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncpg import PostgresError

Slice: TypeAlias = tuple[bytes, ...]

# A row is quoted with at most 64 characters of each value, of which "\\x" is two.
_FIRST_VALUE: Final = re.compile(r"\(\\x([0-9a-f]{62})(?:\.\.\.|[0-9a-f]{2})[,)]").search
_OTHER_COLUMN: Final = re.compile(r"\((?!veri_key\))[^()]*\)=\(").search

# asyncpg encodes an array in half a microsecond an element, and all of them in one step: six
# milliseconds for 500 entries, in which the host's tasks stand still and the server waits. So
# arrays are packed here into few values, in a tenth of that. The server unpacks them in no
# more time than it takes to read arrays.
_HASH_BYTES: Final = 32
_ROW_OF_HASHES: Final = _HASH_BYTES * len(HASHES)
# How each other column is unpacked. JSON's way to write a number, a time or null is that of
# PostgreSQL, too; an array of them is in braces.
_UNPACKED: Final = {
    "digest_version": "jsonb_array_elements_text(${}::jsonb)",
    "feed_epoch": "jsonb_array_elements_text(${}::jsonb)",
    "replay_seed": "jsonb_array_elements(${}::jsonb)",
    "trust_score": "unnest(${}::text::int2[])",
    "created_at": "unnest(${}::text::timestamptz[])",
    "expires_at": "unnest(${}::text::timestamptz[])",
    "hit_count": "unnest(${}::text::int8[])",
    "last_accessed_at": "unnest(${}::text::timestamptz[])",
}
_BRACKETS: Final = tuple(
    b"[%b]" if how.startswith("json") else b"{%b}" for how in _UNPACKED.values()
)


def _hash(number: int, name: str) -> str:
    first = _ROW_OF_HASHES - _HASH_BYTES * number - 1
    return f"substring($1::bytea FROM (place * {_ROW_OF_HASHES} - {first})::int FOR 32) AS {name}"


def _list(columns: Iterable[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{column}" for column in columns)


_SENT: Final = f"""
    SELECT {", ".join(_hash(number, name) for number, name in enumerate(HASHES))},
        {_list(_UNPACKED)}
    FROM ROWS FROM (
        {", ".join(each.format(number) for number, each in enumerate(_UNPACKED.values(), 2))}
    ) WITH ORDINALITY AS packed ({_list(_UNPACKED)}, place)
    OFFSET 0
"""  # noqa: S608  # made of names from here
_WINNERS: Final = ", ".join(
    f"{column} = CASE WHEN excluded.created_at >= t.created_at"
    f" THEN excluded.{column} ELSE t.{column} END"
    for column in PAYLOAD
)


def _changes(new: str) -> str:
    """Return the condition that ``new``, merged with row ``t``, is not ``t``."""
    return f"""(
    {new}.created_at >= t.created_at
        AND ({_list(PAYLOAD, "t.")}) IS DISTINCT FROM ({_list(PAYLOAD, f"{new}.")})
    OR {new}.hit_count > t.hit_count
    OR {new}.last_accessed_at > t.last_accessed_at
    OR t.last_accessed_at IS NULL AND {new}.last_accessed_at IS NOT NULL
)"""


# The rule of ``merge_entries``. Keys are locked in their order, by every writer: none waits
# for another that waits for it.
def _upsert(arriving: str) -> str:
    return f"""
WITH arriving AS (
    {_SENT}
)
INSERT INTO {{schema}}.entries AS t ({_list(COLUMNS)})
SELECT {_list(COLUMNS, "a.")}
FROM arriving AS a {arriving}
ORDER BY a.veri_key
ON CONFLICT (veri_key) DO UPDATE SET
    {_WINNERS},
    hit_count = greatest(t.hit_count, excluded.hit_count),
    last_accessed_at = greatest(t.last_accessed_at, excluded.last_accessed_at)
WHERE {_changes("excluded")}
"""  # noqa: S608  # made of names from here


UPSERT: Final = _upsert("")
# Rows that would stay as they are, are left out first, since ON CONFLICT would lock them, and
# even that is written to the log. To look for them takes a fifth of the time of new ones.
UPSERT_CHANGES: Final = _upsert(f"""LEFT JOIN LATERAL (
    SELECT * FROM {{schema}}.entries AS e WHERE e.veri_key = a.veri_key OFFSET 0
) AS t ON true
WHERE t.veri_key IS NULL OR {_changes("a")}""")  # noqa: S608  # likewise
SELECT: Final = f"""
SELECT {_list(COLUMNS)} FROM {{schema}}.entries WHERE veri_key = ANY($1::bytea[])
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


def pack(entries: Sequence[ProvcacheEntry]) -> Slice:
    """Return what is sent for ``entries``, to be given to ``arguments_of``.

    Raises:
        TypeError, ValueError: an entry was changed after it was made. Not every change is
            found here; the server refuses the others.
    """
    decisions = [entry.decision for entry in entries]
    hashes = [""] * (len(entries) * len(HASHES))
    hashes[0::5] = [entry.veri_key[7:] for entry in entries]
    hashes[1::5] = [decision.verdict_hash[7:] for decision in decisions]
    hashes[2::5] = [decision.proof_root[7:] for decision in decisions]
    hashes[3::5] = [entry.policy_hash[7:] for entry in entries]
    hashes[4::5] = [entry.signer_set_hash[7:] for entry in entries]
    blob = bytes.fromhex("".join(hashes))
    if len(blob) != len(entries) * _ROW_OF_HASHES:
        raise ValueError("a hash must have 64 digits")
    return (
        blob,
        _listed(_texts([decision.digest_version for decision in decisions])),
        _listed(_texts([entry.feed_epoch for entry in entries])),
        _listed([decision.replay_seed for decision in decisions]),
        _listed([decision.trust_score for decision in decisions]),
        _listed([entry.created_at for entry in entries]),
        _listed([entry.expires_at for entry in entries]),
        _listed([entry.hit_count for entry in entries]),
        _listed([entry.last_accessed_at for entry in entries]),
    )


def _texts(values: list[str]) -> list[str]:
    "".join(values)  # raises TypeError if one is no str, of which JSON would make one
    return values


def _listed(values: list[Any]) -> bytes:
    return msgspec.json.encode(values)[1:-1]


def arguments_of(slices: Sequence[Slice]) -> tuple[bytes | str, ...]:
    """Return the arguments of both ``UPSERT`` for entries that were packed in slices."""
    blobs, *columns = zip(*slices, strict=True) if slices else ((), *((),) * len(_UNPACKED))
    return (
        b"".join(blobs),
        *(
            (brackets % b",".join(column)).decode()
            for brackets, column in zip(_BRACKETS, columns, strict=True)
        ),
    )


def refused_index(error: PostgresError, entries: Sequence[ProvcacheEntry]) -> int | None:
    """Return which of ``entries`` was refused, if that can be told.

    Its detail tells, if it is about our table or a partition of it, which may have any name:
    it quotes the row ("Failing row contains (...)") or the key ("Key (veri_key)=(...)"), in the
    server's language. The queue takes the index for a hint, so one that is wrong, because the
    detail is about somebody else's table, does no harm.
    """
    detail = error.detail if error.table_name else None
    if isinstance(detail, str) and _OTHER_COLUMN(detail):
        return None  # its value may be the key of another entry
    named = _FIRST_VALUE(detail) if isinstance(detail, str) else None
    if named is None:
        return unsound_index(entries)  # the server could not read what was sent
    key = f"sha256:{named[1]}"
    refused = (index for index, one in enumerate(entries) if one.veri_key.startswith(key))
    return next(refused, None)


def unsound_index(entries: Sequence[ProvcacheEntry]) -> int | None:
    """Return the first of ``entries`` that was changed after it was made, if one was."""
    return next((index for index, one in enumerate(entries) if not _is_sound(one)), None)


def _is_sound(entry: ProvcacheEntry) -> bool:
    try:
        entry.__post_init__()
        entry.decision.__post_init__()
        entry.decision.replay_seed.__post_init__()
    except (TypeError, ValueError):
        return False
    return True
