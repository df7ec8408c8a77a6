"""Calls to one SQLite file: a worker thread each, in turn, cut short when they are cancelled."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import trio
from trio.lowlevel import Abort

from ._errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from outcome import Outcome

    from ._sqlite_connection import SQLiteConnection

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
        """Return what the file's method ``call`` returns.

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
            except StoreUnavailableError:
                self._raise_if_closed()
                # If that raises, it is why the call failed.
                await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120
                raise

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


# ``trio.to_thread.run_sync`` can abandon a thread or ignore a cancellation; this is what it
# is made of, with a third way. The task sleeps until the thread is done, Ctrl-C or not.
@trio.lowlevel.enable_ki_protection
async def in_thread(work: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """Return what ``work`` returns in a worker thread; when cancelled, make it hurry.

    Raises:
        StoreUnavailableError: there is no thread for it.
        BaseException: what ``work`` raised.
    """
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()

    def deliver(result: Outcome[T]) -> None:
        token.run_sync_soon(trio.lowlevel.reschedule, task, result)

    def abort(_: object) -> Abort:
        interrupt()
        return Abort.FAILED

    try:
        trio.lowlevel.start_thread_soon(work, deliver)
    except RuntimeError:  # the system has none left, which may pass
        raise StoreUnavailableError("no thread can be started") from None
    result: T = await trio.lowlevel.wait_task_rescheduled(abort)
    return result


async def end_in_thread(end: Callable[[], None]) -> None:
    """Call ``end`` in a worker thread, or here and now if there is none."""
    try:
        await in_thread(end, lambda: None)
    except StoreUnavailableError:
        end()


# Annotated as object: callers may give what their annotations do not allow.


def absolute(path: object) -> str:
    """Return the absolute form of ``path``.

    Raises:
        TypeError: it is neither str nor a path-like object that stands for one.
        ValueError: it is empty, ``":memory:"``, or holds NUL.
    """
    name = path
    if isinstance(path, os.PathLike):
        name = os.fspath(cast("os.PathLike[str]", path))
    if not isinstance(name, str):
        raise TypeError(f"path must be str or os.PathLike[str], not of {type(name).__name__}")
    if name in {"", ":memory:"} or "\0" in name:
        raise ValueError("path must name a file")
    return os.path.abspath(name)  # noqa: PTH100
