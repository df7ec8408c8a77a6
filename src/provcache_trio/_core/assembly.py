"""The parts of one queue, built in one step from what its caller asked for."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic

import trio

from provcache_trio._vocabulary.errors import QueueClosedError
from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.observed import store_name_of
from provcache_trio._vocabulary.protocols import E

from .batch import Batch
from .batcher import Preparation, run_batcher
from .calls import Calls, WatchedRepository, WatchedSink
from .intake import Intake, SourceNotes
from .journaled_line import JournaledLine, Notes
from .lanes import Lanes
from .ledger import Ledger
from .lifetime import Lifetime
from .line import Line
from .outbox import Outbox
from .queue import WriteBehindQueue
from .recorder import Recorder
from .supervisor import Supervisor, Task
from .waiting_room import WaitingRoom
from .watch import StoreWatch
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable
    from datetime import datetime

    from provcache_trio._vocabulary.options import WriteBehindOptions
    from provcache_trio._vocabulary.protocols import DeadLetterSink, Journal, Repository
    from provcache_trio._vocabulary.table import Table
    from provcache_trio._vocabulary.telemetry import Telemetry

    from .intake import Source


@dataclass(frozen=True, kw_only=True)
class Setup(Generic[E]):
    """The checked arguments of ``open_write_behind_queue``; see there."""

    repository: Repository[E]
    options: WriteBehindOptions
    name: str
    key: Callable[[E], Hashable]
    merge: Callable[[E, E], E] | None
    dead_letters: DeadLetterSink[E] | None
    wall_clock: Callable[[], datetime]
    telemetry: Telemetry | None
    journal: Journal[E] | None
    # That of the repository, if it has one.
    table: Table[E] | None = None
    # Only a relay has one; it has no journal.
    source: Source[E] | None = None


@dataclass(frozen=True, kw_only=True)
class Assembly(Generic[E]):
    """The parts of one queue, and the steps that concern several of them. Nothing here waits."""

    setup: Setup[E]
    lifetime: Lifetime
    calls: Calls
    watch: StoreWatch
    lanes: Lanes[E]
    room: WaitingRoom[E]
    outbox: Outbox[E]
    recorder: Recorder[E] | None
    intake: Intake[E] | None
    writers: tuple[Writer[E], ...]
    supervisor: Supervisor
    queue: WriteBehindQueue[E]

    @contextmanager
    def tasks(self) -> Generator[list[Task]]:
        """Make the queue's background tasks, and the channels between them."""
        setup, tasks = self.setup, list[Task]()
        preparation = Preparation(setup.repository, self.calls, self.lifetime)
        with ExitStack() as channels:
            for lane, (line, writer) in enumerate(zip(self.lanes.lines, self.writers, strict=True)):
                # No buffer: a send waits until the writer is free.
                sender, receiver = trio.open_memory_channel[Batch[E]](0)
                channels.enter_context(sender)
                channels.enter_context(receiver)
                batcher = partial(run_batcher, line, sender, preparation, self.lifetime)
                number = f" {lane + 1}" if len(self.writers) > 1 else ""
                tasks.append(Task(f"batcher{number}", batcher, lane))
                tasks.append(Task(f"writer{number}", partial(writer.run, receiver), lane))
            if setup.dead_letters is not None:
                sink = WatchedSink(setup.dead_letters, self.calls)
                tasks.append(Task("dead letters", partial(self.outbox.run, sink)))
            if self.recorder is not None:
                tasks.append(Task("journal", self.recorder.run))
            if self.intake is not None:
                tasks += self.intake.tasks()
            yield tasks

    def note_opened(self) -> None:
        """Report to the log and to telemetry that the queue is open."""
        setup, options = self.setup, self.setup.options
        if setup.telemetry is not None:
            system = getattr(setup.repository, "db_system_name", None)
            setup.telemetry.opened(self.queue, system)
        store = store_name_of(setup.repository)
        self.lifetime.log(
            logging.INFO,
            "started: batch size %d, flush interval %g s, capacity %d, store %s",
            options.batch_size,
            options.flush_interval_seconds,
            options.queue_capacity,
            store,
            store=store,
            batch_size=options.batch_size,
            flush_interval_seconds=options.flush_interval_seconds,
            queue_capacity=options.queue_capacity,
        )

    def close_intake(self) -> None:
        """Accept nothing from now on, and make everything that was accepted due."""
        lifetime = self.lifetime
        lifetime.disown()
        lifetime.closing.set()
        if self.intake is not None:
            self.intake.stop()
        self.room.close(lifetime.name)
        self.lanes.seal(FlushReason.DRAIN)
        lifetime.note_settled()

    def cancel_tasks(self) -> None:
        """End our tasks."""
        self.lifetime.scope.cancel()
        self.calls.cancelled()

    @property
    def kept(self) -> bool:
        """Whether the journal holds everything that is left at the end, or the stream gets it back."""
        return self.intake is not None or (self.recorder is not None and self.recorder.kept)

    def abandon_rest(self) -> None:
        """Settle what is left as abandoned, so that every entry has its fate."""
        lifetime = self.lifetime
        if lifetime.forked:
            # The entries are the parent's.
            return
        name, kept = lifetime.name, self.kept
        batches = [
            *self.outbox.abandon(kept=kept),
            *self.lanes.abandon(
                lambda: QueueClosedError(f"queue {name!r} ended before the entry was stored"),
                kept=kept,
            ),
        ]
        batches.sort(key=lambda batch: batch[0])
        lifetime.undelivered += tuple(entry for _, entries in batches for entry in entries)
        if self.recorder is not None:
            self.recorder.replay.give_up()
        # Nothing is left to wait for.
        lifetime.drained.set()

    def note_closed(self) -> None:
        """Report to ``metrics()`` and to telemetry that the queue is closed."""
        self.lifetime.closed = True
        telemetry = self.setup.telemetry
        if telemetry is not None and not self.lifetime.forked:
            telemetry.closed(self.queue)


def assemble(setup: Setup[E]) -> Assembly[E]:
    """Make the parts of a queue; nothing runs yet.

    Raises:
        RuntimeError: the journal serves another queue.
    """
    journal = setup.journal
    if journal is not None:
        journal.attach()
    lifetime = Lifetime(
        name=setup.name,
        options=setup.options,
        ledger=Ledger(),
        clock=trio.lowlevel.current_clock().current_time,
        wall_clock=setup.wall_clock,
        telemetry=setup.telemetry,
        recovering=journal is not None and journal.holds_entries,
    )
    calls = Calls(lifetime)
    watch = StoreWatch(lifetime)
    recorder: Recorder[E] | None = None
    intake: Intake[E] | None = None
    source = setup.source
    if source is not None:
        taken = SourceNotes(lifetime.clock, source)
        lines = _journaled_lines(setup, lifetime, taken, marks=False)
        lanes = Lanes[E](lines)
        room = WaitingRoom(lanes, lifetime, calls, taken.bell)
        outbox = Outbox(setup.dead_letters, lifetime, watch, taken)
        intake = Intake(source, lanes, lines, room, taken, lifetime, watch, key=setup.key)
    elif journal is None:
        lanes = Lanes[E]([_line(setup, lifetime) for _ in range(setup.options.writers)])
        room = WaitingRoom(lanes, lifetime, calls)
        outbox = Outbox(setup.dead_letters, lifetime, watch)
    else:
        notes = Notes[E](lifetime.clock)
        lines = _journaled_lines(setup, lifetime, notes, marks=not journal.always)
        lanes = Lanes[E](lines)
        room = WaitingRoom(lanes, lifetime, calls, notes.bell)
        outbox = Outbox(setup.dead_letters, lifetime, watch, notes)
        recorder = Recorder(journal, lanes, lines, outbox, room, notes, lifetime, key=setup.key)
    repository = WatchedRepository(setup.repository, calls)
    writers = tuple(
        Writer(repository, line, outbox, watch, lifetime, lane=lane)
        for lane, line in enumerate(lanes.lines)
    )
    return Assembly(
        setup=setup,
        lifetime=lifetime,
        calls=calls,
        watch=watch,
        lanes=lanes,
        room=room,
        outbox=outbox,
        recorder=recorder,
        intake=intake,
        writers=writers,
        supervisor=Supervisor(lifetime),
        queue=WriteBehindQueue(
            lifetime,
            lanes,
            room,
            outbox,
            watch,
            tuple(writer.backoff for writer in writers),
            calls,
            recorder,
            key=setup.key,
            table=setup.table,
            stream_metrics=getattr(source or setup.repository, "stream_metrics", None),
        ),
    )


def _line(setup: Setup[E], lifetime: Lifetime) -> Line[E]:
    return Line(
        batch_size=setup.options.batch_size,
        coalesce=setup.options.coalesce,
        merge=setup.merge,
        ledger=lifetime.ledger,
        clock=lifetime.clock,
    )


def _journaled_lines(
    setup: Setup[E], lifetime: Lifetime, notes: Notes[E], *, marks: bool
) -> list[JournaledLine[E]]:
    return [
        JournaledLine(
            batch_size=setup.options.batch_size,
            coalesce=setup.options.coalesce,
            merge=setup.merge,
            ledger=lifetime.ledger,
            clock=lifetime.clock,
            notes=notes,
            marks=marks,
        )
        for _ in range(setup.options.writers)
    ]
