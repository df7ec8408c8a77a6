"""A queue goes through every fault that can be made on a real PostgreSQL, and keeps its promises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import StoreUnavailableError
from provcache_trio._asyncio.bridge import DEFAULT_KIND
from provcache_trio.postgres import open_postgres_repository

from tests.chaos.verdict import Told, verdict
from tests.faults.catalogue import ALL, FAULTS
from tests.faults.proxy import Do, Said
from tests.faults.scenario import leave, recover
from tests.faults.site import (
    COMMAND_SECONDS,
    POISON,
    SEED,
    draws_own_table,
    open_site,
    run_faulty_server,
)
from tests.support.bridges import BRIDGES
from tests.support.pgserver import run_postgres_server
from tests.support.programs import ROOT
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from provcache_trio._asyncio.bridge import BridgeKind
    from provcache_trio.postgres import PostgresRepository

    from tests.faults.catalogue import Fault
    from tests.faults.site import Site
    from tests.support.pgserver import PostgresServer

pytestmark = pytest.mark.heavy

OTHER_BRIDGES = [kind for kind in BRIDGES if kind != DEFAULT_KIND]


@pytest.fixture(scope="module")
def server() -> Generator[PostgresServer]:
    with run_faulty_server() as running:
        yield running


@pytest.fixture
def own_table(request: pytest.FixtureRequest) -> bool:
    """Whether entries go into a table of the user's own: half of the tests do, by the seed."""
    drawn = draws_own_table(request.node.name)
    print(f"PROVCACHE_SEED={SEED}: {'a table of the user' if drawn else 'the built-in table'}")  # noqa: T201  # when it fails
    return drawn


@pytest.fixture
async def site(server: PostgresServer, own_table: bool) -> AsyncGenerator[Site]:
    async with open_site(server, own_table=own_table) as made:
        yield made


@pytest.mark.one_lane
@pytest.mark.parametrize("name", FAULTS)
async def test_a_queue_recovers_and_has_lost_nothing_when(name: str, site: Site) -> None:
    await recover(site, FAULTS[name], DEFAULT_KIND)


FROM_THE_START = [
    "the_server_crashes_and_restarts",
    "new_connections_are_not_answered",
    "the_password_is_wrong",
    "the_table_is_gone",
]


@pytest.mark.parametrize("name", FROM_THE_START)
async def test_a_queue_that_is_opened_in_the_middle_of_it_writes_when_it_is_over(
    name: str, site: Site
) -> None:
    await recover(site, FAULTS[name], DEFAULT_KIND, from_the_start=True)


@pytest.mark.parametrize("bridge", OTHER_BRIDGES)
@pytest.mark.parametrize("name", [name for name, one in FAULTS.items() if one.line])
async def test_over_the_other_bridge_it_recovers_just_so_when(
    name: str, bridge: BridgeKind, site: Site
) -> None:
    await recover(site, FAULTS[name], bridge)


LEFT = [(name, DEFAULT_KIND) for name in FAULTS]
LEFT += [(name, bridge) for name, one in FAULTS.items() if one.line for bridge in OTHER_BRIDGES]


@pytest.mark.parametrize(("name", "bridge"), LEFT)
async def test_a_queue_can_be_left_in_time_and_hands_back_what_is_not_written_while(
    name: str, bridge: BridgeKind, site: Site
) -> None:
    await leave(site, FAULTS[name], bridge)


async def test_a_program_that_is_cut_off_while_it_makes_the_schema_does_not_keep_others_from_it(
    site: Site,
) -> None:
    through_the_proxy = site.admin.replace(f":{site.server.port}/", f":{site.proxy.port}/")
    site.proxy.when(Said.CREATE, Do.HOLD, times=1)

    def opening(dsn: str) -> AbstractAsyncContextManager[PostgresRepository]:
        return open_postgres_repository(
            f"{dsn}?sslmode=disable", schema="made_by_two", create=True, command_timeout_seconds=1
        )

    async with (
        opening(through_the_proxy) as cut_off,
        opening(site.admin) as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_checked, cut_off)
        await site.proxy.happened()
        with trio.fail_after(HANG_SECONDS):
            while not await _checked(other):
                pass
        nursery.cancel_scope.cancel()
    await site.execute("DROP SCHEMA made_by_two CASCADE")


async def _checked(repository: PostgresRepository) -> bool:
    try:
        await repository.check()
    except StoreUnavailableError:
        return False
    return True


# Faults that need a server of their own


@pytest.mark.parametrize("bridge", BRIDGES)
async def test_nothing_that_was_acknowledged_is_lost_when_a_standby_takes_over(
    bridge: BridgeKind, own_table: bool
) -> None:
    with run_faulty_server() as primary, run_postgres_server(standby_of=primary) as standby:
        async with open_site(primary, own_table=own_table) as site:
            await site.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await site.execute("SELECT pg_reload_conf()")
            site.standby = standby
            await recover(site, ALL["a_standby_takes_over"], bridge)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Generator[Path]:
    """A file system in memory that can be filled."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody, or not us, mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)  # noqa: S607


@pytest.mark.parametrize("go_through", [recover, leave])
async def test_nothing_is_lost_when_the_disk_is_full(
    go_through: Callable[[Site, Fault, BridgeKind], Awaitable[None]],
    tiny_disk: Path,
    own_table: bool,
) -> None:
    with run_faulty_server(tiny_disk) as server:
        async with open_site(server, own_table=own_table) as site:
            await go_through(site, ALL["the_disk_is_full"], DEFAULT_KIND)


# The program itself


async def test_a_program_that_was_stopped_for_longer_than_every_timeout_goes_on(
    site: Site, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    kind = "entries" if site.declared is None else "table"
    arguments = [site.dsn, site.schema, kind, DEFAULT_KIND, "0", "1", str(record)]
    await site.execute(f"ALTER TABLE {site.table} ADD CHECK (hit_count <> {POISON}) NOT VALID")
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.chaos.worker", *arguments], cwd=ROOT
    )
    for _ in range(2):
        flushed = Told(record).flushed if record.exists() else 0
        await until(lambda: record.exists() and Told(record).flushed > flushed)  # noqa: B023  # in this turn
        process.send_signal(signal.SIGSTOP)
        await trio.sleep(2 * COMMAND_SECONDS)
        process.send_signal(signal.SIGCONT)
    process.terminate()
    with trio.fail_after(HANG_SECONDS):
        assert await process.wait() == 0
    assert await verdict(site, [record]) == []
