"""Supervision: restarts our tasks when they crash, until that has happened too often."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from provcache_trio._vocabulary.failures import leaves_of
from provcache_trio._vocabulary.log import Lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from .lifetime import Lifetime

_RESTART_SECONDS: Final = 1.0
MOST_CRASHES: Final = 3


class Task(NamedTuple):
    """A task that is restarted when it crashes."""

    name: str
    run: Callable[[], Awaitable[None]]
    # None: it serves all lanes.
    lane: int | None = None


class Supervisor:
    """Runs the queue's tasks; a restarted one goes on where the crashed one stopped."""

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        # The crash that was one too many.
        self.last_straw: BaseException | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self, tasks: Iterable[Task], give_up: Callable[[], None]) -> None:
        """Run every task until the lifetime's scope is cancelled; none ends by itself.

        ``give_up`` is called at once after one crash too many.
        """
        with self._lifetime.scope:
            async with trio.open_nursery() as nursery:
                for task in tasks:
                    nursery.start_soon(self._supervise, task, give_up, name=task.name)

    @trio.lowlevel.enable_ki_protection
    async def _supervise(self, task: Task, give_up: Callable[[], None]) -> None:
        lifetime = self._lifetime
        while True:
            try:
                await task.run()
            except BaseException as error:  # noqa: BLE001, ASYNC103  # the sleep raises it again
                if not lifetime.scope.cancel_called or other_than_cancelled(error):
                    self._note_crash(task, error, give_up)
            lifetime.restarting += 1
            try:
                await trio.sleep(_RESTART_SECONDS)
            finally:
                lifetime.restarting -= 1

    def _note_crash(self, task: Task, error: BaseException, give_up: Callable[[], None]) -> None:
        lifetime = self._lifetime
        crashes = lifetime.note_crash(task.lane)
        # Log the frames, but not the message, which may quote an entry.
        leaves = leaves_of(error)
        frames = "".join("".join(traceback.format_tb(leaf.__traceback__)) for leaf in leaves)
        classes = ", ".join(type(leaf).__qualname__ for leaf in leaves)
        lifetime.log(
            logging.ERROR,
            "%s crashed: %s; if none of its frames is yours, report it\n%s",
            task.name,
            classes,
            Lines(frames),
            task=task.name,
            error_class=classes,
        )
        if crashes >= MOST_CRASHES and not lifetime.scope.cancel_called:
            self.last_straw = error
            lifetime.scope.cancel()
            give_up()


def other_than_cancelled(error: BaseException) -> bool:
    """Return whether ``error``, or anything in a group, is not a ``trio.Cancelled``."""
    return not all(isinstance(leaf, trio.Cancelled) for leaf in leaves_of(error))
