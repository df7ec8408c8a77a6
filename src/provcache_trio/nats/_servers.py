"""Reads the arguments that name the servers and the credentials for them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Final, NamedTuple, cast
from urllib.parse import SplitResult, unquote, urlsplit

from provcache_trio._vocabulary.checks import check_text

_PORT: Final = 4222
_SCHEMES: Final = ("nats", "tls")


class Server(NamedTuple):
    """The address of a server."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The URL for nats-py."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nats://{host}:{self.port}"

    def __str__(self) -> str:
        return self.url.removeprefix("nats://")


class Access(NamedTuple):
    """The servers of one cluster, and the credentials for them.

    Attributes:
        servers: at least one.
        user: the user name, with ``password``; or None.
        token: a token instead of both; or None.
        credentials: the path of a file with a JWT and an NKEY; or None.
        tls: demands TLS, with this context; None: TLS only if a server asks for it.
    """

    servers: tuple[Server, ...]
    user: str | None
    password: str | None
    token: str | None
    credentials: str | None
    tls: ssl.SSLContext | None


def read_access(
    servers: str | Sequence[str],
    *,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    credentials: str | PathLike[str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Access:
    """Return what these arguments of an opener mean.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a URL is malformed, or arguments contradict each other. No message quotes a URL.
    """
    _check_secrets(user=user, password=password, token=token)
    if tls is not None and not isinstance(cast("object", tls), ssl.SSLContext):
        raise TypeError(f"tls must be an ssl.SSLContext, not {type(tls).__name__}")
    found: list[Server] = []
    for parts in map(_split, _urls(servers)):
        named, places = _userinfo(parts.netloc)
        user, password, token = user or named.user, password or named.password, token or named.token
        if parts.scheme == "tls":
            tls = tls or ssl.create_default_context()
        found += map(_server, places.split(","))
    file = None if credentials is None else fspath(credentials)
    access = Access(tuple(dict.fromkeys(found)), user, password, token, file, tls)
    _check_ways(access)
    return access


def _check_secrets(**secrets: object) -> None:
    for name, value in secrets.items():
        if value is not None:
            check_text(name, value)


def _check_ways(access: Access) -> None:
    if (access.user is None) != (access.password is None):
        raise ValueError("user and password belong together")
    ways = (access.user, access.token, access.credentials)
    if sum(way is not None for way in ways) > 1:
        raise ValueError("only one of user, token and credentials can be given")


def _urls(servers: object) -> list[str]:
    if isinstance(servers, str):
        return [servers]
    if not isinstance(servers, Sequence):
        raise TypeError(f"servers must be a str or a sequence of str, not {type(servers).__name__}")
    urls = list(cast("Sequence[object]", servers))
    if not urls:
        raise ValueError("servers must name at least one")
    for url in urls:
        check_text("each of servers", url)
    return cast("list[str]", urls)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("a URL of servers is malformed") from None
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise ValueError("servers must be URLs such as nats://n1,n2,n3 or tls://n1:4222")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("a URL of servers must end after the last port")
    return parts


class _Userinfo(NamedTuple):
    user: str | None = None
    password: str | None = None
    token: str | None = None


def _userinfo(place: str) -> tuple[_Userinfo, str]:
    info, _, hosts = place.rpartition("@")
    name, colon, password = info.partition(":")
    if colon:
        return _Userinfo(user=unquote(name), password=unquote(password)), hosts
    return _Userinfo(token=unquote(name) or None), hosts


def _server(place: str) -> Server:
    try:
        parts = urlsplit(f"nats://{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ValueError("a URL of servers is malformed; percent-encode / ? # @ in a password")
    return Server(host, _PORT if port is None else port)
