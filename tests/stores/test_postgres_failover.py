"""A standby that takes over under load: what a queue has reported as persisted is there."""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import TYPE_CHECKING, Final

import pytest
import trio

from provcache_trio import QueueClosedError, WriteBehindOptions, open_write_behind_queue
from provcache_trio.postgres import open_postgres_repository

from tests.support.bridges import Client
from tests.support.entries import entry, key_of
from tests.support.pgserver import run_postgres_server
from tests.support.waiting import until

if TYPE_CHECKING:
    from provcache_trio import ProvcacheEntry, WriteBehindQueue

pytestmark = pytest.mark.heavy

TASKS: Final = 20
HOT_KEYS: Final = TASKS  # each is one task's, so its versions are offered in order
ENOUGH: Final = 500  # persisted before the primary is lost, and again after it
OPTIONS: Final = WriteBehindOptions(
    batch_size=50, retry_base_seconds=0.02, retry_cap_seconds=0.2, max_retries=None
)
# Without syncs: no machine loses power here, only processes are killed.
SYNCHRONOUS: Final = {"fsync": "off", "synchronous_standby_names": "*"}
ALONE: Final = {"synchronous_standby_names": ""}


class Load:
    """Tasks that persist entries, half of them under keys that are written once.

    Attributes:
        persisted: the newest version of each key that the queue has reported as persisted.
        times: how often it has reported one.
    """

    def __init__(self, queue: WriteBehindQueue[ProvcacheEntry]) -> None:
        self._queue = queue
        self._numbers = count(HOT_KEYS)
        self.persisted: dict[int, int] = {}
        self.times = 0

    async def run(self, task: int) -> None:
        for version in count(1):
            number = task if version % 2 else next(self._numbers)
            try:
                await self._queue.persist(entry(number, hit_count=version))
            except QueueClosedError:
                return
            self.persisted[number] = version
            self.times += 1

    async def until_more(self) -> None:
        enough = self.times + ENOUGH
        await until(lambda: self.times >= enough)


@pytest.mark.parametrize("primary_is", ["killed", "cut off from its standby"])
async def test_nothing_persisted_is_missing_when_a_standby_takes_over_under_load(
    primary_is: str,
) -> None:
    with (
        run_postgres_server(settings=SYNCHRONOUS) as primary,
        run_postgres_server(standby_of=primary, settings=ALONE) as standby,
    ):
        places = ",".join(f"{one.host}:{one.port}" for one in (primary, standby))
        both = f"postgresql://postgres@{places}/postgres?target_session_attrs=read-write"
        async with (
            open_postgres_repository(both, create=True, command_timeout_seconds=2) as store,
            open_write_behind_queue(store, OPTIONS) as queue,
            trio.open_nursery() as nursery,
        ):
            load = Load(queue)
            for task in range(TASKS):
                nursery.start_soon(load.run, task)
            await load.until_more()
            async with Client(primary.dsn) as admin:
                sender = await admin.value("SELECT pid FROM pg_stat_replication")
                assert isinstance(sender, int)
                os.kill(sender, signal.SIGSTOP)
                # From now on the standby gets nothing, so what is committed is not to be reported.
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

                async def one_waits() -> bool:
                    return await admin.value(waits) != 0

                await until(one_waits)
            if primary_is == "killed":
                await trio.to_thread.run_sync(primary.kill)
                os.kill(sender, signal.SIGKILL)
            # Else it still says that it takes writes, and none of them is ever acknowledged.
            async with Client(standby.dsn) as admin:
                assert await admin.value("SELECT pg_promote()") is True
            await load.until_more()
            nursery.cancel_scope.cancel()
        async with Client(standby.dsn) as admin:
            rows = await admin.fetch("SELECT veri_key, hit_count FROM provcache.entries")
    found = {f"sha256:{key.hex()}": hits for key, hits in rows if isinstance(key, bytes)}
    missing = {n: v for n, v in load.persisted.items() if int(str(found.get(key_of(n), 0))) < v}
    assert not missing, f"{len(missing)} of {len(load.persisted)} are missing"
