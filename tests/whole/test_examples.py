"""The examples run as they stand, and the service keeps its word when it is told to stop."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pytest
import trio

from provcache_trio import EntryRejectedError, ProvcacheEntry, StoreUnavailableError
from provcache_trio.sqlite import open_sqlite_repository

from tests.support.programs import EXAMPLES, run_program
from tests.support.servers import postgres, query, run_sql

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from pathlib import Path
    from types import ModuleType

pytestmark = pytest.mark.whole_process

SERVICE = (str(EXAMPLES / "service.py"),)


async def missing_from(path: Path, keys: Iterable[str]) -> set[str]:
    """Return those of ``keys`` that the file does not hold."""
    keys = set(keys)
    async with open_sqlite_repository(path) as repository:
        return keys - (await repository.get_many(keys)).keys()


# The small ones


def test_the_minimal_program_writes_its_entry(tmp_path: Path) -> None:
    assert run_program(tmp_path, EXAMPLES / "minimal.py") == "1 written to cache.db\n"
    with closing(sqlite3.connect(tmp_path / "cache.db")) as connection:
        assert connection.execute("SELECT count(*) FROM provcache_readable").fetchone() == (1,)


def test_threads_record_every_file(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(50)]
    for path in paths:
        path.write_text(path.name)
    assert run_program(tmp_path, EXAMPLES / "threads.py", "cache.db", *paths) == "written: 50\n"


def test_the_example_of_tests_passes_without_this_project_s_settings(tmp_path: Path) -> None:
    options = ("-q", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider")
    pytest_trio = ("-o", "trio_mode=true")
    printed = run_program(
        tmp_path, "-m", "pytest", *options, *pytest_trio, EXAMPLES / "test_an_application.py"
    )
    assert "4 passed" in printed


# A table of one's own


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_orders_go_into_a_table_of_one_s_own_but_for_one_that_it_refuses(
    tmp_path: Path, store: str
) -> None:
    database = str(uuid4())
    where = str(tmp_path / "a.db") if store == "sqlite" else postgres().create_database(database)
    table = (
        "CREATE TABLE orders (number bigint PRIMARY KEY, changed_at {}, total {}, note text, {})"
    )
    check = "CHECK (number <> 7)"
    if store == "sqlite":
        with closing(sqlite3.connect(where)) as connection:
            connection.execute(table.format("text", "text", check))
    else:
        trio.run(run_sql, where, table.format("timestamptz", "numeric(9, 2)", check))
    lines = [
        f'{{"number": {number}, "changed_at": "2026-11-30T08:00:{second:02}Z", "total": "9.50"}}\n'
        for second in range(3)
        for number in range(20)
    ]
    command = [sys.executable, "-W", "error", str(EXAMPLES / "own_table.py"), where]
    done = subprocess.run(
        command, input="".join(lines), check=True, timeout=60, capture_output=True, text=True
    )
    written, refused = done.stdout.split(" written, ")
    assert refused == "1 refused\n"
    assert 19 <= int(written) <= 57  # some versions met in the queue, the others in the table
    newest = "SELECT count(*) FROM orders WHERE CAST(changed_at AS text) LIKE '%:00:02%'"
    if store == "sqlite":
        with closing(sqlite3.connect(where)) as connection:
            rows = connection.execute(newest).fetchall()
    else:
        rows = trio.run(query, where, newest)
    assert rows == [(19,)]


# A store of one's own


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("own_store", EXAMPLES / "own_store.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "own_store", module)  # dataclasses look there
    specification.loader.exec_module(module)
    return module


def test_the_own_store_keeps_the_peaks_and_refuses_the_impossible(tmp_path: Path) -> None:
    for _ in range(2):  # the second run finds everything stored
        printed = run_program(tmp_path, EXAMPLES / "own_store.py")
        assert printed.splitlines() == [
            "refused (IntegrityError): Peak(sensor='attic', value=-400.0)",
            "stored 2, refused 1",
        ]
    with closing(sqlite3.connect(tmp_path / "peaks.db")) as connection:
        rows = connection.execute("SELECT * FROM peaks ORDER BY sensor").fetchall()
    assert rows == [("boiler", 71.5), ("cellar", 12.0)]


async def test_the_own_store_takes_a_batch_again_without_a_change(
    own_store: ModuleType, tmp_path: Path
) -> None:
    peaks = [own_store.Peak("a", 1.0), own_store.Peak("b", 2.0)]
    with closing(own_store.PeakRepository(tmp_path / "peaks.db")) as repository:
        assert await repository.upsert_many(peaks) == 2
        assert await repository.upsert_many(peaks) == 0
        assert await repository.upsert_many([own_store.Peak("a", 0.5)]) == 0
        assert await repository.upsert_many([own_store.Peak("a", 1.5)]) == 1


async def test_the_own_store_says_which_entry_it_refused_and_stores_none(
    own_store: ModuleType, tmp_path: Path
) -> None:
    peaks = [own_store.Peak("a", 1.0), own_store.Peak("b", -300.0)]
    with closing(own_store.PeakRepository(tmp_path / "peaks.db")) as repository:
        with pytest.raises(EntryRejectedError) as caught:
            await repository.upsert_many(peaks)
        assert caught.value.index == 1
        assert await repository.upsert_many(peaks[:1]) == 1


async def test_the_own_store_is_unavailable_while_its_file_is_locked(
    own_store: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "peaks.db"
    peaks = [own_store.Peak("a", 1.0)]
    with closing(own_store.PeakRepository(path)) as repository:
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailableError):
                await repository.upsert_many(peaks)
        assert await repository.upsert_many(peaks) == 1


# The service


class Client:
    """One connection to the service, and what it was told."""

    def __init__(self, stream: trio.SocketStream, name: str) -> None:
        self.stream = stream
        self.name = name
        self.sent = 0
        self.told: dict[str, set[str]] = {"accepted": set(), "ok": set()}
        self._rest = b""

    def request(self, *, wait: bool) -> bytes:
        """Return the next request, of a key that nobody else asks for."""
        source = hashlib.sha256(f"{self.name} {self.sent}".encode()).hexdigest()
        self.sent += 1
        request = {"source_hash": f"sha256:{source}", "trust_score": 90, "wait": wait}
        return msgspec.json.encode(request) + b"\n"

    async def ask(self, *, wait: bool) -> bool:
        """Send the next request; return False if the service hung up instead of replying."""
        await self.stream.send_all(self.request(wait=wait))
        reply = await self.read()
        if reply is None:
            return False
        word, key = reply.split()
        assert word == ("ok" if wait else "accepted")
        self.told[word].add(key)
        return True

    async def read(self) -> str | None:
        """Return the next line, or None when the service has hung up; a reset would raise."""
        while b"\n" not in self._rest:
            chunk = await self.stream.receive_some()
            if not chunk:
                assert self._rest == b"", "the service hung up in the middle of a reply"
                return None
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()


class Service:
    """The service in a process of its own."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.printed = ""

    @asynccontextmanager
    async def client(self, name: str) -> AsyncGenerator[Client]:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Client(stream, name)

    async def end(self) -> int:
        """Wait until it has ended, and return its status."""
        assert self.process.stdout is not None
        async for chunk in self.process.stdout:
            self.printed += chunk.decode()
        return await self.process.wait()


@asynccontextmanager
async def running(path: Path, program: tuple[str, ...] = SERVICE) -> AsyncGenerator[Service]:
    """Run the service for the length of an ``async with``, with a limit of 60 s."""
    with trio.fail_after(60):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error", *program, str(path), "0"], stdout=subprocess.PIPE
        )
        stdout = process.stdout
        assert stdout is not None
        try:
            line = b""
            while not line.endswith(b"\n"):
                line += await stdout.receive_some(1)
            yield Service(process, int(line.split()[-1]))
        finally:
            process.kill()
            with trio.move_on_after(10, shield=True):
                await process.wait()
                await stdout.aclose()


async def load_until_it_hangs_up(service: Service, signal_number: int) -> list[Client]:
    """Ask over eight connections without end; send a signal when 200 requests were answered."""
    clients: list[Client] = []
    counter = itertools.count(1)

    async def ask(number: int) -> None:
        async with service.client(str(number)) as client:
            clients.append(client)
            while await client.ask(wait=client.sent % 10 == 9):
                if next(counter) == 200:
                    service.process.send_signal(signal_number)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(ask, number)
    assert next(counter) > 200
    return clients


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_what_the_service_acknowledged_is_in_the_file_after_a_signal_under_load(
    tmp_path: Path, signal_number: int
) -> None:
    path = tmp_path / "cache.db"
    async with running(path) as service:
        clients = await load_until_it_hangs_up(service, signal_number)
        assert await service.end() == 0
    told = set[str]().union(*(keys for client in clients for keys in client.told.values()))
    assert len(told) >= 200
    assert await missing_from(path, told) == set()
    async with open_sqlite_repository(path) as repository:
        assert service.printed == f"written: {await repository.count()}\n"


async def test_what_the_service_called_stored_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    async with running(path) as service, service.client("a") as client:
        for _ in range(20):
            assert await client.ask(wait=True)
        service.process.kill()
        assert await service.end() == -signal.SIGKILL
    assert len(client.told["ok"]) == 20
    assert await missing_from(path, client.told["ok"]) == set()


async def test_the_service_answers_a_bad_line_and_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path / "cache.db") as service, service.client("a") as client:
        await client.stream.send_all(b'{"source_hash": "no hash", "trust_score": 1}\nno JSON\n')
        assert await client.read() == "error ValueError"
        assert await client.read() == "error DecodeError"
        assert await client.ask(wait=True)


async def test_the_service_survives_a_client_that_resets_its_connection(tmp_path: Path) -> None:
    async with running(tmp_path / "cache.db") as service:
        async with service.client("a") as client:
            assert await client.ask(wait=False)
            linger = (1).to_bytes(4, sys.byteorder) + bytes(4)  # closing resets
            client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)
        async with service.client("b") as client:
            assert await client.ask(wait=True)


async def test_unread_input_does_not_cost_a_client_its_replies(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    async with running(path) as service, service.client("a") as client:
        assert await client.ask(wait=True)  # now the file is there
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            # Read in one piece: after the first reply, the service waits for the locked file.
            await client.stream.send_all(b"no JSON\n" + client.request(wait=True))
            assert await client.read() == "error DecodeError"
            await client.stream.send_all(b"unread")
            service.process.send_signal(signal.SIGTERM)
            assert await client.read() is None
        await client.stream.aclose()
        assert await service.end() == 0


async def test_a_second_signal_does_not_end_the_drain(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    async with running(path) as service:
        async with service.client("a") as client:
            assert await client.ask(wait=True)  # now the file is there
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                for _ in range(10):
                    assert await client.ask(wait=False)
                service.process.send_signal(signal.SIGTERM)
                assert await client.read() is None
                service.process.send_signal(signal.SIGTERM)
        await service.end()
    assert service.printed == "written: 11\n"
    assert await missing_from(path, client.told["accepted"]) == set()


async def test_the_service_saves_what_it_could_not_write(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    impatient = (
        "import sys; from pathlib import Path; import trio, provcache_trio;"
        f"sys.path.insert(0, {str(EXAMPLES)!r}); import service;"
        "service.OPTIONS = provcache_trio.WriteBehindOptions(drain_timeout_seconds=0);"
        "trio.run(service.serve, Path(sys.argv[1]), int(sys.argv[2]))"
    )
    async with running(path, ("-c", impatient)) as service, service.client("a") as client:
        assert await client.ask(wait=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(10):
                assert await client.ask(wait=False)
            service.process.send_signal(signal.SIGTERM)
            assert await client.read() is None
            await client.stream.aclose()
            assert await service.end() == 1
    lines = (tmp_path / "cache.undelivered").read_bytes().splitlines()
    saved = {msgspec.json.decode(line, type=ProvcacheEntry).veri_key for line in lines}
    assert saved == client.told["accepted"]
