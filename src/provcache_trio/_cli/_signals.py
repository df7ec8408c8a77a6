"""SIGINT and SIGTERM end a command as trio ends everything: by a cancelled scope."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def cancel_on_signal(
    work: Callable[[], Awaitable[None]], on_signal: Callable[[signal.Signals], None]
) -> signal.Signals | None:
    """Await ``work()``, cancelled by the first SIGINT or SIGTERM; later ones are only told.

    A queue that ``work`` has open drains while the cancellation passes through it, and that
    ends by itself, so a second signal has nothing to hurry.

    Args:
        work: what to run; what it raises comes out in an ExceptionGroup.
        on_signal: called with every signal, the first included. Must not raise.

    Returns:
        The first signal, or None: there was none.
    """
    first: signal.Signals | None = None
    scope = trio.CancelScope()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def listen() -> None:
            nonlocal first
            async for number in signals:
                received = signal.Signals(number)
                first = first or received
                scope.cancel()
                on_signal(received)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            with scope:
                await work()
            nursery.cancel_scope.cancel()
    return first
