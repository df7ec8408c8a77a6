"""The example of a table of one's own, as it stands, goes through what a store does at the worst moment."""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from provcache_trio import DrainTimeoutError, WriteBehindMetrics, WriteBehindOptions

from tests.faults.catalogue import FAULTS
from tests.faults.scenario import FOUND, LOST, Log
from tests.faults.site import open_site, run_faulty_server
from tests.support.disks import can_mount, fill, small_volume
from tests.support.items import balance
from tests.support.programs import EXAMPLES
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator
    from pathlib import Path
    from types import ModuleType

    from tests.faults.site import Site
    from tests.support.pgserver import PostgresServer

START = datetime(2026, 11, 30, 8, tzinfo=UTC)
POISON = 7  # the number of an order that the table refuses
TABLE = """
CREATE TABLE orders (
    number {number} PRIMARY KEY, changed_at {moment} NOT NULL, total {total} NOT NULL, note text,
    CHECK (number <> 7)
)
"""


@pytest.fixture
def own_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, as a module; its queue comes back soon when a store has come back."""
    path = EXAMPLES / "own_table.py"
    specification = importlib.util.spec_from_file_location("own_table", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    options = WriteBehindOptions(retry_cap_seconds=0.5, drain_timeout_seconds=10)
    impatient = partial(module.open_write_behind_queue, options=options)
    monkeypatch.setattr(module, "open_write_behind_queue", impatient)
    return module


class Orders:
    """Orders without end, until ``last`` is set; one of a hundred is a poisoned one."""

    def __init__(self, module: ModuleType) -> None:
        self._order = module.Order
        self.brought: set[int] = set()
        self.last = False

    def __iter__(self) -> Iterator[Any]:
        while not self.last:
            number = len(self.brought)
            self.brought.add(number)
            yield self._order(number, START + timedelta(seconds=number), Decimal("9.50"))


class Run:
    """The example's function at work, and what is known of it."""

    def __init__(self, module: ModuleType, where: str) -> None:
        self.orders = Orders(module)
        self._record = module.record
        self._where = where
        self.metrics: WriteBehindMetrics | None = None
        self.log = Log()

    async def __call__(self) -> None:
        self.metrics = await self._record(self._where, self.orders)

    async def logged(self, *beginnings: str) -> None:
        """Wait until a line says so, and forget those before."""
        await until(lambda: any(line.startswith(beginnings) for line in self.log.lines))
        self.log.lines.clear()

    def check(self, stored: set[int]) -> None:
        """Every order but the poisoned one is stored, and the refused one was counted."""
        assert self.metrics is not None
        assert balance(self.metrics) == 0
        assert stored == self.orders.brought - {POISON}
        assert (self.metrics.total_failed, self.metrics.total_abandoned) == (1, 0)
        assert self.metrics.total_persisted == len(stored)


@asynccontextmanager
async def recording(run: Run) -> AsyncGenerator[None]:
    """Let it run while the block does, from when some orders were written, and come to its end."""
    with run.log, trio.fail_after(2 * HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(lambda: len(run.orders.brought) > 2000)
            yield
            run.orders.last = True


# PostgreSQL


@pytest.fixture(scope="module")
def server() -> Generator[PostgresServer]:
    with run_faulty_server() as running:
        yield running


@pytest.fixture
async def site(server: PostgresServer) -> AsyncGenerator[Site]:
    async with open_site(server) as made:
        table = TABLE.format(number="bigint", moment="timestamptz", total="numeric(9, 2)")
        await made.execute(
            f"SET search_path = {made.schema}; {table};"
            f"GRANT SELECT, INSERT, UPDATE ON orders TO {made.role};"
            f"ALTER ROLE {made.role} SET search_path = {made.schema}"
        )
        yield made


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name",
    [
        "the_server_crashes_and_restarts",
        "connections_are_reset_in_the_middle_of_a_batch",
        "the_server_is_read_only",
    ],
)
async def test_into_postgresql_it_goes_on_and_has_lost_nothing_when(
    name: str, site: Site, own_table: ModuleType
) -> None:
    run = Run(own_table, site.dsn)
    async with recording(run):
        async with FAULTS[name].make(site):
            await run.logged(*LOST)
        await run.logged(FOUND)
    rows = await site.fetch(f"SELECT number FROM {site.schema}.orders")
    run.check({number for (number,) in rows if isinstance(number, int)})


@pytest.mark.heavy
async def test_it_is_left_in_time_while_the_server_is_frozen(
    site: Site, own_table: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_second = partial(
        own_table.open_write_behind_queue.func,
        options=WriteBehindOptions(drain_timeout_seconds=1),
    )
    monkeypatch.setattr(own_table, "open_write_behind_queue", in_a_second)
    run = Run(own_table, site.dsn)
    undelivered: set[int] = set()

    async def fails() -> None:
        with pytest.raises(DrainTimeoutError) as caught:
            await run()
        undelivered.update(getattr(order, "number", -1) for order in caught.value.undelivered)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails)
        await until(lambda: len(run.orders.brought) > 2000)
        site.proxy.silence()
        run.orders.last = True
        began = trio.current_time()
    assert trio.current_time() - began < 1 + 5
    await site.proxy.heal()
    rows = await site.fetch(f"SELECT number FROM {site.schema}.orders")
    stored = {number for (number,) in rows}
    assert stored | undelivered | {POISON} == run.orders.brought
    assert undelivered


# SQLite


def made(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(TABLE.format(number="integer", moment="text", total="text"))
    return path


def numbers_in(path: Path) -> set[int]:
    with closing(sqlite3.connect(path)) as connection:
        return {number for (number,) in connection.execute("SELECT number FROM orders")}


async def test_into_sqlite_it_goes_on_when_somebody_has_locked_the_file(
    tmp_path: Path, own_table: ModuleType
) -> None:
    path = made(tmp_path / "orders.db")
    run = Run(own_table, str(path))
    async with recording(run):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            await until(partial(begun, other))
            await run.logged(*LOST)
        await run.logged(FOUND)
    run.check(numbers_in(path))


def begun(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:  # it is being written
        return False
    return True


@pytest.mark.heavy
@pytest.mark.skipif(not can_mount(), reason="needs leave to mount")
async def test_into_sqlite_it_goes_on_when_there_is_room_on_the_disk_again(
    tmp_path: Path, own_table: ModuleType
) -> None:
    with small_volume(tmp_path, 64 * 1024) as volume:
        path = made(volume / "orders.db")
        run = Run(own_table, str(path))
        async with recording(run):
            fill(volume)
            await run.logged(*LOST)
            (volume / "full").unlink()
            await run.logged(FOUND)
        run.check(numbers_in(path))
