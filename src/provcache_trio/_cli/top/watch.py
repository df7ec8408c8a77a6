"""The last answers of a program, and the pace of its queues."""

from __future__ import annotations

from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import add
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from .document import Document, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .document import CacheNumbers, QueueNumbers, QueueStatus
    from .source import Source

_RECENT: Final = timedelta(seconds=5)  # over which a pace is computed


class Pace(msgspec.Struct, frozen=True):
    """The pace of a queue and its cache over some seconds; None is not known.

    Attributes:
        accepted: entries per second, those included that were taken from a journal or a stream.
        written: entries per second.
        batch_size: entries per batch.
        lookups: keys that the cache looked for, per second.
        hit_share: of these, how many were found, 0 to 1.
    """

    accepted: float | None = None
    written: float | None = None
    batch_size: float | None = None
    lookups: float | None = None
    hit_share: float | None = None


class _Sample(NamedTuple):
    """Counters at one moment; those of a cache stay 0 without one."""

    at: datetime
    accepted: int
    written: int
    batches: int
    lookups: int
    hits: int

    def since(self, earlier: _Sample) -> tuple[int, ...]:
        """Return by how much each counter has grown."""
        return tuple(late - early for late, early in zip(self[1:], earlier[1:], strict=True))


class History:
    """The last numbers of one queue and its cache, in the order of their times."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._has_cache = False

    def add(self, numbers: QueueNumbers, cache: CacheNumbers | None = None) -> None:
        """Add the numbers of an answer; the same once more, as from a proxy, change nothing."""
        samples, at = self._samples, numbers.timestamp
        if samples and at <= samples[-1].at:
            if at == samples[-1].at:
                return
            samples.clear()  # the program's clock was put back
        self._has_cache = cache is not None
        samples.append(
            _Sample(
                at,
                numbers.total_enqueued + numbers.total_recovered,
                numbers.total_persisted,
                numbers.total_batches,
                0 if cache is None else cache.lookups,
                0 if cache is None else cache.hits,
            )
        )
        while len(samples) > 1 and at - samples[1].at >= _RECENT:
            samples.popleft()

    def pace(self) -> Pace:
        """Return the pace of the last seconds; never below 0.

        Counters that fell belong to a program that was started again in between. What it
        counted until then is not known, so that span is left out.
        """
        seconds = 0.0
        grown = (0, 0, 0, 0, 0)
        for earlier, later in pairwise(self._samples):
            more = later.since(earlier)
            if min(more) >= 0:
                seconds += (later.at - earlier.at).total_seconds()
                grown = tuple(map(add, grown, more))
        accepted, written, batches, lookups, hits = grown
        return Pace(
            accepted / seconds if seconds else None,
            written / seconds if seconds else None,
            written / batches if batches else None,
            lookups / seconds if seconds and self._has_cache else None,
            hits / lookups if lookups else None,
        )


class Watch:
    """The queues of one program, as of its last answer.

    Attributes:
        source: where the answers come from.
        document: the last answer; without queues before the first.
        body: its bytes.
        answered: its time, by the wall clock; empty before the first.
        since: its time, by trio's clock; before the first, when the watch began.
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
        """Ask once, and note the answer, or why there was none."""
        try:
            document, body = await self.source.fetch()
        except NoAnswerError as error:
            self.trouble = str(error)
            return
        # The history of a queue that is gone is dropped.
        histories = {key: self._histories.get(key, History()) for key, _ in _keyed(document.queues)}
        for key, queue in _keyed(document.queues):
            histories[key].add(queue.metrics, queue.cache)
        self._histories = histories
        self.document, self.body, self.trouble = document, body, ""
        self.answered = f"{datetime.now().astimezone():%H:%M:%S}"
        self.since = trio.current_time()


async def ask_all(watches: Sequence[Watch]) -> None:
    """Ask every program once, all at the same time."""
    if len(watches) == 1:
        await watches[0].ask()
        return
    async with trio.open_nursery() as nursery:
        for watch in watches:
            nursery.start_soon(watch.ask)


def _keyed(queues: Iterable[QueueStatus]) -> Iterator[tuple[tuple[str, int], QueueStatus]]:
    """Yield each queue with a key of its own, since several may have one name, such as ``default``."""
    seen: Counter[str] = Counter()
    for queue in queues:
        seen[queue.name] += 1
        yield (queue.name, seen[queue.name]), queue
