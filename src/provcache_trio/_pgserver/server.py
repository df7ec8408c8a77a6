"""A throw-away Postgres server, for tests and for the demo.

A real server on a free port of the loopback, with a data directory of its own that is removed
with it. It ends with the program that runs it, even one that is killed (``_postgres_guard``).
Everything blocks; nothing needs a driver. For POSIX systems only.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import quote

from provcache_trio._pgserver import guard as _postgres_guard

from .binaries import (
    PostgresInstallation,
    PostgresNotFoundError,
    PostgresServerError,
    find_installations,
)
from .cluster import SUPERUSER, PostgresCluster
from .guard import POLL_SECONDS, is_running, read_status, shut_down

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

__all__ = [
    "PostgresInstallation",
    "PostgresNotFoundError",
    "PostgresServer",
    "PostgresServerError",
    "StopMode",
    "find_installations",
    "run_postgres_server",
]

StopMode: TypeAlias = Literal["smart", "fast", "immediate"]

_STOP_SIGNALS: Final[dict[StopMode, signal.Signals]] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
# Below what systems give to outgoing connections: none of those may take the port while the
# server is stopped, and a client that tries to reach it then can't be connected to itself.
_PORTS: Final = range(20_000, 32_000)
_PORT_TRIES: Final = 20
# Shared memory in the data directory goes with it, even if the server is killed.
_SETTINGS: Final = MappingProxyType({"dynamic_shared_memory_type": "mmap"})


class _PortTakenError(PostgresServerError):
    """Somebody else listens on the port."""


class PostgresServer:
    """A server that ``run_postgres_server`` made.

    Every method blocks and is called by one thread at a time.

    Attributes:
        binaries: its programs.
        version: major and minor, such as (18, 4).
        host: the address that it listens on.
        port: the TCP port, the same after every start.
        data_directory: its data directory.
    """

    def __init__(self, cluster: PostgresCluster, host: str) -> None:
        self.binaries: PostgresInstallation = cluster.binaries
        self.version: tuple[int, int] = cluster.binaries.version
        self.host: str = host
        self.port: int = 0
        self.data_directory: Path = cluster.data
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The superuser's URL of the database ``postgres``, with the password if there is one."""
        return self.dsn_of("postgres")

    @property
    def password(self) -> str | None:
        """The superuser's password; None if everybody is trusted."""
        return self._cluster.password

    @property
    def process_id(self) -> int:
        """The process number of the postmaster.

        Raises:
            PostgresServerError: the server is stopped.
        """
        process = self._running()
        if process is None:
            raise PostgresServerError("the server is stopped")
        return process.pid

    def dsn_of(self, database: str) -> str:
        """Return the superuser's URL of ``database``, with the password if there is one."""
        user = (
            SUPERUSER if self.password is None else f"{SUPERUSER}:{quote(self.password, safe='')}"
        )
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{user}@{host}:{self.port}/{quote(database, safe='')}"

    def start(self, *, timeout_seconds: float = 60.0) -> None:
        """Start the server with its data and port, and return when it answers.

        Args:
            timeout_seconds: how long to wait, first for the last processes of a server that
                was killed, then for this one, which may have to recover.

        Raises:
            PostgresServerError: it runs, does not start (with the end of its log), or takes
                longer than ``timeout_seconds``; then it is killed.
        """
        if self._running() is not None:
            raise PostgresServerError("the server runs already")
        if not _wait_until(lambda: not is_running(self._cluster.place), timeout_seconds):
            raise PostgresServerError("processes of the killed server are still there")
        self._cluster.unlock()
        logged = self._cluster.log_size()
        address = ("-h", self.host, "-p", str(self.port), "-k", "")
        self._process = self._cluster.start("postgres", *address)
        if not _wait_until(lambda: self._running() is None or self._answers(), timeout_seconds):
            self.kill()
            raise PostgresServerError(f"the server did not answer within {timeout_seconds} s")
        if self._running() is None:
            said = self._cluster.log_since(logged)
            kind = _PortTakenError if "Address already in use" in said else PostgresServerError
            raise kind(f"the server did not start:\n{said}")

    def stop(self, mode: StopMode = "fast", *, timeout_seconds: float = 60.0) -> None:
        """Stop the server and return when it has ended; if it is stopped, do nothing.

        Args:
            mode: ``smart`` waits until the clients have left, ``fast`` rolls back what they
                do, ``immediate`` is a crash: the next start recovers.
            timeout_seconds: how long to wait for its end.

        Raises:
            PostgresServerError: it takes longer than ``timeout_seconds``, and goes on to stop.
        """
        if self._process is None:
            return
        self._process.send_signal(_STOP_SIGNALS[mode])
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            message = f"the server did not stop within {timeout_seconds} s"
            raise PostgresServerError(message) from None

    def kill(self) -> None:
        """Kill the postmaster; the other processes see that, and end a moment later."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """Return the end of what the server has logged, over all its starts."""
        return self._cluster.log_since(0)

    def create_database(self, name: str) -> str:
        """Create a database and return its URL.

        Raises:
            PostgresServerError: the server refused to, or there is no ``createdb``.
        """
        address = ("-h", self.host, "-p", str(self.port), "-U", SUPERUSER, "-w")
        self._cluster.ask("createdb", *address, "--", name)
        return self.dsn_of(name)

    def _running(self) -> subprocess.Popen[bytes] | None:
        process = self._process
        return process if process is not None and process.poll() is None else None

    def _answers(self) -> bool:
        return read_status(self._cluster.place)[-1:] == ["ready   "]


@contextmanager
def run_postgres_server(
    *,
    binaries: PostgresInstallation | None = None,
    directory: Path | None = None,
    host: str = "127.0.0.1",
    password: str | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
    hba: Sequence[str] = (),
    standby_of: PostgresServer | None = None,
) -> Generator[PostgresServer]:
    """Run a server of its own while the block runs, with the superuser ``postgres``.

    Takes about half a second. Afterwards, and when the program ends in whatever way, the server
    is stopped and its data removed.

    Args:
        binaries: which programs; by default those of ``standby_of``, or the first that
            ``find_installations`` returns.
        directory: where to make the server's directory; by default where temporary files go.
        host: address to listen on.
        password: the superuser's; by default, everybody who can reach the port is trusted.
        settings: for postgresql.conf, such as ``{"fsync": "off"}``.
        hba: lines for pg_hba.conf that come before its own.
        standby_of: a running server of the same major version to follow; its password,
            settings and rules are taken over.

    Raises:
        PostgresNotFoundError: there are no programs.
        PostgresServerError: the server could not be made or started; the end of its log tells.
        ValueError: ``password`` is of more than one line.
    """
    if password is not None and "\n" in password:
        raise ValueError("password must be one line")
    if standby_of is not None:
        password = standby_of.password
        binaries = binaries or standby_of.binaries
    binaries = binaries or find_installations()[0]
    with ExitStack() as afterwards, _guarded_place(directory) as place:
        cluster = PostgresCluster(binaries, place, password)
        if standby_of is None:
            cluster.initialize()
        else:
            cluster.copy(standby_of.host, standby_of.port)
        cluster.configure({**_SETTINGS, **settings}, hba)
        server = PostgresServer(cluster, host)
        afterwards.callback(server.kill)  # reaps it, after the guard has shut it down
        _start_on_free_port(server)
        yield server


@contextmanager
def _guarded_place(directory: Path | None) -> Generator[Path]:
    """Make a directory; at the end of the block or of the program, shut down what runs there."""
    place = Path(tempfile.mkdtemp(prefix="provcache-postgres-", dir=directory)).resolve()
    command = [sys.executable, "-I", "-S", _postgres_guard.__file__, str(place)]
    try:
        with subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        ) as guard:
            try:
                yield place
            finally:
                # Not only the pipe's end: a child that we forked may hold it open.
                guard.communicate(b"\n")
    finally:
        shut_down(place)  # nothing is left to do, unless somebody killed the guard


def _start_on_free_port(server: PostgresServer) -> None:
    for _ in range(_PORT_TRIES):
        server.port = secrets.choice(_PORTS)
        with suppress(_PortTakenError):
            server.start()
            return
    raise PostgresServerError(f"no port was free on {server.host} in {_PORT_TRIES} tries")


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether ``condition`` became true in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
