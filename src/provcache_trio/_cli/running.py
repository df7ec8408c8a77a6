"""Runs the work of a command under signals, shows its progress, and gives the exit status."""

from __future__ import annotations

import enum
import logging
import math
import signal
import sys
from abc import ABC, abstractmethod
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from provcache_trio import DrainTimeoutError, JournalError, ProvcacheError

from .outage import Outage
from .output import OutputError, Stream, complain, complaint
from .progress import Progress
from .text import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    from provcache_trio import WriteBehindOptions

    from .stores import Target

T = TypeVar("T")

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The seconds that the reader of the last lines gets after a signal.
_PATIENCE: Final = 2.0
# The part of these seconds for progress that is still being shown.
_HEAD_START: Final = 0.5


class Status(enum.IntEnum):
    """The exit statuses of all commands; 128 + n: ended by signal n.

    Attributes:
        DONE: the command did what it was asked for.
        NOT_ALL: the same, but something needs a look: no such entry, bad lines, or entries that
            the store refused.
        MISUSED: the command line was wrong.
        FAILED: it did not, or not completely, because of the store, the input or the output.
    """

    DONE = 0
    NOT_ALL = 1
    MISUSED = 2
    FAILED = 3


class Attempt:
    """Work that the first signal cancels; later ones change nothing.

    An open queue of the work drains when it is cancelled, which ends by itself, so a second signal
    has no effect. A signal that this process was started to ignore stays ignored, as under
    ``nohup``, or in the background of a shell without job control.

    Attributes:
        failure: what went wrong, or "".
        names_its_place: whether ``failure`` names the file or server that it is about.
        stopped_by: the first signal that ended the work or its report, or None.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self.failure = ""
        self.names_its_place = False
        self.stopped_by: signal.Signals | None = None
        self._work = work
        self._unwritten: OutputError | None = None
        self._first: signal.Signals | None = None
        self._concluding = False
        self._working, self._last = trio.CancelScope(), trio.CancelScope()

    async def run(self) -> None:
        """Do the work, and then report.

        Raises:
            OutputError: if the work raised it.
        """
        heeded = [each for each in _ENDING if signal.getsignal(each) is not signal.SIG_IGN]
        with trio.open_signal_receiver(*heeded) if heeded else nullcontext() as signals:
            async with trio.open_nursery() as nursery:
                if signals is not None:
                    nursery.start_soon(self._listen, signals)
                async with trio.open_nursery() as watching:
                    watching.start_soon(self._watch)
                    with self._working:
                        await self._guarded_work()
                    watching.cancel_scope.cancel()
                self._concluding, self.stopped_by = True, self._first
                if self._first is not None:
                    self._hurry()
                with self._last:
                    await self._conclude()
                nursery.cancel_scope.cancel()
        if self._last.cancelled_caught:
            self.stopped_by = self._first
        if self._unwritten is not None:
            raise self._unwritten

    @property
    def status(self) -> int:
        """The exit status, if a failure or a signal decides it; else 0."""
        if self.failure:
            return Status.FAILED
        return Status.DONE if self.stopped_by is None else 128 + self.stopped_by

    # What a job adds

    async def _watch(self) -> None:
        """Run beside the work; cancelled when that has ended."""
        await trio.lowlevel.checkpoint()

    def _heed(self, received: signal.Signals) -> None:
        """React to a signal that comes before ``_conclude``."""

    async def _conclude(self) -> None:
        """Report the end; with a signal, before or meanwhile, within two seconds."""
        await trio.lowlevel.checkpoint()

    # How it goes

    async def _guarded_work(self) -> None:
        try:
            await self._work()
        except DrainTimeoutError as error:
            left = counted(len(error.undelivered), "entry", "entries")
            self.failure = f"{left} could not be written in time"
        except (ProvcacheError, OSError) as error:
            self.failure = str(error)
            self.names_its_place = _names_its_place(error)
        except OutputError as error:
            # Caught here, as it would leave the nursery in a group.
            self._unwritten = error

    async def _listen(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            received = signal.Signals(number)
            self._first = self._first or received
            self._working.cancel()
            if self._concluding:
                self._hurry()
            else:
                self._heed(received)

    def _hurry(self) -> None:
        self._last.deadline = min(self._last.deadline, trio.current_time() + _PATIENCE)


def _names_its_place(error: Exception) -> bool:
    """Return whether the message of ``error`` names the file or server that it is about."""
    return isinstance(error, JournalError) or getattr(error, "reason", None) is not None


async def attempt(
    work: Callable[[], Awaitable[T]], label: str, *, quotes: bool = True
) -> tuple[int, T | None]:
    """Do short work, and report its failure.

    Args:
        work: the work.
        label: what a failure is about.
        quotes: see ``complaint``.

    Returns:
        The exit status, if a failure or a signal decides it, else 0; and the result of the work, or
        None.

    Raises:
        OutputError: if the work raised it.
    """
    result: T | None = None

    async def keep_result() -> None:
        nonlocal result
        result = await work()

    trial = Attempt(keep_result)
    await trial.run()
    if trial.failure:
        complain(trial.failure, "" if trial.names_its_place else label, quotes=quotes)
    return trial.status, result


# Jobs


class Job(ABC):
    """Work that takes a while, independent of terminal and signals.

    Args:
        target: the store.
        options: the options of its queue.
        give_up_after: the seconds that the store may be away, or need a person, before the job
            ends.

    Attributes:
        place: what is in use now, to report where a failure comes from.
        outage: ends the job when its store has been away too long; knows its queue.
    """

    def __init__(
        self, target: Target, options: WriteBehindOptions, *, give_up_after: float = math.inf
    ) -> None:
        self.target = target
        self.options = options
        self.place = target.label
        self.outage = Outage(give_up_after)

    @abstractmethod
    async def run(self, progress: Progress) -> None:
        """Do the whole job, and report events to ``progress``; may be cancelled."""

    @abstractmethod
    def where(self) -> str:
        """Return where the job is, in one line."""

    @abstractmethod
    def summary(self, stopped_by: signal.Signals | None) -> list[str]:
        """Return the last lines of a finished or stopped job."""

    def complaints(self) -> list[str]:
        """Return the problems at the end, except a failure."""
        return []

    @property
    @abstractmethod
    def status(self) -> Status:
        """The exit status, unless a failure or a signal decides it."""


async def carry_out(job: Job, progress: Progress | None = None) -> int:
    """Do a job with its progress shown, print its summary, and return the exit status.

    Args:
        job: the job.
        progress: shows the progress; by default on standard error.

    Raises:
        OutputError: the summary could not be written.
    """
    progress = progress or Progress(job.where, sys.stderr)
    with warnings_shown_by(progress.notice):
        trial = _JobAttempt(job, progress)
        await trial.run()
    trial.results.check()
    return trial.status or job.status


class _JobAttempt(Attempt):
    def __init__(self, job: Job, progress: Progress) -> None:
        super().__init__(lambda: job.run(progress))
        self.results = Stream(sys.stdout)
        self._job = job
        self._progress = progress
        self._again = ""

    async def _watch(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._progress.run)
            nursery.start_soon(self._job.outage.watch)

    def _heed(self, received: signal.Signals) -> None:
        if limit := self._job.options.drain_timeout_seconds:
            text = f"{self._again}writing what was accepted, at most {limit:g} s"
            self._progress.notice(f"{received.name}: {text}")
            self._again = "still "

    async def _conclude(self) -> None:
        """Finish the progress, then print results, then complaints."""
        for line in self._job.summary(self.stopped_by):
            self.results.add(f"{line}\n")
        complaints = [complaint(text) for text in self._job.complaints()]
        if self.failure:
            place = "" if self.names_its_place else self._job.place
            complaints.append(complaint(self.failure, place))
        if self.stopped_by is None:
            await self._progress.finish()
        else:
            # Little time is left, and the summary matters more.
            with trio.move_on_after(_HEAD_START):
                await self._progress.finish()
        await self.results.flush()
        last = Stream(sys.stderr)
        for line in complaints:
            last.add(f"{line}\n")
        await last.flush()


@contextmanager
def warnings_shown_by(notice: Callable[[str], None]) -> Generator[None]:
    """Pass the library's warnings to ``notice``, in trio's thread.

    Otherwise logging would write them to standard error, and wait there for its reader.
    """
    token = trio.lowlevel.current_trio_token()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(notice, self.format(record))

    logger, handler = logging.getLogger("provcache_trio"), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
