"""A pool of sessions: a waiting call gets the next one that is free."""

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
        sessions: all sessions.
        password: refreshed before a session connects.

    Attributes:
        idle: the free sessions; the last one was used last.
    """

    def __init__(self, sessions: list[Session[E]], password: Password) -> None:
        self.idle = sessions
        self._password = password
        self._free = trio.Semaphore(len(sessions))

    async def run(self, bridge: Bridge, statement: Statement[E, T]) -> T:
        """Run ``statement`` in a session that is free."""
        try:
            # Not `async with`, which would let every other task run before a batch is sent, while the
            # server waits.
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
    """Close the connections of ``sessions``, all at once; an asyncio function."""
    closing = [session.close() for session in sessions if session.connected]
    # Without arguments, gather asks which loop runs: in trio's guest mode the host's.
    if closing:
        await asyncio.gather(*closing)
