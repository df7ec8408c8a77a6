"""How long the steps of tasks take while a queue writes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provcache_trio.postgres import PostgresRepository


class Steps(trio.abc.Instrument):
    """Notes, for every flush, the most CPU time that one task step took, in milliseconds.

    A flush lasts until the next one begins.
    """

    def __init__(self) -> None:
        self.longest: list[float] = []

    def begin_flush(self) -> None:
        """Begin."""
        self.longest.append(0)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # trio's names
        """Begin."""
        self._began = time.thread_time_ns()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # likewise
        """End."""
        if self.longest:
            milliseconds = (time.thread_time_ns() - self._began) / 1e6
            self.longest[-1] = max(self.longest[-1], milliseconds)


class Watched:
    """The repository; says when a flush begins."""

    def __init__(self, repository: PostgresRepository[Any], steps: Steps) -> None:
        self._repository = repository
        self._steps = steps
        self.prepare = repository.prepare

    async def upsert_many(self, entries: Sequence[Any], /) -> int:
        """Store them."""
        self._steps.begin_flush()
        return await self._repository.upsert_many(entries)
