"""How a driver that blocks is called from trio, for the stores beside this file."""

import os
import socket
from collections.abc import Callable
from typing import Protocol, TypeVar

import outcome
import trio

T = TypeVar("T")


async def in_thread(
    work: Callable[[], T], stop: Callable[[], None], turn: trio.Lock, *, seconds: float
) -> T:
    """Run ``work`` in a thread, once it has its ``turn``, and return what it returns.

    When the caller is cancelled, or after ``seconds``, ``stop`` is run in another thread. It must
    make ``work`` end soon, which is waited for: nobody else may use the connection before.

    Raises:
        trio.TooSlowError: it took too long.
    """
    token = trio.lowlevel.current_trio_token()
    ended = trio.Event()
    results: list[outcome.Outcome[T]] = []

    def deliver(result: outcome.Outcome[T]) -> None:
        results.append(result)
        token.run_sync_soon(ended.set)

    with trio.fail_after(seconds):
        # Some writers of a queue, or its reader, may call at the same time.
        await turn.acquire()
        try:
            trio.lowlevel.start_thread_soon(work, deliver)
            await ended.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(stop)
                await ended.wait()
            raise
        finally:
            turn.release()
    return results[0].unwrap()


class HasDescriptor(Protocol):
    """A connection over a socket."""

    def fileno(self) -> int: ...


def line_of(connection: HasDescriptor) -> socket.socket:
    """Return a socket of our own for the same line, which another thread may shut down."""
    return socket.socket(fileno=os.dup(connection.fileno()))
