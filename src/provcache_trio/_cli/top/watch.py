"""What is known of the queues that are watched, and how they got on."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from .source import NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .source import Document, Metrics, Queue, Source

_LONGEST: Final = 2000  # samples; half an hour of seconds
_RECENT: Final = 5.0  # seconds that a pace of now is taken over


class Sample(msgspec.Struct, frozen=True):
    """A queue's numbers at one time, in seconds since 1970 by its program's clock."""

    at: float
    enqueued: int
    persisted: int
    batches: int
    depth: int


class Pace(msgspec.Struct, frozen=True):
    """How a queue got on over some seconds; None is not known.

    Attributes:
        depth: entries in line.
        accepted: entries per second.
        written: entries per second.
        batch_size: entries per batch.
    """

    depth: int | None = None
    accepted: float | None = None
    written: float | None = None
    batch_size: float | None = None


class History:
    """The samples of one queue, in the order of their times."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_LONGEST)

    def add(self, metrics: Metrics) -> None:
        """Add what was fetched; the same once more, as of a cache, changes nothing."""
        sample = Sample(
            at=metrics.timestamp.timestamp(),
            enqueued=metrics.total_enqueued,
            persisted=metrics.total_persisted,
            batches=metrics.total_batches,
            depth=metrics.current_queue_depth,
        )
        if self._samples and sample.at <= self._samples[-1].at:
            if sample.at == self._samples[-1].at:
                return
            self._samples.clear()  # its clock was put back
        self._samples.append(sample)

    def pace(self) -> Pace:
        """Return the pace of the last seconds, and how deep the line is now."""
        newest = self._samples[-1]
        since = newest.at - _RECENT
        recent = (pair for pair in pairwise(self._samples) if pair[1].at > since)
        return pace(newest.depth, recent)

    def columns(self, width: int, step: float) -> list[Pace]:
        """Return the pace and the deepest line of each of the last ``width`` spans.

        A span takes ``step`` seconds and begins at a multiple of it, so a chart moves on by
        whole columns. Where there is no sample, nothing is known.
        """
        newest = self._samples[-1].at // step
        spans: dict[int, list[tuple[Sample, Sample]]] = defaultdict(list)
        for earlier, later in pairwise((self._samples[0], *self._samples)):
            # What was counted since the sample before belongs to the span of the later.
            spans[int(newest - later.at // step)].append((earlier, later))
        columns = [Pace()] * width
        for age, pairs in spans.items():
            if age < width:
                columns[-1 - age] = pace(max(later.depth for _, later in pairs), pairs)
        return columns


def pace(depth: int, pairs: Iterable[tuple[Sample, Sample]]) -> Pace:
    """Return the pace over pairs of an earlier and a later sample; never below 0.

    Counters that fell belong to a program that was started again in between. What it counted
    until then is not known, so that pair is left out.
    """
    seconds = 0.0
    accepted = written = batches = 0
    for earlier, later in pairs:
        more = (
            later.enqueued - earlier.enqueued,
            later.persisted - earlier.persisted,
            later.batches - earlier.batches,
        )
        if min(more) >= 0:
            seconds += later.at - earlier.at
            accepted += more[0]
            written += more[1]
            batches += more[2]
    return Pace(
        depth,
        accepted / seconds if seconds else None,
        written / seconds if seconds else None,
        written / batches if batches else None,
    )


class Watch:
    """The queues of one program, as of its last answer.

    Attributes:
        source: where the answers come from.
        interval: seconds between two tries.
        document: the last answer, or None: there was none yet.
        body: the bytes that it came as.
        answered: when that was, by the clock on the wall; empty before.
        trouble: why the last try got no answer; empty if it did.
    """

    def __init__(self, source: Source, interval: float) -> None:
        self.source = source
        self.interval = interval
        self.document: Document | None = None
        self.body = b""
        self.answered = ""
        self.trouble = ""
        self._since = trio.current_time()
        self._histories: dict[tuple[str, int], History] = {}

    @property
    def silent_seconds(self) -> float:
        """How long there has been no answer."""
        return trio.current_time() - self._since

    @property
    def rows(self) -> list[tuple[Queue, History]]:
        """Every queue of the last answer, with its history."""
        queues = () if self.document is None else self.document.queues
        return [(queue, self._histories[key]) for key, queue in _keyed(queues)]

    @property
    def now(self) -> datetime:
        """The time of the last answer, by the clock of the program that gave it."""
        if self.document is None:
            raise AssertionError("unreachable")
        return self.document.time

    async def ask(self) -> None:
        """Try once to get an answer, and note it, or why there was none."""
        try:
            document, body = await self.source.fetch()
        except NoAnswerError as error:
            self.trouble = str(error)
            return
        # A queue that is gone takes its history along.
        histories = {key: self._histories.get(key, History()) for key, _ in _keyed(document.queues)}
        for key, queue in _keyed(document.queues):
            histories[key].add(queue.metrics)
        self._histories = histories
        self.document, self.body, self.trouble = document, body, ""
        self.answered = f"{datetime.now().astimezone():%H:%M:%S}"
        self._since = trio.current_time()


def _keyed(queues: Iterable[Queue]) -> Iterator[tuple[tuple[str, int], Queue]]:
    """Tell queues apart: a name need not be the only one, ``default`` above all."""
    seen: Counter[str] = Counter()
    for queue in queues:
        seen[queue.name] += 1
        yield (queue.name, seen[queue.name]), queue
