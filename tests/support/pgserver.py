"""What only tests ask of a throw-away Postgres server: ways to stop, passwords, standbys."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import quote

from provcache_trio._pgserver import server as launcher
from provcache_trio._pgserver.binaries import PostgresServerError, find_installations
from provcache_trio._pgserver.guard import is_running
from provcache_trio._pgserver.server import SUPERUSER, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from provcache_trio._pgserver.binaries import PostgresInstallation

StopMode: TypeAlias = Literal["smart", "fast", "immediate"]

STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
COMMAND_SECONDS = 60


class PostgresServer(launcher.PostgresServer):
    """A server that ``run_postgres_server`` made.

    Attributes:
        binaries: its programs.
        data_directory: its data directory.
        password: the superuser's; None if everybody is trusted.
    """

    def __init__(
        self,
        binaries: PostgresInstallation,
        place: Path,
        *,
        host: str = "127.0.0.1",
        password: str | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        hba: Sequence[str] = (),
        standby_of: PostgresServer | None = None,
    ) -> None:
        super().__init__(binaries, place)
        self.binaries = binaries
        self.data_directory = place / "data"
        self.host = host
        self.password = password
        self._settings = settings
        self._hba = hba
        self._standby_of = standby_of

    @property
    def dsn(self) -> str:
        """The superuser's URL of the database ``postgres``, with the password if there is one."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Return the superuser's URL of ``database``, with the password if there is one."""
        password = "" if self.password is None else f":{quote(self.password, safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{SUPERUSER}{password}@{host}:{self.port}/{quote(database, safe='')}"

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

    def initialize(self) -> None:
        """Make the data directory, or a standby's, and put what was asked for into its files."""
        if self._standby_of is not None:
            address = self._standby_of.client_arguments
            options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
            self._complete("pg_basebackup", *address, *options)
        elif self.password is not None:
            secret = self._place / "password"
            secret.touch(mode=0o600)
            secret.write_text(self.password, "utf-8")
            os.chown(secret, -1 if self._account.user is None else self._account.user, -1)
            self._initialize("--auth=scram-sha-256", f"--pwfile={secret}")
            secret.unlink()
        else:
            super().initialize()
        # In the file, for ALTER SYSTEM can't change what the command line says.
        with (self.data_directory / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = {_quote(text)}\n" for name, text in self._settings.items())
        rules = self.data_directory / "pg_hba.conf"
        rules.write_text("\n".join([*self._hba, rules.read_text("utf-8")]), "utf-8")

    @property
    def client_arguments(self) -> tuple[str, ...]:
        """By which a client program finds it, as the superuser."""
        return ("-h", self.host, "-p", str(self.port), "-U", SUPERUSER, "-w")

    def start(self, *, timeout_seconds: float = 60.0) -> None:
        """Start the server again, with its data and port, and return when it answers.

        Args:
            timeout_seconds: how long to wait, first for the last processes of a server that
                was killed, then for this one, which may have to recover.

        Raises:
            PostgresServerError: it runs, does not start (with the end of its log), or takes
                longer than ``timeout_seconds``; then it is killed.
        """
        if self._running() is not None:
            raise PostgresServerError("the server runs already")
        if not wait_until(lambda: not is_running(self._place), timeout_seconds):
            raise PostgresServerError("processes of the killed server are still there")
        # Postgres refuses to start on a lock file that was not written to its end, or whose
        # process number is somebody else's by now.
        (self.data_directory / "postmaster.pid").unlink(missing_ok=True)
        super().start(timeout_seconds=timeout_seconds)

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
        self._process.send_signal(STOP_SIGNALS[mode])
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            message = f"the server did not stop within {timeout_seconds} s"
            raise PostgresServerError(message) from None

    def log(self) -> str:
        """Return the end of what the server has logged, over all its starts."""
        return self._log_since(0)

    def create_database(self, name: str) -> str:
        """Create a database and return its URL.

        Raises:
            PostgresServerError: the server refused to.
        """
        try:
            subprocess.run(
                [self.binaries.directory / "createdb", *self.client_arguments, "--", name],
                env=self._environment("createdb"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise PostgresServerError(f"createdb failed: {error.stderr.strip()}") from None
        return self.dsn_of(name)

    def _environment(self, program: str) -> dict[str, str]:
        ours = super()._environment(program)
        if self.password is not None and program != "postgres":
            ours["PGPASSWORD"] = self.password
        return ours


def run_postgres_server(
    *,
    binaries: PostgresInstallation | None = None,
    directory: Path | None = None,
    host: str = "127.0.0.1",
    password: str | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
    hba: Sequence[str] = (),
    standby_of: PostgresServer | None = None,
) -> AbstractContextManager[PostgresServer]:
    """Run a server of its own while the block runs, with the superuser ``postgres``.

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
    """
    if standby_of is not None:
        password = standby_of.password
        binaries = binaries or standby_of.binaries
    make = partial(
        PostgresServer,
        binaries or find_installations()[0],
        host=host,
        password=password,
        settings=settings,
        hba=hba,
        standby_of=standby_of,
    )
    return run(make, directory)


def _quote(value: str) -> str:
    doubled = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
