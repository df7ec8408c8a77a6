"""Calls of foreign code: how old each is, and whether the queue is called from inside one."""

from __future__ import annotations

import logging
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Generic

import trio

from provcache_trio._vocabulary.protocols import E

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provcache_trio._vocabulary.protocols import DeadLetter, DeadLetterSink, Repository

    from .lifetime import Lifetime

_SLOW_SECONDS: Final = 30.0
_STUCK_SECONDS: Final = 5.0
_SLOW: Final = "%s has not returned for %.0f s; what it was given waits for it"
_STUCK: Final = "%s does not return, %.0f s after it was cancelled; the queue can't end before"


class Call:
    """One call of foreign code, from ``with`` to its end."""

    __slots__ = ("_calls", "began_at", "is_slow", "name", "of_store", "outer", "over")

    def __init__(self, calls: Calls, name: str, *, of_store: bool = True) -> None:
        self._calls = calls
        self.name: str = name
        # False for a call of the sink.
        self.of_store: bool = of_store
        self.began_at: float = trio.current_time()
        # The call of another queue inside which this one was made.
        self.outer: Call | None = inside.get()
        self.over: bool = False
        # True once it has been logged as slow.
        self.is_slow: bool = False

    def __enter__(self) -> None:
        inside.set(self)
        self._calls.begin(self)

    def __exit__(self, *_: object) -> None:
        self.over = True
        inside.set(self.outer)
        self._calls.end(self)

    def is_of(self, calls: Calls) -> bool:
        """Return whether it is under way for the queue of ``calls``."""
        return self._calls is calls and not self.over


# A task started inside a call inherits it; if it outlives the call, it finds it ended.
inside: Final[ContextVar[Call | None]] = ContextVar("provcache_trio.inside", default=None)


class Calls:
    """The calls of foreign code that one queue has under way.

    An alarm wakes the watching task when a call may have become slow. Moving the alarm wakes
    nobody. It stays as it is from call to call, which costs nothing, and is switched off when
    the queue is idle, so that an idle queue wakes nobody.
    """

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self._under_way: dict[Call, None] = {}
        # When the oldest call of the store began; may be read from any thread.
        self.oldest_at: float | None = None
        self._alarm = trio.CancelScope()
        self._alarm_is_set = False
        # When to log a call that does not return although it was cancelled.
        self._stuck_at = math.inf

    def begin(self, call: Call) -> None:
        """Note a call that begins."""
        self._under_way[call] = None
        if self.oldest_at is None and call.of_store:
            self.oldest_at = call.began_at
        if not self._alarm_is_set:
            self._set_alarm(call.began_at + _SLOW_SECONDS)

    def end(self, call: Call) -> None:
        """Note that a call has ended."""
        del self._under_way[call]
        if call.began_at == self.oldest_at:
            began = (other.began_at for other in self._under_way if other.of_store)
            self.oldest_at = min(began, default=None) if self._under_way else None
        if self._alarm_is_set and not self._under_way and self._lifetime.ledger.depth == 0:
            self._set_alarm(math.inf)

    def cancelled(self) -> None:
        """Note that every call has been cancelled."""
        self._stuck_at = trio.current_time() + _STUCK_SECONDS
        self._set_alarm(self._stuck_at)

    def _set_alarm(self, at: float) -> None:
        self._alarm.deadline = at
        self._alarm_is_set = at < math.inf

    # Protected: Ctrl-C belongs to the main task; here it would end the tasks beside this one.
    @trio.lowlevel.enable_ki_protection
    async def watch(self) -> None:
        """Log calls that take too long, for as long as the queue lives."""
        while True:
            with self._alarm:
                await trio.sleep_forever()
            self._look(trio.current_time())
            self._alarm = trio.CancelScope()
            slow = (call.began_at + _SLOW_SECONDS for call in self._under_way if not call.is_slow)
            self._set_alarm(min(self._stuck_at, *slow, math.inf))

    def _look(self, now: float) -> None:
        is_stuck = now >= self._stuck_at
        if is_stuck:
            self._stuck_at = math.inf
        for call in self._under_way:
            if is_stuck:
                call.is_slow = True
                self._log(call, _STUCK, _STUCK_SECONDS)
            elif not call.is_slow and now >= call.began_at + _SLOW_SECONDS:
                call.is_slow = True
                self._log(call, _SLOW, now - call.began_at)

    def _log(self, call: Call, message: str, seconds: float) -> None:
        self._lifetime.log(logging.WARNING, message, call.name, seconds, call=call.name)

    def raise_if_inside(self, what: str) -> None:
        """Raise RuntimeError if ``what`` is called from inside a call that it would wait for."""
        call = inside.get()
        while call is not None:
            if call.is_of(self):
                raise RuntimeError(
                    f"queue {self._lifetime.name!r}: {what} inside {call.name} would wait for "
                    "that very call"
                )
            call = call.outer


class WatchedRepository(Generic[E]):
    """A repository whose calls are listed in ``Calls``."""

    def __init__(self, repository: Repository[E], calls: Calls) -> None:
        self.watched: Repository[E] = repository
        self._calls = calls
        self._name = f"{type(repository).__qualname__}.upsert_many"

    async def upsert_many(self, entries: Sequence[E], /) -> int:
        """See ``Repository.upsert_many``."""
        with Call(self._calls, self._name):
            return await self.watched.upsert_many(entries)


class WatchedSink(Generic[E]):
    """A dead letter sink whose calls are listed in ``Calls``."""

    def __init__(self, sink: DeadLetterSink[E], calls: Calls) -> None:
        self.watched: DeadLetterSink[E] = sink
        self._calls = calls
        self._name = f"{type(sink).__qualname__}.put_many"

    async def put_many(self, letters: Sequence[DeadLetter[E]], /) -> None:
        """See ``DeadLetterSink.put_many``."""
        with Call(self._calls, self._name, of_store=False):
            await self.watched.put_many(letters)
