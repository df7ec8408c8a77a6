"""The waits between tries."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .lifetime import Lifetime


class Backoff:
    """Exponential backoff with full jitter, which closing the queue cuts short once."""

    __slots__ = ("_lifetime", "_scope", "next_try_at")

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self._scope: trio.CancelScope | None = None
        # On trio's clock; None while no wait is under way.
        self.next_try_at: float | None = None

    async def wait(self, failures: int) -> None:
        """Wait before the next try, after ``failures`` (1 or more) failed ones in a row."""
        lifetime = self._lifetime
        options = lifetime.options
        draining = lifetime.closing.is_set()
        # 2**64 seconds is above any cap; without the bound the power overflows a float.
        ceiling = min(
            options.retry_cap_seconds, options.retry_base_seconds * 2.0 ** min(failures - 1, 64)
        )
        if draining:
            # A longer wait may miss a store that comes back during the drain.
            ceiling = min(ceiling, options.drain_timeout_seconds / 10)
        # The global generator, so that seeding it makes a test's waits repeatable.
        delay = random.uniform(0, ceiling)  # noqa: S311  # no secret
        self.next_try_at = lifetime.clock() + delay
        try:
            with trio.move_on_after(delay) as self._scope:
                if draining:
                    await trio.sleep_forever()
                await lifetime.closing.wait()
        finally:
            self._scope = None
            self.next_try_at = None

    def cut(self) -> None:
        """End a wait that is under way."""
        if self._scope is not None:
            self._scope.cancel()
