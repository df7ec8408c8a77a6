"""``provcache ingest``: the job itself, which knows no terminal, and its summary."""

from __future__ import annotations

import codecs
import math
from typing import TYPE_CHECKING, Final

import msgspec

from provcache_trio import ProvcacheEntry, WriteBehindOptions, open_write_behind_queue

from ._input import LONGEST_LINE, InputError, LineSplitter
from ._report import places_of
from ._text import counted, printable

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Iterator

    from provcache_trio import WriteBehindMetrics, WriteBehindQueue

    from ._input import Input
    from ._stores import Target

# The queue bounds how many entries wait, this how large they are together.
_MOST_UNWRITTEN: Final = 16 * 1024 * 1024  # bytes of input

_MOST_TOLD: Final = 20


class BadLineError(Exception):
    """A line is no entry; the message tells why, without any of its content."""


class Ingest:
    """Reads entries, one in JSON per line, and writes them behind.

    ``run`` does the work; everything else may be read while it runs, by other tasks. Memory
    is bounded, however long the input or a line of it is.

    Args:
        source: where lines come from.
        target: where entries go.
        strict: whether the first bad line is the last one to be read.
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
        options: WriteBehindOptions = WriteBehindOptions(),  # noqa: B008  # it is immutable
    ) -> None:
        self.source = source
        self.target = target
        self.strict = strict
        self._most_told = math.inf if all_errors else _MOST_TOLD
        self.options = options
        self.lines = 0
        self.blank = 0
        self.bad = 0
        self.untold = 0
        self.trouble = ""
        self._queue: WriteBehindQueue[ProvcacheEntry] | None = None

    @property
    def stopped_early(self) -> bool:
        """Whether a bad line has ended the reading."""
        return self.strict and self.bad > 0

    def metrics(self) -> WriteBehindMetrics | None:
        """Return the queue's metrics, also after its exit; None before it was opened."""
        return None if self._queue is None else self._queue.metrics()

    async def run(self, report: Callable[[str], None]) -> None:
        """Do the whole job.

        Cancelled, it writes what it has enqueued and ends, within the queue's
        ``drain_timeout_seconds``.

        Args:
            report: called with the number of a bad line and what is wrong with it.

        Raises:
            StoreError: the store can't be used.
            DrainTimeoutError: something was not written in time.
            WriteBehindCrashedError: the queue gave up.
        """
        try:
            await self.source.open()  # first: without any input no store is made
            async with (
                self.target.open() as store,
                open_write_behind_queue(store, self.options, name="ingest") as queue,
            ):
                self._queue = queue
                await self._read(queue, report)
                await queue.flush()
        except InputError as error:
            self.trouble = str(error)
        finally:
            self.source.close()

    async def _read(
        self, queue: WriteBehindQueue[ProvcacheEntry], report: Callable[[str], None]
    ) -> None:
        splitter = LineSplitter()
        unwritten = 0
        while chunk := await self.source.read():
            await queue.enqueue_many(self._entries(splitter.feed(chunk), report))
            if self.stopped_early:
                return
            unwritten += len(chunk)
            if unwritten >= _MOST_UNWRITTEN:
                await queue.flush()
                unwritten = 0
        await queue.enqueue_many(self._entries(splitter.finish(), report))

    def _entries(
        self, lines: Iterable[bytes | None], report: Callable[[str], None]
    ) -> Iterator[ProvcacheEntry]:
        for line in lines:
            self.lines += 1
            content = line
            if content is not None:
                content = content.removeprefix(codecs.BOM_UTF8 if self.lines == 1 else b"")
                if not content.strip():
                    self.blank += 1
                    continue
            try:
                entry = read_entry(content)
            except BadLineError as error:
                self.bad += 1
                if self.bad <= self._most_told:
                    report(f"line {self.lines}: {error}")
                else:
                    self.untold += 1
                if self.strict:
                    return
            else:
                yield entry


_decode: Final = msgspec.json.Decoder(ProvcacheEntry).decode


def read_entry(line: bytes | None) -> ProvcacheEntry:
    """Return the entry that ``line`` holds.

    Args:
        line: JSON in UTF-8, or None: it was too long to be held.

    Raises:
        BadLineError: it is no entry.
    """
    if line is None:
        raise BadLineError(f"longer than {LONGEST_LINE:,} bytes")
    try:
        return _decode(line)
    except msgspec.DecodeError as error:  # names fields and kinds, like the structs' own checks
        raise BadLineError(str(error)) from None
    except UnicodeDecodeError:
        raise BadLineError("not UTF-8") from None
    except RecursionError:
        raise BadLineError("nested too deeply") from None


def in_one_line(ingest: Ingest) -> str:
    """Return where the job is."""
    words = [counted(ingest.lines, "line"), f"{ingest.bad:,} bad"]
    metrics = ingest.metrics()
    if metrics is not None:
        words += [
            f"in line {metrics.current_queue_depth:,}",
            f"in flight {metrics.in_flight:,}",
            f"persisted {metrics.total_persisted:,}",
            metrics.state,
        ]
    return ", ".join(words)


def summarize_ingest(ingest: Ingest, stopped_by: signal.Signals | None) -> list[str]:
    """Return what a finished or stopped job has to tell; nothing if it never began."""
    metrics = ingest.metrics()
    if metrics is None:
        return []
    batches = counted(metrics.total_batches, "batch", "batches")
    remarks = {"persisted": f" in {batches}, {metrics.total_unchanged:,} unchanged"}
    accepted = metrics.total_enqueued
    lines = [
        f"{counted(ingest.lines, 'line')} read, into {printable(ingest.target.label)}",
        f"  {accepted:>9,} accepted",
        f"  {ingest.bad:>9,} bad",
        f"  {ingest.blank:>9,} blank",
    ]
    # A cancellation may come while an entry waits for room in the queue.
    if left := ingest.lines - accepted - ingest.bad - ingest.blank:
        lines.append(f"  {left:>9,} not accepted")
    lines.append("of those accepted")
    lines += [
        f"  {count:>9,} {word}{remarks.get(word, '')}"
        for count, word in places_of(metrics)
        if count or word in {"persisted", "coalesced", "dead-lettered"}
    ]
    if stopped_by is not None:
        lines.append(f"Stopped by {stopped_by.name}")
    elif ingest.stopped_early:
        lines.append("Stopped at the first bad line")
    return lines


def all_went_in(ingest: Ingest) -> bool:
    """Return whether the whole input was read, every line was good, and the store took it."""
    metrics = ingest.metrics()
    return (
        not ingest.trouble and not ingest.bad and metrics is not None and not metrics.total_failed
    )
