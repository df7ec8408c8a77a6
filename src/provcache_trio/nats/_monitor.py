"""Reads a server's monitoring page, for settings that the protocol shows only to administrators."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from provcache_trio._vocabulary.errors import StoreUnavailableError

_SECONDS: Final = 5
_PORTS: Final = {"http": 8222, "https": 443}


class _JetStream(msgspec.Struct, frozen=True):
    sync_always: bool = False


class _Settings(msgspec.Struct, frozen=True):
    config: _JetStream = _JetStream()


class _Page(msgspec.Struct, frozen=True):
    server_name: str
    jetstream: _Settings = _Settings()


def read_monitor_url(url: str) -> SplitResult:
    """Return the parts of the URL of a monitoring page.

    Raises:
        ValueError: it can't be such a URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError("monitor_url must be like http://HOST:8222")
    return parts


async def syncs_always(url: str) -> tuple[str, bool]:
    """Return a server's name and whether it syncs always; an asyncio function.

    Raises:
        StoreUnavailableError: the page can't be read.
    """
    parts = read_monitor_url(url)
    try:
        async with asyncio.timeout(_SECONDS):
            body = await _get(parts, f"{parts.path.rstrip('/')}/varz")
        page = msgspec.json.decode(body, type=_Page)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, msgspec.MsgspecError):
        raise StoreUnavailableError(
            f"the monitoring page of {parts.hostname}:{parts.port or _PORTS[parts.scheme]} can't be read"
        ) from None
    return page.server_name, page.jetstream.config.sync_always


async def _get(parts: SplitResult, path: str) -> bytes:
    host = str(parts.hostname)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or _PORTS[parts.scheme]
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        # HTTP/1.0, so that the page ends with the connection.
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        return await reader.read(-1)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
