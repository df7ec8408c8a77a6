"""Entries: one that can be constructed can be stored; two versions merge by one rule."""

from __future__ import annotations

import copy
import hashlib
import itertools
import pickle
import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    ReplaySeed,
    build_veri_key,
    merge_entries,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "s3cr3t"  # noqa: S105  # what no message may quote
HASH = "sha256:" + "0123456789abcdef" * 4
NOW = datetime(2026, 11, 23, 12, 30, 15, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MOST_HITS = 2**63 - 1

SEED = ReplaySeed(feed_ids=("nvd", "osv"), rule_ids=("r1",))
DIGEST = DecisionDigest(verdict_hash=HASH, proof_root=HASH, replay_seed=SEED, trust_score=87)
VALID: dict[type[msgspec.Struct], dict[str, object]] = {
    ReplaySeed: msgspec.structs.asdict(SEED),
    DecisionDigest: msgspec.structs.asdict(DIGEST),
    ProvcacheEntry: {
        "veri_key": HASH,
        "decision": DIGEST,
        "policy_hash": HASH,
        "signer_set_hash": HASH,
        "feed_epoch": "2026-W48",
        "created_at": NOW,
        "expires_at": NOW + SECOND,
        "hit_count": 0,
        "last_accessed_at": None,
    },
}
# The types that each field takes, exactly.
TYPES: dict[tuple[type[msgspec.Struct], str], tuple[type, ...]] = {
    (ReplaySeed, "feed_ids"): (tuple,),
    (ReplaySeed, "rule_ids"): (tuple,),
    (DecisionDigest, "digest_version"): (str,),
    (DecisionDigest, "verdict_hash"): (str,),
    (DecisionDigest, "proof_root"): (str,),
    (DecisionDigest, "replay_seed"): (ReplaySeed,),
    (DecisionDigest, "trust_score"): (int,),
    (ProvcacheEntry, "veri_key"): (str,),
    (ProvcacheEntry, "decision"): (DecisionDigest,),
    (ProvcacheEntry, "policy_hash"): (str,),
    (ProvcacheEntry, "signer_set_hash"): (str,),
    (ProvcacheEntry, "feed_epoch"): (str,),
    (ProvcacheEntry, "created_at"): (datetime,),
    (ProvcacheEntry, "expires_at"): (datetime,),
    (ProvcacheEntry, "hit_count"): (int,),
    (ProvcacheEntry, "last_accessed_at"): (datetime, type(None)),
}
HASHES: list[tuple[type[msgspec.Struct], str]] = [
    (DecisionDigest, "verdict_hash"),
    (DecisionDigest, "proof_root"),
    (ProvcacheEntry, "veri_key"),
    (ProvcacheEntry, "policy_hash"),
    (ProvcacheEntry, "signer_set_hash"),
]
TEXTS: list[tuple[type[msgspec.Struct], str, int]] = [
    (DecisionDigest, "digest_version", 32),
    (ProvcacheEntry, "feed_epoch", 256),
]
INTS: list[tuple[type[msgspec.Struct], str, int]] = [
    (DecisionDigest, "trust_score", 100),
    (ProvcacheEntry, "hit_count", MOST_HITS),
]
MOMENTS = ["created_at", "expires_at", "last_accessed_at"]
IDS = ["feed_ids", "rule_ids"]


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Ids(tuple[str, ...]):
    __slots__ = ()


class Moment(datetime):
    pass


class Seed(ReplaySeed, frozen=True, kw_only=True):
    pass


class Digest(DecisionDigest, frozen=True, kw_only=True):
    pass


WRONG_KINDS: list[object] = [
    *(None, True, 7, Number(7), 0.5, 7.0, Decimal(7), 7j),
    *(HASH, Text(HASH), SECRET, Text(SECRET), SECRET.encode(), bytearray(SECRET, "utf-8")),
    *([SECRET], (SECRET,), {SECRET}, {SECRET: SECRET}, Ids([SECRET]), iter(SECRET)),
    *(NOW, Moment(2026, 1, 1, tzinfo=UTC), NOW.date(), date(2026, 1, 1), NOW.isoformat(), SECOND),
    *(SEED, Seed(feed_ids=(SECRET,)), DIGEST, Digest(**VALID[DecisionDigest])),  # type: ignore[arg-type]
    *(VALID[DecisionDigest], str, ProvcacheEntry),
]


def make(kind: type[msgspec.Struct], **changes: object) -> msgspec.Struct:
    return kind(**{**VALID[kind], **changes})


def entry(**changes: object) -> ProvcacheEntry:
    made = make(ProvcacheEntry, **changes)
    assert isinstance(made, ProvcacheEntry)
    return made


def refusal(error: type[Exception], kind: type[msgspec.Struct], field: str, value: object) -> str:
    with pytest.raises(error) as caught:
        make(kind, **{field: value})
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


hashes = st.binary(min_size=32, max_size=32).map(lambda digest: f"sha256:{digest.hex()}")
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=256
)
zones = st.timedeltas(timedelta(minutes=-1439), timedelta(minutes=1439)).map(timezone)
moments = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001  # hypothesis adds the zone
    datetime(9999, 12, 28),  # noqa: DTZ001
    timezones=zones | st.just(UTC),  # two days from either end, each has a year in UTC
)
seeds = st.builds(
    ReplaySeed,
    feed_ids=st.lists(texts, max_size=5).map(tuple),
    rule_ids=st.lists(texts, max_size=5).map(tuple),
)
digests = st.builds(
    DecisionDigest,
    digest_version=st.text("v.0123456789", min_size=1, max_size=32),
    verdict_hash=hashes,
    proof_root=hashes,
    replay_seed=seeds,
    trust_score=st.integers(0, 100),
)


@st.composite
def any_entries(draw: st.DrawFn) -> ProvcacheEntry:
    created, expires = draw(
        st.tuples(moments, moments).map(sorted).filter(lambda pair: pair[0] != pair[1])
    )
    return ProvcacheEntry(
        veri_key=draw(hashes),
        decision=draw(digests),
        policy_hash=draw(hashes),
        signer_set_hash=draw(hashes),
        feed_epoch=draw(texts),
        created_at=created,
        expires_at=expires,
        hit_count=draw(st.integers(0, MOST_HITS)),
        last_accessed_at=draw(st.none() | moments),
    )


# Few values for what the rule compares, so that ties are common.
versions = st.builds(
    entry,
    decision=st.just(DIGEST),
    feed_epoch=st.sampled_from(["a", "b", "c"]),
    created_at=st.sampled_from([NOW, NOW + SECOND, NOW + 2 * SECOND]),
    expires_at=st.just(NOW + 9 * SECOND),
    hit_count=st.integers(0, 2),
    last_accessed_at=st.none() | st.sampled_from([NOW, NOW + SECOND]),
)


# Types and values


def test_the_table_of_types_names_every_field() -> None:
    fields = [(kind, field) for kind in VALID for field in kind.__struct_fields__]
    assert sorted(TYPES, key=repr) == sorted(fields, key=repr)


@pytest.mark.parametrize(("kind", "field"), TYPES, ids=str)
def test_a_wrong_type_is_a_type_error_that_names_field_and_kind_but_not_content(
    kind: type[msgspec.Struct], field: str
) -> None:
    for value in WRONG_KINDS:
        if type(value) in TYPES[kind, field]:
            continue
        message = refusal(TypeError, kind, field, value)
        assert re.fullmatch(
            rf"{field} must be an? \w+, not {re.escape(type(value).__name__)}", message
        ), message
        assert SECRET not in message


@pytest.mark.parametrize("field", IDS)
def test_an_id_of_a_wrong_type_is_a_type_error_too(field: str) -> None:
    for value in WRONG_KINDS:
        if type(value) is not str:
            message = refusal(TypeError, ReplaySeed, field, ("nvd", value))
            assert message == f"each of {field} must be a str, not {type(value).__name__}"


@pytest.mark.parametrize(("kind", "field"), HASHES, ids=str)
@given(
    value=st.text() | st.text("0123456789abcdef", min_size=63, max_size=65).map("sha256:".__add__)
)
@example(HASH + "\n")
@example("\n" + HASH)
@example(HASH[:-1])
@example(HASH + "0")
@example(HASH.upper())
@example(HASH[:-1] + "F")
@example(HASH.replace("sha256:", "sha512:"))
@example(HASH.removeprefix("sha256:"))
@example(HASH.replace("1", "\N{ARABIC-INDIC DIGIT ONE}"))
@example(HASH[:-1] + "g")
def test_a_hash_has_one_form(kind: type[msgspec.Struct], field: str, value: str) -> None:
    digits = value.removeprefix("sha256:")
    if len(value) == 71 and len(digits) == 64 and set(digits) <= set("0123456789abcdef"):
        assert getattr(make(kind, **{field: value}), field) == value
    else:
        message = refusal(ValueError, kind, field, value)
        assert message == f"{field} must be 'sha256:' and 64 lower-case hex digits"


@pytest.mark.parametrize(("kind", "field", "most"), TEXTS, ids=str)
def test_a_text_has_a_length_in_characters(
    kind: type[msgspec.Struct], field: str, most: int
) -> None:
    for text in ("a", "a" * most, "\N{GRINNING FACE}" * most, "\n", " ", "\x7f", "\uffff"):
        assert getattr(make(kind, **{field: text}), field) == text
    for text in ("", SECRET + "a" * (most - 5)):
        message = refusal(ValueError, kind, field, text)
        assert message == f"{field} must be 1 to {most} characters without NUL or lone surrogates"


@pytest.mark.parametrize("code", [0, 0xD800, 0xDBFF, 0xDC00, 0xDFFF], ids=hex)
@pytest.mark.parametrize("place", ["{}", "{}a", "a{}", "a{}a"])
def test_no_text_holds_nul_or_a_lone_surrogate(code: int, place: str) -> None:
    text = place.format(chr(code))
    for kind, field, _ in TEXTS:
        assert refusal(ValueError, kind, field, text).startswith(f"{field} must be 1 to ")
    for field in IDS:
        message = refusal(ValueError, ReplaySeed, field, ("nvd", text))
        assert message.startswith(f"each of {field} must be 1 to 256 characters without NUL")


@given(
    text=st.text(
        st.characters() | st.sampled_from(list(map(chr, (0, 0xD800, 0xDFFF)))),
        min_size=1,
        max_size=32,
    )
)
def test_a_text_that_is_accepted_can_be_encoded_and_has_no_nul(text: str) -> None:
    try:
        text.encode()
        storable = "\0" not in text
    except UnicodeEncodeError:
        storable = False
    if storable:
        make(DecisionDigest, digest_version=text)
    else:
        refusal(ValueError, DecisionDigest, "digest_version", text)


@pytest.mark.parametrize(("kind", "field", "most"), INTS, ids=str)
def test_a_number_has_a_range(kind: type[msgspec.Struct], field: str, most: int) -> None:
    for number in (0, 1, most - 1, most):
        assert getattr(make(kind, **{field: number}), field) == number
    bound = "2**63 - 1" if most == 2**63 - 1 else most
    for number in (-1, most + 1, -most - 1, 10**30):
        assert refusal(ValueError, kind, field, number) == f"{field} must be 0 to {bound}"


@pytest.mark.parametrize("field", IDS)
def test_an_id_has_1_to_256_characters(field: str) -> None:
    make(ReplaySeed, **{field: ("a", "a" * 256, "\N{GRINNING FACE}" * 256)})
    for bad in ("", SECRET + "a" * 251):
        message = refusal(ValueError, ReplaySeed, field, ("nvd", bad))
        expected = "must be 1 to 256 characters without NUL or lone surrogates"
        assert message == f"each of {field} {expected}"


def test_the_ids_of_both_fields_take_64_kib_of_utf_8_together() -> None:
    half = ("a" * 256,) * 128
    wide = ("\N{GRINNING FACE}" * 256,) * 32  # 32 KiB too
    for feeds, rules in itertools.product((half, wide), repeat=2):
        ReplaySeed(feed_ids=feeds, rule_ids=rules)
        for changes in ({"feed_ids": (*feeds, "a")}, {"rule_ids": (*rules, "a")}):
            ids = {"feed_ids": feeds, "rule_ids": rules, **changes}
            with pytest.raises(ValueError, match=r"^feed_ids and rule_ids .* 64 KiB"):
                ReplaySeed(**ids)


# Datetimes


class Zone(tzinfo):
    """A zone whose offset is whatever a function says."""

    def __init__(self, offset: Callable[[datetime], object]) -> None:
        self.offset = offset

    def utcoffset(self, dt: datetime | None, /) -> timedelta | None:
        assert dt is not None
        return self.offset(dt)  # type: ignore[return-value]


def zone(offset: Callable[[datetime], object]) -> tzinfo:
    return Zone(offset)  # type: ignore[abstract]  # nothing asks for its name


def fails(_: datetime) -> object:
    raise LookupError(SECRET)


@given(moment=moments)
def test_a_datetime_is_kept_in_utc_exact_to_the_microsecond(moment: datetime) -> None:
    kept = entry(created_at=moment, expires_at=datetime.max.replace(tzinfo=UTC)).created_at
    assert kept.tzinfo is UTC
    assert kept == moment
    assert kept.microsecond == (moment - moment.utcoffset()).microsecond  # type: ignore[operator]


@pytest.mark.parametrize("field", MOMENTS)
def test_every_datetime_is_normalised(field: str) -> None:
    half_past = (NOW + SECOND / 2).astimezone(timezone(timedelta(hours=-5)))
    kept = getattr(entry(**{field: half_past}), field)
    assert kept == half_past
    assert kept.tzinfo is UTC


@pytest.mark.parametrize("field", MOMENTS)
@pytest.mark.parametrize("zone", [None, zone(lambda _: None)], ids=["no zone", "no offset"])
def test_a_naive_datetime_is_refused(field: str, zone: tzinfo | None) -> None:
    message = refusal(ValueError, ProvcacheEntry, field, NOW.replace(tzinfo=zone))
    assert message == f"{field} must be an aware datetime, not a naive one"


@pytest.mark.parametrize("field", MOMENTS)
@pytest.mark.parametrize("offset", [fails, lambda _: 7, lambda _: timedelta(days=1)])
def test_a_zone_that_cannot_tell_its_offset_is_a_value_error(
    field: str, offset: Callable[[datetime], object]
) -> None:
    moment = NOW.replace(tzinfo=zone(offset))
    message = refusal(ValueError, ProvcacheEntry, field, moment)
    assert message == f"{field} must have a tzinfo that tells its UTC offset"


def test_the_first_and_the_last_microsecond_are_kept() -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    made = entry(created_at=first, expires_at=last, last_accessed_at=last)
    assert (made.created_at, made.expires_at, made.last_accessed_at) == (first, last, last)
    east, west = timezone(timedelta(hours=1)), timezone(timedelta(hours=-1))
    inside = entry(
        created_at=(first + timedelta(hours=1)).replace(tzinfo=east),
        expires_at=(last - timedelta(hours=1)).replace(tzinfo=west),
    )
    assert (inside.created_at, inside.expires_at) == (first, last)


@pytest.mark.parametrize("field", MOMENTS)
@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(microseconds=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(microseconds=-1))),
    ],
    ids=["year 0", "year 10000"],
)
def test_a_datetime_that_utc_has_no_year_for_is_a_value_error(field: str, moment: datetime) -> None:
    message = refusal(ValueError, ProvcacheEntry, field, moment)
    assert message == f"{field} must be from year 1 to 9999 in UTC"


def test_the_hour_that_comes_twice_is_told_apart_by_fold() -> None:
    autumn = zone(lambda moment: timedelta(hours=1 if moment.fold else 2))
    first = datetime(2026, 10, 25, 2, 30, tzinfo=autumn)
    made = entry(created_at=first, expires_at=first.replace(fold=1))
    assert made.created_at == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert made.expires_at == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert made.expires_at.fold == 0


@given(created=moments, expires=moments)
@example(NOW, NOW.astimezone(timezone(timedelta(hours=9))))
@example(NOW, NOW.replace(tzinfo=timezone(timedelta(hours=1))))
@example(NOW, NOW.replace(tzinfo=timezone(timedelta(hours=-1))))
def test_an_entry_expires_after_it_was_created_whatever_the_zones(
    created: datetime, expires: datetime
) -> None:
    if created < expires:
        entry(created_at=created, expires_at=expires)
    else:
        with pytest.raises(ValueError, match=r"^expires_at must be after created_at, both"):
            entry(created_at=created, expires_at=expires)


def test_the_shortest_life_is_a_microsecond() -> None:
    entry(expires_at=NOW + timedelta(microseconds=1))
    refusal(ValueError, ProvcacheEntry, "expires_at", NOW)


# Structs


def test_what_may_be_left_out_has_the_documented_default() -> None:
    assert ReplaySeed() == ReplaySeed(feed_ids=(), rule_ids=())
    required = {"verdict_hash": HASH, "proof_root": HASH}
    digest = DecisionDigest(**required, replay_seed=SEED, trust_score=1)
    assert digest.digest_version == "v1"
    fields = {**VALID[ProvcacheEntry]}
    del fields["hit_count"], fields["last_accessed_at"]
    made = ProvcacheEntry(**fields)  # type: ignore[arg-type]
    assert (made.hit_count, made.last_accessed_at) == (0, None)


@pytest.mark.parametrize("kind", VALID)
def test_structs_are_frozen_and_take_keywords_only(kind: type[msgspec.Struct]) -> None:
    made = make(kind)
    for field in kind.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(made, field, getattr(made, field))
    with pytest.raises(TypeError):
        kind(*VALID[kind].values())


@given(one=any_entries())
def test_equal_entries_have_equal_hashes_in_whatever_zone_they_were_written(
    one: ProvcacheEntry,
) -> None:
    fields = msgspec.structs.asdict(one)
    fields["created_at"] = one.created_at.astimezone(timezone(timedelta(hours=1)))
    twin = ProvcacheEntry(**fields)
    assert twin == one
    assert hash(twin) == hash(one)
    other = msgspec.structs.replace(one, hit_count=one.hit_count ^ 1)
    assert other != one


@given(one=any_entries())
def test_a_copied_or_pickled_entry_equals_the_original(one: ProvcacheEntry) -> None:
    assert copy.copy(one) == one
    assert copy.deepcopy(one) == one
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301  # our own bytes
    assert msgspec.structs.replace(one) == one


def test_a_replaced_field_is_checked_and_normalised_like_a_given_one() -> None:
    with pytest.raises(ValueError, match=r"^hit_count must be 0 to"):
        msgspec.structs.replace(entry(), hit_count=-1)
    with pytest.raises(TypeError, match=r"^trust_score must be an int, not bool$"):
        msgspec.structs.replace(DIGEST, trust_score=True)
    elsewhere = (NOW + SECOND).astimezone(timezone(SECOND))
    assert msgspec.structs.replace(entry(), expires_at=elsewhere).expires_at.tzinfo is UTC


# JSON


@given(one=any_entries())
def test_an_entry_comes_back_from_json_as_it_was(one: ProvcacheEntry) -> None:
    encoded = msgspec.json.encode(one)
    decoded = msgspec.json.decode(encoded, type=ProvcacheEntry)
    assert decoded == one
    assert decoded.created_at.tzinfo is UTC
    assert msgspec.json.encode(decoded) == encoded


def test_the_edges_of_time_come_back_from_json() -> None:
    one = entry(
        created_at=datetime.min.replace(tzinfo=UTC),
        expires_at=datetime.max.replace(tzinfo=UTC),
        hit_count=MOST_HITS,
    )
    assert msgspec.json.decode(msgspec.json.encode(one), type=ProvcacheEntry) == one


def written(**changes: object) -> bytes:
    """Return an entry's JSON with some fields changed to values that no entry has."""
    fields: dict[str, object] = msgspec.json.decode(msgspec.json.encode(entry()))
    return msgspec.json.encode({**fields, **changes})


def test_unknown_fields_are_ignored_at_every_level() -> None:
    digest: dict[str, object] = msgspec.json.decode(msgspec.json.encode(DIGEST))
    seed = {"feed_ids": ["nvd", "osv"], "rule_ids": ["r1"], "new": [1]}
    text = written(decision={**digest, "replay_seed": seed, "new": None}, new={"a": 1})
    assert msgspec.json.decode(text, type=ProvcacheEntry) == entry()


def test_a_decoded_datetime_is_normalised_to_utc() -> None:
    text = written(created_at="2026-11-23T14:30:15.123456+02:00")
    decoded = msgspec.json.decode(text, type=ProvcacheEntry)
    assert decoded == entry()
    assert decoded.created_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("veri_key", SECRET),
        ("veri_key", None),
        ("veri_key", HASH + "\n"),
        ("policy_hash", 7),
        ("feed_epoch", ""),
        ("feed_epoch", SECRET + "\0"),
        ("created_at", "2026-11-23T12:30:15"),
        ("created_at", "0001-01-01T00:00:00+01:00"),
        ("created_at", SECRET),
        ("expires_at", "2026-11-23T12:30:15.123456Z"),
        ("hit_count", -1),
        ("hit_count", 2**63),
        ("hit_count", True),
        ("hit_count", "7"),
        ("last_accessed_at", "2026-11-23T12:30:15"),
        ("decision", None),
        ("decision", {}),
    ],
)
def test_a_wrong_value_in_json_is_a_validation_error_that_does_not_quote_it(
    field: str, value: object
) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(written(**{field: value}), type=ProvcacheEntry)
    assert field in str(caught.value)
    assert SECRET not in str(caught.value)


# The merge rule


@given(old=versions, new=versions)
def test_the_payload_is_of_the_newer_version_and_the_counters_are_the_larger(
    old: ProvcacheEntry, new: ProvcacheEntry
) -> None:
    payload = old if old.created_at > new.created_at else new
    accessed = [at for at in (old.last_accessed_at, new.last_accessed_at) if at is not None]
    expected = entry(
        feed_epoch=payload.feed_epoch,
        created_at=payload.created_at,
        expires_at=payload.expires_at,
        hit_count=max(old.hit_count, new.hit_count),
        last_accessed_at=max(accessed, default=None),
    )
    before = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    assert merge_entries(old, new) == expected
    assert (msgspec.structs.asdict(old), msgspec.structs.asdict(new)) == before


@given(one=any_entries(), other=any_entries())
def test_every_field_but_the_counters_comes_from_one_version(
    one: ProvcacheEntry, other: ProvcacheEntry
) -> None:
    other = msgspec.structs.replace(other, veri_key=one.veri_key)
    merged = merge_entries(one, other)
    payload = one if one.created_at > other.created_at else other
    counters = {"hit_count": 0, "last_accessed_at": None}
    assert msgspec.structs.replace(merged, **counters) == msgspec.structs.replace(
        payload, **counters
    )
    # And it is an entry that the constructor would have let through.
    assert ProvcacheEntry(**msgspec.structs.asdict(merged)) == merged


@given(one=versions)
def test_merging_an_entry_with_itself_changes_nothing(one: ProvcacheEntry) -> None:
    assert merge_entries(one, one) is one


@given(old=versions, new=versions)
def test_a_version_that_arrives_twice_changes_nothing_the_second_time(
    old: ProvcacheEntry, new: ProvcacheEntry
) -> None:
    merged = merge_entries(old, new)
    assert merge_entries(merged, new) == merged
    assert merge_entries(old, merged) == merged
    if old.created_at != new.created_at:
        assert merge_entries(merged, old) == merged


@given(a=versions, b=versions, c=versions)
def test_it_does_not_matter_which_neighbours_are_merged_first(
    a: ProvcacheEntry, b: ProvcacheEntry, c: ProvcacheEntry
) -> None:
    assert merge_entries(merge_entries(a, b), c) == merge_entries(a, merge_entries(b, c))


@given(several=st.lists(versions, min_size=1, max_size=3, unique_by=lambda one: one.created_at))
def test_the_order_of_arrival_does_not_matter_when_all_were_created_at_different_times(
    several: list[ProvcacheEntry],
) -> None:
    results = {reduce(merge_entries, order) for order in itertools.permutations(several)}
    assert len(results) == 1


def test_of_two_versions_created_at_once_the_later_arrival_is_kept() -> None:
    a, b = entry(feed_epoch="a"), entry(feed_epoch="b")
    assert merge_entries(a, b) is b
    assert merge_entries(b, a) is a


def test_a_version_that_already_is_the_result_is_returned_as_it_is() -> None:
    rich = entry(created_at=NOW - SECOND, hit_count=9, last_accessed_at=NOW)
    poor = entry(created_at=NOW - 2 * SECOND, hit_count=3)
    assert merge_entries(rich, poor) is rich
    assert merge_entries(poor, rich) is rich


async def test_a_queue_merges_entries_by_it_and_lets_the_newer_of_anything_else_win() -> None:
    older, newer = entry(hit_count=2), entry(created_at=NOW + SECOND, expires_at=NOW + 2 * SECOND)
    others: tuple[ProvcacheEntry | Item, ...] = older, newer, entry(hit_count=1), Item(HASH)
    for arriving in itertools.product(others, repeat=4):
        kept = arriving[0]
        for one in arriving[1:]:
            if isinstance(kept, ProvcacheEntry) and isinstance(one, ProvcacheEntry):
                kept = merge_entries(kept, one)
            else:
                kept = one
        store = MemoryRepository[ProvcacheEntry | Item]()
        async with open_write_behind_queue(store) as queue:
            await queue.enqueue_many(arriving)
            assert queue.pending(HASH) == kept


def test_different_keys_are_not_merged() -> None:
    other = entry(veri_key=HASH.replace("0", "1"))
    with pytest.raises(ValueError, match=r"^old and new must have the same veri_key$"):
        merge_entries(entry(), other)


# The key


def digest_of(letter: str) -> str:
    return "sha256:" + letter * 64


INPUTS: dict[str, object] = {
    "source_hash": digest_of("a"),
    "sbom_hash": digest_of("b"),
    "vex_hashes": (),
    "policy_hash": digest_of("c"),
    "signer_set_hash": digest_of("d"),
    "time_window": "2026-W48",
}


def key(**changes: object) -> str:
    return build_veri_key(**{**INPUTS, **changes})  # type: ignore[arg-type]


def test_the_key_without_vex_documents_is_the_published_one() -> None:
    expected = "sha256:0908575b47a9a4f7a19bd1829bd4d43dee6e51bc295da65e1565c53112582f4b"
    assert key() == expected


@pytest.mark.parametrize(
    "vex", [[digest_of("f"), digest_of("e")], (digest_of("e"), digest_of("f"), digest_of("e"))]
)
def test_the_key_with_vex_documents_is_the_published_one_in_any_order(vex: object) -> None:
    expected = "sha256:d786492ca700ba78f4938a35f39286a3de3efb89615c87f5b20bffc007cc0741"
    assert key(vex_hashes=vex) == expected


windows = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=256
)  # Cc: control characters


@given(
    plain=st.tuples(hashes, hashes, hashes, hashes), vex=st.sets(hashes, max_size=4), window=windows
)
def test_the_key_is_the_hash_of_seven_lines(
    plain: tuple[str, str, str, str], vex: set[str], window: str
) -> None:
    source, sbom, policy, signers = plain
    sha256 = hashlib.sha256(b"provcache/verikey/v1\nsource=" + source.encode())
    sha256.update(f"\nsbom={sbom}\nvex=".encode())
    for position, one in enumerate(sorted(vex)):
        sha256.update((b"," if position else b"") + one.encode())
    sha256.update(f"\npolicy={policy}\nsigners={signers}\nwindow=".encode() + window.encode())
    sha256.update(b"\n")
    built = build_veri_key(
        source_hash=source,
        sbom_hash=sbom,
        vex_hashes=vex,
        policy_hash=policy,
        signer_set_hash=signers,
        time_window=window,
    )
    assert built == f"sha256:{sha256.hexdigest()}"
    assert entry(veri_key=built).veri_key == built


@given(vex=st.lists(hashes, max_size=4), data=st.data())
def test_neither_order_nor_repetition_nor_the_kind_of_iterable_matters(
    vex: list[str], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(vex + vex[:2]))
    expected = key(vex_hashes=vex)
    for same in (shuffled, tuple(shuffled), set(vex), dict.fromkeys(vex), iter(shuffled)):
        assert key(vex_hashes=same) == expected


def test_every_argument_changes_the_key() -> None:
    swapped = {**INPUTS, "source_hash": INPUTS["sbom_hash"], "sbom_hash": INPUTS["source_hash"]}
    keys = {key(), key(**swapped), key(vex_hashes=[digest_of("9")]), key(time_window="2026-W49")}
    keys |= {key(**{field: digest_of("9")}) for field in INPUTS if field.endswith("_hash")}
    assert len(keys) == 8


@pytest.mark.parametrize("field", INPUTS)
def test_an_argument_of_a_wrong_type_is_a_type_error(field: str) -> None:
    wrong: list[object] = [None, True, 7, 0.5, Text(SECRET), SECRET.encode(), [7]]
    for value in wrong:
        with pytest.raises(TypeError, match=field) as caught:
            key(**{field: value})
        assert SECRET not in str(caught.value)


def test_one_hash_is_no_iterable_of_hashes() -> None:
    with pytest.raises(TypeError, match=r"^vex_hashes must be an iterable of str, not str$"):
        key(vex_hashes=HASH)
    with pytest.raises(TypeError, match=r"^each of vex_hashes must be a str, not NoneType$"):
        key(vex_hashes=[HASH, None])


@pytest.mark.parametrize("field", INPUTS)
def test_an_argument_of_a_wrong_form_is_a_value_error(field: str) -> None:
    value: object = [HASH, SECRET] if field == "vex_hashes" else SECRET + "\n"
    with pytest.raises(ValueError, match=field) as caught:
        key(**{field: value})
    assert SECRET not in str(caught.value)


def test_a_time_window_is_one_line_of_1_to_256_characters() -> None:
    for window in ("a", "a" * 256, " ", "\N{GRINNING FACE}" * 256, "\xa0", "~"):
        assert key(time_window=window)
    controls = [*map(chr, range(32)), *map(chr, range(0x7F, 0xA0))]
    for window in ("", "a" * 257, "\ud800", *controls, *(f"a{control}a" for control in controls)):
        with pytest.raises(ValueError, match=r"^time_window must "):
            key(time_window=window)
