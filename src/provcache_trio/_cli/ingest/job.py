"""``provcache ingest``: the job itself, which knows no terminal."""

from __future__ import annotations

import codecs
import math
from typing import TYPE_CHECKING, Final

import trio

from provcache_trio import (
    DrainTimeoutError,
    ProvcacheEntry,
    QueueState,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._cli.stores import wait_until_ready
from provcache_trio._cli.text import counted

from .lines import BadLineError, read_entry
from .source import InputError, LineSplitter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from provcache_trio import WriteBehindMetrics, WriteBehindQueue
    from provcache_trio._cli.stores import Target

    from .source import Input

# The queue bounds how many entries wait, this how large they are together.
_MOST_UNWRITTEN: Final = 16 * 1024 * 1024  # bytes of input

_MOST_TOLD: Final = 20


class Ingest:
    """Reads entries, one in JSON per line, and writes them behind.

    ``run`` does the work; everything else may be read while it runs, by other tasks. Memory
    is bounded, however long the input or a line of it is.

    Args:
        source: where lines come from.
        target: where entries go.
        strict: whether the first bad line is the last one to be read, and a field that entries
            do not have makes a line a bad one.
        give_up_after: seconds for which a store may be away, or need a person; then the job
            ends.
        all_errors: whether to report every bad line, not only the first twenty.
        options: the queue's options.

    Attributes:
        lines: how many lines were read.
        blank: how many of them hold nothing.
        bad: how many of them are no entry.
        untold: how many of those were not reported.
        trouble: why the input could not be read to its end; empty if it could.
    """

    def __init__(
        self,
        source: Input,
        target: Target,
        *,
        strict: bool = False,
        all_errors: bool = False,
        give_up_after: float = math.inf,
        options: WriteBehindOptions = WriteBehindOptions(),  # noqa: B008  # it is immutable
    ) -> None:
        self.source = source
        self.target = target
        self.strict = strict
        self.give_up_after = give_up_after
        self._most_told = math.inf if all_errors else _MOST_TOLD
        self.options = options
        self.lines = 0
        self.blank = 0
        self.bad = 0
        self.untold = 0
        self.trouble = ""
        self._gave_up = False
        self._scope = trio.CancelScope()
        self._bad_line = ""
        self._queue: WriteBehindQueue[ProvcacheEntry] | None = None

    @property
    def stopped_early(self) -> bool:
        """Whether a bad line has ended the reading."""
        return self.strict and self.bad > 0

    def metrics(self) -> WriteBehindMetrics | None:
        """Return the queue's metrics, also after its exit; None before it was opened."""
        return None if self._queue is None else self._queue.metrics()

    async def run(
        self, report: Callable[[str], Awaitable[None]], tell: Callable[[str], None]
    ) -> None:
        """Do the whole job.

        Cancelled, it writes what it has enqueued and ends, within the queue's
        ``drain_timeout_seconds``.

        Args:
            report: awaited with the number of a bad line and what is wrong with it.
            tell: called with what may be of interest meanwhile.

        Raises:
            StoreError: the store can't be used, or was given up.
            DrainTimeoutError: something was not written in time.
            WriteBehindCrashedError: the queue gave up.
        """
        error: DrainTimeoutError | None = None
        with self._scope:
            try:
                await self._run(report, tell)
            except InputError as caught:
                self.trouble = str(caught)
            except DrainTimeoutError as caught:
                if not self._gave_up:
                    raise
                error = caught
            finally:
                self.source.close()
        if self._gave_up:
            raise StoreUnavailableError(self._why_given_up(error))

    async def give_up_when_due(self) -> None:
        """End ``run`` once the store has been away for ``give_up_after``; runs beside it."""
        last_well = trio.current_time()
        while trio.current_time() - last_well < self.give_up_after:
            await trio.sleep(min(1, self.give_up_after / 10))
            metrics = self.metrics()
            if metrics is None or metrics.state is not QueueState.WAITING:
                last_well = trio.current_time()
        self._gave_up = True
        self._scope.cancel()

    async def _run(
        self, report: Callable[[str], Awaitable[None]], tell: Callable[[str], None]
    ) -> None:
        await self.source.open()  # first: without any input no store is made
        async with self.target.open() as store:
            await wait_until_ready(store, tell)
            async with open_write_behind_queue(store, self.options, name="ingest") as queue:
                self._queue = queue
                await self._read(queue, report)
                await queue.flush()

    def _why_given_up(self, error: DrainTimeoutError | None) -> str:
        last = error_of(self.metrics())
        why = f"given up after {self.give_up_after:g} s without the store ({last})"
        if error is not None:
            why += f"; {counted(len(error.undelivered), 'entry', 'entries')} not written"
        return why

    async def _read(
        self,
        queue: WriteBehindQueue[ProvcacheEntry],
        report: Callable[[str], Awaitable[None]],
    ) -> None:
        splitter = LineSplitter()
        unwritten = 0
        while chunk := await self.source.read():
            await self._take(splitter.feed(chunk), queue, report)
            if self.stopped_early:
                return
            unwritten += len(chunk)
            if unwritten >= _MOST_UNWRITTEN:
                await queue.flush()
                unwritten = 0
        await self._take(splitter.finish(), queue, report)

    async def _take(
        self,
        lines: Iterator[bytes | None],
        queue: WriteBehindQueue[ProvcacheEntry],
        report: Callable[[str], Awaitable[None]],
    ) -> None:
        while True:
            self._bad_line = ""
            await queue.enqueue_many(self._entries(lines))
            if not self._bad_line:
                return
            await report(self._bad_line)
            if self.strict:
                return

    def _entries(self, lines: Iterable[bytes | None]) -> Iterator[ProvcacheEntry]:
        """Yield entries up to the end or to a bad line that is to be reported."""
        for line in lines:
            self.lines += 1
            content = line
            if content is not None:
                content = content.removeprefix(codecs.BOM_UTF8 if self.lines == 1 else b"")
                if not content.strip():
                    self.blank += 1
                    continue
            try:
                entry = read_entry(content, strict=self.strict)
            except BadLineError as error:
                self.bad += 1
                if self.bad > self._most_told:
                    self.untold += 1
                    continue
                self._bad_line = f"line {self.lines}: {error}"
                return
            yield entry


def error_of(metrics: WriteBehindMetrics | None) -> str:
    """Return what the store raised last, in a word; empty if it never did."""
    last = None if metrics is None else metrics.last_error
    return "" if last is None else last.error_class
