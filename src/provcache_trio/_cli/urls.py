"""Finds the store that a URL names. No message quotes a URL, which may hold a password."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .entries import PROVCACHE
from .misuse import MisuseError
from .stores import SqliteTarget

if TYPE_CHECKING:
    from .entries import Entries
    from .stores import Target
    from .stream import StreamTarget


def target_of(url: str, entries: Entries = PROVCACHE) -> Target:
    """Return the store that ``url`` names.

    Args:
        url: ``sqlite:PATH``, where the text after the colon is the path; or ``postgresql://...`` as
            for asyncpg; or a stream: ``nats://HOST,HOST/STREAM``.
        entries: the type of its entries.

    Raises:
        MisuseError: the kind of store is unknown, needs an extra, or can't store these entries.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        return _sqlite(rest, entries)
    if scheme in {"postgresql", "postgres"} and rest.startswith("//"):
        return postgres_target(url, entries=entries)
    if scheme in {"nats", "tls"} and rest.startswith("//"):
        return stream_target(url, entries)
    raise MisuseError("a store is named by a URL: sqlite:PATH or postgresql://HOST/DATABASE")


def _sqlite(path: str, entries: Entries) -> Target:
    if path.startswith("//"):
        # For other programs, sqlite:///name is in this directory; for us it would be in /.
        raise MisuseError("sqlite: is followed by the path alone, as in sqlite:cache.db")
    check_is_no_url(path)
    if path == ":memory:" or "\0" in path:
        raise MisuseError("sqlite: path must name a file")
    return SqliteTarget(Path(path), entries)


def check_is_no_url(name: str) -> None:
    """Raise MisuseError if a file name is by mistake a URL, which may hold a password."""
    if re.match(r"(postgres(ql)?|nats|tls):", name):
        raise MisuseError("the name of a file is wanted there, not a URL")


def postgres_target(dsn: str, label: str = "", entries: Entries = PROVCACHE) -> Target:
    """Return the PostgreSQL database that ``dsn`` names; see ``PostgresTarget``.

    Raises:
        MisuseError: the URL is malformed, or the extra is not installed.
    """
    try:
        from .postgres import PostgresTarget  # noqa: PLC0415  # needs an extra
    except ImportError:
        raise MisuseError(
            "PostgreSQL needs the extra: pip install 'provcache-trio[postgres]'"
        ) from None
    try:
        return PostgresTarget(dsn, label, entries)
    except ValueError as error:
        # The message quotes no part of the URL that may be secret.
        raise MisuseError(str(error)) from None


def stream_target(url: str, entries: Entries = PROVCACHE) -> StreamTarget:
    """Return the stream that ``url`` names; see ``StreamTarget``.

    Raises:
        MisuseError: the URL is malformed or names no stream, or the extra is not installed.
    """
    try:
        from .stream import StreamTarget  # noqa: PLC0415  # needs an extra
    except ImportError:
        raise MisuseError("a stream needs the extra: pip install 'provcache-trio[nats]'") from None
    try:
        target = StreamTarget(url, entries)
    except ValueError as error:
        message = f"a stream is named by a URL such as nats://n1,n2,n3/STREAM ({error})"
        raise MisuseError(message) from None
    try:
        target.check_table()
    except ValueError as error:
        raise MisuseError(str(error)) from None
    return target


# A URL, perhaps changed by a Path; and text with a colon before an @.
_hide: Final = re.compile(r"(?is)(:/|password=).*|\S*:(?!\s).*@.*").sub


def without_secrets(text: str) -> str:
    """Return ``text`` up to the first thing that may hold a password."""
    return _hide(lambda found: f"{found[1] or ''}...", text)
