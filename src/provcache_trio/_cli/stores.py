"""The store of a command: how to open it, and what is known of it."""

from __future__ import annotations

import math
import os
import stat
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol

import trio

from provcache_trio import StoreMisconfiguredError, StoreUnavailableError
from provcache_trio._vocabulary.errors import reworded
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.sqlite._rows import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from provcache_trio import ProvcacheEntry

_PATIENCE: Final = 10.0  # seconds that a store gets to answer at first
_PAUSE: Final = 0.25


class Store(Protocol):
    """What the commands ask of a repository; the built-in ones have it."""

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``."""
        ...

    async def get_many(self, keys: Iterable[str], /) -> Mapping[str, ProvcacheEntry]:
        """Return the stored entries of ``keys``, by key."""
        ...

    async def count(self) -> int:
        """Return how many entries are stored."""
        ...

    async def check(self) -> None:
        """Raise a StoreError unless the store answers."""
        ...


class Target(Protocol):
    """Where entries go, or come from.

    Attributes:
        label: what to call it in messages.
    """

    label: str

    def open(self) -> AbstractAsyncContextManager[Store]:
        """Open the store, which is made when it is not there.

        Raises:
            StoreError: at entry, it can't be used.
        """
        ...

    def open_existing(self) -> AbstractAsyncContextManager[Store]:
        """Open the store to read from it; it is not made.

        Raises:
            StoreError: at entry or from the first call, it can't be used.
        """
        ...

    async def facts(self) -> dict[str, int]:
        """Return what is cheaply known of the store, by name.

        Raises:
            StoreError: it can't be asked.
            OSError: it can't be looked at.
        """
        ...


async def wait_until_ready(store: Store, notice: Callable[[str], None]) -> None:
    """Wait until the store answers; it may be locked, or just being started.

    Args:
        store: what to wait for, ten seconds from its first failure on.
        notice: called if it does not answer at once.

    Raises:
        StoreError: it does not answer, or needs a person.
    """
    until = math.inf
    while True:
        try:
            return await store.check()
        except StoreMisconfiguredError:
            raise
        except StoreUnavailableError as error:
            if until == math.inf:
                until = trio.current_time() + _PATIENCE
                notice(f"{error}; trying again for {_PATIENCE:g} s")
            elif trio.current_time() >= until:
                raise
        await trio.sleep(_PAUSE)


class SqliteTarget:
    """An SQLite file, which is made when it is not there.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = str(path)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Store]:
        """Open the file; ``wait_until_ready`` raises what else is wrong with it.

        Raises:
            StoreMisconfiguredError: there can be no such file.
        """
        directory = self.path.parent
        self._check_kind()
        if not directory.is_dir():
            raise StoreMisconfiguredError(f"there is no directory {directory}")
        if not os.access(self.path if self.path.exists() else directory, os.W_OK):
            raise StoreMisconfiguredError("no permission to write there")
        async with open_sqlite_repository(self.path) as repository:
            yield repository

    @asynccontextmanager
    async def open_existing(self) -> AsyncGenerator[Store]:
        """Open the file to read from it, while others write to it too.

        The first call raises what else is wrong with it.

        Raises:
            StoreMisconfiguredError: there can be no such file.
        """
        self._check_kind()
        async with open_sqlite_repository(self.path, create=False) as repository:
            try:
                yield repository
            except StoreMisconfiguredError as error:
                # Its own words are for programmers.
                makes_it = "provcache init --to makes it"
                text = str(error).replace("with create=True it is made", makes_it)
                raise reworded(error, text) from None

    def _check_kind(self) -> None:
        try:
            mode = self.path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StoreMisconfiguredError(str(error.strerror)) from None
        if stat.S_ISDIR(mode):
            raise StoreMisconfiguredError("it is a directory")
        if not stat.S_ISREG(mode):
            raise StoreMisconfiguredError("it is no regular file")

    async def facts(self) -> dict[str, int]:
        """Return the size of the file with what is still in its log, and the schema version.

        Raises:
            OSError: the file is gone.
        """
        await trio.lowlevel.checkpoint()
        size = self.path.stat().st_size
        with suppress(FileNotFoundError):
            size += self.path.with_name(f"{self.path.name}-wal").stat().st_size
        return {"bytes": size, "schema": SCHEMA_VERSION}
