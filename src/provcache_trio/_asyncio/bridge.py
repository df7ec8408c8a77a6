"""How a trio task calls an asyncio driver: two ways behind one small interface."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

BridgeKind: TypeAlias = Literal["trio-asyncio", "thread"]

# trio-asyncio uses parts of asyncio that Python 3.14 removed.
DEFAULT_KIND: Final[BridgeKind] = "trio-asyncio" if sys.version_info < (3, 14) else "thread"


class Bridge(Protocol):
    """An asyncio event loop of our own, and the calls into it.

    Attributes:
        one_task: whether the task that opened it has to close it.
    """

    one_task: bool

    async def open(self) -> None:
        """Start the loop, which takes almost no time; called once.

        Raises:
            OSError: the process has no descriptors left.
        """
        ...

    async def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what ``call``, an asyncio function, returns; raise what it raises.

        Cancelling cancels the asyncio task, once, and waits for it; if that returns a result all
        the same, so does this. The task has a copy of the caller's context variables.
        """
        ...

    async def close(self) -> None:
        """End the loop; no call may be under way."""
        ...


# Protected: Ctrl-C during the import would leave trio-asyncio broken in this process.
@trio.lowlevel.enable_ki_protection
def make_bridge(kind: BridgeKind) -> Bridge:
    """Return a bridge that is not open yet.

    Raises:
        ValueError: there is no such bridge.
        ImportError: trio-asyncio is not installed, or can't be imported by this Python.
    """
    if kind == "thread":
        from .thread import ThreadBridge  # noqa: PLC0415  # the other needs no thread

        return ThreadBridge()
    if kind != "trio-asyncio":
        raise ValueError("bridge must be 'trio-asyncio' or 'thread'")
    # Imported only here, as the import changes asyncio for the whole process.
    try:
        from .trio_asyncio import TrioAsyncioBridge  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            f"trio-asyncio can't be imported ({error}): install it with the extra postgres or nats, or "
            "open with bridge='thread'",
            name=error.name,
        ) from None

    return TrioAsyncioBridge()
