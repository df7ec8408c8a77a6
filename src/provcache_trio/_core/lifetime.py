"""How long a queue lives."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import trio

from provcache_trio._vocabulary.log import log, logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from provcache_trio._vocabulary.options import WriteBehindOptions
    from provcache_trio._vocabulary.telemetry import Telemetry

    from .ledger import Ledger


class Lifetime:
    """What a queue's tasks know of its beginning and end."""

    __slots__ = (
        "__weakref__",
        "_crashes",
        "clock",
        "closed",
        "closing",
        "drained",
        "forked",
        "ledger",
        "name",
        "options",
        "owner",
        "recovering",
        "restarting",
        "scope",
        "store_is_closed",
        "telemetry",
        "undelivered",
        "unfit",
        "wall_clock",
    )

    def __init__(
        self,
        *,
        name: str,
        options: WriteBehindOptions,
        ledger: Ledger,
        clock: Callable[[], float],
        wall_clock: Callable[[], datetime],
        telemetry: Telemetry | None = None,
        recovering: bool = False,
    ) -> None:
        self.name: str = name
        self.options: WriteBehindOptions = options
        self.ledger: Ledger = ledger
        self.clock: Callable[[], float] = clock
        self.wall_clock: Callable[[], datetime] = wall_clock
        self.telemetry: Telemetry | None = telemetry
        # The thread that may call the queue holds it, and nobody ever waits for it; once the
        # intake is closed, or in a forked child, nobody holds it. One question guards every call.
        self.owner: threading.RLock = threading.RLock()
        self.owner.acquire()
        self.forked: bool = False
        self.recovering: bool = recovering  # a journal has entries that were not replayed
        self.unfit: int = 0  # letters that the sink will never take: nothing waits for them
        self.closing: trio.Event = trio.Event()  # no more entries are accepted
        # ... and everything accepted is settled, and everything that a journal held.
        self.drained: trio.Event = trio.Event()
        # Around all our tasks; those who open it shield it from every surrounding scope.
        self.scope: trio.CancelScope = trio.CancelScope()
        self.store_is_closed: bool = False  # so the drain had to end
        self.closed: bool = False  # it is over
        # Entries that are handed back at the end. Nothing else here knows their type.
        self.undelivered: tuple[Any, ...] = ()
        self.restarting: int = 0  # crashed tasks that wait for their restart
        # Of our tasks, by lane, since something of it was last persisted. None: of those that
        # serve all lanes, since anything was.
        self._crashes: Counter[int | None] = Counter()
        _OPEN.add(self)

    def may_be_called(self) -> bool:
        """Return whether this thread may call the queue.

        Asked for each entry: comparing the numbers of threads costs four times as much.
        """
        # What threading.Condition asks of its lock; public it is not, nor likely to go.
        return self.owner._is_owned()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001  # as said

    def disown(self) -> None:
        """Have no thread call the queue any more."""
        self.owner = threading.RLock()

    def note_crash(self, lane: int | None) -> int:
        """Count a crash of a task; return how many there were with nothing persisted between."""
        self._crashes[lane] += 1
        shared = self._crashes[None]
        if lane is not None:
            return shared + self._crashes[lane]
        return shared + max((n for lane, n in self._crashes.items() if lane is not None), default=0)

    def note_persisted(self, lane: int) -> None:
        """Forgive the crashes before: the lane works."""
        del self._crashes[lane], self._crashes[None]

    def note_settled(self) -> None:
        """Call when something was settled, or the replay is over: may end the drain."""
        ledger = self.ledger
        if (
            self.closing.is_set()
            and not self.recovering
            and ledger.depth == 0
            and ledger.in_flight == self.unfit
        ):
            self.drained.set()

    def end_drain(self) -> None:
        """End the drain as if its time were up: the store is closed, so nothing more helps."""
        self.store_is_closed = True
        self.drained.set()

    def log(self, level: int, message: str, *args: object, **fields: object) -> None:
        """Log with the queue's name in front, and ``fields`` on the record."""
        if logger.isEnabledFor(level):
            log(level, f"%s: {message}", self.name, *args, queue=self.name, **fields)

    def now(self) -> datetime:
        """Return the wall clock's time in UTC; the system's, should the given one fail."""
        try:
            return self.wall_clock().astimezone(UTC)
        except Exception:  # noqa: BLE001  # whatever somebody's clock raised
            return datetime.now(UTC)


_OPEN: Final[weakref.WeakSet[Lifetime]] = weakref.WeakSet()


def _disown_in_child() -> None:
    for lifetime in tuple(_OPEN):
        lifetime.forked = True
        lifetime.disown()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # not on Windows
    os.register_at_fork(after_in_child=_disown_in_child)
