"""Who waits for a session gets the next one that is free."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import trio

if TYPE_CHECKING:
    from provcache_trio._asyncio.bridge import Bridge

    from ._password import Password
    from ._session import Session, Statement

E = TypeVar("E")
T = TypeVar("T")


@final
class SessionPool(Generic[E]):
    """Sessions of one kind.

    Args:
        sessions: all of them.
        password: asked anew before one of them connects.

    Attributes:
        idle: those that are free; the last one was used last.
    """

    def __init__(self, sessions: list[Session[E]], password: Password) -> None:
        self.idle = sessions
        self._password = password
        self._free = trio.Semaphore(len(sessions))

    async def run(self, bridge: Bridge, statement: Statement[E, T]) -> T:
        """Run ``statement`` in a session that is free."""
        try:
            # Not `async with`, which lets every other task run before a batch is sent, and so
            # the server wait for them.
            self._free.acquire_nowait()
        except trio.WouldBlock:
            await self._free.acquire()
        session = self.idle.pop()
        try:
            if session.will_connect:
                await self._password.refresh()
            return await bridge.run(partial(session.run, statement))
        finally:
            self.idle.append(session)
            self._free.release()


async def close_all(sessions: list[Session[Any]]) -> None:
    """Close their connections, all at once; an asyncio function."""
    closing = [session.close() for session in sessions if session.connected]
    if closing:  # of nothing, gather asks which loop runs: the host's, in trio's guest mode
        await asyncio.gather(*closing)
