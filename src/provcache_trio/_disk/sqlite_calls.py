"""Calls to one SQLite file: a worker thread each, in turn, cut short when they are cancelled."""

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
    """Runs the methods of a file, until ``close``.

    Args:
        file: its methods run in a worker thread, one at a time, in the order of the calls.
        name: what to call it when it is closed.
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

        Cancelled before its turn, it has no effect. Cancelled later, it either has none and
        raises Cancelled, or is done and returns.

        Raises:
            trio.ClosedResourceError: it is closed.
            Exception: what the method raises.
        """
        async with self._turn:
            self._raise_if_closed()
            self._file.stopped = False
            try:
                return await in_thread(partial(call, *args), self._file.interrupt)
            except (StoreError, EntryRejectedError) as error:
                if isinstance(error, StoreUnavailableError):
                    self._raise_if_closed()
                    # If that raises, it is why the call failed.
                    await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120
                # Names only, as every message of a file does.
                raise reworded(error, f"{self._file.path}: {error}")  # noqa: B904  # itself

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"{self._name} is closed") from None

    async def close(self) -> None:
        """Interrupt the calls that are under way and close the file; shielded."""
        self._closed = True
        self._file.interrupt()
        with trio.CancelScope(shield=True):  # for as long as the disk takes
            try:
                async with self._turn:
                    await end_in_thread(self._file.end)
            except KeyboardInterrupt:  # only ends the wait for the turn, which is needed
                await self.close()  # noqa: ASYNC120  # shielded
                raise
