"""Files held against RECORD, and the entries that the findings become."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from provcache_trio import build_veri_key
from provcache_trio._cli.demo.decisions import make_entry, week_of
from provcache_trio._cli.demo.wheels import (
    Distribution,
    Finding,
    Outcome,
    RecordLine,
    Skipped,
    find_distributions,
    read_record,
    verify,
)

from tests.support.installed import install, listed

CONTENT = b"print('hello')\n"
WEEK = week_of(dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC))
PIP = Distribution(
    name="pip", version="26.3", base=Path(), record_hash="a" * 64, lines=(), bad_lines=0
)


def go_on() -> None:
    pass


def sha256(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def outcome(base: Path, path: str, hash_: str | None) -> Outcome:
    return verify(base, RecordLine(path, hash_), go_on).outcome


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512", "md5", "blake2b"])
def test_a_file_with_the_listed_hash_matches_and_any_other_does_not(
    tmp_path: Path, algorithm: str
) -> None:
    (tmp_path / "a.py").write_bytes(CONTENT)
    right, wrong = listed(CONTENT, algorithm), listed(CONTENT + b"#", algorithm)
    finding = verify(tmp_path, RecordLine("a.py", right), go_on)
    assert (finding.outcome, finding.found, finding.size) == (Outcome.MATCH, right, len(CONTENT))
    assert finding.content_hash == hashlib.sha256(CONTENT).hexdigest()
    finding = verify(tmp_path, RecordLine("a.py", wrong), go_on)
    assert (finding.outcome, finding.found) == (Outcome.MISMATCH, right)


def test_padding_makes_no_difference(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(CONTENT)
    assert outcome(tmp_path, "a.py", listed(CONTENT) + "=") is Outcome.MATCH


def test_a_large_file_is_read_to_its_end(tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20 + 1)
    (tmp_path / "large").write_bytes(content)
    asked: list[None] = []
    finding = verify(tmp_path, RecordLine("large", listed(content)), lambda: asked.append(None))
    assert finding.outcome is Outcome.MATCH
    assert len(asked) > 3  # so a stop does not wait for the whole file


def test_what_the_caller_raises_between_two_blocks_ends_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(CONTENT)

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError):
        verify(tmp_path, RecordLine("a.py", None), stop)


@pytest.mark.parametrize(
    "hash_", ["crc7=00", "shake_128=AAAA", "no-equals-sign", "=AAAA"], ids=repr
)
def test_a_hash_that_can_not_be_computed_is_told_apart(tmp_path: Path, hash_: str) -> None:
    (tmp_path / "a.py").write_bytes(CONTENT)
    finding = verify(tmp_path, RecordLine("a.py", hash_), go_on)
    assert (finding.outcome, finding.found) == (Outcome.UNSUPPORTED, None)


def test_a_file_that_is_not_there_is_missing_even_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(CONTENT)
    assert outcome(tmp_path, "b.py", listed(CONTENT)) is Outcome.MISSING
    assert outcome(tmp_path, "a.py/b.py", None) is Outcome.MISSING


def test_a_file_without_a_listed_hash_is_unlisted(tmp_path: Path) -> None:
    (tmp_path / "a.pyc").write_bytes(CONTENT)
    finding = verify(tmp_path, RecordLine("a.pyc", None), go_on)
    assert (finding.outcome, finding.found) == (Outcome.UNLISTED, None)
    assert finding.content_hash == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("name", ["directory", "pipe", "loop", "n" * 300, "nul\0"], ids=repr)
def test_what_is_no_readable_file_is_unreadable(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    (tmp_path / "loop").symlink_to("loop")
    assert outcome(tmp_path, name, None) is Outcome.UNREADABLE


def test_paths_lead_out_of_site_packages_and_may_be_absolute(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "site-packages"
    site.mkdir(parents=True)
    (tmp_path / "tool").write_bytes(CONTENT)
    assert outcome(site, "../../tool", listed(CONTENT)) is Outcome.MATCH
    assert outcome(site, str(tmp_path / "tool"), listed(CONTENT)) is Outcome.MATCH


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=repr)
def test_a_record_has_any_line_ends(newline: str) -> None:
    record = newline.join(["a.py,sha256=x,1", '"b,""c"".py",,', "", "ü.py,,", ""]).encode()
    lines = [RecordLine("a.py", "sha256=x"), RecordLine('b,"c".py', None), RecordLine("ü.py", None)]
    assert read_record(record) == (lines, 0)
    assert read_record(b"\xef\xbb\xbf" + record) == (lines, 0)


@pytest.mark.parametrize(
    "line",
    ["only,two", "one,too,many,here", ",sha256=x,1", '"unbalanced,,', "nul\0,,", "x" * 200_000],
    ids=lambda line: repr(line[:20]),
)
def test_a_bad_line_spoils_no_other(line: str) -> None:
    record = f"a.py,,\n{line}\nb.py,,\n".encode()
    assert read_record(record) == ([RecordLine("a.py", None), RecordLine("b.py", None)], 1)


def test_a_name_that_is_not_utf_8_leads_to_its_file(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.py")).write_bytes(CONTENT)
    (row,), _ = read_record(b"caf\xe9.py,,\n")
    assert verify(tmp_path, row, go_on).outcome is Outcome.UNLISTED
    entry = make_entry(PIP, verify(tmp_path, row, go_on), WEEK)
    assert entry.decision.trust_score == 50


def test_distributions_are_found_with_the_hash_of_their_record(tmp_path: Path) -> None:
    record = install(tmp_path / "one", "Good_Name-1.0", {"good.py": CONTENT})
    install(tmp_path / "two", "other-2.0+local", {})
    found, skipped = find_distributions([tmp_path / "one", tmp_path / "two", tmp_path / "none"])
    assert [(each.name, each.version) for each in found] == [
        ("Good_Name", "1.0"),
        ("other", "2.0+local"),
    ]
    assert found[0].record_hash == hashlib.sha256(record.read_bytes()).hexdigest()
    assert found[0].base == tmp_path / "one"
    assert found[0].label == "Good_Name-1.0"
    assert skipped == []


def test_what_can_not_be_verified_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "old-1.egg-info").mkdir()
    (tmp_path / "bare-1.dist-info").mkdir()
    (tmp_path / "odd-1.dist-info" / "RECORD").mkdir(parents=True)
    install(tmp_path, "torn-1", {}, "a,b", "c,d")
    found, skipped = find_distributions([tmp_path])
    assert [each.label for each in found] == ["torn-1"]
    assert skipped == [
        Skipped("bare-1", "has no RECORD"),
        Skipped("odd-1", "RECORD can't be read (IsADirectoryError)"),
        Skipped("old-1", "egg-info has no RECORD with hashes"),
        Skipped("torn-1", "2 lines of RECORD can't be read"),
    ]


def test_an_entry_names_every_input_of_its_decision() -> None:
    finding = Finding(
        line=RecordLine("pip/ü.py", "sha256=listed"),
        outcome=Outcome.MISMATCH,
        found="sha256=found",
        content_hash="b" * 64,
    )
    entry = make_entry(PIP, finding, WEEK)
    policy = sha256("provcache demo policy v1: every file must match its RECORD")
    assert entry.veri_key == build_veri_key(
        source_hash=sha256(f"pip/ü.py\nsha256=listed\n{'b' * 64}\n"),
        sbom_hash=f"sha256:{'a' * 64}",
        vex_hashes=(),
        policy_hash=policy,
        signer_set_hash=sha256(""),
        time_window="2026-W48",
    )
    assert entry.decision.verdict_hash == sha256(
        '{"distribution":"pip","expected":"sha256=listed","found":"sha256=found",'
        '"path":"pip/\\u00fc.py","verdict":"mismatch","version":"26.3"}'
    )
    assert entry.decision.proof_root == sha256(f"sha256:{'a' * 64}\n{'b' * 64}\n")
    assert entry.decision.replay_seed.feed_ids == ("RECORD:pip-26.3",)
    assert entry.decision.replay_seed.rule_ids == ("record-sha256",)
    assert (entry.policy_hash, entry.signer_set_hash) == (policy, sha256(""))
    assert entry.feed_epoch == "2026-W48"
    assert entry.created_at == dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
    assert entry.expires_at == dt.datetime(2026, 11, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize("outcome", Outcome)
def test_only_a_match_is_trusted_and_a_file_without_a_hash_by_half(outcome: Outcome) -> None:
    entry = make_entry(PIP, Finding(line=RecordLine("a.py", None), outcome=outcome), WEEK)
    expected = {Outcome.MATCH: 100, Outcome.UNLISTED: 50}.get(outcome, 0)
    assert entry.decision.trust_score == expected


def test_the_same_bytes_at_two_paths_or_under_two_hashes_are_two_decisions() -> None:
    lines = [
        RecordLine("a.py", "sha256=x"),
        RecordLine("b.py", "sha256=x"),
        RecordLine("a.py", "sha256=y"),
    ]
    findings = [Finding(line=row, outcome=Outcome.MATCH, content_hash="b" * 64) for row in lines]
    assert len({make_entry(PIP, finding, WEEK).veri_key for finding in findings}) == 3


def test_a_name_from_the_disk_that_is_no_text_still_makes_an_entry() -> None:
    odd = msgspec.structs.replace(PIP, name="caf\udce9")
    entry = make_entry(odd, Finding(line=RecordLine("a.py", None), outcome=Outcome.MISSING), WEEK)
    assert entry.decision.replay_seed.feed_ids == ("RECORD:caf?-26.3",)


@pytest.mark.parametrize(
    ("now", "name", "begin"),
    [
        (dt.datetime(2027, 1, 1, tzinfo=dt.UTC), "2026-W53", dt.date(2026, 12, 28)),
        (dt.datetime(2027, 1, 4, tzinfo=dt.UTC), "2027-W01", dt.date(2027, 1, 4)),
        (
            dt.datetime(2027, 1, 4, tzinfo=dt.timezone(dt.timedelta(hours=1))),
            "2026-W53",
            dt.date(2026, 12, 28),
        ),
    ],
)
def test_a_time_window_is_an_iso_week_in_utc(now: dt.datetime, name: str, begin: dt.date) -> None:
    week = week_of(now)
    assert (week.name, week.begin.date()) == (name, begin)
    assert week.begin <= now < week.end
