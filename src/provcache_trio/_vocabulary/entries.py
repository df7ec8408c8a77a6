"""Cache entries, each of which can be stored once it is constructed, and their key."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, TypeVar, cast

import msgspec
from msgspec.structs import force_setattr

from .checks import MOST, check_int, check_type

E = TypeVar("E")

_MAX_SEED_BYTES: Final = 64 * 1024
_MOST_TEXT: Final = 256
_MOST_VERSION: Final = 32
_MOST_TRUST: Final = 100

_HASH: Final = "sha256:[0-9a-f]{64}"
_is_hash: Final = re.compile(_HASH).fullmatch
# A hash contains no comma, so these match only if every part is a hash.
_are_two_hashes: Final = re.compile(f"{_HASH},{_HASH}").fullmatch
_are_three_hashes: Final = re.compile(f"{_HASH},{_HASH},{_HASH}").fullmatch
_ONLY_STR: Final = {str}
# A text in Postgres can't hold NUL, and UTF-8 can't encode a lone surrogate.
_find_unstorable: Final = re.compile(r"[\0\ud800-\udfff]").search
_find_control: Final = re.compile(r"[\0-\x1f\x7f-\x9f]").search


# gc=False: none of the structs below can be part of a cycle, and with thousands of them the
# collector would take longer than anything else in a step.
#
# Checking decoded entries is a large part of a relay's work. So each ``__post_init__`` first tests, in
# as few calls as possible, whether its values have the usual form. Only if they do not, it
# checks field by field, which accepts a few more values and names the wrong field.


class ReplaySeed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Names the inputs of a decision, so that it can be repeated.

    All ids together take at most 64 KiB in UTF-8.

    Raises:
        TypeError: a field is not a tuple of str, or an instance of a subclass of these.
        ValueError: an id is out of its range, or the ids take too much. As everywhere in
            this module, the message names the field and never quotes its content.

    Attributes:
        feed_ids: ids of the feeds, each 1 to 256 characters, without NUL or lone surrogate.
        rule_ids: ids of the rules, likewise.
    """

    feed_ids: tuple[str, ...] = ()
    rule_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field; msgspec itself checks types only when it decodes."""
        feed_ids, rule_ids = self.feed_ids, self.rule_ids
        if type(feed_ids) is type(rule_ids) is tuple:
            ids = feed_ids + rule_ids
            if {*map(type, ids)} <= _ONLY_STR and "" not in ids:
                text = "".join(ids)
                if len(text) <= _MOST_TEXT and text.isascii() and "\0" not in text:
                    return
        _check_ids("feed_ids", feed_ids)
        _check_ids("rule_ids", rule_ids)
        if len("".join(self.feed_ids + self.rule_ids).encode()) > _MAX_SEED_BYTES:
            raise ValueError("feed_ids and rule_ids must together take at most 64 KiB in UTF-8")


class DecisionDigest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Describes a decision by hashes.

    Raises:
        TypeError: a field has the wrong type (a subclass of the right one included).
        ValueError: a field is out of its range.

    Attributes:
        digest_version: version of the digest's form, 1 to 32 characters, without NUL or
            lone surrogate.
        verdict_hash: hash of the verdict: ``sha256:`` and 64 lower-case hex digits.
        proof_root: root of the proof's hash tree, in the same form.
        replay_seed: which inputs the decision was made from.
        trust_score: 0 to 100.
    """

    digest_version: str = "v1"
    verdict_hash: str
    proof_root: str
    replay_seed: ReplaySeed
    trust_score: int

    def __post_init__(self) -> None:
        """Check every field; msgspec itself checks types only when it decodes."""
        version, verdict, proof = self.digest_version, self.verdict_hash, self.proof_root
        if (
            type(version) is type(verdict) is type(proof) is str
            and 1 <= len(version) <= _MOST_VERSION
            and version.isascii()
            and "\0" not in version
            and _are_two_hashes(f"{verdict},{proof}")
            and type(self.replay_seed) is ReplaySeed
            and type(self.trust_score) is int
            and 0 <= self.trust_score <= _MOST_TRUST
        ):
            return
        _check_text("digest_version", self.digest_version, at_most=_MOST_VERSION)
        _check_hash("verdict_hash", self.verdict_hash)
        _check_hash("proof_root", self.proof_root)
        check_type("replay_seed", self.replay_seed, ReplaySeed)
        check_int("trust_score", self.trust_score, at_least=0, at_most=_MOST_TRUST)


class ProvcacheEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A cached decision about a software artifact.

    An entry that can be constructed can be stored. Datetimes may come in any time zone;
    they are kept in UTC, exact to the microsecond, from year 1 to 9999.

    Raises:
        TypeError: a field has the wrong type (a subclass of the right one included).
        ValueError: a field is out of its range, or a datetime is naive.

    Attributes:
        veri_key: the key, as ``build_veri_key`` makes it: ``sha256:`` and 64 lower-case hex
            digits.
        decision: what was decided.
        policy_hash: hash of the policy that was applied, in the form of ``veri_key``.
        signer_set_hash: hash of the set of trusted signers, in the form of ``veri_key``.
        feed_epoch: state of the feeds, 1 to 256 characters, without NUL or lone surrogate.
        created_at: when the decision was made; of two versions of one key, the payload of
            the newer is kept, so one dated in the future wins until then.
        expires_at: when the entry expires; after ``created_at``.
        hit_count: how often the entry was used, 0 to 2**63 - 1.
        last_accessed_at: when the entry was last used, or None.
    """

    veri_key: str
    decision: DecisionDigest
    policy_hash: str
    signer_set_hash: str
    feed_epoch: str
    created_at: datetime
    expires_at: datetime
    hit_count: int = 0
    last_accessed_at: datetime | None = None

    def __post_init__(self) -> None:
        """Check every field; msgspec itself checks types only when it decodes."""
        key, policy, signers, epoch = (
            self.veri_key,
            self.policy_hash,
            self.signer_set_hash,
            self.feed_epoch,
        )
        created, expires, accessed = self.created_at, self.expires_at, self.last_accessed_at
        if (
            type(key) is type(policy) is type(signers) is type(epoch) is str
            and 1 <= len(epoch) <= _MOST_TEXT
            and epoch.isascii()
            and "\0" not in epoch
            and _are_three_hashes(f"{key},{policy},{signers}")
            and type(self.decision) is DecisionDigest
            and type(created) is type(expires) is datetime
            and created.tzinfo is expires.tzinfo is UTC
            and created < expires
            and type(self.hit_count) is int
            and 0 <= self.hit_count <= MOST
            and (accessed is None or (type(accessed) is datetime and accessed.tzinfo is UTC))
        ):
            return
        _check_hash("veri_key", self.veri_key)
        check_type("decision", self.decision, DecisionDigest)
        _check_hash("policy_hash", self.policy_hash)
        _check_hash("signer_set_hash", self.signer_set_hash)
        _check_text("feed_epoch", self.feed_epoch, at_most=_MOST_TEXT)
        _put_in_utc(self, "created_at", self.created_at)
        _put_in_utc(self, "expires_at", self.expires_at)
        if self.expires_at <= self.created_at:
            raise ValueError("expires_at must be after created_at, both to the microsecond")
        check_int("hit_count", self.hit_count, at_least=0)
        if self.last_accessed_at is not None:
            _put_in_utc(self, "last_accessed_at", self.last_accessed_at)


def merge_entries(old: ProvcacheEntry, new: ProvcacheEntry) -> ProvcacheEntry:
    """Merge two versions of one key, by the rule that memory and stores share.

    The larger ``hit_count`` and the later ``last_accessed_at`` (None is earliest) are kept;
    every other field is that of the version with the newer ``created_at``.

    Args:
        old: the version that arrived first.
        new: the version that arrived later; it wins if both were created at once.

    Returns:
        One of the two objects, if it already is the result; else a new entry.

    Raises:
        ValueError: the two have different keys.
    """
    if old.veri_key != new.veri_key:
        raise ValueError("old and new must have the same veri_key")
    winner, loser = (new, old) if new.created_at >= old.created_at else (old, new)
    hit_count = max(winner.hit_count, loser.hit_count)
    accessed, other = winner.last_accessed_at, loser.last_accessed_at
    if accessed is None or (other is not None and other > accessed):
        accessed = other
    if hit_count == winner.hit_count and accessed is winner.last_accessed_at:
        return winner
    # Both were checked already, and ``structs.replace`` would check again.
    merged = copy.copy(winner)
    force_setattr(merged, "hit_count", hit_count)
    force_setattr(merged, "last_accessed_at", accessed)
    return merged


def merge_or_replace(old: E, new: E) -> E:
    """Merge two versions of one key by the default rule.

    For types other than ``ProvcacheEntry``, return the newer version.
    """
    if isinstance(old, ProvcacheEntry) and isinstance(new, ProvcacheEntry):
        return cast("E", merge_entries(old, new))
    return new


def build_veri_key(
    *,
    source_hash: str,
    sbom_hash: str,
    vex_hashes: Iterable[str],
    policy_hash: str,
    signer_set_hash: str,
    time_window: str,
) -> str:
    """Return a key made of every input of a decision.

    Hashes have the form ``sha256:`` and 64 lower-case hex digits.

    Args:
        source_hash: hash of the artifact.
        sbom_hash: hash of its bill of materials.
        vex_hashes: hashes of the VEX documents, none or more; neither their order nor
            repetitions matter.
        policy_hash: hash of the policy.
        signer_set_hash: hash of the set of trusted signers.
        time_window: the period in which the decision is valid, such as ``2026-W48``: 1 to 256
            characters without control characters or lone surrogates.

    Returns:
        ``sha256:`` and 64 lower-case hex digits.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has the wrong form.
    """
    _check_hash("source_hash", source_hash)
    _check_hash("sbom_hash", sbom_hash)
    vex = _read_hashes("vex_hashes", vex_hashes)
    _check_hash("policy_hash", policy_hash)
    _check_hash("signer_set_hash", signer_set_hash)
    _check_text("time_window", time_window, at_most=_MOST_TEXT)
    # A line feed could forge another line.
    if _find_control(time_window):
        raise ValueError("time_window must not hold control characters")
    lines = (
        "provcache/verikey/v1\n"
        f"source={source_hash}\n"
        f"sbom={sbom_hash}\n"
        f"vex={','.join(sorted(vex))}\n"
        f"policy={policy_hash}\n"
        f"signers={signer_set_hash}\n"
        f"window={time_window}\n"
    )
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


# The annotations show how to call these functions; the checks catch those who do not.


def _check_hash(field: str, value: str) -> None:
    check_type(field, value, str)
    if not _is_hash(value):
        raise ValueError(f"{field} must be 'sha256:' and 64 lower-case hex digits")


def _check_text(field: str, value: str, *, at_most: int) -> None:
    check_type(field, value, str)
    if not 1 <= len(value) <= at_most or _find_unstorable(value):
        raise ValueError(
            f"{field} must be 1 to {at_most} characters without NUL or lone surrogates"
        )


def _check_ids(field: str, ids: tuple[str, ...]) -> None:
    check_type(field, ids, tuple)
    each = f"each of {field}"
    for value in ids:
        _check_text(each, value, at_most=_MOST_TEXT)


def _read_hashes(field: str, values: object) -> set[str]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{field} must be an iterable of str, not {type(values).__name__}")
    hashes: set[str] = set()
    each = f"each of {field}"
    for value in cast("Iterable[str]", values):
        _check_hash(each, value)
        hashes.add(value)
    return hashes


def _put_in_utc(entry: ProvcacheEntry, field: str, value: datetime) -> None:
    check_type(field, value, datetime)
    if value.tzinfo is UTC:
        return
    try:
        offset = value.utcoffset()
    except Exception:  # noqa: BLE001  # whatever a user's tzinfo raised
        raise ValueError(f"{field} must have a tzinfo that tells its UTC offset") from None
    if offset is None:
        raise ValueError(f"{field} must be an aware datetime, not a naive one")
    try:
        in_utc = value.replace(tzinfo=UTC) - offset
    except OverflowError:
        raise ValueError(f"{field} must be from year 1 to 9999 in UTC") from None
    force_setattr(entry, field, in_utc)
