# What we use of trio-asyncio, which has no types of its own.

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import trio

_T = TypeVar("_T")

class TrioEventLoop(asyncio.SelectorEventLoop): ...

class TrioExecutor(concurrent.futures.ThreadPoolExecutor):
    def __init__(self, limiter: trio.CapacityLimiter | None = None) -> None: ...

def open_loop() -> AbstractAsyncContextManager[TrioEventLoop]: ...
def aio_as_trio(
    proc: Callable[[], Awaitable[_T]], *, loop: TrioEventLoop
) -> Callable[[], Awaitable[_T]]: ...
