"""The stores of examples/: over psycopg and SQLAlchemy, in a thread, and behind an HTTP API."""

from __future__ import annotations

import importlib
import json
import sqlite3
import sys
import threading
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
import trio

from provcache_trio import (
    EntryRejectedError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, check_repository

from tests.faults.proxy import open_proxy
from tests.support.bridges import Client
from tests.support.programs import EXAMPLES, run_program
from tests.support.servers import postgres, run_sql, unused_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from pathlib import Path
    from types import ModuleType

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SHORT_SECONDS = 0.2
PROMPT_SECONDS = 4  # a second for the server to answer a cancellation, and a slow machine


class Place(NamedTuple):
    """A store, opened by its URL, and how its entries are made."""

    store: Callable[..., Any]
    url: str
    module: ModuleType

    def reading(self, number: int, version: int = 0, celsius: float | None = None) -> Any:  # noqa: ANN401  # of the module
        moment = NOW + timedelta(seconds=version)
        at: object = moment
        if self.module.__name__ == "sqlalchemy_store":
            at = int(moment.timestamp()) * 1_000_000
        return self.module.Reading(f"sensor {number}", at, version if celsius is None else celsius)

    @asynccontextmanager
    async def open(self, *, url: str = "") -> AsyncGenerator[Any]:
        store = self.store(url or self.url)
        try:
            yield store
        finally:
            if hasattr(store, "aclose"):
                await store.aclose()
            else:
                store.close()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[str], ModuleType]]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = {*sys.modules}
    yield importlib.import_module
    for name in ("in_thread", "psycopg_store", "sqlalchemy_store", "http_store"):
        if name not in before:
            sys.modules.pop(name, None)


class Api(BaseHTTPRequestHandler):
    """An API that takes readings; a test may have it answer otherwise, or not at all."""

    protocol_version = "HTTP/1.1"
    server: ApiServer  # type: ignore[mutable-override]  # nobody else makes them

    def do_PUT(self) -> None:
        readings = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.held is not None:
            self.server.held.wait()
        if self.server.status:
            self._answer(self.server.status, {"index": 1})
            return
        for index, reading in enumerate(readings):
            if reading["celsius"] < -273.15:
                self._answer(422, {"index": index})
                return
        changed = 0
        with self.server.lock:
            for reading in readings:
                old = self.server.rows.get(reading["sensor"])
                if old is None or (reading["taken_at"] >= old["taken_at"] and old != reading):
                    self.server.rows[reading["sensor"]] = reading
                    changed += 1
        self._answer(200, {"changed": changed})

    def do_GET(self) -> None:
        wanted = parse_qs(urlsplit(self.path).query).get("sensor", [])
        with self.server.lock:
            found = [self.server.rows[each] for each in wanted if each in self.server.rows]
        self._answer(200, found)

    def _answer(self, status: int, what: object) -> None:
        body = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class ApiServer(ThreadingHTTPServer):
    """Serves it, on a port of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.rows: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        self.status = 0
        self.held: threading.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/readings"

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up."""


@pytest.fixture
def api() -> Generator[ApiServer]:
    with ApiServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        if server.held is not None:
            server.held.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def over_psycopg(example: Callable[[str], ModuleType]) -> Place:
    module = example("psycopg_store")
    return Place(module.PsycopgStore, postgres().create_database(str(uuid4())), module)


@pytest.fixture
def alchemy_on_sqlite(example: Callable[[str], ModuleType], tmp_path: Path) -> Place:
    module = example("sqlalchemy_store")
    return Place(module.SQLAlchemyStore, f"sqlite:///{tmp_path / 'readings.db'}", module)


@pytest.fixture
def alchemy_on_postgres(example: Callable[[str], ModuleType]) -> Place:
    module = example("sqlalchemy_store")
    url = postgres().create_database(str(uuid4())).replace("://", "+psycopg://", 1)
    return Place(module.SQLAlchemyStore, url, module)


@pytest.fixture
def over_http(example: Callable[[str], ModuleType], api: ApiServer) -> Place:
    module = example("http_store")
    return Place(module.HttpStore, api.url, module)


REMOTE = ["over_psycopg", "alchemy_on_postgres", "over_http"]


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


each_store = pytest.mark.parametrize("place", [*REMOTE, "alchemy_on_sqlite"], indirect=True)
each_server = pytest.mark.parametrize("place", REMOTE, indirect=True)


# What every store promises


async def emptied(place: Place, api: ApiServer) -> None:
    api.rows.clear()
    if place.url.startswith("sqlite"):
        with closing(sqlite3.connect(place.url.removeprefix("sqlite:///"))) as connection:
            connection.execute("DROP TABLE IF EXISTS reading")
    elif place.url.startswith("postgresql"):
        await run_sql(place.url.replace("+psycopg", ""), "DROP TABLE IF EXISTS reading")


@each_store
async def test_it_keeps_the_promises_of_a_repository(place: Place, api: ApiServer) -> None:
    @asynccontextmanager
    async def open_empty() -> AsyncGenerator[Any]:
        await emptied(place, api)
        async with place.open() as store:
            yield store

    def refused(number: int) -> Any:  # noqa: ANN401  # of the module
        sensor, at, _ = (getattr(place.reading(number), name) for name in FIELDS)
        return place.module.Reading(sensor, at, -300.0 if place.url == api.url else None)

    await check_repository(
        open_empty,
        place.reading,
        key=attrgetter("sensor"),
        merge=place.module.newer,
        refused=refused,
    )


FIELDS = ("sensor", "taken_at", "celsius")


@each_store
async def test_a_queue_over_it_keeps_the_neighbours_of_a_bad_reading(
    place: Place, api: ApiServer
) -> None:
    letters = MemoryDeadLetters[Any]()
    bad = place.reading(7)
    bad = place.module.Reading(bad.sensor, bad.taken_at, -300.0 if place.url == api.url else None)
    options = WriteBehindOptions(flush_interval_seconds=0, retry_base_seconds=0.001)
    async with place.open() as store:
        async with open_write_behind_queue(
            store, options, key=attrgetter("sensor"), merge=place.module.newer, dead_letters=letters
        ) as queue:
            await queue.enqueue_many([place.reading(n) if n != 7 else bad for n in range(20)])
        assert queue.metrics().total_persisted == 19
        assert [letter.entry for letter in letters.letters] == [bad]
        found = await store.get_many([f"sensor {n}" for n in range(20)])
    assert found == {f"sensor {n}": place.reading(n) for n in range(20) if n != 7}


@each_store
@pytest.mark.whole_process
def test_it_is_a_program_too(place: Place, tmp_path: Path) -> None:
    file = EXAMPLES / f"{place.module.__name__}.py"
    assert run_program(tmp_path, file, place.url) == "1 written\n"


# Cancellation and time limits


@each_server
@pytest.mark.parametrize("limit", ["cancelled", "too slow"])
async def test_a_call_ends_in_time_while_somebody_holds_the_table(
    place: Place, api: ApiServer, limit: str
) -> None:
    async with place.open() as store, holding(store, place, api):
        if limit == "too slow":
            store._seconds = SHORT_SECONDS  # only now: to connect may take a busy machine longer
            if place.url == api.url:
                store._client.timeout = SHORT_SECONDS
        with trio.fail_after(PROMPT_SECONDS):
            if limit == "cancelled":
                with trio.move_on_after(SHORT_SECONDS) as scope:
                    await store.upsert_many([place.reading(1, 1)])
                assert scope.cancelled_caught
            else:
                with pytest.raises((trio.TooSlowError, StoreUnavailableError)) as caught:
                    await store.upsert_many([place.reading(1, 1)])
                assert getattr(caught.value, "too_slow", True)


@asynccontextmanager
async def holding(store: Any, place: Place, api: ApiServer) -> AsyncGenerator[None]:  # noqa: ANN401  # of the module
    """Hold the rows while the block runs; afterwards a call succeeds."""
    await store.upsert_many([place.reading(1)])
    if place.url == api.url:
        api.held = threading.Event()
        yield
        api.held.set()
        api.held = None
    else:
        async with Client(place.url.replace("+psycopg", "")) as holder:
            await holder.execute("BEGIN; LOCK TABLE reading")
            yield
            await holder.execute("ROLLBACK")
    store._seconds = 10
    if place.url == api.url:
        store._client.timeout = 10
    assert await store.upsert_many([place.reading(1, 2)]) == 1


@pytest.mark.parametrize("place", ["over_psycopg", "alchemy_on_postgres"], indirect=True)
async def test_a_call_ends_in_time_when_the_server_is_silent(place: Place) -> None:
    port = urlsplit(place.url).port or 0
    async with open_proxy("127.0.0.1", port) as proxy:
        url = f"{place.url.replace(f':{port}/', f':{proxy.port}/')}?sslmode=disable"
        async with place.open(url=url) as store:
            assert await store.upsert_many([place.reading(1)]) == 1
            proxy.silence()
            store._seconds = SHORT_SECONDS
            with trio.fail_after(PROMPT_SECONDS), pytest.raises(trio.TooSlowError):
                await store.upsert_many([place.reading(1, 1)])
            await proxy.heal()
            store._seconds = 10
            assert await store.upsert_many([place.reading(1, 2)]) == 1


# Verdicts


@each_server
async def test_a_server_that_is_not_there_is_unavailable(place: Place) -> None:
    port = urlsplit(place.url).port
    async with place.open(url=place.url.replace(f":{port}/", f":{unused_port()}/")) as store:
        with pytest.raises(StoreUnavailableError) as caught:
            await store.upsert_many([place.reading(1)])
        assert type(caught.value) is StoreUnavailableError


async def test_what_postgresql_says_decides(over_psycopg: Place) -> None:
    place = over_psycopg
    async with place.open() as store:
        with pytest.raises(EntryRejectedError):  # psycopg sends no NUL
            await store.upsert_many([place.module.Reading("\0", NOW, 1.0)])
        await store.upsert_many([place.reading(1)])
        await run_sql(place.url, "ALTER TABLE reading RENAME celsius TO degrees")
        with pytest.raises(StoreMisconfiguredError):
            await store.upsert_many([place.reading(1, 1)])
        await run_sql(
            place.url,
            "ALTER TABLE reading RENAME degrees TO celsius;"
            "ALTER TABLE reading ADD CONSTRAINT warm CHECK (celsius < 100)",
        )
        with pytest.raises(EntryRejectedError) as caught:
            await store.upsert_many([place.reading(1, 1, 100.0)])
        assert caught.value.constraint == "warm"
        assert await store.upsert_many([place.reading(1, 1)]) == 1


async def test_what_sqlite_says_decides(alchemy_on_sqlite: Place, tmp_path: Path) -> None:
    place = alchemy_on_sqlite
    path = tmp_path / "readings.db"
    async with place.open(url=f"sqlite:///{tmp_path}/none/readings.db") as store:
        with pytest.raises(StoreMisconfiguredError):
            await store.upsert_many([place.reading(1)])
    async with place.open() as store:
        await store.upsert_many([place.reading(1)])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailableError) as caught:
                await store.upsert_many([place.reading(1, 1)])
            assert (type(caught.value), caught.value.error_class) == (
                StoreUnavailableError,
                "SQLITE_BUSY",
            )


@pytest.mark.parametrize(
    ("status", "verdict", "too_slow"),
    [
        (401, StoreMisconfiguredError, False),
        (404, StoreMisconfiguredError, False),
        (409, TransientStoreError, None),
        (413, StoreUnavailableError, True),
        (429, StoreUnavailableError, False),
        (503, StoreUnavailableError, False),
    ],
)
async def test_what_the_api_answers_decides(
    over_http: Place, api: ApiServer, status: int, verdict: type[Exception], too_slow: bool | None
) -> None:
    api.status = status
    async with over_http.open() as store:
        with pytest.raises(verdict) as caught:
            await store.upsert_many([over_http.reading(1)])
        assert type(caught.value) is verdict
        assert getattr(caught.value, "too_slow", None) == too_slow
        api.status = 422
        with pytest.raises(EntryRejectedError) as rejected:
            await store.upsert_many([over_http.reading(1), over_http.reading(2)])
        assert rejected.value.index == 1
        api.status = 0
        assert await store.upsert_many([over_http.reading(1)]) == 1
