"""``open_write_behind_queue``: the nursery, the drain, and every exit."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager, ExitStack
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, final, overload

import trio

from provcache_trio._vocabulary.errors import (
    DrainTimeoutError,
    QueueClosedError,
    WriteBehindCrashedError,
)
from provcache_trio._vocabulary.failures import leaves_of
from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.options import WriteBehindOptions
from provcache_trio._vocabulary.protocols import E

from .batch import Batch
from .batcher import run_batcher
from .journaled_line import JournaledLine, Notes
from .lanes import Lanes
from .ledger import Ledger
from .lifetime import Lifetime
from .line import Line
from .outbox import Outbox
from .queue import WriteBehindQueue
from .recorder import Recorder
from .supervisor import MOST_CRASHES, Supervisor, Task, other_than_cancelled
from .waiting_room import WaitingRoom
from .watch import StoreWatch
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import TracebackType

    from provcache_trio._vocabulary.protocols import DeadLetterSink, Journal, Repository
    from provcache_trio._vocabulary.telemetry import Telemetry


class HasVeriKey(Protocol):
    """An entry that carries its key."""

    @property
    def veri_key(self) -> Hashable:
        """What identifies the entry in the store."""
        ...


V = TypeVar("V", bound=HasVeriKey)


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

    Leaving the block closes the intake and writes everything that was accepted, in order,
    shielded from cancellation, for at most ``options.drain_timeout_seconds``. What the
    block raised goes on as the very same object. KeyboardInterrupt is held back until the
    drain is over; a second one ends the drain.

    Args:
        repository: where entries go. Open it around the queue, so that it closes last.
        options: see ``WriteBehindOptions``.
        name: labels logs and metrics.
        key: what identifies an entry; by default its ``veri_key``.
        merge: makes one entry of the version in line and a newer one of the same key; must
            be quick and not call the queue. By default ``merge_entries`` for
            ``ProvcacheEntry``, and otherwise the newer version wins.
        dead_letters: takes what the store refuses. Without it such an entry is logged by
            its key and counted, and its payload is gone.
        wall_clock: stamps metrics and dead letters with an aware datetime; by default the
            system's clock in UTC, which also steps in for one that raises later on. All waiting
            uses trio's clock.
        telemetry: is told of every batch: a ``provcache_trio.otel.OpenTelemetry``, which any
            number of queues may share.
        journal: keeps accepted entries on disk, so that a crash of the process loses none; see
            ``provcache_trio.journal``. What a dead process left in it is replayed before
            anything new is accepted. Open it around the queue.

    Returns:
        A context manager to be entered once, with ``async with``, in a trio task.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``name`` is empty, or ``wall_clock`` returns naive datetimes.
        DrainTimeoutError: at exit: entries were left when the time was up, and no journal keeps
            them. Also instead of Cancelled; if the block raised, its exception goes on with a
            note.
        RuntimeError: at entry: the journal serves another queue.
        WriteBehindCrashedError: at exit: a background task crashed three times with nothing
            persisted in between. The block is cancelled when that happens, and what it
            raised is the error's ``__context__``.
    """
    _check_arguments(repository, options, name, dead_letters)
    if journal is not None and not callable(getattr(journal, "append", None)):
        raise TypeError(f"journal must have a method append; {type(journal).__name__} has none")
    if telemetry is not None and not callable(getattr(telemetry, "flush", None)):
        raise TypeError(f"telemetry must be an OpenTelemetry, not {type(telemetry).__name__}")
    for argument, value in (("key", key), ("merge", merge), ("wall_clock", wall_clock)):
        if value is not None and not callable(value):
            raise TypeError(f"{argument} must be callable, not {type(value).__name__}")
    wall_clock = _utc_now if wall_clock is None else wall_clock
    _check_time(wall_clock())
    return _Opening(
        repository,
        options,
        name=name,
        key=attrgetter("veri_key") if key is None else key,
        merge=merge,
        sink=dead_letters,
        wall_clock=wall_clock,
        telemetry=telemetry,
        journal=journal,
    )


def _check_arguments(repository: object, options: object, name: object, sink: object) -> None:
    if not callable(getattr(repository, "upsert_many", None)):
        kind = type(repository).__name__
        raise TypeError(f"repository must have a method upsert_many; {kind} has none")
    if not isinstance(options, WriteBehindOptions):
        raise TypeError(f"options must be WriteBehindOptions, not {type(options).__name__}")
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("name must not be empty")
    if sink is not None and not callable(getattr(sink, "put_many", None)):
        kind = type(sink).__name__
        raise TypeError(f"dead_letters must have a method put_many; {kind} has none")


def _check_time(now: object) -> None:
    if not isinstance(now, datetime):
        raise TypeError(f"wall_clock must return a datetime, not {type(now).__name__}")
    if now.utcoffset() is None:
        raise ValueError("wall_clock must return an aware datetime, not a naive one")


def _utc_now() -> datetime:
    return datetime.now(UTC)


@final
class _Opening(AbstractAsyncContextManager["WriteBehindQueue[E]", None], Generic[E]):
    """A queue's life, from ``__aenter__`` to ``__aexit__``.

    Not a generator: an exception thrown in between two of a generator's steps, as
    KeyboardInterrupt can be, would leave the queue half open.
    """

    def __init__(
        self,
        repository: Repository[E],
        options: WriteBehindOptions,
        *,
        name: str,
        key: Callable[[E], Hashable],
        merge: Callable[[E, E], E] | None,
        sink: DeadLetterSink[E] | None,
        wall_clock: Callable[[], datetime],
        telemetry: Telemetry | None,
        journal: Journal[E] | None,
    ) -> None:
        self._repository = repository
        self._options = options
        self._name = name
        self._key = key
        self._merge = merge
        self._sink = sink
        self._wall_clock = wall_clock
        self._telemetry = telemetry
        self._journal = journal
        self._notes: Notes | None = None
        self._recorder: Recorder[E] | None = None
        self._entered = False

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> WriteBehindQueue[E]:
        if self._entered:
            raise RuntimeError("a queue can be entered once; open another one")
        self._entered = True
        await trio.lowlevel.checkpoint()
        # From here to the end nothing yields, so a queue is open or it is not.
        options = self._options
        self._lifetime = lifetime = Lifetime(
            name=self._name,
            options=options,
            ledger=Ledger(),
            clock=trio.lowlevel.current_clock().current_time,
            wall_clock=self._wall_clock,
            telemetry=self._telemetry,
        )
        self._notes = notes = None if self._journal is None else Notes()
        if self._journal is not None:
            self._journal.attach()
        self._lanes = lanes = Lanes[E](tuple(map(self._make_line, range(options.writers))))
        self._room = WaitingRoom(lanes, lifetime)
        watch = StoreWatch(lifetime)
        self._outbox = Outbox(self._sink, lifetime, watch, notes)
        if self._journal is not None and notes is not None:
            self._recorder = Recorder(
                self._journal,
                lanes,
                [line for line in lanes.lines if isinstance(line, JournaledLine)],
                self._outbox,
                self._room,
                notes,
                lifetime,
                key=self._key,
            )
        self._writers = tuple(
            Writer(self._repository, line, self._outbox, watch, lifetime, lane=lane)
            for lane, line in enumerate(lanes.lines)
        )
        self._supervisor = Supervisor(lifetime, self._give_up)
        self._queue = WriteBehindQueue(
            lifetime,
            lanes,
            self._room,
            self._outbox,
            watch,
            tuple(writer.backoff for writer in self._writers),
            self._recorder,
            key=self._key,
        )
        if self._telemetry is not None:
            store = getattr(self._repository, "db_system_name", None)
            self._telemetry.opened(self._name, self._queue.metrics, store)
        lifetime.log(
            logging.INFO,
            "started: batch size %d, flush interval %g s, capacity %d",
            options.batch_size,
            options.flush_interval_seconds,
            options.queue_capacity,
            batch_size=options.batch_size,
            flush_interval_seconds=options.flush_interval_seconds,
            queue_capacity=options.queue_capacity,
        )
        self._nursery_manager = trio.open_nursery(strict_exception_groups=True)
        # Not `async with`: what the body raises must not pass through our nursery.
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._host, name=f"{__name__}: queue {self._name!r}")
        return self._queue

    def _make_line(self, _: int) -> Line[E]:
        options, lifetime = self._options, self._lifetime
        if self._journal is None or self._notes is None:
            return Line[E](
                batch_size=options.batch_size,
                coalesce=options.coalesce,
                merge=self._merge,
                ledger=lifetime.ledger,
                clock=lifetime.clock,
            )
        return JournaledLine[E](
            batch_size=options.batch_size,
            coalesce=options.coalesce,
            merge=self._merge,
            ledger=lifetime.ledger,
            clock=lifetime.clock,
            notes=self._notes,
            marks=not self._journal.always,
        )

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._close_intake()
        interrupted = _holds_interrupt(exc)
        interrupt: KeyboardInterrupt | None = None
        try:
            if not self._lifetime.forked:
                interrupt = await self._drain(interrupted=interrupted)  # noqa: ASYNC102  # is shielded
            interrupt = await self._stop_tasks() or interrupt  # noqa: ASYNC102  # ends them first
            await self._finish_journal()  # noqa: ASYNC102  # is shielded
        finally:
            self._hand_back()
            self._lifetime.closed = True
            if self._telemetry is not None and not self._lifetime.forked:
                self._telemetry.closed(self._name, self._queue.metrics)
        self._report(exc, None if interrupted else interrupt)

    def _close_intake(self) -> None:
        lifetime = self._lifetime
        lifetime.owner = 0
        lifetime.closing.set()
        self._room.close(self._name)
        self._lanes.seal(FlushReason.DRAIN)
        lifetime.note_settled()

    async def _drain(self, *, interrupted: bool) -> KeyboardInterrupt | None:
        """Wait until everything is settled, the time is up, or a second interrupt comes."""
        interrupt: KeyboardInterrupt | None = None
        with trio.move_on_after(self._options.drain_timeout_seconds, shield=True):
            while True:
                try:
                    await self._lifetime.drained.wait()
                except KeyboardInterrupt as error:
                    if interrupted:
                        break
                    interrupted = True
                    interrupt = error
                else:
                    break
        return interrupt

    async def _stop_tasks(self) -> KeyboardInterrupt | None:
        """End our tasks; a repository that does not return when cancelled delays this."""
        self._lifetime.scope.cancel()
        try:
            # Waits for the tasks whether or not a surrounding scope is cancelled.
            await self._nursery_manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            interrupts, others = group.split(KeyboardInterrupt)
            if interrupts is None or others is not None:  # our tasks let nothing else out
                raise AssertionError("unreachable") from group
            return KeyboardInterrupt()
        return None

    async def _finish_journal(self) -> None:
        """Leave in the journal what is left; before it is handed back."""
        if self._recorder is not None and not self._lifetime.forked:
            await self._recorder.finish()

    def _hand_back(self) -> None:
        """Settle what is left as abandoned: after this, every entry has its fate."""
        if self._lifetime.forked:
            return  # the parent's entries
        name = self._name
        batches = [
            *self._outbox.abandon(),
            *self._lanes.abandon(lambda: QueueClosedError(f"queue {name!r} ended before that")),
        ]
        batches.sort(key=lambda batch: batch[0])
        self._outbox.undelivered += tuple(entry for _, entries in batches for entry in entries)
        self._lifetime.note_settled()  # after giving up, there is nothing to wait for

    def _report(self, exc: BaseException | None, interrupt: KeyboardInterrupt | None) -> None:
        """Log the end, and raise what the caller has to know."""
        left = self._outbox.undelivered
        kept = self._recorder is not None and self._recorder.kept
        self._log_end(len(left), kept=kept)
        last_straw = self._supervisor.last_straw
        if last_straw is not None:
            crashed = WriteBehindCrashedError(
                f"queue {self._name!r} gave up after {MOST_CRASHES} crashes of its tasks; "
                f"{len(left)} entries are in .undelivered",
                undelivered=left,
                metrics=self._queue.metrics(),
            )
            crashed.__cause__ = last_straw
            if interrupt is not None:  # whoever pressed the key wants the program to end
                raise interrupt from crashed
            raise crashed
        if not left or kept:
            if interrupt is not None:
                raise interrupt
            return
        message = (
            f"queue {self._name!r} could not write {len(left)} entries within "
            f"{self._options.drain_timeout_seconds:g} s; they are in .undelivered"
        )
        if interrupt is not None:
            interrupt.add_note(message)
            raise interrupt
        if exc is None or not other_than_cancelled(exc):
            raise DrainTimeoutError(
                message, undelivered=left, metrics=self._queue.metrics()
            ) from exc
        exc.add_note(message)

    def _log_end(self, left: int, *, kept: bool) -> None:
        log = self._lifetime.log
        if self._recorder is not None and self._recorder.recovering:
            log(logging.WARNING, "older entries stay in the journal: not all were replayed yet")
        if left and kept:
            log(logging.WARNING, "%d entries stay in the journal", left, count=left)
        elif left:
            log(
                logging.ERROR,
                "%d entries were not written and are handed back",
                left,
                count=left,
            )
        else:
            log(logging.INFO, "drained")
        log(logging.INFO, "stopped")

    @trio.lowlevel.enable_ki_protection
    async def _host(self) -> None:
        """Run our tasks, out of reach of every surrounding scope."""
        tasks: list[Task] = []
        with ExitStack() as channels:
            for lane, (line, writer) in enumerate(
                zip(self._lanes.lines, self._writers, strict=True)
            ):
                # No buffer: a send waits until the writer is free.
                sender, receiver = trio.open_memory_channel[Batch[E]](0)
                channels.enter_context(sender)
                channels.enter_context(receiver)
                batcher = partial(run_batcher, line, sender, self._repository, self._lifetime)
                number = f" {lane + 1}" if len(self._writers) > 1 else ""
                tasks.append(Task(f"batcher{number}", batcher, lane))
                tasks.append(Task(f"writer{number}", partial(writer.run, receiver), lane))
            if self._sink is not None:
                tasks.append(Task("dead letters", partial(self._outbox.run, self._sink)))
            if self._recorder is not None:
                tasks.append(Task("journal", self._recorder.run))
            await self._supervisor.run(tasks)
        if self._supervisor.last_straw is not None:
            await self._finish_journal()
            self._hand_back()  # now: nobody should wait for a fate until the body has ended

    def _give_up(self) -> None:
        self._close_intake()
        self._nursery.cancel_scope.cancel()


def _holds_interrupt(error: BaseException | None) -> bool:
    return error is not None and any(
        isinstance(leaf, KeyboardInterrupt) for leaf in leaves_of(error)
    )
