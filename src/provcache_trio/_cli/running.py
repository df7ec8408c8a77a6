"""The work of a command, and what it came to."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from provcache_trio import DrainTimeoutError, ProvcacheError

from .signals import cancel_on_signal
from .text import OutputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Watcher(Protocol):
    """What shows a job while it runs."""

    async def run(self) -> None:
        """Show the job until cancelled."""
        ...

    def notice(self, text: str) -> None:
        """Tell something at once."""
        ...


class Ending(msgspec.Struct, frozen=True):
    """How work ended.

    Attributes:
        failure: what went wrong; empty if nothing did.
        stopped_by: the first signal, or None.
    """

    failure: str
    stopped_by: signal.Signals | None


async def _nothing(_: object = None) -> None:
    await trio.lowlevel.checkpoint()


async def attempt(
    work: Callable[[], Awaitable[None]],
    on_signal: Callable[[signal.Signals], None],
    *,
    watch: Callable[[], Awaitable[None]] = _nothing,
    conclude: Callable[[Ending], Awaitable[None]] = _nothing,
) -> Ending:
    """Await ``work()``, cancelled by signals, then ``conclude()``; see ``cancel_on_signal``.

    Raises:
        OutputError: by ``work``.
    """
    failure = ""
    unwritten: OutputError | None = None

    async def guarded() -> None:
        nonlocal failure, unwritten
        try:
            await work()
        except DrainTimeoutError as error:
            failure = f"{len(error.undelivered):,} entries could not be written in time"
        except (ProvcacheError, OSError) as error:
            failure = str(error)
        except OutputError as error:  # on its way out it would get into a group
            unwritten = error

    async def in_the_end(stopped_by: signal.Signals | None) -> None:
        await conclude(Ending(failure, stopped_by))

    stopped_by = await cancel_on_signal(guarded, on_signal, watch, in_the_end)
    if unwritten is not None:
        raise unwritten
    return Ending(failure, stopped_by)


async def attempt_in_sight(
    work: Callable[[], Awaitable[None]],
    watcher: Watcher,
    drain_timeout_seconds: float,
    *,
    beside: Callable[[], Awaitable[None]] = _nothing,
    conclude: Callable[[Ending], Awaitable[None]] = _nothing,
) -> Ending:
    """Do what ``attempt`` does, while ``watcher`` shows the work and tells of signals.

    ``beside`` runs as long as the watcher does.
    """
    signals = 0
    limit = f"at most {drain_timeout_seconds:g} s"

    def on_signal(received: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        again = "still " if signals > 1 else ""
        watcher.notice(f"{received.name}: {again}writing what was accepted, {limit}")

    async def watch() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.run)
            nursery.start_soon(beside)

    return await attempt(work, on_signal, watch=watch, conclude=conclude)
