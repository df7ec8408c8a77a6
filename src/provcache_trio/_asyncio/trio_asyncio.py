"""The bridge for Pythons with trio-asyncio: an asyncio loop inside trio's."""

from __future__ import annotations

import _asyncio
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

import trio

_IS_OURS: Final = "trio_asyncio" not in sys.modules

with warnings.catch_warnings():
    # It uses functions that Python 3.12 deprecated. Our users should not see that, and it would be
    # an error where warnings are errors.
    warnings.simplefilter("ignore", DeprecationWarning)
    import trio_asyncio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def _leave_asyncio_alone() -> None:
    """Let ``asyncio.run`` make loops of asyncio's own, as it did before trio-asyncio was imported.

    The import makes it run trio-asyncio's synchronous loop instead, in every thread that sets no
    policy. A program that imports trio-asyncio itself, before, may want that.
    """
    # There is no public way for all threads; without these names, nothing changes.
    with suppress(ImportError, AttributeError):
        from trio_asyncio import _loop  # noqa: PLC0415  # it may be missing

        names: Any = _loop
        names._FakedPolicy.policy = names._original_policy  # noqa: SLF001  # see above


if _IS_OURS:  # pragma: no branch  # a process of its own tests the other way
    _leave_asyncio_alone()

# The most threads that wait for a name server.
_MOST_LOOKUPS: Final = 8


@final
class TrioAsyncioBridge:
    """Runs an asyncio loop in a child task, unseen by the caller; see ``Bridge``."""

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
        # CPython's own function, as trio-asyncio replaces the public one.
        if _asyncio._get_running_loop() is not None:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # there is no other
            raise RuntimeError(
                "trio runs as a guest of asyncio here, where asyncpg can't run in trio's thread: "
                "open the repository with bridge='thread'"
            )
        # Not `async with`, as the exception of the user's block must not pass through our nursery.
        self._manager = trio.open_nursery(strict_exception_groups=True)
        nursery = await self._manager.__aenter__()
        nursery.start_soon(self._host)
        interrupt: KeyboardInterrupt | None = None
        # It takes a moment, as it only waits for our own task.
        with trio.CancelScope(shield=True):
            while not self._begun.is_set():
                try:
                    # Not nursery.start, as an interrupt of that would leave a task that never ends.
                    await self._begun.wait()
                except KeyboardInterrupt as error:
                    interrupt = error
        failure = interrupt or self._failure
        if failure is not None:
            await self.close()
            raise failure

    # Protected: Ctrl-C would leave an asyncio task that nobody waits for.
    @trio.lowlevel.enable_ki_protection
    async def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what ``call`` returns in the loop."""
        return await trio_asyncio.aio_as_trio(call, loop=self._loop)()

    async def close(self) -> None:
        """End the loop, which is idle by now."""
        self._closing.set()
        try:
            # Waits for the task even if a surrounding scope is cancelled.
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            if group.split(KeyboardInterrupt)[1] is not None:
                # The loop lets nothing else out.
                raise AssertionError("unreachable") from group
            raise KeyboardInterrupt from None

    @trio.lowlevel.enable_ki_protection
    async def _host(self) -> None:
        # Shielded, as a queue in a cancelled scope still has to write its entries.
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
                # The groups are of trio-asyncio's nurseries.
                while isinstance(error, ExceptionGroup):
                    error = cast("ExceptionGroup[Exception]", error).exceptions[0]
                self._failure = error
            finally:
                # Whatever happened, as ``open`` can't be cancelled.
                self._begun.set()
                trio.lowlevel.remove_instrument(protection)


class _Protection(trio.abc.Instrument):
    """Keeps KeyboardInterrupt out of the loop's own tasks.

    One that leaves trio-asyncio's main task leaves a loop that neither continues nor ends, so the
    program hangs. trio has no other way to protect a task that other code starts.
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
