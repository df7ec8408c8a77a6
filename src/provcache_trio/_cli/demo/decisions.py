"""Makes a ``ProvcacheEntry`` under its VeriKey of a finding."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from provcache_trio import DecisionDigest, ProvcacheEntry, ReplaySeed, build_veri_key

from .wheels import Distribution, Finding, Outcome


def _sha256(text: str) -> str:
    # surrogateescape keeps the bytes of a file name that is not UTF-8.
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"


_POLICY_HASH: Final = _sha256("provcache demo policy v1: every file must match its RECORD")
# RECORD is not signed.
_NO_SIGNERS: Final = _sha256("")
_TRUST: Final = {Outcome.MATCH: 100, Outcome.UNLISTED: 50}


class Decision(msgspec.Struct, frozen=True):
    """An entry, and what it was made from."""

    distribution: Distribution
    finding: Finding
    entry: ProvcacheEntry


class Week(msgspec.Struct, frozen=True):
    """The time window of a run: an ISO week in UTC.

    Attributes:
        name: its name, such as ``2026-W48``.
        begin: its first instant.
        end: the first instant of the next one.
    """

    name: str
    begin: datetime
    end: datetime


def week_of(now: datetime) -> Week:
    """Return the week that holds ``now``, which is aware."""
    year, week, _ = now.astimezone(UTC).isocalendar()
    begin = datetime.fromisocalendar(year, week, 1).replace(tzinfo=UTC)
    return Week(f"{year}-W{week:02}", begin, begin + timedelta(days=7))


def make_entry(distribution: Distribution, finding: Finding, week: Week) -> ProvcacheEntry:
    """Return the entry for ``finding``, made only from the arguments.

    It is dated by its time window, not by the clock, so the same decision made twice in one week
    is the same entry, and the store has nothing to change.
    """
    content = finding.content_hash or finding.outcome
    label = distribution.label.encode(errors="replace").decode()
    record_hash = f"sha256:{distribution.record_hash}"
    # Path and listed hash are inputs of the decision, too. If the source were the content alone,
    # two files with the same bytes would share a key, though one may be listed with another hash,
    # and the later verdict would hide the other.
    source_hash = _sha256(f"{finding.line.path}\n{finding.line.listed}\n{content}\n")
    return ProvcacheEntry(
        veri_key=build_veri_key(
            source_hash=source_hash,
            sbom_hash=record_hash,
            vex_hashes=(),
            policy_hash=_POLICY_HASH,
            signer_set_hash=_NO_SIGNERS,
            time_window=week.name,
        ),
        decision=DecisionDigest(
            verdict_hash=_sha256(_canonical(distribution, finding)),
            proof_root=_sha256(f"{record_hash}\n{content}\n"),
            replay_seed=ReplaySeed(feed_ids=(f"RECORD:{label}",), rule_ids=("record-sha256",)),
            trust_score=_TRUST.get(finding.outcome, 0),
        ),
        policy_hash=_POLICY_HASH,
        signer_set_hash=_NO_SIGNERS,
        feed_epoch=week.name,
        created_at=week.begin,
        expires_at=week.end,
    )


def _canonical(distribution: Distribution, finding: Finding) -> str:
    facts = {
        "distribution": distribution.name,
        "expected": finding.line.listed,
        "found": finding.found,
        "path": finding.line.path,
        "verdict": finding.outcome,
        "version": distribution.version,
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))
