"""``open_write_behind_queue``: the nursery, the drain, and every exit."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast, final, overload

import trio

from provcache_trio._vocabulary.errors import DrainTimeoutError, WriteBehindCrashedError
from provcache_trio._vocabulary.failures import leaves_of
from provcache_trio._vocabulary.opening import Opening
from provcache_trio._vocabulary.options import WriteBehindOptions
from provcache_trio._vocabulary.plurals import counted_entries
from provcache_trio._vocabulary.protocols import E
from provcache_trio._vocabulary.table import Table

from .assembly import Assembly, Setup, assemble
from .entry_types import check_entry_types
from .queue import by_veri_key
from .supervisor import MOST_CRASHES, other_than_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from contextlib import AbstractAsyncContextManager

    from provcache_trio._vocabulary.protocols import DeadLetterSink, Journal, Repository
    from provcache_trio._vocabulary.telemetry import Telemetry

    from .intake import Source
    from .queue import WriteBehindQueue


class HasVeriKey(Protocol):
    """An entry that carries its key."""

    @property
    def veri_key(self) -> Hashable:
        """What identifies the entry in the store."""
        ...


V = TypeVar("V", bound=HasVeriKey)


class TableRepository(Protocol[E]):
    """A repository that states its table, as the built-in ones do."""

    @property
    def table(self) -> Table[E] | None:
        """The table that the repository was opened with."""
        ...

    async def upsert_many(self, entries: Sequence[E], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``."""
        ...


@overload
def open_write_behind_queue(
    repository: Repository[V],
    options: WriteBehindOptions = ...,
    *,
    name: str = ...,
    merge: Callable[[V, V], V] | None = ...,
    dead_letters: DeadLetterSink[V] | None = ...,
    wall_clock: Callable[[], datetime] | None = ...,
    telemetry: Telemetry | None = ...,
    journal: Journal[V] | None = ...,
) -> AbstractAsyncContextManager[WriteBehindQueue[V], None]: ...


@overload
def open_write_behind_queue(
    repository: Repository[E],
    options: WriteBehindOptions = ...,
    *,
    name: str = ...,
    key: Callable[[E], Hashable],
    merge: Callable[[E, E], E] | None = ...,
    dead_letters: DeadLetterSink[E] | None = ...,
    wall_clock: Callable[[], datetime] | None = ...,
    telemetry: Telemetry | None = ...,
    journal: Journal[E] | None = ...,
) -> AbstractAsyncContextManager[WriteBehindQueue[E], None]: ...


@overload
def open_write_behind_queue(
    repository: TableRepository[E],
    options: WriteBehindOptions = ...,
    *,
    name: str = ...,
    key: Callable[[E], Hashable] | None = ...,
    merge: Callable[[E, E], E] | None = ...,
    dead_letters: DeadLetterSink[E] | None = ...,
    wall_clock: Callable[[], datetime] | None = ...,
    telemetry: Telemetry | None = ...,
    journal: Journal[E] | None = ...,
) -> AbstractAsyncContextManager[WriteBehindQueue[E], None]: ...


def open_write_behind_queue(
    repository: Repository[E],
    options: WriteBehindOptions = WriteBehindOptions(),  # noqa: B008  # it is immutable
    *,
    name: str = "default",
    key: Callable[[E], Hashable] | None = None,
    merge: Callable[[E, E], E] | None = None,
    dead_letters: DeadLetterSink[E] | None = None,
    wall_clock: Callable[[], datetime] | None = None,
    telemetry: Telemetry | None = None,
    journal: Journal[E] | None = None,
) -> AbstractAsyncContextManager[WriteBehindQueue[E], None]:
    """Open a queue that writes to ``repository`` behind its callers.

    ::

        async with open_write_behind_queue(repository) as queue:
            await queue.enqueue(entry)

    Leaving the block closes the intake and writes everything that was accepted, in order, shielded
    from cancellation, for at most ``options.drain_timeout_seconds``. The exception that the block
    raised goes on as the very same object. KeyboardInterrupt is held back until the drain is over;
    a second one ends the drain.

    Args:
        repository: where entries go. Open it around the queue, so that it closes last.
        options: see ``WriteBehindOptions``.
        name: labels logs and metrics.
        key: returns what identifies an entry; by default the key of the repository's table, or else
            the entry's ``veri_key``.
        merge: makes one entry of the version in line and a newer one of the same key; must
            be quick and not call the queue. By default the rule of the repository's table, or
            ``merge_entries`` for ``ProvcacheEntry``; otherwise the newer version wins.
        dead_letters: takes the entries that the store refuses. Without it such an entry is logged
            by its key and counted, and its payload is lost.
        wall_clock: stamps metrics and dead letters with an aware datetime; by default the
            system's clock in UTC, which also replaces one that raises later on. All waiting uses
            trio's clock.
        telemetry: reports every batch: a ``provcache_trio.otel.OpenTelemetry``, which any number
            of queues may share.
        journal: keeps accepted entries on disk, so that a crash of the process loses none; see
            ``provcache_trio.journal``. Entries that a dead process left in it are replayed before
            anything new is accepted, and leaving the block writes them, too. Open it around the
            queue.

    Returns:
        A context manager to enter once, with ``async with``, and to leave in the same trio task.

    Raises:
        TypeError: an argument has the wrong type; or the repository, the journal and the dead
            letters state different types of entries by ``table`` or ``entry_type``.
        ValueError: ``name`` is empty, or ``wall_clock`` returns naive datetimes.
        DrainTimeoutError: at exit: entries were left when the time was up, and no journal keeps
            them. Also instead of Cancelled; if the block raised, its exception goes on with a
            note.
        RuntimeError: at entry: the journal serves another queue. At exit: the task that leaves is
            not the one that entered, as when an async generator that was left open is closed;
            the queue stays open.
        WriteBehindCrashedError: at exit: a background task crashed three times with nothing
            persisted in between. The block is cancelled when that happens, and the exception
            that it raised is the error's ``__context__``.
    """
    _check_arguments(repository, options, name, dead_letters)
    if journal is not None:
        _check_method("journal", journal, "append")
    if telemetry is not None and not callable(getattr(telemetry, "flush", None)):
        raise TypeError(f"telemetry must be an OpenTelemetry, not {type(telemetry).__name__}")
    check_entry_types(repository=repository, journal=journal, dead_letters=dead_letters)
    for argument, value in (("key", key), ("merge", merge), ("wall_clock", wall_clock)):
        if value is not None and not callable(value):
            raise TypeError(f"{argument} must be callable, not {type(value).__name__}")
    # A wrapper of a repository forwards ``table``; another class may use that name differently.
    table = getattr(repository, "table", None)
    declared = cast("Table[E]", table) if isinstance(table, Table) else None
    if declared is not None:
        key, merge = key or declared.key, merge or declared.merge
    wall_clock = _utc_now if wall_clock is None else wall_clock
    _check_time(wall_clock())
    return _Opening(
        Setup(
            repository=repository,
            options=options,
            name=name,
            key=by_veri_key if key is None else key,
            merge=merge,
            dead_letters=dead_letters,
            wall_clock=wall_clock,
            telemetry=telemetry,
            journal=journal,
            table=declared,
        )
    )


def open_relaying_queue(
    repository: Repository[E],
    options: WriteBehindOptions,
    source: Source[E],
    *,
    name: str,
    dead_letters: DeadLetterSink[E] | None,
    telemetry: Telemetry | None,
) -> Opening[WriteBehindQueue[E]]:
    """Open a queue that takes its entries from ``source`` alone; nobody may call it.

    Entries that it could not write stay with the source, so leaving raises no DrainTimeoutError.

    Raises:
        TypeError, ValueError: as for ``open_write_behind_queue``.
    """
    _check_arguments(repository, options, name, dead_letters)
    check_entry_types(stream=source, repository=repository, dead_letters=dead_letters)
    table: Table[E] | None = getattr(repository, "table", None)
    return _Opening(
        Setup(
            repository=repository,
            options=options,
            name=name,
            key=by_veri_key if table is None else table.key,
            merge=None if table is None else table.merge,
            dead_letters=dead_letters,
            wall_clock=_utc_now,
            telemetry=telemetry,
            journal=None,
            source=source,
        )
    )


def _check_arguments(repository: object, options: object, name: object, sink: object) -> None:
    _check_method("repository", repository, "upsert_many")
    if not isinstance(options, WriteBehindOptions):
        raise TypeError(f"options must be WriteBehindOptions, not {type(options).__name__}")
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("name must not be empty")
    if sink is not None:
        _check_method("dead_letters", sink, "put_many")


def _check_method(argument: str, value: object, method: str) -> None:
    if isinstance(value, Opening):
        raise TypeError(
            f"{argument} is not open yet: give what 'async with {value.function}(...) as "
            f"{argument}:' gives"
        )
    if not callable(getattr(value, method, None)):
        kind = type(value).__name__
        raise TypeError(f"{argument} must have a method {method}; {kind} has none")


def _check_time(now: object) -> None:
    if not isinstance(now, datetime):
        raise TypeError(f"wall_clock must return a datetime, not {type(now).__name__}")
    if now.utcoffset() is None:
        raise ValueError("wall_clock must return an aware datetime, not a naive one")


def _utc_now() -> datetime:
    return datetime.now(UTC)


@final
class _Opening(Opening["WriteBehindQueue[E]"], Generic[E]):
    """A queue's life, from ``__aenter__`` to ``__aexit__``."""

    what = "a queue"
    function = "open_write_behind_queue"
    one_task = True

    def __init__(self, setup: Setup[E]) -> None:
        self._setup = setup
        self._life: _Life[E]

    async def _open(self) -> WriteBehindQueue[E]:
        # Nothing here yields, so a queue is either open or not.
        parts = assemble(self._setup)
        parts.note_opened()
        manager = trio.open_nursery(strict_exception_groups=True)
        # Not `async with`: what the body raises must not pass through our nursery.
        nursery = await manager.__aenter__()
        self._life = _Life(parts, manager, nursery)
        nursery.start_soon(self._life.host, name=f"{__name__}: queue {self._setup.name!r}")
        return parts.queue

    async def _close(self, error: BaseException | None, /) -> None:
        await self._life.leave(error)


class _Life(Generic[E]):
    """The parts of an open queue, and the nursery that they run in."""

    def __init__(
        self,
        parts: Assembly[E],
        manager: AbstractAsyncContextManager[trio.Nursery, bool | None],
        nursery: trio.Nursery,
    ) -> None:
        self._parts = parts
        self._lifetime = parts.lifetime
        self._manager = manager
        self._nursery = nursery
        # Why the drain left something; empty if it did not.
        self._shortfall = ""
        # What failed at its end; empty if nothing did.
        self._cause = ""

    @trio.lowlevel.enable_ki_protection
    async def host(self) -> None:
        """Run our tasks, out of reach of every surrounding scope."""
        parts = self._parts
        with trio.CancelScope(shield=True), parts.tasks() as tasks:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(parts.calls.watch, name="calls")
                await parts.supervisor.run(tasks, self._give_up)
                nursery.cancel_scope.cancel()
        if parts.supervisor.last_straw is not None:
            await self._finish_journal()
            # At once, so that nobody waits for a fate until the body has ended.
            parts.abandon_rest()

    def _give_up(self) -> None:
        self._parts.close_intake()
        self._parts.cancel_tasks()
        self._nursery.cancel_scope.cancel()

    async def leave(self, error: BaseException | None) -> None:
        """Drain, end our tasks, settle what is left as abandoned, and report."""
        parts, lifetime = self._parts, self._lifetime
        parts.close_intake()
        interrupted = _holds_interrupt(error)
        interrupt: KeyboardInterrupt | None = None
        try:
            if not lifetime.forked:
                interrupt = await self._drain(interrupted=interrupted)  # noqa: ASYNC102  # is shielded
            interrupt = await self._stop_tasks() or interrupt  # noqa: ASYNC102  # ends them first
            await self._finish_journal()  # noqa: ASYNC102  # is shielded
        finally:
            parts.abandon_rest()
            parts.note_closed()
        self._report(error, None if interrupted else interrupt)

    async def _drain(self, *, interrupted: bool) -> KeyboardInterrupt | None:
        """Wait until everything is settled, the time is up, or a second interrupt comes."""
        lifetime = self._lifetime
        seconds = lifetime.options.drain_timeout_seconds
        interrupt: KeyboardInterrupt | None = None
        self._shortfall = f" within {seconds:g} s" if seconds else ": drain_timeout_seconds is 0"
        with trio.move_on_after(seconds, shield=True):
            while True:
                try:
                    await lifetime.drained.wait()
                except KeyboardInterrupt as error:
                    if interrupted:
                        self._shortfall = ": the drain was interrupted"
                        break
                    interrupted = True
                    interrupt = error
                else:
                    why = "store is closed" if lifetime.store_is_closed else "sink refuses them"
                    self._shortfall = f": the {why}"
                    return interrupt
        self._cause = self._described_cause()
        self._shortfall += self._cause
        return interrupt

    def _described_cause(self) -> str:
        """Return what fails at the end of the drain, or "" if nothing does."""
        watch = self._parts.watch
        if not watch.last_cause or (watch.trouble is None and not self._parts.outbox.failing):
            return ""
        return f", as the last call failed ({watch.last_cause})"

    async def _stop_tasks(self) -> KeyboardInterrupt | None:
        """End our tasks; a repository that does not return when cancelled delays this."""
        self._parts.cancel_tasks()
        try:
            # Waits for the tasks whether or not a surrounding scope is cancelled.
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            interrupts, others = group.split(KeyboardInterrupt)
            if interrupts is None or others is not None:
                # Our tasks let nothing else out.
                raise AssertionError("unreachable") from group
            return KeyboardInterrupt()
        return None

    async def _finish_journal(self) -> None:
        """Leave in the journal what is left, before it is settled as abandoned."""
        recorder = self._parts.recorder
        if recorder is not None and not self._lifetime.forked:
            await recorder.finish()
        intake = self._parts.intake
        if intake is not None and not self._lifetime.forked:
            await intake.finish()

    def _report(self, error: BaseException | None, interrupt: KeyboardInterrupt | None) -> None:
        """Log the end, and raise the error that the caller has to know about."""
        parts, name = self._parts, self._lifetime.name
        left = self._lifetime.undelivered
        kept = parts.kept
        self._log_end(len(left), kept=kept)
        last_straw = parts.supervisor.last_straw
        if last_straw is not None:
            crashed = WriteBehindCrashedError(
                f"queue {name!r} gave up after {MOST_CRASHES} crashes of its tasks, which the log "
                f"has; left in .undelivered: {counted_entries(len(left))}",
                undelivered=left,
                metrics=parts.queue.metrics(),
            )
            crashed.__cause__ = last_straw
            if interrupt is not None:
                # Whoever pressed the key wants the program to end.
                raise interrupt from crashed
            raise crashed
        if not left or kept:
            if interrupt is not None:
                raise interrupt
            return
        message = (
            f"queue {name!r} could not write {counted_entries(len(left))}{self._shortfall}; "
            "save what is in .undelivered"
        )
        if interrupt is not None:
            interrupt.add_note(message)
            raise interrupt
        if error is None or not other_than_cancelled(error):
            raise DrainTimeoutError(
                message, undelivered=left, metrics=parts.queue.metrics()
            ) from error
        error.add_note(message)

    def _log_end(self, left: int, *, kept: bool) -> None:
        log, recorder, ledger = self._lifetime.log, self._parts.recorder, self._lifetime.ledger
        unread = recorder is not None and self._lifetime.recovering
        if recorder is not None and unread:
            recorder.replay.log_rest()
        if left and kept:
            where = "left in the journal" if recorder is not None else "given back to the stream"
            log(logging.WARNING, f"%s {where}%s", counted_entries(left), self._cause, count=left)
        elif left:
            log(
                logging.ERROR,
                "%s not written, and handed back in .undelivered%s",
                counted_entries(left),
                self._cause,
                count=left,
            )
        elif not unread:
            log(
                logging.INFO,
                "drained: %d persisted, %d coalesced, %d dead-lettered",
                ledger.persisted,
                ledger.coalesced,
                ledger.failed,
            )
        log(
            logging.INFO,
            "stopped: %d accepted, %d recovered, %d abandoned",
            ledger.enqueued,
            ledger.recovered,
            ledger.abandoned,
        )


def _holds_interrupt(error: BaseException | None) -> bool:
    return error is not None and any(
        isinstance(leaf, KeyboardInterrupt) for leaf in leaves_of(error)
    )
