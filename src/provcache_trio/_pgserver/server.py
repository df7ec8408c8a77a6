"""A throw-away Postgres server, for the demo and the benchmarks; the tests extend it.

A real server on a free port of the loopback interface, with its own data directory, which is
removed with it. It ends with the program that runs it, even if that is killed (``guard``).
Everything blocks; no driver is needed. For POSIX systems only.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from .binaries import PostgresServerError, choose_account, find_installations
from .guard import POLL_SECONDS, read_status, shut_down

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from .binaries import PostgresInstallation

__all__ = ["PostgresServer", "PostgresServerError", "run_postgres_server"]

SUPERUSER: Final = "postgres"
_GUARD: Final = Path(__file__).with_name("guard.py")
# Below the ports that systems give to outgoing connections, so that none of those takes the port
# while the server is stopped, and no client that tries to reach it then is connected to itself.
_PORTS: Final = range(20_000, 32_000)
_PORT_TRIES: Final = 20
_LOG_BYTES: Final = 4096
_COMMAND_SECONDS: Final = 60.0


class _PortTakenError(PostgresServerError):
    """Another program listens on the port."""


class PostgresServer:
    """A server that ``run_postgres_server`` made.

    Every method blocks and is called by one thread at a time.

    Attributes:
        version: major and minor, such as (18, 4).
        host: the address that it listens on.
        port: the TCP port, the same after every start.
    """

    host: str = "127.0.0.1"
    port: int = 0

    def __init__(self, binaries: PostgresInstallation, place: Path) -> None:
        self.version: tuple[int, int] = binaries.version
        self._binaries = binaries
        # The directory with everything, as the guard expects it.
        self._place = place
        self._account = choose_account(binaries, place)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The superuser's URL of the database ``postgres``."""
        return f"postgresql://{SUPERUSER}@{self.host}:{self.port}/postgres"

    def initialize(self) -> None:
        """Create the data directory.

        Raises:
            PostgresServerError: it can't be created; the message has the end of the log.
        """
        self._initialize("--auth=trust")

    def _initialize(self, *options: str) -> None:
        # Without an encoding, the locale C means SQL_ASCII.
        text = ("--locale=C", "--encoding=UTF8")
        self._complete("initdb", "-U", SUPERUSER, "--no-sync", "--no-instructions", *text, *options)

    def start(self, *, timeout_seconds: float = 60.0) -> None:
        """Start the server with its data and port, and return when it answers.

        Args:
            timeout_seconds: how long to wait; the server may have to recover.

        Raises:
            PostgresServerError: it does not start (with the end of its log), or takes longer
                than ``timeout_seconds``; then it is killed.
        """
        logged = self._log_size()
        address = ("-h", self.host, "-p", str(self.port), "-k", "")
        # Shared memory in the data directory is removed with it, even if the server is killed.
        self._process = self._spawn("postgres", *address, "-c", "dynamic_shared_memory_type=mmap")
        if not wait_until(lambda: self._running() is None or self._answers(), timeout_seconds):
            self.kill()
            raise PostgresServerError(f"the server did not answer within {timeout_seconds} s")
        if self._running() is None:
            said = self._log_since(logged)
            kind = _PortTakenError if "Address already in use" in said else PostgresServerError
            raise kind(f"the server did not start:\n{said}")

    def start_on_free_port(self) -> None:
        """Start the server on a port that nobody listens on."""
        for _ in range(_PORT_TRIES):
            self.port = secrets.choice(_PORTS)
            with suppress(_PortTakenError):
                self.start()
                return
        raise PostgresServerError(f"no port was free on {self.host} in {_PORT_TRIES} tries")

    def kill(self) -> None:
        """Kill the postmaster; the other processes notice that, and end a moment later."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _running(self) -> subprocess.Popen[bytes] | None:
        process = self._process
        return process if process is not None and process.poll() is None else None

    def _answers(self) -> bool:
        return read_status(self._place)[-1:] == ["ready   "]

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program on the data directory."""
        place, account = self._place, self._account
        command = [*account.prefix, str(self._binaries.directory / program), "-D", f"{place}/data"]
        with (place / "lock").open("w") as lock, (place / "log").open("ab") as log:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return subprocess.Popen(  # noqa: S603  # of the installation that was found
                [*command, *arguments],
                user=account.user,
                group=account.group,
                extra_groups=account.extra_groups,
                # That account may not use our directory.
                cwd=place,
                env=self._environment(program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                # A terminal's Ctrl-C goes to the whole process group of a program.
                start_new_session=True,
            )

    def _complete(self, program: str, *arguments: str) -> None:
        with self._spawn(program, *arguments) as process:
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_COMMAND_SECONDS)
            finally:
                # No effect if it has ended.
                process.kill()
        if process.returncode != 0:
            raise PostgresServerError(f"{program} failed:\n{self._log_since(0)}")

    def _environment(self, _program: str) -> dict[str, str]:
        ours = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
        return {**ours, "LC_ALL": "C"}

    def _log_size(self) -> int:
        return (self._place / "log").stat().st_size

    def _log_since(self, size: int) -> str:
        """Return what was logged after the first ``size`` bytes, or the end of it if it is long."""
        with (self._place / "log").open("rb") as log:
            log.seek(max(size, self._log_size() - _LOG_BYTES))
            return log.read().decode("utf-8", "replace")


S = TypeVar("S", bound=PostgresServer)


def run_postgres_server() -> AbstractContextManager[PostgresServer]:
    """Run a server while the block runs, with the superuser ``postgres``.

    Takes about half a second. Everybody who can reach its port is trusted. Afterwards, or however
    the program ends, the server is stopped and its data removed.

    Raises:
        PostgresNotFoundError: this machine has no Postgres.
        PostgresServerError: the server could not be created or started; the message has the end
            of its log.
    """
    return run(partial(PostgresServer, find_installations()[0]))


@contextmanager
def run(make: Callable[[Path], S], directory: Path | None = None) -> Generator[S]:
    """Run the server that ``make`` creates in a directory, while the block runs.

    Args:
        make: creates the server, which is then initialised and started.
        directory: where to create the server's directory; by default with temporary files.

    Raises:
        PostgresServerError: the server could not be created or started; the message has the end
            of its log.
    """
    with ExitStack() as afterwards, _guarded_place(directory) as place:
        server = make(place)
        server.initialize()
        # Reaps the process, after the guard has shut it down.
        afterwards.callback(server.kill)
        server.start_on_free_port()
        yield server


@contextmanager
def _guarded_place(directory: Path | None) -> Generator[Path]:
    """Create a directory; when block or program ends, shut down the server that runs there."""
    place = Path(tempfile.mkdtemp(prefix="provcache-postgres-", dir=directory)).resolve()
    command = [sys.executable, "-I", "-S", str(_GUARD), str(place)]
    try:
        with subprocess.Popen(  # noqa: S603  # ourselves
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
                # A byte, not only the pipe's end, as a child that we forked may hold the pipe open.
                guard.communicate(b"\n")
    finally:
        # Nothing is left to do unless the guard was killed.
        shut_down(place)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait; return whether ``condition`` became true in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
