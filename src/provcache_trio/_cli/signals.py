"""SIGINT, SIGTERM and SIGHUP end a command as trio ends everything: by a cancelled scope."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractContextManager

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE: Final = 2.0  # seconds that whoever reads the last words gets, after a signal


async def cancel_on_signal(
    work: Callable[[], Awaitable[None]],
    on_signal: Callable[[signal.Signals], None],
    watch: Callable[[], Awaitable[None]],
    conclude: Callable[[signal.Signals | None], Awaitable[None]],
) -> signal.Signals | None:
    """Await ``work()``, cancelled by the first signal; later ones are only told.

    A queue that ``work`` has open drains while the cancellation passes through it, and that
    ends by itself, so a second signal has nothing to hurry. One that this process was started
    to ignore, as by ``nohup`` or, in the background, by a shell without job control, is
    ignored.

    Args:
        work: what to run; what it raises comes out in an ExceptionGroup.
        on_signal: called with every signal that comes before ``conclude``, the first
            included. Must not raise.
        watch: runs beside ``work``; cancelled when that has ended.
        conclude: called last, with the first signal, or None. Since or from a signal on it
            has two seconds.

    Returns:
        The first signal that ended ``work`` or ``conclude``, or None: there was none.
    """
    first: signal.Signals | None = None
    scope, last = trio.CancelScope(), trio.CancelScope()
    concluding = False

    def hurry() -> None:
        last.deadline = min(last.deadline, trio.current_time() + _PATIENCE)

    async def listen(signals: AsyncIterator[int]) -> None:
        nonlocal first
        async for number in signals:
            received = signal.Signals(number)
            first = first or received
            scope.cancel()
            if concluding:
                hurry()
            else:
                on_signal(received)

    with _receiver() as signals:
        async with trio.open_nursery() as nursery:
            if signals is not None:
                nursery.start_soon(listen, signals)
            async with trio.open_nursery() as watching:
                watching.start_soon(watch)
                with scope:
                    await work()
                watching.cancel_scope.cancel()
            concluding, stopped_by = True, first
            if stopped_by is not None:
                hurry()
            with last:
                await conclude(stopped_by)
            nursery.cancel_scope.cancel()
    return first if last.cancelled_caught else stopped_by


def _receiver() -> AbstractContextManager[AsyncIterator[int] | None]:
    heeded = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    return trio.open_signal_receiver(*heeded) if heeded else nullcontext()
