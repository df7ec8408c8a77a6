"""How a ``ProvcacheEntry`` is stored in SQLite: the table, the statements, and its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, cast

import msgspec

from provcache_trio._vocabulary.checks import check_moment
from provcache_trio._vocabulary.columns import (
    COLUMNS,
    PAYLOAD,
    blob_of,
    condition_of,
    entry_of,
    hashes_as_text,
    microseconds_of,
    moment_of,
)
from provcache_trio._vocabulary.entries import ProvcacheEntry
from provcache_trio._vocabulary.errors import unfit

from ._plan import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ._cells import Cell

Cells: TypeAlias = tuple[
    bytes, bytes, bytes, bytes, bytes, str, str, str, int, int, int, int, int | None
]

# "pvcs", by which file(1) and we recognize the file.
APPLICATION_ID: Final = 0x70766373
SCHEMA_VERSION: Final = 1

# A rowid table, as filling one WITHOUT ROWID takes 2.6 times as long with hashes as keys. Checks
# instead of STRICT, as SQLite before 3.37 can't even open a STRICT table. The index costs an upsert
# little, as most entries expire after the stored ones, and saves ``delete_expired`` reading every row.
_TABLE: Final = """
CREATE TABLE provcache_entries (
    veri_key BLOB NOT NULL PRIMARY KEY
        CHECK (typeof(veri_key) = 'blob' AND length(veri_key) = 32),
    verdict_hash BLOB NOT NULL CHECK (typeof(verdict_hash) = 'blob' AND length(verdict_hash) = 32),
    proof_root BLOB NOT NULL CHECK (typeof(proof_root) = 'blob' AND length(proof_root) = 32),
    policy_hash BLOB NOT NULL CHECK (typeof(policy_hash) = 'blob' AND length(policy_hash) = 32),
    signer_set_hash BLOB NOT NULL
        CHECK (typeof(signer_set_hash) = 'blob' AND length(signer_set_hash) = 32),
    digest_version TEXT NOT NULL CHECK (typeof(digest_version) = 'text'),
    feed_epoch TEXT NOT NULL CHECK (typeof(feed_epoch) = 'text'),
    replay_seed TEXT NOT NULL CHECK (typeof(replay_seed) = 'text'),  -- JSON
    trust_score INTEGER NOT NULL
        CHECK (typeof(trust_score) = 'integer' AND trust_score BETWEEN 0 AND 100),
    created_at INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),  -- microseconds
    expires_at INTEGER NOT NULL
        CHECK (typeof(expires_at) = 'integer' AND expires_at > created_at),
    hit_count INTEGER NOT NULL CHECK (typeof(hit_count) = 'integer' AND hit_count >= 0),
    last_accessed_at INTEGER CHECK (typeof(last_accessed_at) IN ('integer', 'null'))
)
"""
_INDEX: Final = "CREATE INDEX provcache_entries_by_expiry ON provcache_entries (expires_at)"


def _time_as_text(column: str) -> str:
    # The remainder is negative for years before 1970.
    fraction = f"(({column} % 1000000 + 1000000) % 1000000)"
    seconds = f"({column} - {fraction}) / 1000000"
    return (
        f"strftime('%Y-%m-%dT%H:%M:%S', {seconds}, 'unixepoch') || printf('.%06dZ', {fraction})"
        f" AS {column}"
    )


_VIEW: Final = f"""
CREATE VIEW provcache_readable AS SELECT
    {hashes_as_text("lower(hex({}))")},
    digest_version, feed_epoch, replay_seed, trust_score,
    {_time_as_text("created_at")},
    {_time_as_text("expires_at")},
    hit_count,
    {_time_as_text("last_accessed_at")}
FROM provcache_entries
"""  # noqa: S608  # made of names from here

SCHEMA: Final = (
    _TABLE,
    _INDEX,
    _VIEW,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

# The rule of ``merge_entries``. A row that would not change is not written.
_ARRIVED_NEWER: Final = "excluded.created_at >= created_at"
_ARRIVED: Final = [f"excluded.{column}" for column in PAYLOAD]
_WINNERS: Final = [
    f"{column} = CASE WHEN {_ARRIVED_NEWER} THEN excluded.{column} ELSE {column} END"
    for column in PAYLOAD
]
UPSERT: Final = f"""
INSERT INTO provcache_entries ({", ".join(COLUMNS)})
VALUES ({", ".join("?" * len(COLUMNS))})
ON CONFLICT (veri_key) DO UPDATE SET
    {", ".join(_WINNERS)},
    hit_count = max(hit_count, excluded.hit_count),
    last_accessed_at = max(
        ifnull(last_accessed_at, excluded.last_accessed_at),
        ifnull(excluded.last_accessed_at, last_accessed_at)
    )
WHERE {_ARRIVED_NEWER} AND ({", ".join(PAYLOAD)}) IS NOT ({", ".join(_ARRIVED)})
    OR excluded.hit_count > hit_count
    OR excluded.last_accessed_at > ifnull(last_accessed_at, excluded.last_accessed_at - 1)
"""  # noqa: S608  # made of names from here
_READ: Final = f"SELECT {', '.join(COLUMNS)} FROM provcache_entries"  # noqa: S608  # likewise
SELECT: Final = f"{_READ} WHERE veri_key = ?"
# It changes nothing, and fails where nothing can be written, which BEGIN IMMEDIATE does not.
PROBE: Final = "DELETE FROM provcache_entries WHERE false"
COUNT: Final = "SELECT count(*) FROM provcache_entries"
DELETE: Final = "DELETE FROM provcache_entries WHERE veri_key = ?"
DELETE_EXPIRED: Final = """
DELETE FROM provcache_entries WHERE rowid IN (
    SELECT rowid FROM provcache_entries WHERE expires_at <= ? ORDER BY expires_at LIMIT ?
)
"""


def delete_where(before: object, equals: Mapping[str, object]) -> tuple[str, list[Cell]]:
    """Return the statement that deletes entries, and its parameters except the last, the limit.

    Raises:
        TypeError: a value does not fit its field, or can't be compared.
        ValueError: entries can't be deleted by this field, or a value is malformed.
    """
    cells: list[Cell] = [condition_of(name, value) for name, value in equals.items()]
    conditions = [f"{name} = ?" for name in equals]
    if before is not None:
        check_moment("before", before)
        conditions.append("created_at < ?")
        cells.append(microseconds_of(cast("datetime", before)))
    statement = (
        "DELETE FROM provcache_entries WHERE rowid IN (\n"  # noqa: S608  # made of names from here
        f"    SELECT rowid FROM provcache_entries WHERE {' AND '.join(conditions)} LIMIT ?\n)"
    )
    return statement, cells


def cells_of(entry: ProvcacheEntry) -> Cells:
    """Return the cells of ``entry``.

    Raises:
        EntryRejectedError: it is not a ProvcacheEntry, so a queue continues without it.
    """
    if type(entry) is not ProvcacheEntry:
        # A subclass would lose fields.
        raise unfit(f"an entry must be a ProvcacheEntry, not {type(entry).__name__}")
    decision, accessed = entry.decision, entry.last_accessed_at
    return (
        blob_of(entry.veri_key),
        blob_of(decision.verdict_hash),
        blob_of(decision.proof_root),
        blob_of(entry.policy_hash),
        blob_of(entry.signer_set_hash),
        decision.digest_version,
        entry.feed_epoch,
        msgspec.json.encode(decision.replay_seed).decode(),
        decision.trust_score,
        microseconds_of(entry.created_at),
        microseconds_of(entry.expires_at),
        entry.hit_count,
        None if accessed is None else microseconds_of(accessed),
    )


ENTRIES: Final = Plan[ProvcacheEntry](
    upsert=UPSERT,
    select=SELECT,
    probe=PROBE,
    count=COUNT,
    delete=DELETE,
    delete_expired=DELETE_EXPIRED,
    cells_of=lambda entries: map(cells_of, entries),
    entry_of=lambda row: entry_of(row, moment_of),
    key_cells=lambda key: (blob_of(key),),
    moment_cell=microseconds_of,
)
