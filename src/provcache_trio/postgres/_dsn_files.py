"""The files that PostgreSQL's programs read besides a URL: services, passwords, certificates."""

from __future__ import annotations

import configparser
import getpass
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from provcache_trio._vocabulary.errors import StoreMisconfiguredError

from ._dsn_parameters import checked

if TYPE_CHECKING:
    from collections.abc import Mapping

_field = r"((?:\\.|[^\\:])*)"
_password_line: Final = re.compile(f"{_field}:{_field}:{_field}:{_field}:{_field}.*").match
_TLS_FILES: Final = {
    "sslrootcert": "root.crt",
    "sslcert": "postgresql.crt",
    "sslkey": "postgresql.key",
    "sslcrl": "root.crl",
}
_ABSENT: Final = (FileNotFoundError, NotADirectoryError)


def login_name() -> str | None:
    # KeyError or OSError: this user has no name.
    with suppress(Exception):
        return getpass.getuser()
    return None


def at_home(name: str) -> str | None:
    with suppress(RuntimeError, KeyError):
        return str(Path.home() / name)
    return None


def service_of(name: str, file: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a service of the connection service file.

    Raises:
        ValueError: it has a parameter that can't be used.
        StoreMisconfiguredError: there is no such service.
    """
    path = file or environment.get("PGSERVICEFILE") or at_home(".pg_service.conf") or ""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
    try:
        with open(path, encoding="utf-8") as opened:  # noqa: PTH123  # as it is given
            parser.read_file(opened)
    except OSError as error:
        _raise_unreadable(f"the service file {path}", error)
    except (configparser.Error, UnicodeDecodeError):
        raise StoreMisconfiguredError(f"the service file {path} is malformed") from None
    if name not in parser.sections():
        raise StoreMisconfiguredError(f"the service file {path} has no service {name!r}")
    given = checked(dict(parser[name]))
    for of_url_alone in ("connect_timeout", "pgbouncer"):
        given.pop(of_url_alone, None)
    return given


def password_in(
    path: str | None,
    hosts: tuple[tuple[str, int], ...],
    database: str | None,
    user: str | None,
) -> str | None:
    """Return the password in a file of libpq's format, unless others may read the file."""
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        status = os.stat(path or "")  # noqa: PTH116
        if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o077:
            lines = Path(path or "").read_text("utf-8").splitlines()
    for host, port in hosts or (("localhost", 5432),):
        names = {host, "localhost"} if host.startswith("/") else {host}
        wanted = (names, {str(port)}, {database}, {user})
        for line in lines:
            found = None if line.startswith("#") else _password_line(line)
            if found is not None and _matches(found.groups()[:4], wanted):
                return _unescaped(found[5])
    return None


def _matches(fields: tuple[str, ...], wanted: tuple[set[str | None] | set[str], ...]) -> bool:
    each = zip(fields, wanted, strict=True)
    return all(field == "*" or _unescaped(field) in names for field, names in each)


def _unescaped(field: str) -> str:
    return re.sub(r"\\(.)", r"\1", field)


def _raise_unreadable(what: str, error: OSError) -> NoReturn:
    reason = os.strerror(error.errno or 0)
    name = type(error).__name__
    raise StoreMisconfiguredError(f"{what} can't be read: {reason}", error_class=name) from None


def unreadable_tls_file(tls: Mapping[str, str], hosts: tuple[tuple[str, int], ...]) -> str | None:
    """Return the file of a certificate or key that asyncpg can't read, if there is one.

    Files that are named have to exist. Those in the home directory need not, but a directory that
    can't be read is an error all the same.
    """
    mode = tls.get("sslmode") or os.environ.get("PGSSLMODE")
    on_network = any(not host.startswith("/") for host, _ in hosts) or not hosts
    if mode == "disable" or not (mode or on_network):
        return None
    for name, default in _TLS_FILES.items():
        given = tls.get(name) or os.environ.get(f"PG{name.upper()}")
        path = given or at_home(f".postgresql/{default}") or ""
        error = _error_of_opening(path)
        if error is not None and (given or not isinstance(error, _ABSENT)):
            return path
    return None


def _error_of_opening(path: str) -> OSError | None:
    try:
        os.close(os.open(path, os.O_RDONLY))
        return IsADirectoryError(path) if os.path.isdir(path) else None  # noqa: PTH112
    except OSError as error:
        return error
