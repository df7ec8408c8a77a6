"""The store of a command: how to open it, and facts about it."""

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

# The seconds that a store gets to answer at first.
_PATIENCE: Final = 10.0
_PAUSE: Final = 0.25
# How messages of repositories, which are for programmers, end when something is missing.
_MADE_BY_CREATE: Final = (
    "with create=True it is made",
    "make it, or open the repository with create=True",
)
# How errors of a store that holds something else look: by their text, or by their SQLSTATE.
_OF_ANOTHER_KIND: Final = ("database of another application", "has no schema")
_NOT_OURS: Final = frozenset({"42501", "42P01", "42703", "3F000"})


class Store(Protocol):
    """What the commands need of a repository; the built-in ones have it."""

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
        """Delete at most ``limit`` expired entries; return how many there were."""
        ...

    async def check(self) -> None:
        """Raise a StoreError unless the store answers."""
        ...


class Target(Protocol):
    """The store that entries go to or come from.

    Attributes:
        label: its name in messages.
        entries: the type of its entries.
    """

    label: str
    entries: Entries

    def open(self, *, create: bool = False) -> AbstractAsyncContextManager[Store]:
        """Open the store for writing.

        Args:
            create: create what is missing of it.

        Raises:
            StoreError: at entry: it can't be used.
        """
        ...

    def open_existing(self) -> AbstractAsyncContextManager[Store]:
        """Open the store for reading, without creating it.

        Raises:
            StoreError: at entry or from the first call: it can't be used.
        """
        ...

    async def facts(self) -> dict[str, int]:
        """Return facts about the store that are cheap to read, by name.

        Raises:
            StoreError, OSError: the store can't be read.
        """
        ...


async def wait_until_ready(store: Store, notice: Callable[[str], None]) -> None:
    """Wait until the store answers; it may be locked, or starting.

    Args:
        store: the store.
        notice: called if it does not answer at once.

    Raises:
        StoreError: it does not answer within ten seconds, or needs a person.
    """
    await patiently(store.check, notice)


async def patiently(call: Callable[[], Awaitable[T]], notice: Callable[[str], None]) -> T:
    """Return what a call of a store returns; retry for up to ten seconds while the store is away.

    Args:
        call: the call.
        notice: called if the call does not succeed at once.

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
def for_users(entries: Entries = PROVCACHE) -> Generator[None]:
    """Change errors to name the command that creates a store, not the argument.

    Where the store holds something else than ``entries``, name the option that says what, too.
    """
    try:
        yield
    except StoreMisconfiguredError as error:
        text = str(error)
        for words in _MADE_BY_CREATE:
            text = text.replace(words, "provcache init --to makes it")
        is_other = error.sqlstate in _NOT_OURS or any(words in text for words in _OF_ANOTHER_KIND)
        raise reworded(error, text + entries.hint if is_other else text) from None


class SqliteTarget:
    """A SQLite file.

    Args:
        path: the file.
        entries: the type of its entries.
    """

    def __init__(self, path: Path, entries: Entries = PROVCACHE) -> None:
        self.path = path
        self.entries = entries
        self._table: Any = entries.table
        self.label = str(path)

    @asynccontextmanager
    async def open(self, *, create: bool = False) -> AsyncGenerator[Store]:
        """Open the file; ``wait_until_ready`` raises its other errors.

        Args:
            create: see ``Target``.

        Raises:
            StoreMisconfiguredError: the file can't exist.
        """
        directory = self.path.parent
        self._check_kind()
        if not directory.is_dir():
            raise StoreMisconfiguredError(f"there is no directory {directory}")
        if not os.access(self.path if self.path.exists() else directory, os.W_OK):
            raise StoreMisconfiguredError("no permission to write there")
        with for_users(self.entries):
            async with open_sqlite_repository(
                self.path, table=self._table, create=create
            ) as repository:
                yield repository

    @asynccontextmanager
    async def open_existing(self) -> AsyncGenerator[Store]:
        """Open the file for reading, while others may write to it.

        The first call raises its other errors.

        Raises:
            StoreMisconfiguredError: the file can't exist.
        """
        self._check_kind()
        with for_users(self.entries):
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
        """Return the size of the file including its log, and the version of the schema.

        Raises:
            OSError: the file was removed.
        """
        await trio.lowlevel.checkpoint()
        size = self.path.stat().st_size
        with suppress(FileNotFoundError):
            size += self.path.with_name(f"{self.path.name}-wal").stat().st_size
        return {"bytes": size} | ({} if self._table else {"schema": SCHEMA_VERSION})
