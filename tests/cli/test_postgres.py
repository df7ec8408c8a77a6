"""The command on a real PostgreSQL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import uuid4

import msgspec
import pytest
import trio

from provcache_trio._cli import main, stores

from tests.cli.letters import left_in, letter, put_entries
from tests.cli.support import BAD, entry, key_of
from tests.support.servers import postgres, query, run_sql

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def url() -> str:
    return postgres().create_database(str(uuid4()))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "entries.jsonl"
    path.write_bytes(b"\n".join(msgspec.json.encode(entry(number)) for number in range(3)))
    return path


def test_what_is_ingested_is_read_back(
    url: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--to", url]) == 0
    assert main(["ingest", str(source), "--to", url]) == 0
    capsys.readouterr()
    assert main(["get", key_of(1), "--from", url]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=type(entry())) == entry(1)
    assert main(["stats", "--json", "--from", url]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"entries": 3, "schema": 1, "bytes": facts["bytes"]}
    assert facts["bytes"] > 0


def test_stats_of_a_role_that_may_not_ask_for_sizes_are_the_others(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--to", url]) == 0
    role = f"role of {url.rpartition('/')[2]}"
    trio.run(
        run_sql,
        url,
        f"""
        REVOKE EXECUTE ON FUNCTION pg_total_relation_size(regclass) FROM PUBLIC;
        CREATE ROLE "{role}" LOGIN;
        GRANT USAGE ON SCHEMA provcache TO "{role}";
        GRANT SELECT ON ALL TABLES IN SCHEMA provcache TO "{role}";
        """,
    )
    guest = url.replace("://postgres@", f"://{quote(role)}@")
    capsys.readouterr()
    assert main(["stats", "--json", "--from", guest]) == 0
    assert json.loads(capsys.readouterr().out) == {"entries": 0, "schema": 1}
    assert main(["stats", "--from", guest]) == 0
    assert capsys.readouterr().out.split() == ["entries", "0", "schema", "1"]


def test_ingest_makes_the_schema(url: str, source: Path) -> None:
    assert main(["ingest", str(source), "--to", url]) == 0
    assert main(["get", key_of(1), "--from", url]) == 0


@pytest.mark.parametrize("command", [["get", key_of(1)], ["stats"]], ids=lambda words: words[0])
def test_reading_makes_no_schema(
    command: list[str], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main([*command, "--from", url]) == 3
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.endswith(
            "no schema 'provcache' of provcache's; provcache init --to makes it; or give "
            "--table MODULE:NAME, if the entries are those of a table of yours\n"
        )


def test_a_role_that_may_not_make_the_schema_is_asked_for_its_table(
    url: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    role = f"role of {url.rpartition('/')[2]}"
    trio.run(run_sql, url, f'CREATE ROLE "{role}" LOGIN')
    guest = url.replace("://postgres@", f"://{quote(role)}@")
    assert main(["ingest", str(source), "--to", guest]) == 3
    err = capsys.readouterr().err
    assert "42501" in err
    assert "; or give --table MODULE:NAME" in err


def test_a_server_that_is_not_there_is_told_in_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "_PATIENCE", 0.1)
    nobody = "postgresql://user:s3cret@127.0.0.1:1/db?password=s3cret"
    assert main(["init", "--to", nobody]) == 3
    where = "127.0.0.1:1, user user, database db"
    reason = f"{where}: asyncpg reported ConnectionRefusedError: Connection refused"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"provcache: {reason}; trying again for 0.1 s",
        f"provcache: {reason}",
    ]


def test_without_the_extra_the_user_is_told_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "provcache_trio._cli.postgres", None)
    assert main(["init", "--to", "postgresql://u:s3cret@host/db"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("provcache: PostgreSQL needs the extra: pip install ")
    assert "s3cret" not in err


def test_dead_letters_are_sent_again_until_none_is_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dead.db"
    bad = (10, 30, 31)
    letters = [letter(n, hit_count=BAD if n in bad else 0) for n in range(1, 42)]
    put_entries(path, *letters)
    retry = ["dead-letters", "retry", "--in", str(path), "--to", url]
    stored = "SELECT encode(veri_key, 'hex') FROM provcache.entries"
    table = "ALTER TABLE provcache.entries"

    assert main(["init", "--to", url]) == 0
    trio.run(query, url, f"{table} ADD CONSTRAINT odd CHECK (hit_count <> {BAD})")
    capsys.readouterr()
    assert main(retry) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"provcache: letter {number} was refused, and stays: "
        "CheckViolationError, SQLSTATE 23514, constraint odd"
        for number in bad
    ]
    assert left_in(path) == list(bad)
    assert len(trio.run(query, url, stored)) == len(letters) - len(bad)

    trio.run(query, url, f"{table} DROP CONSTRAINT odd")
    assert main(retry) == 0
    assert left_in(path) == []
    assert {f"sha256:{key}" for (key,) in trio.run(query, url, stored)} == {
        one.key for one in letters
    }


# The demo


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a directory with one installed distribution of one file."""
    record = tmp_path / "site" / "good-1.0.dist-info" / "RECORD"
    record.parent.mkdir(parents=True)
    record.write_text("good-1.0.dist-info/RECORD,,\n", "utf-8")
    return tmp_path / "site"


@pytest.mark.whole_process
def test_the_demo_brings_a_server_of_its_own(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--to", "postgres", "--paths", str(site)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "a PostgreSQL " in out
    assert "of its own holds 1 row; 1 of 1 read are as enqueued" in out


def test_the_demo_writes_to_a_server_that_is_there(
    url: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--to", url, "--paths", str(site)]) == 0
    capsys.readouterr()
    assert main(["stats", "--json", "--from", url]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 1


def test_the_size_of_a_partitioned_table_is_that_of_its_partitions(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--to", url]) == 0
    partitioned = """
        ALTER TABLE provcache.entries RENAME TO before;
        CREATE TABLE provcache.entries (LIKE provcache.before INCLUDING ALL)
            PARTITION BY RANGE (veri_key);
        CREATE TABLE provcache.everything PARTITION OF provcache.entries DEFAULT;
    """
    trio.run(run_sql, url, partitioned)
    capsys.readouterr()
    assert main(["stats", "--json", "--from", url]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] > 0


def test_a_demo_without_any_server_tells_what_to_install(
    tmp_path: Path,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PROVCACHE_PG_BIN", str(tmp_path))
    assert main(["demo", "--to", "postgres", "--paths", str(site)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("provcache: ")
    assert err.count("\n") == 1


@pytest.mark.heavy
def test_a_signal_ends_the_demo_and_its_server(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "provcache_trio", "demo", "--to", "postgres"]
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(" persisted " in told for told in process.stderr)
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "\nStopped by SIGTERM while " in rest
    assert list(tmp_path.iterdir()) == []
