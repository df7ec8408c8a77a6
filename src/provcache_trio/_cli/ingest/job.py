"""``provcache ingest``: the job itself, independent of a terminal."""

from __future__ import annotations

import codecs
import math
from typing import TYPE_CHECKING, Any, Final

import trio

from provcache_trio import (
    DrainTimeoutError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._cli.accounting import in_words, places_of
from provcache_trio._cli.input import InputError, LineSplitter
from provcache_trio._cli.running import Job, Status
from provcache_trio._cli.stores import wait_until_ready
from provcache_trio._cli.text import counted, printable

from .lines import BadLineError, reader_of, why_not_lines

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Iterator, Sequence

    from provcache_trio import WriteBehindQueue
    from provcache_trio._cli.input import Input
    from provcache_trio._cli.progress import Progress
    from provcache_trio._cli.stores import Target

# The queue bounds the number of waiting entries, and this their total size.
_MOST_UNWRITTEN: Final = 16 * 1024 * 1024

# The most bad lines that are reported.
_MOST_REPORTED: Final = 20
# These are in the summary even if there are none.
_ALWAYS: Final = ("persisted", "coalesced", "dead-lettered")


class _StaysInTheInput:
    """A sink that keeps nothing, since the input still has every entry."""

    async def put_many(self, _letters: Sequence[object], /) -> None:
        await trio.lowlevel.checkpoint()


class Ingest(Job):
    """Reads entries, one JSON object per line, and writes them by a queue.

    ``run`` does the work; other tasks may read everything else meanwhile. Memory is bounded,
    however long the input or a line of it is.

    Args:
        source: the input.
        target: the store.
        strict: whether to stop at the first bad line, and to treat a line with an unknown field as
            bad.
        give_up_after: the seconds that a store may be away, or need a person, before the job ends.
        all_errors: whether to report every bad line, not only the first twenty.
        options: the queue's options.

    Attributes:
        lines: the number of lines read.
        blank: the number of blank lines.
        bad: the number of bad lines.
        unreported: the number of bad lines that were only counted.
        trouble: why the input could not be read to its end, or "".
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
        super().__init__(target, options, give_up_after=give_up_after)
        self.source = source
        self.strict = strict
        self.lines = 0
        self.blank = 0
        self.bad = 0
        self.unreported = 0
        self.trouble = ""
        self._most_reported = math.inf if all_errors else _MOST_REPORTED
        self._bad_line = ""
        self._reader = reader_of(target.entries)

    @property
    def stopped_early(self) -> bool:
        """Whether a bad line has ended the job."""
        return self.strict and self.bad > 0

    async def run(self, progress: Progress) -> None:
        """Do the whole job; report each bad line to ``progress`` by its number.

        If cancelled, it writes what it has enqueued, and ends within the queue's drain timeout.

        Raises:
            StoreError: the store can't be used, or was given up.
            DrainTimeoutError: something was not written in time.
            WriteBehindCrashedError: the queue gave up.
        """
        left = ""
        with self.outage.scope:
            try:
                await self._run(progress)
            except InputError as error:
                self.trouble = str(error)
            except DrainTimeoutError as error:
                if not self.outage.why:
                    raise
                left = f"; {counted(len(error.undelivered), 'entry', 'entries')} not written"
            finally:
                self.source.close()
        self.outage.check(left)

    async def _run(self, progress: Progress) -> None:
        # First, so that without input no store is created.
        await self.source.open()
        async with self.target.open(create=self.target.entries.table is None) as store:
            await wait_until_ready(store, progress.notice)
            async with open_write_behind_queue(
                store, self.options, name="ingest", dead_letters=_StaysInTheInput()
            ) as queue:
                self.outage.queue = queue
                await self._read(queue, progress)
                await queue.flush()

    async def _read(self, queue: WriteBehindQueue[Any], progress: Progress) -> None:
        splitter = LineSplitter()
        unwritten = 0
        beginning = b""
        while chunk := await self.source.read():
            if not beginning:
                beginning = chunk
                if why := why_not_lines(beginning, self.source.label):
                    raise InputError(why)
            await self._take(splitter.feed(chunk), queue, progress)
            if self.stopped_early:
                return
            unwritten += len(chunk)
            if unwritten >= _MOST_UNWRITTEN:
                await queue.flush()
                unwritten = 0
        await self._take(splitter.finish(), queue, progress)

    async def _take(
        self,
        lines: Iterator[bytes | None],
        queue: WriteBehindQueue[Any],
        progress: Progress,
    ) -> None:
        while True:
            self._bad_line = ""
            await queue.enqueue_many(self._entries(lines))
            if not self._bad_line:
                return
            await progress.report(self._bad_line)
            if self.strict:
                return

    def _entries(self, lines: Iterable[bytes | None]) -> Iterator[Any]:
        """Yield entries up to the end, or to a bad line to report."""
        for line in lines:
            self.lines += 1
            content = line
            if content is not None:
                # Concatenated files may have it anywhere.
                content = content.removeprefix(codecs.BOM_UTF8)
                if not content.strip():
                    self.blank += 1
                    continue
            try:
                entry = self._reader.read(content, strict=self.strict)
            except BadLineError as error:
                self.bad += 1
                if self.bad > self._most_reported:
                    self.unreported += 1
                    continue
                self._bad_line = f"line {self.lines}: {error}"
                return
            yield entry

    # What the user sees

    def where(self) -> str:
        """Return where the job is."""
        words = [counted(self.lines, "line"), f"{self.bad:,} bad"]
        metrics = self.outage.metrics
        if metrics is not None:
            words += in_words(metrics)
        return ", ".join(words)

    def summary(self, stopped_by: signal.Signals | None) -> list[str]:
        """Describe what happened to every line; nothing if the job never began."""
        metrics = self.outage.metrics
        if metrics is None:
            return []
        accepted = metrics.total_enqueued
        lines = [
            f"{counted(self.lines, 'line')} read, into {printable(self.target.label)}",
            f"  {accepted:>9,} accepted",
            f"  {self.bad:>9,} bad",
            f"  {self.blank:>9,} blank",
        ]
        # A cancellation may come while an entry waits for room in the queue.
        if left := self.lines - accepted - self.bad - self.blank:
            lines.append(f"  {left:>9,} not accepted")
        lines.append("of those accepted")
        lines += [
            f"  {count:>9,} {words}"
            for count, words in places_of(metrics)
            if count or words.startswith(_ALWAYS)
        ]
        if stopped_by is not None:
            lines.append(f"Stopped by {stopped_by.name}")
        elif self.stopped_early:
            lines.append("Stopped at the first bad line")
        return lines

    def complaints(self) -> list[str]:
        """Describe what is wrong with the input."""
        more = f"{counted(self.unreported, 'more bad line')}; --all-errors tells each"
        return list(filter(None, (more if self.unreported else "", self.trouble)))

    @property
    def status(self) -> Status:
        """DONE if the whole input was read, every line was good, and the store accepted it."""
        metrics = self.outage.metrics
        if self.trouble:
            return Status.FAILED
        if self.bad or metrics is None or metrics.total_failed:
            return Status.NOT_ALL
        return Status.DONE
