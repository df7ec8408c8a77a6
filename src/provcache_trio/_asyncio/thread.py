"""The bridge for Pythons without trio-asyncio: an asyncio loop in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, final

import trio
from trio.lowlevel import Abort

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


@final
class ThreadBridge:
    """Runs an asyncio loop in a thread of its own; see ``Bridge``."""

    one_task = False

    def __init__(self) -> None:
        self._ended = trio.Event()

    async def open(self) -> None:
        """Start the thread."""
        await trio.lowlevel.checkpoint()
        self._token = trio.lowlevel.current_trio_token()
        self._loop = _Loop()
        self._thread = threading.Thread(
            target=self._run_loop, name="provcache_trio: asyncio", daemon=True
        )
        self._thread.start()

    # Protected: Ctrl-C would leave an asyncio task that nobody waits for.
    @trio.lowlevel.enable_ki_protection
    async def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what ``call`` returns in the thread."""
        # First, as the thread may be quicker than a cancellation.
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = trio.lowlevel.current_task()
        job = _Job(call, lambda: self._token.run_sync_soon(trio.lowlevel.reschedule, waiter))
        raise_cancel: Callable[[], NoReturn] | None = None

        def abort(raise_it: Callable[[], NoReturn]) -> Abort:
            nonlocal raise_cancel
            raise_cancel = raise_it
            # The loop runs this after ``start``.
            self._loop.call_soon_threadsafe(job.cancel)
            return Abort.FAILED

        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(job.start, self._loop, context=context)
        await trio.lowlevel.wait_task_rescheduled(abort)
        if job.task.cancelled() and raise_cancel is not None:
            raise_cancel()
        return job.task.result()

    async def close(self) -> None:
        """End the thread, which is idle by now."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        interrupt: KeyboardInterrupt | None = None
        with trio.CancelScope(shield=True):
            while not self._ended.is_set():
                try:
                    await self._ended.wait()
                except KeyboardInterrupt as error:
                    interrupt = error
        # The thread has nothing left to do but end.
        self._thread.join()
        if interrupt is not None:
            raise interrupt

    def _run_loop(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()
            self._token.run_sync_soon(self._ended.set)


class _Job(Generic[T]):
    """One call, on the loop's side."""

    task: asyncio.Task[T]

    def __init__(
        self, call: Callable[[], Coroutine[Any, Any, T]], wake: Callable[[], None]
    ) -> None:
        self._call = call
        self._wake = wake

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.task = loop.create_task(self._call())
        self.task.add_done_callback(lambda _: self._wake())

    def cancel(self) -> None:
        self.task.cancel()


class _Loop(asyncio.SelectorEventLoop):
    """A loop that can be closed while a name server does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.set_exception_handler(lambda _loop, _context: None)

    async def getaddrinfo(
        self,
        host: Any,  # noqa: ANN401  # as the overridden method has it
        port: Any,  # noqa: ANN401
        **options: int,
    ) -> list[Any]:
        """Return what ``socket.getaddrinfo`` returns in a thread that may be left behind."""
        found: asyncio.Future[list[Any]] = self.create_future()

        def settle(result: list[Any] | Exception) -> None:
            if found.done():
                # The lookup was cancelled.
                return
            if isinstance(result, Exception):
                found.set_exception(result)
            else:
                found.set_result(result)

        def resolve() -> None:
            result: list[Any] | Exception
            try:
                result = socket.getaddrinfo(host, port, **options)
            except Exception as error:  # noqa: BLE001  # passed on
                result = error
            # It fails if the loop was closed in the meantime.
            with suppress(RuntimeError):
                self.call_soon_threadsafe(settle, result)

        threading.Thread(target=resolve, daemon=True, name="provcache_trio: name lookup").start()
        return await found
