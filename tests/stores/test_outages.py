"""More outages, one after the other, than there should be in a year: what they leave behind."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import open_write_behind_queue

from tests.faults.catalogue import FAULTS
from tests.faults.scenario import OPTIONS
from tests.faults.site import open_site, run_faulty_server
from tests.support.bridges import each_bridge
from tests.support.entries import entry
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from provcache_trio import ProvcacheEntry, WriteBehindQueue
    from provcache_trio._asyncio.bridge import BridgeKind

    from tests.faults.catalogue import Fault
    from tests.faults.site import Site

OUTAGES = [one for one in FAULTS.values() if one.by_proxy] + [
    FAULTS["busy_sessions_are_terminated"],
    FAULTS["the_name_server_does_not_answer"],
]
LIBRARIES = [
    tracemalloc.Filter(inclusive=True, filename_pattern=f"*/{name}/*")
    for name in ("provcache_trio", "asyncpg", "trio_asyncio", "asyncio")
]
MOST_BYTES_MORE = 20_000  # what one connection takes, and no more

_numbers = count()


class Left:
    """What this process holds, at rest."""

    def __init__(self) -> None:
        gc.collect()
        self.descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        # trio's idle workers come and go by themselves.
        names = [one.name for one in threading.enumerate()]
        self.threads = sum(not name.startswith("Trio thread") for name in names)
        snapshot = tracemalloc.take_snapshot().filter_traces(LIBRARIES)
        self.bytes = sum(one.size for one in snapshot.statistics("filename"))


@pytest.mark.heavy
@each_bridge
async def test_an_hour_s_worth_of_outages_leaves_no_memory_descriptor_thread_or_connection_behind(
    bridge: BridgeKind, counts: Callable[[int, int], int]
) -> None:
    rounds = counts(1, 6)  # of each of the outages
    with run_faulty_server() as server:
        async with open_site(server) as site:
            site.host = "localhost"
            async with (
                site.opening(bridge) as repository,
                open_write_behind_queue(repository, OPTIONS) as queue,
            ):
                left: list[Left] = []
                tracemalloc.start()
                try:
                    for _ in range(3):  # the first is for what is made once
                        for one in OUTAGES * rounds:
                            await _go_through(one, site, queue)
                        await _at_rest(site)
                        left.append(Left())
                finally:
                    tracemalloc.stop()
    _, before, after = left
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads
    assert after.bytes - before.bytes < MOST_BYTES_MORE


async def _go_through(fault: Fault, site: Site, queue: WriteBehindQueue[ProvcacheEntry]) -> None:
    async with fault.make(site):
        with trio.move_on_after(0.5):
            while True:
                await queue.enqueue(entry(next(_numbers) % 100, hit_count=next(_numbers)))
                await trio.sleep(0.01)
    await site.proxy.heal()
    with trio.fail_after(HANG_SECONDS):
        await queue.flush()


async def _at_rest(site: Site) -> None:
    """Wait until the proxy has let go of everything that was held, and one connection is left."""

    async def one_is_left() -> bool:
        return await site.connections() <= 1

    await until(one_is_left)
    await until(lambda: len(site.proxy._links) == 1)
