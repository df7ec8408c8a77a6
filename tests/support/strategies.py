"""Hypothesis strategies for entries: everything that can be constructed, and its edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from provcache_trio import DecisionDigest, ProvcacheEntry, ReplaySeed

MOST_HITS = 2**63 - 1
FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STORABLE = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


def texts(at_most: int) -> st.SearchStrategy[str]:
    """Return text as entries take it: short, or as long as it may be."""
    longest = st.sampled_from(["a", "\U0010ffff"]).map(lambda character: character * at_most)
    return st.text(_STORABLE, min_size=1, max_size=5) | longest


def hashes() -> st.SearchStrategy[str]:
    """Return hashes, few of them often, so that some are equal."""
    digests = st.sampled_from([bytes(32), b"\xff" * 32]) | st.binary(min_size=32, max_size=32)
    return digests.map(lambda digest: f"sha256:{digest.hex()}")


def moments(earliest: datetime = FIRST, latest: datetime = LAST) -> st.SearchStrategy[datetime]:
    """Return aware datetimes, ``earliest`` to ``latest`` (both in UTC), in some time zone."""
    return st.builds(
        _in_zone,
        st.datetimes(earliest.replace(tzinfo=None), latest.replace(tzinfo=None)),
        st.integers(-24 * 60 + 1, 24 * 60 - 1),
    )


def _in_zone(naive: datetime, minutes: int) -> datetime:
    moment = naive.replace(tzinfo=UTC)
    # On the first and the last day there is, not every zone has a date for it.
    has_room = FIRST + timedelta(days=1) <= moment <= LAST - timedelta(days=1)
    return moment.astimezone(timezone(timedelta(minutes=minutes))) if has_room else moment


def replay_seeds() -> st.SearchStrategy[ReplaySeed]:
    """Return seeds, of none to a few ids."""
    ids = st.lists(texts(256), max_size=3).map(tuple)
    return st.builds(ReplaySeed, feed_ids=ids, rule_ids=ids)


def decision_digests() -> st.SearchStrategy[DecisionDigest]:
    """Return decision digests."""
    return st.builds(
        DecisionDigest,
        digest_version=texts(32),
        verdict_hash=hashes(),
        proof_root=hashes(),
        replay_seed=replay_seeds(),
        trust_score=st.integers(0, 100),
    )


@st.composite
def provcache_entries(
    draw: st.DrawFn,
    *,
    keys: st.SearchStrategy[str] | None = None,
    created: st.SearchStrategy[datetime] | None = None,
) -> ProvcacheEntry:
    """Return entries, with ``keys`` and ``created_at`` of the caller's choice.

    What ``created`` gives is before the last moment there is.
    """
    created_at = draw(moments(latest=LAST - _MICROSECOND) if created is None else created)
    return ProvcacheEntry(
        veri_key=draw(hashes() if keys is None else keys),
        decision=draw(decision_digests()),
        policy_hash=draw(hashes()),
        signer_set_hash=draw(hashes()),
        feed_epoch=draw(texts(256)),
        created_at=created_at,
        expires_at=draw(moments(earliest=created_at.astimezone(UTC) + _MICROSECOND)),
        hit_count=draw(st.sampled_from([0, 1, MOST_HITS]) | st.integers(0, MOST_HITS)),
        last_accessed_at=draw(st.none() | moments()),
    )


@st.composite
def versions(draw: st.DrawFn, *, at_most: int = 4) -> list[ProvcacheEntry]:
    """Return two or more versions of one key, close in time, so that rules meet."""
    start = draw(moments(earliest=FIRST + timedelta(days=1), latest=LAST - timedelta(days=1)))
    near = st.sampled_from([start, start + _MICROSECOND, start + timedelta(hours=1)])
    count = draw(st.integers(2, at_most))
    key = st.just(draw(hashes()))
    made = [draw(provcache_entries(keys=key, created=near)) for _ in range(count)]
    # The very same version again is common, too: after an unknown outcome it is retried.
    return [draw(st.sampled_from(made[: index + 1])) for index in range(count)]
