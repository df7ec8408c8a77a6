"""The same promises behind a PgBouncer in transaction mode, which is restarted under load."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio._asyncio.bridge import DEFAULT_KIND

from tests.faults.catalogue import BROKEN, FAULTS, SILENT
from tests.faults.scenario import recover
from tests.faults.site import SECRET, open_site, run_faulty_server
from tests.support.bridges import each_bridge
from tests.support.servers import unused_port
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from provcache_trio._asyncio.bridge import BridgeKind

    from tests.faults.catalogue import Fault
    from tests.faults.site import Site
    from tests.support.pgserver import PostgresServer

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(PROGRAM is None, reason="no PgBouncer here (apt-get install pgbouncer)"),
]

CONFIGURATION = """
[databases]
postgres = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users
logfile = {folder}/log
pool_mode = transaction
default_pool_size = 3
server_login_retry = 1
"""


class PgBouncer:
    """A PgBouncer in front of a site's server, which may be stopped and started."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._configuration = folder / "pgbouncer.ini"
        self.port = unused_port()
        text = CONFIGURATION.format(server_port=site.server.port, port=self.port, folder=folder)
        self._configuration.write_text(text)
        (folder / "users").write_text(f'"{site.role}" "{SECRET}"\n')
        self._user = None
        if os.geteuid() == 0:  # as which it refuses to run
            self._user = pwd.getpwnam("nobody").pw_uid
            for path in (folder, *folder.iterdir()):
                os.chown(path, self._user, -1)
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False

    async def start(self) -> None:
        """Start it, and return when it listens."""
        assert PROGRAM is not None
        self._wanted = True
        self._process = subprocess.Popen(  # noqa: ASYNC220  # it is not waited for here
            [PROGRAM, "-q", str(self._configuration)],
            user=self._user,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with trio.fail_after(HANG_SECONDS):
            while True:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", self.port)
                except OSError:
                    await trio.sleep(0.01)
                else:
                    await stream.aclose()
                    return

    async def keep_up(self) -> None:
        """Start it again when it ends by itself, as a service manager does.

        Version 1.18 does when a client that cancels is gone before it is answered.
        """
        while True:
            await trio.sleep(0.1)
            if self._wanted and self._process is not None and self._process.poll() is not None:
                await self.start()

    def kill(self) -> None:
        """End it at once."""
        self._wanted = False
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="module")
def server() -> Generator[PostgresServer]:
    with run_faulty_server() as running:
        yield running


@asynccontextmanager
async def open_pooled(
    server: PostgresServer, nursery: trio.Nursery, *, own_table: bool
) -> AsyncGenerator[tuple[Site, PgBouncer]]:
    """Make a site with a PgBouncer between proxy and server."""
    # Not pytest's directory, which is closed to other users.
    async with open_site(server, own_table=own_table) as site:
        with TemporaryDirectory(prefix="provcache-pgbouncer-") as folder:
            bouncer = PgBouncer(site, Path(folder))
            try:
                await bouncer.start()
                nursery.start_soon(bouncer.keep_up)
                site.proxy.aim_at("127.0.0.1", bouncer.port)
                yield site, bouncer
            finally:
                bouncer.kill()


@pytest.fixture
async def pooled(
    server: PostgresServer, nursery: trio.Nursery
) -> AsyncGenerator[tuple[Site, PgBouncer]]:
    async with open_pooled(server, nursery, own_table=False) as pooled:
        yield pooled


@each_bridge
async def test_a_queue_recovers_and_has_lost_nothing_when_it_is_restarted(
    bridge: BridgeKind, pooled: tuple[Site, PgBouncer]
) -> None:
    site, bouncer = pooled

    @asynccontextmanager
    async def restart(_: Site) -> AsyncGenerator[None]:
        await trio.to_thread.run_sync(bouncer.kill)
        yield
        await bouncer.start()

    fault = FAULTS["the_server_crashes_and_restarts"]._replace(make=restart)
    await recover(site, fault, bridge, pgbouncer=True)


@each_bridge
@pytest.mark.parametrize(
    "name",
    [
        "the_server_crashes_and_restarts",
        "a_batch_is_stored_and_the_reply_is_lost",
        "a_batch_and_its_cancellation_are_swallowed",
        "requests_arrive_after_their_retries",
        "busy_sessions_are_terminated",
    ],
)
async def test_a_queue_recovers_and_has_lost_nothing_behind_it_when(
    name: str, bridge: BridgeKind, pooled: tuple[Site, PgBouncer]
) -> None:
    await recover(pooled[0], behind_it(FAULTS[name]), bridge, pgbouncer=True)


def behind_it(fault: Fault) -> Fault:
    # How it tells that the server is away is a protocol violation, or silence; and it may end.
    return fault._replace(errors=fault.errors | BROKEN | SILENT | {"08P01"})


async def test_into_a_table_of_the_user_s_own_a_queue_recovers_behind_it_too(
    server: PostgresServer, nursery: trio.Nursery
) -> None:
    fault = behind_it(FAULTS["busy_sessions_are_terminated"])
    async with open_pooled(server, nursery, own_table=True) as (site, _):
        await recover(site, fault, DEFAULT_KIND, pgbouncer=True)
