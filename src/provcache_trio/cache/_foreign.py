"""Run user code in tasks of ours: take its result or error, and copy the error for each waiter."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
_BUILT_IN: Final = builtins.__name__


class Failed(Generic[T]):
    """The error that user code raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException = error


async def outcome_of(call: Callable[[], Awaitable[T]], scope: trio.CancelScope) -> T | Failed[T]:
    """Await user code that runs in ``scope``; return its result, or its error as ``Failed``.

    Raises:
        trio.Cancelled: ``scope`` is cancelled. Any other error is dropped then.
    """
    try:
        return await call()
    except BaseException as error:  # noqa: BLE001, ASYNC103  # ours is raised again below
        if scope.cancel_called:
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102  # only to raise
        return Failed(_without_cancelled(error))  # noqa: ASYNC104  # it was not ours


def _without_cancelled(error: BaseException) -> BaseException:
    """Return ``error`` without any Cancelled, which must not be raised in another task."""
    rest: BaseException | None = error
    if isinstance(error, BaseExceptionGroup):
        rest = cast("BaseExceptionGroup[BaseException]", error).split(trio.Cancelled)[1]
    elif isinstance(error, trio.Cancelled):
        rest = None
    return rest or RuntimeError("it was cancelled, and not by us")


def copy_of(error: BaseException) -> BaseException:
    """Return a copy of ``error``, since each task must raise an object of its own.

    The class itself is not called, because its ``__init__`` may want other arguments than ``args``.
    The built-in class that it derives from makes the copy.
    """
    cls = type(error)
    base: Any = next(one for one in cls.__mro__ if one.__module__ == _BUILT_IN)
    _, args, *state = base.__reduce__(error)
    copy: BaseException = base.__new__(cls, *args)
    base.__init__(copy, *args)
    if state:
        copy.__dict__.update({k: v for k, v in state[0].items() if k in error.__dict__})
        # Some built-in classes, such as ImportError, keep state outside of ``__dict__``.
        for name in state[0].keys() - error.__dict__.keys():
            setattr(copy, name, state[0][name])
    copy.__cause__ = error.__cause__
    copy.__context__ = error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


class Tasks:
    """The tasks of a cache. Surrounding scopes do not cancel them; only ``cancel`` does."""

    def __init__(self) -> None:
        # Set once it is open.
        self.nursery: trio.Nursery
        self._scopes: set[trio.CancelScope] = set()

    def start(
        self, work: Callable[[], Awaitable[None]], scope: trio.CancelScope, name: str
    ) -> None:
        """Start ``work`` in ``scope``, which is shielded."""
        self._scopes.add(scope)
        self.nursery.start_soon(self._run, work, scope, name=name)

    # Protected, so that Ctrl-C reaches the main task instead of ending every task of the cache.
    @trio.lowlevel.enable_ki_protection
    async def _run(self, work: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            with scope:
                await work()
        finally:
            self._scopes.discard(scope)

    def cancel(self) -> None:
        """Cancel all tasks."""
        for scope in self._scopes:
            scope.cancel()
