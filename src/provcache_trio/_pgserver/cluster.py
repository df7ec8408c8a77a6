"""A Postgres server's data directory, and the programs that are run on it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from .binaries import PostgresServerError, choose_account

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .binaries import PostgresInstallation

SUPERUSER: Final = "postgres"
_LOG_BYTES: Final = 4096
_COMMAND_SECONDS: Final = 60.0


class PostgresCluster:
    """What Postgres calls a cluster: the databases that one server serves.

    Attributes:
        binaries: its programs.
        place: the directory that holds everything, as ``_postgres_guard`` knows it.
        data: the data directory.
        password: the superuser's, or None if everybody is trusted.
    """

    def __init__(self, binaries: PostgresInstallation, place: Path, password: str | None) -> None:
        self.binaries: PostgresInstallation = binaries
        self.place: Path = place
        self.data: Path = place / "data"
        self.password: str | None = password
        self._account = choose_account(binaries, place)

    def initialize(self) -> None:
        """Make a new cluster.

        Raises:
            PostgresServerError: it can't be made, with the end of the log.
        """
        # Without an encoding, the locale C means SQL_ASCII.
        options = ["--no-sync", "--no-instructions", "--locale=C", "--encoding=UTF8"]
        secret = self.place / "password"
        if self.password is None:
            options.append("--auth=trust")
        else:
            secret.touch(mode=0o600)
            secret.write_text(self.password, "utf-8")
            os.chown(secret, -1 if self._account.user is None else self._account.user, -1)
            options += ["--auth=scram-sha-256", f"--pwfile={secret}"]
        self._complete("initdb", "-U", SUPERUSER, *options)
        secret.unlink(missing_ok=True)

    def copy(self, host: str, port: int) -> None:
        """Make a standby of the server at that address, whose password is ``password``.

        Raises:
            PostgresServerError: it can't be made, with the end of the log.
        """
        address = ["-h", host, "-p", str(port), "-U", SUPERUSER, "-w"]
        options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        self._complete("pg_basebackup", *address, *options)

    def configure(self, settings: Mapping[str, str], hba: Sequence[str]) -> None:
        """Add settings, and rules that come before the others of pg_hba.conf."""
        # In the file, for ALTER SYSTEM can't change what the command line says.
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = {_quote(value)}\n" for name, value in settings.items())
        rules = self.data / "pg_hba.conf"
        rules.write_text("\n".join([*hba, rules.read_text("utf-8")]), "utf-8")

    def unlock(self) -> None:
        """Remove what a server that was killed says of itself; none may run.

        Postgres refuses to start on a lock file that was not written to its end, or whose
        process number is somebody else's by now.
        """
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program on the data directory."""
        command = [
            *self._account.prefix,
            str(self.binaries.directory / program),
            "-D",
            str(self.data),
        ]
        place = self.place
        with (place / "lock").open("w") as lock, (place / "log").open("ab") as log:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return subprocess.Popen(  # noqa: S603
                [*command, *arguments],
                user=self._account.user,
                group=self._account.group,
                extra_groups=self._account.extra_groups,
                cwd=place,  # ours may be closed to that account
                env=self._environment(program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                # A terminal's Ctrl-C goes to the whole process group of a program.
                start_new_session=True,
            )

    def ask(self, program: str, *arguments: str) -> None:
        """Run a client program, as ourselves.

        Raises:
            PostgresServerError: it is missing, or failed, with what it said.
        """
        try:
            subprocess.run(  # noqa: S603
                [str(self.binaries.directory / program), *arguments],
                env=self._environment(program),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_COMMAND_SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise PostgresServerError(f"{program} failed: {error.stderr.strip()}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PostgresServerError(f"{program} failed: {type(error).__name__}") from None

    def log_size(self) -> int:
        """Return how many bytes have been logged."""
        return (self.place / "log").stat().st_size

    def log_since(self, size: int) -> str:
        """Return what has been logged since there were ``size`` bytes; the end if it is much."""
        with (self.place / "log").open("rb") as log:
            log.seek(max(size, self.log_size() - _LOG_BYTES))
            return log.read().decode("utf-8", "replace")

    def _complete(self, program: str, *arguments: str) -> None:
        with self.start(program, *arguments) as process:
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_COMMAND_SECONDS)
            finally:
                process.kill()  # unless it has ended
        if process.returncode != 0:
            raise PostgresServerError(f"{program} failed:\n{self.log_since(0)}")

    def _environment(self, program: str) -> dict[str, str]:
        ours = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
        if self.password is not None and program != "postgres":
            ours["PGPASSWORD"] = self.password
        return {**ours, "LC_ALL": "C"}


def _quote(value: str) -> str:
    doubled = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
