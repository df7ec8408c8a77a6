"""The entries and the stores that several parts of the suite measure with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from provcache_trio import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Item(msgspec.Struct, frozen=True):
    """The smallest entry that a queue takes."""

    veri_key: str
    version: int = 0


class NullRepository:
    """A store that takes everything in one checkpoint."""

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        """Do nothing."""
        await trio.lowlevel.checkpoint()
        return len(entries)


class HeldRepository:
    """A store that answers no call before it is released, so that everything waits in line."""

    def __init__(self) -> None:
        self._released = trio.Event()

    def release(self) -> None:
        """Answer from now on."""
        self._released.set()

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        """Wait for the release."""
        await self._released.wait()
        return len(entries)


class SlowRepository:
    """A store that takes the same time for every call, and any number of calls at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        """Take the time."""
        await trio.sleep(self._seconds)
        return len(entries)


class DownRepository:
    """A store that can't be reached."""

    async def upsert_many(self, _entries: Sequence[Item], /) -> int:
        """Fail after one checkpoint."""
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("the store is down")
