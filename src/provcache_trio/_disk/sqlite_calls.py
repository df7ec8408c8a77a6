"""Calls to one SQLite file: in worker threads, one at a time, interrupted when cancelled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from provcache_trio._vocabulary.errors import (
    EntryRejectedError,
    StoreError,
    StoreUnavailableError,
    reworded,
)

from .threads import end_in_thread, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from .sqlite_connection import SQLiteConnection

T = TypeVar("T")


class SQLiteCalls:
    """Runs the methods of a file until ``close``.

    Args:
        file: its methods run in a worker thread, one at a time, in the order of the calls.
        name: its name in the error after ``close``.
    """

    def __init__(self, file: SQLiteConnection, name: str) -> None:
        self._file = file
        self._name = name
        self._turn = trio.Lock()
        self._closed = False

    # Protected: Ctrl-C between taking the turn and giving it back would keep it for good.
    @trio.lowlevel.enable_ki_protection
    async def run(self, call: Callable[..., T], *args: object) -> T:
        """Call ``call``, a method of the file, and return its result.

        If cancelled before its turn, the call has no effect. If cancelled later, it either has none
        and raises Cancelled, or succeeds and returns.

        Raises:
            trio.ClosedResourceError: it is closed.
            Exception: whatever the method raised.
        """
        async with self._turn:
            self._raise_if_closed()
            self._file.stopped = False
            try:
                return await in_thread(partial(call, *args), self._file.interrupt)
            except (StoreError, EntryRejectedError) as error:
                if isinstance(error, StoreUnavailableError):
                    self._raise_if_closed()
                    # If this raises, the cancellation is why the call failed.
                    await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120
                if isinstance(error, EntryRejectedError) and error.local:
                    # It is about the entry, not about the file.
                    raise
                # The message holds names only, as all messages about files do.
                raise reworded(error, f"{self._file.path}: {error}")  # noqa: B904  # itself

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"{self._name} is closed") from None

    async def close(self) -> None:
        """Interrupt the calls that are under way and close the file; shielded."""
        self._closed = True
        self._file.interrupt()
        # Without a deadline: as long as the disk takes.
        with trio.CancelScope(shield=True):
            try:
                async with self._turn:
                    await end_in_thread(self._file.end)
            except KeyboardInterrupt:
                # The interrupt ended only the wait for the turn, which is still needed.
                await self.close()  # noqa: ASYNC120  # shielded
                raise
