"""Waits for what must happen: only a hang takes longer than they allow."""

from __future__ import annotations

import inspect
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PROMPT_SECONDS: Final = 5  # a process may have to wait for its turn; for ever is longer
HANG_SECONDS: Final = 60  # whatever a machine is busy with, what takes so long is stuck


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition``, for which there is no event, has come true; it may be async."""
    with trio.fail_after(HANG_SECONDS):
        while True:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return
            await trio.sleep(0.005)


@contextmanager
def at_most(seconds: float) -> Generator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds
