"""The bridge wherever trio-asyncio can be imported: an asyncio loop inside trio's."""

from __future__ import annotations

import _asyncio
import warnings
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

import trio

with warnings.catch_warnings():
    # It uses what Python 3.12 deprecated. That is no business of whoever imports us, and
    # would be an error where warnings are.
    warnings.simplefilter("ignore", DeprecationWarning)
    import trio_asyncio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

_MOST_LOOKUPS: Final = 8  # threads that wait for a name server


@final
class TrioAsyncioBridge:
    """Runs an asyncio loop in a child task, where it can't be seen; see ``Bridge``."""

    one_task = True

    def __init__(self) -> None:
        self._begun = trio.Event()
        self._closing = trio.Event()
        self._failure: Exception | None = None
        self._loop: trio_asyncio.TrioEventLoop

    async def open(self) -> None:
        """Start the child task.

        Raises:
            OSError: there are no descriptors left for the loop.
            RuntimeError: trio is a guest of asyncio.
        """
        await trio.lowlevel.checkpoint()
        # CPython's own function: trio-asyncio replaces the public one, and so can't tell.
        if _asyncio._get_running_loop() is not None:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # there is no other
            raise RuntimeError(
                "trio runs as a guest of asyncio here, where asyncpg can't run in trio's thread: "
                "open the repository with bridge='thread'"
            )
        # Not `async with`: what the user's block raises must not pass through our nursery.
        self._manager = trio.open_nursery(strict_exception_groups=True)
        nursery = await self._manager.__aenter__()
        nursery.start_soon(self._host)
        interrupt: KeyboardInterrupt | None = None
        with trio.CancelScope(shield=True):  # a moment: it only waits for our own task
            while not self._begun.is_set():
                try:
                    # Not nursery.start, which an interrupt leaves with a task that never ends.
                    await self._begun.wait()
                except KeyboardInterrupt as error:
                    interrupt = error
        failure = interrupt or self._failure
        if failure is not None:
            await self.close()
            raise failure

    # Protected: Ctrl-C would leave the asyncio task with nobody who waits for it.
    @trio.lowlevel.enable_ki_protection
    async def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what ``call`` returns in the loop."""
        return await trio_asyncio.aio_as_trio(call, loop=self._loop)()

    async def close(self) -> None:
        """End the loop, which has nothing to do any more."""
        self._closing.set()
        try:
            # Waits for the task whether or not a surrounding scope is cancelled.
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            if group.split(KeyboardInterrupt)[1] is not None:  # the loop lets nothing else out
                raise AssertionError("unreachable") from group
            raise KeyboardInterrupt from None

    @trio.lowlevel.enable_ki_protection
    async def _host(self) -> None:
        # Shielded: a queue in a cancelled scope has yet to write what it accepted.
        with trio.CancelScope(shield=True):
            protection = _Protection(trio.lowlevel.current_task())
            trio.lowlevel.add_instrument(protection)
            try:
                async with trio_asyncio.open_loop() as self._loop:
                    loop = self._loop
                    # By default, the loop ends with the first exception that nobody awaits;
                    # drivers leave some behind when connections break.
                    loop.set_exception_handler(lambda _loop, _context: None)
                    loop.set_default_executor(_Executor())
                    self._begun.set()
                    await self._closing.wait()
            except Exception as error:  # noqa: BLE001  # ``open`` raises it: a loop lets none out
                while isinstance(error, ExceptionGroup):  # of trio-asyncio's nurseries
                    error = cast("ExceptionGroup[Exception]", error).exceptions[0]
                self._failure = error
            finally:
                self._begun.set()  # whatever happened: ``open`` can't be cancelled
                trio.lowlevel.remove_instrument(protection)


class _Protection(trio.abc.Instrument):
    """Keeps KeyboardInterrupt out of the loop's own tasks.

    One that comes out of trio-asyncio's main task leaves a loop that neither goes on nor
    ends, and so a program that hangs. trio gives no other way to protect a task that
    somebody else starts.
    """

    def __init__(self, host: trio.lowlevel.Task) -> None:
        self._host = host

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Protect ``task`` if it is one of the loop's."""
        nursery = task.parent_nursery
        if nursery is not None and nursery.parent_task is self._host:
            task._ki_protected = True  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


class _Executor(trio_asyncio.TrioExecutor):
    """Resolves names in threads that may be left behind when a name server does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups = trio.CapacityLimiter(_MOST_LOOKUPS)

    async def submit(  # type: ignore[override]  # trio-asyncio's is async, too
        self, fn: Callable[..., T], /, *args: object
    ) -> T:
        """Return what ``fn`` returns in a worker thread."""
        return await trio.to_thread.run_sync(
            fn, *args, limiter=self._lookups, abandon_on_cancel=True
        )
