"""The store of a command: how to open it, and what is known of it."""

from __future__ import annotations

import math
import os
import stat
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import trio

from provcache_trio import StoreMisconfiguredError, StoreUnavailableError
from provcache_trio._vocabulary.errors import reworded
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.sqlite._rows import SCHEMA_VERSION

from .entries import PROVCACHE

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Generator,
        Iterable,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from pathlib import Path

    from .entries import Entries

T = TypeVar("T")

_PATIENCE: Final = 10.0  # seconds that a store gets to answer at first
_PAUSE: Final = 0.25
# How repositories say to programmers that something is not there.
_MADE_BY_CREATE: Final = (
    "with create=True it is made",
    "make it, or open the repository with create=True",
    "see create=True",
)


class Store(Protocol):
    """What the commands ask of a repository; the built-in ones have it."""

    async def upsert_many(self, entries: Sequence[Any], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``."""
        ...

    async def get_many(self, keys: Iterable[Any], /) -> Mapping[Any, Any]:
        """Return the stored entries of ``keys``, by key."""
        ...

    async def count(self) -> int:
        """Return how many entries are stored."""
        ...

    async def delete_expired(self, now: datetime, limit: int, /) -> int:
        """Delete so many entries that have expired; return how many there were."""
        ...

    async def check(self) -> None:
        """Raise a StoreError unless the store answers."""
        ...


class Target(Protocol):
    """Where entries go, or come from.

    Attributes:
        label: what to call it in messages.
        entries: what they are.
    """

    label: str
    entries: Entries

    def open(self, *, create: bool = False) -> AbstractAsyncContextManager[Store]:
        """Open the store.

        That of ``ProvcacheEntry`` is always made when it is not there.

        Args:
            create: make a table of the user's own, too.

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
        store: what to wait for.
        notice: called if it does not answer at once.

    Raises:
        StoreError: it does not answer for ten seconds, or needs a person.
    """
    await patiently(store.check, notice)


async def patiently(call: Callable[[], Awaitable[T]], notice: Callable[[str], None]) -> T:
    """Return what a call of a store returns, which may be away, for ten seconds at most.

    Args:
        call: what to do, again and again.
        notice: called if that does not work at once.

    Raises:
        StoreError: it stays away, or needs a person.
    """
    until = math.inf
    while True:
        try:
            return await call()
        except StoreMisconfiguredError:
            raise
        except StoreUnavailableError as error:
            if until == math.inf:
                until = trio.current_time() + _PATIENCE
                notice(f"{error}; trying again for {_PATIENCE:g} s")
            elif trio.current_time() >= until:
                raise
        await trio.sleep(_PAUSE)


@contextmanager
def for_users() -> Generator[None]:
    """Have errors say to users, not to programmers, what makes a store."""
    try:
        yield
    except StoreMisconfiguredError as error:
        text = str(error)
        for words in _MADE_BY_CREATE:
            text = text.replace(words, "provcache init --to makes it")
        raise reworded(error, text) from None


class SqliteTarget:
    """An SQLite file, which is made when it is not there.

    Args:
        path: the file.
        entries: what it stores.
    """

    def __init__(self, path: Path, entries: Entries = PROVCACHE) -> None:
        self.path = path
        self.entries = entries
        self._table: Any = entries.table
        self.label = str(path)

    @asynccontextmanager
    async def open(self, *, create: bool = False) -> AsyncGenerator[Store]:
        """Open the file; ``wait_until_ready`` raises what else is wrong with it.

        Args:
            create: see ``Target``.

        Raises:
            StoreMisconfiguredError: there can be no such file.
        """
        directory = self.path.parent
        self._check_kind()
        if not directory.is_dir():
            raise StoreMisconfiguredError(f"there is no directory {directory}")
        if not os.access(self.path if self.path.exists() else directory, os.W_OK):
            raise StoreMisconfiguredError("no permission to write there")
        create = create or self.entries.table is None
        with for_users():
            async with open_sqlite_repository(
                self.path, table=self._table, create=create
            ) as repository:
                yield repository

    @asynccontextmanager
    async def open_existing(self) -> AsyncGenerator[Store]:
        """Open the file to read from it, while others write to it too.

        The first call raises what else is wrong with it.

        Raises:
            StoreMisconfiguredError: there can be no such file.
        """
        self._check_kind()
        with for_users():
            async with open_sqlite_repository(
                self.path, table=self._table, create=False
            ) as repository:
                yield repository

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
        """Return the size of the file with what is still in its log, and a schema's version.

        Raises:
            OSError: the file is gone.
        """
        await trio.lowlevel.checkpoint()
        size = self.path.stat().st_size
        with suppress(FileNotFoundError):
            size += self.path.with_name(f"{self.path.name}-wal").stat().st_size
        return {"bytes": size} | ({} if self._table else {"schema": SCHEMA_VERSION})
