"""A queue goes through every fault that can be made on a real PostgreSQL, and keeps its promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provcache_trio._postgres.bridge import DEFAULT_KIND

from tests.faults.catalogue import FAULTS
from tests.faults.scenario import leave, recover
from tests.faults.site import open_site, run_faulty_server
from tests.test_postgres_bridge import BRIDGES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from provcache_trio._postgres.bridge import BridgeKind
    from provcache_trio._postgres_server import PostgresServer

    from tests.faults.site import Site

OTHER_BRIDGES = [kind for kind in BRIDGES if kind != DEFAULT_KIND]


@pytest.fixture(scope="module")
def server() -> Generator[PostgresServer]:
    with run_faulty_server() as running:
        yield running


@pytest.fixture
async def site(server: PostgresServer) -> AsyncGenerator[Site]:
    async with open_site(server) as made:
        yield made


@pytest.mark.parametrize("name", FAULTS)
async def test_a_queue_recovers_and_has_lost_nothing_when(name: str, site: Site) -> None:
    await recover(site, FAULTS[name], DEFAULT_KIND)


@pytest.mark.heavy
@pytest.mark.parametrize("bridge", OTHER_BRIDGES)
@pytest.mark.parametrize("name", [name for name, one in FAULTS.items() if one.line])
async def test_over_the_other_bridge_it_recovers_just_so_when(
    name: str, bridge: BridgeKind, site: Site
) -> None:
    await recover(site, FAULTS[name], bridge)


@pytest.mark.heavy
@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize("name", FAULTS)
async def test_a_queue_can_be_left_in_time_and_hands_back_what_is_not_written_while(
    name: str, bridge: BridgeKind, site: Site
) -> None:
    await leave(site, FAULTS[name], bridge)
