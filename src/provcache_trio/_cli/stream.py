"""A stream as the store of a command. Needs the extra ``nats``."""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from urllib.parse import urlsplit

from provcache_trio import StoreMisconfiguredError
from provcache_trio.nats import create_stream, open_stream_repository
from provcache_trio.nats._removal import take_out
from provcache_trio.nats._repository import check_table
from provcache_trio.nats._servers import read_access
from provcache_trio.nats._stream import names_of

from .entries import PROVCACHE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from .entries import Entries
    from .stores import Store

_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_size: Final = re.compile(r"(\d+)\s*(|KB|MB|GB|TB)", re.IGNORECASE).fullmatch


def bytes_in(size: str) -> int:
    """Return the bytes of a size such as 10GB.

    Raises:
        ValueError: ``size`` is not a size.
    """
    found = _size(size.strip())
    if found is None:
        raise ValueError("a size is a number of bytes, or of KB, MB, GB or TB, such as 10GB")
    return int(found[1]) * _UNITS[found[2].upper()]


class StreamTarget:
    """A stream, which only ``create`` creates.

    Args:
        url: its servers' URL, with its name as the path.
        entries: the type of its entries.

    Raises:
        ValueError: ``url`` is malformed.
    """

    def __init__(self, url: str, entries: Entries = PROVCACHE) -> None:
        servers, _, self.stream = url.rpartition("/")
        parts = urlsplit(servers)
        names_of(self.stream)
        read_access(servers)
        self.servers = servers
        self.entries = entries
        self.label = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{self.stream}"

    def check_table(self) -> None:
        """Raise ValueError if these entries can't go through a stream."""
        check_table(self.entries.table)

    @asynccontextmanager
    async def open(self, *, create: bool = False) -> AsyncGenerator[Store]:  # noqa: ARG002  # see ``create``
        """Open the stream for writing; ``wait_until_ready`` raises its errors."""
        table: Any = self.entries.table
        async with open_stream_repository(self.servers, self.stream, table=table) as repository:
            # These commands only write to it and check it.
            yield cast("Store", repository)

    def open_existing(self) -> AbstractAsyncContextManager[Store]:
        """Raise StoreMisconfiguredError, as a stream can't be read by key."""
        self._refuse()

    async def facts(self) -> dict[str, int]:
        """Raise StoreMisconfiguredError; see ``open_existing``."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreMisconfiguredError(
            "a stream holds no rows; a relay takes entries to a store: name that store, as sqlite:PATH "
            "or postgresql://HOST/DATABASE"
        )

    async def create(self, max_bytes: int, replicas: int) -> None:
        """Create the stream."""
        await create_stream(self.servers, self.stream, max_bytes=max_bytes, replicas=replicas)

    async def take_out(self, number: int, file: Path) -> None:
        """Move one message into a new file."""
        await take_out(self.servers, self.stream, number, partial(_keep, file))


def _keep(file: Path, data: bytes) -> None:
    """Write and sync ``data`` to a new file that only its owner may read."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as new:  # noqa: PTH123  # a descriptor
        new.write(data)
        new.flush()
        os.fsync(descriptor)
