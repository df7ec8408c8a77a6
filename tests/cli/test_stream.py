"""A stream as a store of the commands, and ``provcache relay``."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from provcache_trio import StoreMisconfiguredError
from provcache_trio._cli import main
from provcache_trio._cli.arguments import address_of
from provcache_trio._cli.entries import entries_of
from provcache_trio._cli.progress import Progress
from provcache_trio._cli.relay import RelayJob
from provcache_trio._cli.running import Status
from provcache_trio._cli.urls import stream_target, target_of

from tests.cli.support import entry, url
from tests.support.nats import nats_server, stream_detail, unused_stream
from tests.support.servers import postgres, query, unused_port
from tests.support.waiting import HANG_SECONDS, until, wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole_process


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A file with 600 entries."""
    file = tmp_path / "entries.jsonl"
    file.write_bytes(msgspec.json.Encoder().encode_lines([entry(n) for n in range(600)]))
    return file


@pytest.fixture
def stream(capsys: pytest.CaptureFixture[str]) -> str:
    """The URL of a stream."""
    where = f"{nats_server().url}/{unused_stream()}"
    assert main(["init", "--to", where, "--max-bytes", "10mb", "--replicas", "1"]) == 0
    assert capsys.readouterr().out == f"{where} is ready\n"
    return where


def messages(stream: str) -> int:
    detail = stream_detail(nats_server(), stream.rpartition("/")[2])
    assert detail is not None
    number: int = detail["state"]["messages"]
    return number


def put_two_messages(stream: str) -> None:
    """Put 500 entries into it, and 100: what a queue makes of them, time decides."""

    async def work() -> None:
        async with stream_target(stream).open() as store:
            for some in (range(500), range(500, 600)):
                await store.upsert_many([entry(number) for number in some])

    trio.run(work)


def test_entries_go_through_a_stream_to_a_store(
    stream: str, lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ingest", str(lines), "--to", stream]) == 0
    assert f"into {stream}" in capsys.readouterr().out
    assert messages(stream) >= 2  # one holds at most 500
    cache, letters = tmp_path / "cache.db", tmp_path / "dead.db"
    assert main(["init", "--to", url(cache)]) == 0
    page = f"127.0.0.1:{unused_port()}"
    command = ["relay", "--from", stream, "--to", url(cache), "--dead-letters", str(letters)]
    relay = subprocess.Popen(
        [sys.executable, "-m", "provcache_trio", *command, "--status", page],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: messages(stream) == 0)
    with urllib.request.urlopen(f"http://{page}/status.json") as answer:
        (queue,) = msgspec.json.decode(answer.read())["queues"]
    assert queue["name"] == "relay"
    relay.send_signal(signal.SIGTERM)
    out, err = relay.communicate(timeout=HANG_SECONDS)
    assert relay.returncode == 128 + signal.SIGTERM, err
    assert f"600 entries taken from {stream}, into {cache}\n" in out
    assert "600 persisted" in out
    assert "Stopped by SIGTERM" in out
    assert f"status page at http://{page}/" in err
    assert letters.exists()
    capsys.readouterr()
    assert main(["stats", "--from", url(cache)]) == 0
    assert "600" in capsys.readouterr().out


async def test_a_relay_shows_how_it_is_doing(stream: str, lines: Path, tmp_path: Path) -> None:
    async def ingest() -> None:
        target = stream_target(stream)
        async with target.open() as store:
            await store.upsert_many([entry(number) for number in range(600)])
        with pytest.raises(StoreMisconfiguredError, match="holds no rows"):
            await target.facts()

    await ingest()
    async with target_of(url(tmp_path / "cache.db")).open(create=True) as cache:
        await cache.check()
    status = ("127.0.0.1", unused_port())
    store, letters = target_of(url(tmp_path / "cache.db")), tmp_path / "dead.db"
    job = RelayJob(stream_target(stream), store, letters, status)
    assert (job.where(), job.summary(None)) == ("waiting for the store", [])
    progress = Progress(job.where, io.StringIO())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.run, progress)
        await until(lambda: job.outage.metrics and job.outage.metrics.total_persisted == 600)
        assert job.where().startswith("taken 600, in line 0, in flight 0, persisted 600, running")
        nursery.cancel_scope.cancel()
    assert job.summary(None)[0] == f"600 entries taken from {stream}, into {tmp_path}/cache.db"
    assert job.summary(signal.SIGTERM)[-1].startswith("Stopped by SIGTERM; what was not written")
    assert job.status is Status.DONE
    plain = RelayJob(stream_target(stream), store, None, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plain.run, progress)
        await until(lambda: plain.outage.metrics)
        nursery.cancel_scope.cancel()


def test_a_message_is_moved_into_a_file(
    stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_two_messages(stream)
    file = tmp_path / "message"
    skip = ["relay", "--from", stream, "--skip", "2", "--into", str(file)]
    assert main(skip) == 0
    assert messages(stream) == 1
    assert file.read_bytes().count(b"\n") == 101
    assert file.stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    assert main([*skip[:-1], str(tmp_path / "other")]) == 3
    err = capsys.readouterr().err
    assert "message 2: stream " in err
    assert "NATS reported: no message found" in err
    assert not (tmp_path / "other").exists()


def test_a_message_stays_where_the_file_is_there(
    stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_two_messages(stream)
    file = tmp_path / "message"
    file.write_text("mine")
    assert main(["relay", "--from", stream, "--skip", "1", "--into", str(file)]) == 3
    assert "exists" in capsys.readouterr().err
    assert (file.read_text(), messages(stream)) == ("mine", 2)


@pytest.mark.parametrize("command", ["stats", "get"])
def test_nothing_is_read_from_a_stream(
    command: str, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = [] if command == "stats" else [f"sha256:{'0' * 64}"]
    assert main([command, *key, "--from", stream]) == 3
    assert (
        "a relay takes entries to a store: name that store, as sqlite:PATH"
        in capsys.readouterr().err
    )


def test_a_stream_that_is_not_there_is_not_made(
    lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = f"{nats_server().url}/{unused_stream()}"
    assert main(["ingest", str(lines), "--to", missing]) == 3
    assert "no such stream" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["init", "--to", "nats://n1/s"], "--max-bytes is missing"),
        (["init", "--to", "nats://n1/s", "--max-bytes", "much"], "a size is"),
        (["init", "--to", "sqlite:x.db", "--max-bytes", "1GB"], "--max-bytes is for a stream"),
        (["init", "--to", "nats://me:s3cr3t@n1", "--max-bytes", "1"], "named by a URL such as"),
        (["init", "--to", "nats://me:s3cr3t@n1/a.b", "--max-bytes", "1"], "named by a URL such as"),
        (["relay", "--from", "nats://n1/s"], "--to is missing"),
        (["relay", "--from", "nats://n1/s", "--skip", "1"], "belong together"),
        (["relay", "--from", "nats://n1/s", "--into", "x"], "belong together"),
        (["relay", "--from", "nats://n1/s", "--skip", "1", "--into", "nats://x"], "not a URL"),
        (["relay", "--from", "nats://n1/s", "--to", "sqlite:x", "--status", "9464"], "--status"),
        (["relay", "--from", "nats://n1/s", "--to", "sqlite:x", "--dead-letters", "tls://x"], "URL"),
    ],
)  # fmt: skip
def test_misuse_is_named_and_no_secret_is(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert why in said
    assert "s3cr3t" not in said


def test_a_stream_needs_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "provcache_trio._cli.stream", None)
    assert main(["ingest", "x", "--to", "nats://n1/s"]) == 2
    assert "provcache-trio[nats]" in capsys.readouterr().err


def test_a_relay_whose_store_is_away_says_so_when_it_ends(
    stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nowhere" / "cache.db"
    assert main(["relay", "--from", stream, "--to", url(missing)]) == 3
    assert "there is no directory" in capsys.readouterr().err


async def test_a_relay_waits_for_a_store_that_needs_a_person_and_makes_none(
    stream: str, tmp_path: Path
) -> None:
    database = postgres().create_database(unused_stream())
    target = target_of(database, entries_of(None))
    async with stream_target(stream).open() as source:
        await source.upsert_many([entry(1)])
    job = RelayJob(stream_target(stream), target, None, None)
    shown = io.StringIO()
    progress = Progress(job.where, shown)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.run, progress)
        await until(lambda: job.outage.metrics and job.outage.metrics.state == "waiting")
        wrong = (
            f"database {database.rpartition('/')[2]}: the database has no schema 'provcache' of "
            "provcache's; provcache init --to makes it; or give --table MODULE:NAME, if the entries "
            "are those of a table of yours; the relay waits until that is mended\n"
        )
        with trio.fail_after(HANG_SECONDS):
            while wrong not in shown.getvalue():
                await progress.finish()
                await trio.sleep(0.01)
        schemas = "SELECT nspname FROM pg_namespace WHERE nspname = 'provcache'"
        assert await query(database, schemas) == []
        async with target.open(create=True) as made:
            await made.check()
        await until(lambda: job.outage.metrics and job.outage.metrics.total_persisted == 1)
        nursery.cancel_scope.cancel()


def test_the_address_of_a_status_page_may_be_one_of_ipv6() -> None:
    assert address_of("[::1]:9464") == ("::1", 9464)
    assert address_of(None) is None
