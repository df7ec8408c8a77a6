"""What is known of the queues that are watched, and how they get on."""

from __future__ import annotations

from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from .document import Document, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .document import QueueNumbers, QueueStatus
    from .source import Source

_RECENT: Final = timedelta(seconds=5)  # what a pace is taken over


class Pace(msgspec.Struct, frozen=True):
    """How a queue got on over some seconds; None is not known.

    Attributes:
        accepted: entries per second.
        written: entries per second.
        batch_size: entries per batch.
    """

    accepted: float | None = None
    written: float | None = None
    batch_size: float | None = None


class History:
    """The last numbers of one queue, in the order of their times."""

    def __init__(self) -> None:
        self._samples: deque[QueueNumbers] = deque()

    def add(self, numbers: QueueNumbers) -> None:
        """Add what was fetched; the same once more, as of a cache, changes nothing."""
        samples = self._samples
        if samples and numbers.timestamp <= samples[-1].timestamp:
            if numbers.timestamp == samples[-1].timestamp:
                return
            samples.clear()  # its clock was put back
        samples.append(numbers)
        while len(samples) > 1 and numbers.timestamp - samples[1].timestamp >= _RECENT:
            samples.popleft()

    def pace(self) -> Pace:
        """Return the pace of the last seconds; never below 0.

        Counters that fell belong to a program that was started again in between. What it
        counted until then is not known, so that span is left out.
        """
        seconds = 0.0
        accepted = written = batches = 0
        for earlier, later in pairwise(self._samples):
            more = (
                later.total_enqueued - earlier.total_enqueued,
                later.total_persisted - earlier.total_persisted,
                later.total_batches - earlier.total_batches,
            )
            if min(more) >= 0:
                seconds += (later.timestamp - earlier.timestamp).total_seconds()
                accepted += more[0]
                written += more[1]
                batches += more[2]
        return Pace(
            accepted / seconds if seconds else None,
            written / seconds if seconds else None,
            written / batches if batches else None,
        )


class Watch:
    """The queues of one program, as of its last answer.

    Attributes:
        source: where the answers come from.
        document: the last answer; empty before.
        body: the bytes that it came as.
        answered: when that was, by the clock on the wall; empty before.
        since: when that was, by trio's clock; before, when the watch began.
        trouble: why the last try got no answer; empty if it did.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.document = Document(datetime.now(UTC), ())
        self.body = b""
        self.answered = ""
        self.trouble = ""
        self.since = trio.current_time()
        self._histories: dict[tuple[str, int], History] = {}

    @property
    def queues(self) -> list[tuple[QueueStatus, Pace]]:
        """Every queue of the last answer, with its pace."""
        found = _keyed(self.document.queues)
        return [(queue, self._histories[key].pace()) for key, queue in found]

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
        self.since = trio.current_time()


def _keyed(queues: Iterable[QueueStatus]) -> Iterator[tuple[tuple[str, int], QueueStatus]]:
    """Yield queues with a key each: a name need not be the only one, ``default`` above all."""
    seen: Counter[str] = Counter()
    for queue in queues:
        seen[queue.name] += 1
        yield (queue.name, seen[queue.name]), queue
