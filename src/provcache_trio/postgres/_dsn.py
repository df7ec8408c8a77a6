"""What a ``postgresql://`` URL means, with the environment and the files that it refers to.

asyncpg reads such URLs, too, but sends every parameter that it does not know to the server, which
then refuses the connection; it ignores ``PGSERVICE`` and escapes in the password file; and its
errors quote what they can't read, which may be a password. So the URL is read here, and messages
quote only hosts, ports, names of parameters and files, user and database.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from provcache_trio._vocabulary.errors import StoreMisconfiguredError

from ._dsn_files import at_home, login_name, password_in, service_of
from ._dsn_parameters import OF_ASYNCPG, OF_SERVER, checked

if TYPE_CHECKING:
    from collections.abc import Mapping

_HIGHEST_PORT: Final = 65535
_MOST_SECONDS: Final = 3600
_ENCODE: Final = "write / ? # @ % and spaces in user name and password as %2F %3F %23 %40 %25 %20"

_host: Final = re.compile(
    r"(?P<directory>/.*)|(\[(?P<address>[^\]]+)\]|(?P<name>[^/\[:][^:]*))(:(?P<port>.*))?"
).fullmatch
_set_by_options: Final = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.\-]*)\s*=").findall


class Server(NamedTuple):
    """Where to connect, and as whom.

    Attributes:
        hosts: each with its port; a host that begins with a slash is a directory of sockets.
            Empty: asyncpg looks where servers usually are on this machine.
        user: the role.
        database: its name.
        password: the password, or None if there is none.
        url: the rest for asyncpg to read, as a URL.
        settings: run-time parameters that the URL sets.
        names: the names of all run-time parameters that are not ours to set.
        tls: the parameters of TLS.
        passfile: the last place where a password was looked for, or None if one was given.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str | None
    database: str | None
    password: str | None
    url: str
    settings: Mapping[str, str]
    names: frozenset[str]
    tls: Mapping[str, str]
    passfile: str | None

    def why_no_password(self) -> str:
        """Return where a password was looked for in vain, or "" if there is one."""
        if self.password is not None:
            return ""
        where = f"the URL, PGPASSWORD or {self.passfile}"
        with suppress(OSError):
            if os.stat(self.passfile or "").st_mode & 0o077:  # noqa: PTH116
                where += ", which is ignored, since others may read it"
        return f"no password was given: not in {where}"

    def __str__(self) -> str:
        """Name the server, without any secret."""
        hosts = [_shown(host, port) for host, port in self.hosts] or ["this machine"]
        return f"{', '.join(hosts)}, user {self.user}, database {self.database}"


class Dsn:
    """A checked URL; each call of ``server`` looks for what it leaves out.

    Attributes:
        pgbouncer: whether its parameter ``pgbouncer`` is true.
        connect_timeout_seconds: its parameter ``connect_timeout``, or None.

    Raises:
        ValueError: it is malformed, or has a parameter that can't be used.
    """

    def __init__(self, dsn: str) -> None:
        self._parts = _split(dsn)
        self._query = _checked_query(self._parts.query)
        self.pgbouncer: bool = self._query.pop("pgbouncer", "false") == "true"
        self.connect_timeout_seconds: int | None = _timeout(self._query)
        self._service = self._query.pop("service", None)
        self._servicefile = self._query.pop("servicefile", None)
        # Checks the URL alone now, as the environment may change later.
        self._read({}, {})

    @property
    def label(self) -> str:
        """The URL with nothing that may be secret: hosts and database."""
        return f"postgresql://{self._parts.netloc.rpartition('@')[2]}{self._parts.path}"

    def server(self) -> Server:
        """Return what the URL means now.

        Raises:
            StoreMisconfiguredError: the environment or a file has a value that can't be used.
        """
        environment = os.environ
        service = self._service or environment.get("PGSERVICE")
        try:
            given = {} if not service else service_of(service, self._servicefile, environment)
            return self._read(given, environment)
        except ValueError as error:
            raise StoreMisconfiguredError(
                f"the connection is not well described by the environment or the service: {error}"
            ) from None

    def _read(self, service: Mapping[str, str], environment: Mapping[str, str]) -> Server:
        given = {**service, **self._query}
        authority = self._parts.netloc
        login, _, netloc = authority.rpartition("@")
        named, _, password = map(unquote, login.partition(":"))
        user = named or given.get("user") or environment.get("PGUSER") or login_name()
        path = unquote(self._parts.path.removeprefix("/"))
        database = path or given.get("dbname") or environment.get("PGDATABASE") or user
        hosts = _hosts(netloc, given, environment)
        found = password or given.get("password") or environment.get("PGPASSWORD") or None
        passfile = None
        if found is None and environment:
            passfile = given.get("passfile") or environment.get("PGPASSFILE") or at_home(".pgpass")
            found = password_in(passfile, hosts, database, user)
        settings = {
            name: value for name, value in given.items() if name not in OF_ASYNCPG | OF_SERVER
        }
        set_there = {*settings, *_set_by_options(settings.get("options", ""))}
        tls = {name: value for name, value in given.items() if name in OF_ASYNCPG}
        return Server(
            hosts=hosts,
            user=user,
            database=database,
            password=found,
            url=f"postgresql:///?{urlencode(_left(tls, hosts, given))}",
            settings=settings,
            names=frozenset(name.lower() for name in set_there),
            tls=tls,
            passfile=passfile,
        )


def _left(
    tls: Mapping[str, str], hosts: tuple[tuple[str, int], ...], given: Mapping[str, str]
) -> dict[str, str]:
    """Return the parameters that asyncpg reads from a URL."""
    port = {} if hosts or "port" not in given else {"port": given["port"]}
    return {**tls, **port}


# The URL itself


def _split(dsn: str) -> SplitResult:
    """Split a URL; raise ValueError if it may mean something else than it seems to.

    A host ends at the first of / ? #. If a password holds one of these, its rest would be read as
    a path, and its beginning as a port.
    """
    if re.search(r"[\s\x00-\x1f\x7f]", dsn):
        raise ValueError(f"the URL holds white space, perhaps at its end; {_ENCODE}")
    if re.search(r"%(?![0-9a-fA-F]{2})", dsn):
        raise ValueError(f"the URL holds a % that begins no escape; {_ENCODE}")
    try:
        parts = urlsplit(dsn)
        unquote(dsn, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("the URL holds escapes that are no UTF-8") from None
    except ValueError:
        raise ValueError(f"the URL has a malformed host; {_ENCODE}") from None
    if parts.netloc.count("@") > 1 or "@" in parts.path + parts.query or parts.fragment:
        raise ValueError(f"the URL has an @ or a # in the wrong place; {_ENCODE}")
    return parts


def _checked_query(text: str) -> dict[str, str]:
    try:
        query = dict(parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)))
    except ValueError:
        raise ValueError("the URL's parameters must have the form NAME=VALUE&NAME=VALUE") from None
    return checked(query)


def _timeout(query: dict[str, str]) -> int | None:
    text = query.pop("connect_timeout", None)
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= _MOST_SECONDS:
        raise ValueError(f"the parameter connect_timeout must be 1 to {_MOST_SECONDS} seconds")
    return int(text)


def _hosts(
    netloc: str, given: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[tuple[str, int], ...]:
    """Return every host with its port, by asyncpg's rules."""
    elsewhere = given.get("host") or environment.get("PGHOST")
    listed = netloc or elsewhere
    if not listed:
        return ()
    names = listed.split(",")
    # They win over the ports of hosts that are not named in the URL's authority.
    for_all = None if netloc else given.get("port")
    ports = (for_all or environment.get("PGPORT") or "5432").split(",")
    if len(ports) == 1:
        ports *= len(names)
    if len(names) != len(ports):
        raise ValueError(f"there are {len(names)} hosts and {len(ports)} ports")
    hosts: list[tuple[str, int]] = []
    for name, port in zip(names, ports, strict=True):
        one = _host(name)
        if one is None:
            raise ValueError(f"a host is missing or malformed; {_ENCODE}")
        host = one["directory"] or one["address"] or one["name"]
        own = None if for_all else one["port"]
        hosts.append((unquote(host), _port(own or port)))
    return tuple(hosts)


def _port(text: str) -> int:
    # Never quoted: if a host is missing, this may be the password.
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= _HIGHEST_PORT:
        raise ValueError(f"a port must be a number, 1 to {_HIGHEST_PORT}; {_ENCODE}")
    return int(text)


def _shown(host: str, port: int) -> str:
    if host.startswith("/"):
        return f"{host}/.s.PGSQL.{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
