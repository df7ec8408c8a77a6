"""Waits for what must happen: only a hang takes longer than they allow."""

from __future__ import annotations

import inspect
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# Whatever else a machine is busy with, what takes so long is stuck. Where something else would
# end a wait, it is set to end it later. Mutants, many of which hang, set it to less.
HANG_SECONDS: Final = int(os.environ.get("HANG_SECONDS", "60"))


async def until(condition: Callable[[], object], *, every: float = 0.005) -> None:
    """Wait until ``condition``, for which there is no event, has come true; it may be async.

    Args:
        condition: what must come true.
        every: seconds between two looks; more where a look takes work, of others, too.
    """
    with trio.fail_after(HANG_SECONDS):
        while True:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return
            await trio.sleep(every)


def wait_until(condition: Callable[[], object], *, every: float = 0.005) -> None:
    """Do what ``until`` does, in a thread of which nobody else has need."""
    latest = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < latest, "it does not come true"
        time.sleep(every)


@contextmanager
def without_a_hang() -> Generator[None]:
    """Check that the block ends by itself, rather than by a limit of somebody else."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < HANG_SECONDS
