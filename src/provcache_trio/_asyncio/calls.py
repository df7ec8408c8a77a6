"""The calls under way over a bridge, and how they end when it closes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

import trio

from .bridge import make_bridge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from .bridge import Bridge, BridgeKind

T = TypeVar("T")
U = TypeVar("U")


@final
class BridgeCalls:
    """Runs calls over a bridge, and cancels those that are under way when it closes.

    Args:
        bridge: what the calls use.
        what: its owner's name in the error after ``close``, such as "the repository".

    Attributes:
        bridge: as given.
    """

    def __init__(self, bridge: Bridge, what: str) -> None:
        self.bridge: Final = bridge
        self._what = what
        self._under_way: set[trio.CancelScope] = set()
        self._one_ended = trio.lowlevel.ParkingLot()
        self._closed = False

    # Protected: Ctrl-C between beginning and end of a call would leave it in the list for good.
    @trio.lowlevel.enable_ki_protection
    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what ``call`` returns; raise what it raises.

        Raises:
            trio.ClosedResourceError: ``close`` was called before, or ended the call.
        """
        with trio.CancelScope() as scope:
            self._raise_if_closed()
            self._under_way.add(scope)
            try:
                return await call()
            finally:
                self._under_way.remove(scope)
                self._one_ended.unpark_all()
        self._raise_if_closed()
        raise AssertionError("unreachable")

    async def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel the calls under way, wait for their end, run ``last``, and close the bridge.

        Shielded from cancellation. An interrupt is raised when all is done.

        Args:
            last: an asyncio function that takes a bounded time; called again if it is interrupted.
        """
        self._closed = True
        await shut_down(self.bridge, partial(self._end, last))

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        for scope in self._under_way:
            scope.cancel()
        while self._under_way:
            await self._one_ended.park()
        await self.bridge.run(last)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"{self._what} is closed")


async def shut_down(bridge: Bridge, end: Callable[[], Awaitable[None]]) -> None:
    """Await ``end``, shielded from cancellation, and close ``bridge``, whatever happens.

    Args:
        bridge: what to close.
        end: takes a bounded time; called again after an interrupt, which is raised at the end.
    """
    interrupt: KeyboardInterrupt | None = None
    try:
        with trio.CancelScope(shield=True):
            while True:
                try:
                    await end()
                except KeyboardInterrupt as error:
                    interrupt = error
                else:
                    break
    finally:
        # Whatever happened, as a nursery that is left open breaks trio. Not in our scope, in which
        # the bridge was not opened.
        await bridge.close()  # noqa: ASYNC102  # shields itself
    if interrupt is not None:
        raise interrupt


async def together(
    first: Callable[[], Awaitable[T]], second: Callable[[], Awaitable[U]]
) -> tuple[T, U]:
    """Run both at the same time; return what they return.

    Raises:
        BaseException: when both have ended, what ``first`` raised, or else what ``second`` did; never
            a group, which callers would have to expect although one call at a time raises none.
    """
    one, other = _Ended(first), _Ended(second)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.run)
        await one.run()
    return one.result(), other.result()


class _Ended(Generic[T]):
    """A call, and how it ended."""

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call
        self._returned: list[T] = []
        self._raised: list[BaseException] = []

    async def run(self) -> None:
        try:
            self._returned.append(await self._call())
        except BaseException as error:  # noqa: ASYNC103, BLE001  # ``result`` raises it, cancellation included
            self._raised.append(error)

    def result(self) -> T:
        for error in self._raised:
            raise error
        return self._returned[0]


# Protected: Ctrl-C between opening and closing would leave the loop running.
@trio.lowlevel.enable_ki_protection
async def call_once(kind: BridgeKind, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return what ``call``, an asyncio function, returns over a bridge of its own.

    Raises:
        ValueError, ImportError: see ``make_bridge``.
        OSError: the process has no descriptors left.
    """
    bridge = make_bridge(kind)
    await bridge.open()
    try:
        return await bridge.run(call)
    finally:
        await bridge.close()  # noqa: ASYNC102  # shields itself
