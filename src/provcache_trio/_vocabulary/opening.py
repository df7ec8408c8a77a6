"""What every ``open_…`` function returns: ``async with`` opens it, once, and closes it."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")


class Opening(AbstractAsyncContextManager[T, None], Generic[T]):
    """Opens something at ``__aenter__`` and closes it at ``__aexit__``.

    Not a generator: KeyboardInterrupt, raised between two steps of a generator, would leave the
    thing half open. Both methods, and what they call, are protected from it.

    Attributes:
        what: the thing to open, as messages name it, such as "a queue".
        function: the name of the function that returns the opening.
        one_task: whether the task that entered has to be the one that leaves, as for a nursery.
    """

    what: ClassVar[str]
    function: ClassVar[str]
    one_task: bool = False

    _entered = False
    _task: trio.lowlevel.Task

    @abstractmethod
    async def _open(self) -> T:
        """Open it. If this raises, it must leave nothing open; ``__aenter__`` raises the same."""

    @abstractmethod
    async def _close(self, error: BaseException | None, /) -> None:
        """Close it, shielded from cancellation; ``error`` is the block's exception, or None."""

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> T:
        if self._entered:
            raise RuntimeError(f"{self.what} can be entered once; call {self.function} again")
        try:
            self._task = trio.lowlevel.current_task()
        except RuntimeError:
            raise RuntimeError(
                f"{self.function} needs trio, and this is not a task of trio's: begin the program "
                "by trio.run(main), not by asyncio.run"
            ) from None
        self._entered = True
        await trio.lowlevel.checkpoint()
        return await self._open()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        task = trio.lowlevel.current_task()
        if self.one_task and task is not self._task:
            raise RuntimeError(
                f"{self.what} has to be left by the task that entered it, {self._task.name},"
                f" and not by {task.name}"
            )
        await self._close(exc)  # noqa: ASYNC102  # shields itself

    # Hidden from type checkers, which find these mistakes by themselves.
    if not TYPE_CHECKING:

        def __enter__(self) -> object:
            raise TypeError(f"write 'async with {self.function}(...)', not 'with'")

        def __exit__(self, *_: object) -> None:
            raise AssertionError("unreachable")

        def __await__(self) -> object:
            raise TypeError(f"write 'async with {self.function}(...) as it:', not 'await'")

        def __getattr__(self, name: str) -> object:
            raise AttributeError(
                f"{self.what} is not open yet: write 'async with {self.function}(...) as it:', "
                f"and use it.{name} inside",
                name=name,
                obj=self,
            )
