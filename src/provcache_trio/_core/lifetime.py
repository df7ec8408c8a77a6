"""The beginning and the end of a queue."""

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
    """The state that all tasks of a queue share from its beginning to its end."""

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
        # Held by the thread that may call the queue; nobody ever waits for it. Once the intake is
        # closed, or in a forked child, nobody holds it, so one comparison guards every call.
        self.owner: threading.RLock = threading.RLock()
        self.owner.acquire()
        self.forked: bool = False
        # True while a journal has entries that were not replayed.
        self.recovering: bool = recovering
        # The number of letters that the sink will never take; nothing waits for them.
        self.unfit: int = 0
        # Set once no more entries are accepted.
        self.closing: trio.Event = trio.Event()
        # Set once everything accepted, and everything that a journal held, is settled as well.
        self.drained: trio.Event = trio.Event()
        # Surrounds all our tasks; the opening shields it from every surrounding scope.
        self.scope: trio.CancelScope = trio.CancelScope()
        # True if the drain ended because the store is closed.
        self.store_is_closed: bool = False
        # True once the queue is closed.
        self.closed: bool = False
        # The entries left at the end; untyped, as nothing else here knows their type.
        self.undelivered: tuple[Any, ...] = ()
        # The number of crashed tasks that wait for their restart.
        self.restarting: int = 0
        # Crashes by lane since the lane last persisted something; under None those of tasks that
        # serve all lanes, since any lane did.
        self._crashes: Counter[int | None] = Counter()
        _OPEN.add(self)

    def may_be_called(self) -> bool:
        """Return whether this thread may call the queue.

        Called for each entry; comparing thread identifiers would cost four times as much.
        """
        # threading.Condition uses it, too, so it is likely to stay, though it is not public.
        return self.owner._is_owned()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001  # see above

    def disown(self) -> None:
        """Forbid every thread to call the queue."""
        self.owner = threading.RLock()

    def note_crash(self, lane: int | None) -> int:
        """Count a crash of a task; return how many there were since something was persisted."""
        self._crashes[lane] += 1
        shared = self._crashes[None]
        if lane is not None:
            return shared + self._crashes[lane]
        return shared + max((n for lane, n in self._crashes.items() if lane is not None), default=0)

    def note_persisted(self, lane: int) -> None:
        """Forget earlier crashes, since the lane works."""
        del self._crashes[lane], self._crashes[None]

    def note_settled(self) -> None:
        """End the drain if nothing is left; called when something was settled or the replay ended."""
        ledger = self.ledger
        if (
            self.closing.is_set()
            and not self.recovering
            and ledger.depth == 0
            and ledger.in_flight == self.unfit
        ):
            self.drained.set()

    def end_drain(self) -> None:
        """End the drain as if its time were up, since the store is closed."""
        self.store_is_closed = True
        self.drained.set()

    def log(self, level: int, message: str, *args: object, **fields: object) -> None:
        """Log with the queue's name in front, and ``fields`` on the record."""
        if logger.isEnabledFor(level):
            log(level, f"%s: {message}", self.name, *args, queue=self.name, **fields)

    def now(self) -> datetime:
        """Return the wall clock's time in UTC, or the system's if the given clock fails."""
        try:
            return self.wall_clock().astimezone(UTC)
        except Exception:  # noqa: BLE001  # whatever a user's clock raised
            return datetime.now(UTC)


_OPEN: Final[weakref.WeakSet[Lifetime]] = weakref.WeakSet()


def _disown_in_child() -> None:
    for lifetime in tuple(_OPEN):
        lifetime.forked = True
        lifetime.disown()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # not on Windows
    os.register_at_fork(after_in_child=_disown_in_child)
