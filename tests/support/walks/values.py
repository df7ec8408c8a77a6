"""Entries, tables and options, which are checked when they are made."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from provcache_trio import (
    DecisionDigest,
    EntryRejectedError,
    ReplaySeed,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    Table,
    TransientStoreError,
    WriteBehindOptions,
    build_veri_key,
    merge_entries,
    store_error_of,
)

from . import SECRET, calls
from tests.support.entries import entry, key_of

WRONG: Any = 5
MISSPELT: Any = {"batchsize": 1}


class Visit(msgspec.Struct, frozen=True):
    """An entry of a user's own."""

    url: str
    visits: int = 0
    at: datetime | None = None
    tags: list[str] = msgspec.field(default_factory=list)


VISITS: Table[Visit] = Table(Visit, "visits", key="url")
DATED: Table[Visit] = Table(Visit, "visits", key="url", newer="at", expires="at")


def digest(**changes: Any) -> DecisionDigest:  # noqa: ANN401  # wrong on purpose
    seed = ReplaySeed()
    plain = {"verdict_hash": key_of(1), "proof_root": key_of(2), "replay_seed": seed}
    return DecisionDigest(**{"trust_score": 1, **plain, **changes})


def veri_key(**changes: Any) -> str:  # noqa: ANN401  # wrong on purpose
    hashes = {f"{name}_hash": key_of(name) for name in ("source", "sbom", "policy", "signer_set")}
    return build_veri_key(**{**hashes, "vex_hashes": (), "time_window": "2026", **changes})


def raised(error: Exception) -> None:
    raise error


calls("ProvcacheEntry", TypeError, "feed_epoch", lambda: entry(feed_epoch=WRONG))
calls("ProvcacheEntry", TypeError, "created_at", lambda: entry(created_at=SECRET))
calls("ProvcacheEntry", ValueError, "veri_key", lambda: entry(veri_key=SECRET))
calls("ProvcacheEntry", ValueError, "created_at", lambda: entry(created_at=datetime(2026, 1, 1)))  # noqa: DTZ001  # naive
calls("ProvcacheEntry", ValueError, "expires_at", lambda: entry(expires_at=entry().created_at))
calls("ProvcacheEntry", ValueError, "feed_epoch", lambda: entry(feed_epoch=""))
calls("DecisionDigest", TypeError, "trust_score", lambda: digest(trust_score=True))
calls("DecisionDigest", ValueError, "trust_score", lambda: digest(trust_score=101))
calls("DecisionDigest", ValueError, "proof_root", lambda: digest(proof_root=SECRET))
calls("ReplaySeed", TypeError, "feed_ids", lambda: ReplaySeed(feed_ids=WRONG))
calls("ReplaySeed", ValueError, "each of rule_ids", lambda: ReplaySeed(rule_ids=("x" * 300,)))
calls("ReplaySeed", ValueError, "64 KiB", lambda: ReplaySeed(feed_ids=("x" * 256,) * 300))
calls("build_veri_key", TypeError, "vex_hashes", lambda: veri_key(vex_hashes=WRONG))
calls("build_veri_key", ValueError, "sbom_hash", lambda: veri_key(sbom_hash=SECRET))
calls("build_veri_key", ValueError, "time_window", lambda: veri_key(time_window=f"{SECRET}\n"))
calls("merge_entries", ValueError, "veri_key", lambda: merge_entries(entry(1), entry(2)))

calls("WriteBehindOptions", TypeError, "batch_size", lambda: WriteBehindOptions(batch_size=True))
calls("WriteBehindOptions", TypeError, "batchsize", lambda: WriteBehindOptions(**MISSPELT))
calls("WriteBehindOptions", ValueError, "writers", lambda: WriteBehindOptions(writers=0))
calls(
    "WriteBehindOptions",
    ValueError,
    "retry_cap_seconds",
    lambda: WriteBehindOptions(retry_base_seconds=2, retry_cap_seconds=1),
)

calls("Table", TypeError, "entry_type", lambda: Table(WRONG, "t", key="id"))
calls("Table", TypeError, "key: field 'tags'", lambda: Table(Visit, "t", key="tags"))
calls("Table", TypeError, "newer: field 'tags'", lambda: Table(Visit, "t", key="url", newer="tags"))
calls("Table", TypeError, "expires", lambda: Table(Visit, "t", key="url", expires="visits"))
calls("Table", ValueError, "Visit has no field 'id'", lambda: Table(Visit, "t", key="id"))
calls("Table", ValueError, "name", lambda: Table(Visit, "", key="url"))
calls("Table", ValueError, "merge", lambda: Table(Visit, "t", key="url", merge={"visits": "sum"}))  # type: ignore[dict-item]  # the mistake
calls("Table", ValueError, "columns", lambda: Table(Visit, "t", key="url", columns={"hits": "h"}))
calls("Table.field", TypeError, "name", lambda: VISITS.field(WRONG))
calls("Table.field", ValueError, "Visit has no field 'hits'", lambda: VISITS.field("hits"))
calls("Table.merge", ValueError, "key", lambda: VISITS.merge(Visit("a"), Visit("b")))
calls(
    "Table.merge",
    TypeError,
    "at",
    lambda: DATED.merge(Visit("a", at=entry().created_at), Visit("a", at=WRONG)),
)

calls("store_error_of", TypeError, "sqlstate", lambda: store_error_of(WRONG))
calls("store_error_of", ValueError, "sqlstate", lambda: store_error_of(""))


def reported(kind: type[Exception], state: str) -> None:
    """Add what ``state`` comes to."""
    calls(
        "store_error_of",
        kind,
        state,
        lambda: raised(store_error_of(state, error_class="DriverError")),
    )


reported(StoreError, "99999")
reported(StoreUnavailableError, "53300")
reported(StoreMisconfiguredError, "42501")
reported(TransientStoreError, "40P01")
reported(EntryRejectedError, "23505")
