"""``provcache get``, ``init`` and ``stats``, and the URLs of every command."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from provcache_trio import DecisionDigest, ProvcacheEntry, ReplaySeed
from provcache_trio._cli import main
from provcache_trio._cli.entries import PROVCACHE
from provcache_trio._cli.misuse import MisuseError
from provcache_trio._cli.stores import SqliteTarget
from provcache_trio._cli.urls import target_of, without_secrets
from provcache_trio.sqlite import SQLiteRepository, open_sqlite_repository

from tests.cli.support import names, url

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = "sha256:" + 64 * "a"
ABSENT = "sha256:" + 64 * "b"
NOW = dt.datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=dt.UTC)
ENTRY = ProvcacheEntry(
    veri_key=KEY,
    decision=DecisionDigest(
        verdict_hash=ABSENT,
        proof_root=ABSENT,
        replay_seed=ReplaySeed(feed_ids=("a", "ü\x1b[31m\x9b")),
        trust_score=7,
    ),
    policy_hash=ABSENT,
    signer_set_hash=ABSENT,
    feed_epoch="2026-W48 \U0001f680",
    created_at=NOW,
    expires_at=NOW + dt.timedelta(days=7),
    hit_count=2**63 - 1,
    last_accessed_at=NOW,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a store with one entry, alone in its directory."""
    path = tmp_path / "store.db"

    async def fill() -> None:
        async with open_sqlite_repository(path) as repository:
            await repository.upsert_many([ENTRY])

    trio.run(fill)
    return path


# get


def test_get_prints_the_entry_in_one_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", KEY, "--from", url(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.isascii()
    assert out.removesuffix("\n").isprintable()
    assert msgspec.json.decode(out, type=ProvcacheEntry) == ENTRY


def test_what_get_prints_can_be_ingested(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", KEY, "--from", url(path)]) == 0
    (tmp_path / "entries").write_text(capsys.readouterr().out)
    assert main(["ingest", str(tmp_path / "entries"), "--to", url(path)]) == 0
    assert "1 persisted in 1 batch, 1 unchanged" in capsys.readouterr().out


def test_get_tells_that_there_is_no_such_entry(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", ABSENT, "--from", url(path)]) == 1
    assert capsys.readouterr() == ("", f"provcache: {path}: no entry has this VeriKey\n")


@pytest.mark.parametrize("key", ["", "s3cret", KEY.upper(), KEY + "\n", KEY[:-1]])
def test_get_refuses_what_is_no_key(
    key: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", key, "--from", url(path)]) == 2
    assert capsys.readouterr() == (
        "",
        (
            "provcache: a VeriKey is 'sha256:' and 64 lower-case hex digits; or give --table "
            "MODULE:NAME, if the entries are those of a table of yours (see provcache --help)\n"
        ),
    )


# stats


def test_stats_tell_how_much_there_is(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--from", url(path)]) == 0
    size = f"{path.stat().st_size:,}"
    assert capsys.readouterr() == (
        f"entries               1\nbytes   {size:>15}\nschema                1\n",
        "",
    )


def test_stats_count_what_is_still_in_the_log(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE provcache_entries SET hit_count = 1")
        log = path.with_name(f"{path.name}-wal")
        assert log.stat().st_size > 0
        assert main(["stats", "--from", url(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "entries": 1,
            "bytes": path.stat().st_size + log.stat().st_size,
            "schema": 1,
        }


# init


def test_init_makes_a_store_and_leaves_one_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.db"
    for _ in range(2):
        assert main(["init", "--to", url(path)]) == 0
        assert capsys.readouterr() == (f"{path} is ready\n", "")
    assert names(tmp_path) == ["new.db"]
    assert main(["stats", "--from", url(path)]) == 0
    assert main(["init", "--to", url(tmp_path / "none" / "x.db")]) == 3
    assert capsys.readouterr().err == (
        f"provcache: {tmp_path}/none/x.db: there is no directory {tmp_path}/none\n"
    )


def test_init_keeps_the_entries(path: Path) -> None:
    assert main(["init", "--to", url(path)]) == 0
    assert main(["get", KEY, "--from", url(path)]) == 0


# Reading leaves everything as it is

READING = [["get", KEY], ["stats"], ["stats", "--json"]]


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_makes_no_file(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for missing in (tmp_path / "none.db", tmp_path / "none" / "none.db"):
        assert main([*command, "--from", url(missing)]) == 3
        assert capsys.readouterr() == (
            "",
            f"provcache: {missing}: there is no such file; provcache init --to makes it\n",
        )
    assert names(tmp_path) == []


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_leaves_no_file_beside_the_store_and_changes_nothing(
    command: list[str], path: Path
) -> None:
    before = path.read_bytes()
    assert main([*command, "--from", url(path)]) == 0
    assert names(path.parent) == ["store.db"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_makes_no_store_of_an_empty_file(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.db"
    empty.touch()
    assert main([*command, "--from", url(empty)]) == 3
    assert capsys.readouterr() == ("", f"provcache: {empty}: the file is empty\n")
    assert (names(tmp_path), empty.read_bytes()) == (["empty.db"], b"")


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_tells_in_one_line_that_a_file_is_no_store(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("no database " * 100)
    assert main([*command, "--from", url(text)]) == 3
    why = "SQLite reported SQLITE_NOTADB: the file is no SQLite database; name another one"
    assert capsys.readouterr() == ("", f"provcache: {text}: {why}\n")


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_does_not_wait_for_somebody_who_writes(command: list[str], path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert main([*command, "--from", url(path)]) == 0


def test_a_store_that_goes_away_meanwhile_is_told_in_one_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = SqliteTarget.facts

    async def gone(self: SqliteTarget) -> dict[str, int]:
        await trio.Path(path).unlink()
        return await facts(self)

    monkeypatch.setattr(SqliteTarget, "facts", gone)
    assert main(["stats", "--from", url(path)]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "No such file" in err


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("command", "call"),
    [
        (["get", KEY, "--from"], "get_many"),
        (["stats", "--from"], "count"),
        (["init", "--to"], "check"),
    ],
    ids=["get", "stats", "init"],
)
def test_a_signal_ends_a_command_that_waits_for_the_store(
    number: signal.Signals,
    command: list[str],
    call: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def never(*_: object) -> None:
        signal.raise_signal(number)
        await trio.sleep_forever()

    monkeypatch.setattr(SQLiteRepository, call, never)
    assert main([*command, url(path)]) == 128 + number
    assert capsys.readouterr() == ("", "")
    assert names(path.parent) == ["store.db"]


# URLs


@pytest.mark.parametrize("name", ["cache.db", "./a b", "/tmp/x.db", "C:\\x", "a:b", "ü%20?x#y"])  # noqa: S108
def test_a_path_is_taken_as_it_stands(name: str) -> None:
    target = target_of(f"sqlite:{name}")
    assert isinstance(target, SqliteTarget)
    assert target.path == Path(name)


MALFORMED = re.compile("(the URL|the URL's parameters|a port|a host) (has|holds|must|is) .*")
NO_STORE = "a store is named by a URL: sqlite:PATH or postgresql://HOST/DATABASE"
COMMANDS = [
    ["get", KEY, "--from"],
    ["stats", "--from"],
    ["init", "--to"],
    ["ingest", "-", "--to"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("postgresql://u:s3cret@[host/db", MALFORMED),
        ("postgresql://u:s3/cret@127.0.0.1:1/db", MALFORMED),
        ("postgresql://u:s3#cret@127.0.0.1:1/db", MALFORMED),
        ("postgresql://u:s3?cret@127.0.0.1:1/db", MALFORMED),
        ("postgresql://u:s3?cret=1&x=2", MALFORMED),
        ("postgresql://h:1,u:s3?cret=1", MALFORMED),
        ("postgresql://u:123?c=ret@h/db", MALFORMED),
        ("postgresql://u:123#cret@h/db", MALFORMED),
        ("postgresql://h:1/db?s3cret", MALFORMED),
        ("postgresql://u:s3@cret@127.0.0.1:1/db", MALFORMED),
        ("sqlite:postgres://u:s3cret@h/db", "the name of a file is wanted there, not a URL"),
        ("sqlite::memory:", "sqlite: path must name a file"),
        ("mysql://u:s3cret@host/db", NO_STORE),
        ("host=h password=s3cret", NO_STORE),
        ("s3cret.db", NO_STORE),
        ("", NO_STORE),
        ("sqlite", NO_STORE),
        ("sqlite:", NO_STORE),
        ("postgresql:s3cret", NO_STORE),
        (
            "sqlite:///s3cret.db",
            "sqlite: is followed by the path alone, as in sqlite:cache.db",
        ),
    ],
)
def test_a_url_that_names_no_store_is_refused_unquoted(
    command: list[str],
    given: str,
    complaint: str | re.Pattern[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MisuseError) as caught:
        target_of(given)
    why = str(caught.value)
    assert complaint == why if isinstance(complaint, str) else complaint.fullmatch(why)
    assert not re.search("s3|cret|ret", why)
    assert main([*command, given]) == 2
    assert capsys.readouterr() == ("", f"provcache: {why} (see provcache --help)\n")
    assert names(tmp_path) == []


SECRETS = [
    "postgresql://u:s3cret@host/db",
    "postgres://u:s3 s3cret",
    "host=h PASSWORD=s3cret",
    "postgresql:/u:s3cret@host/db",
    "u:s3cret@host",
    "u:s3 s3cret@host",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "arguments",
    [
        ["stats", "--from", "sqlite:x.db", "{}"],
        ["stats", "--from", "sqlite:x.db", "{}", "{}"],
        ["stats", "--frm={}"],
        ["stats", "--json={}", "--from", "sqlite:x.db"],
        ["ingest", "--to={}"],
        ["ingest", "--too={}", "--to", "sqlite:x.db"],
        ["ingest", "3.jsonl", "{}", "--to", "sqlite:x.db"],
        ["{}"],
    ],
    ids=" ".join,
)
def test_a_misplaced_secret_is_not_quoted(
    arguments: Iterable[str], secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([each.format(secret) for each in arguments]) == 2
    out, err = capsys.readouterr()
    assert "s3" not in out + err
    assert err.count("\n") == 1


def test_what_holds_no_secret_is_told_in_full() -> None:
    for text in ("Unknown option: --too. (a: b)", "Unused Tokens: ['a@b']."):
        assert without_secrets(text) == text


# Completion


def test_completion_is_set_up_where_the_shell_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion", "--shell", "bash"]) == 0
    script = tmp_path / ".local/share/bash-completion/completions/provcache"
    assert "ingest" in script.read_text("utf-8")
    assert str(script) in (tmp_path / ".bashrc").read_text("utf-8")


def test_completion_that_can_not_be_set_up_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", os.fspath(tmp_path / "file"))
    assert main(["--install-completion", "--shell", "bash"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("provcache: ")


def test_a_key_is_checked_as_the_store_would() -> None:
    assert PROVCACHE.read_key([KEY]) == KEY
    for words in ([KEY.replace("a", "g")], [], [KEY, KEY]):
        with pytest.raises(MisuseError):
            PROVCACHE.read_key(words)
