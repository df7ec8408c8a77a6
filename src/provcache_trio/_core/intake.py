"""The intake of a relay, whose entries come from a source that keeps each until it is settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NoReturn, Protocol

import trio

from provcache_trio._vocabulary.failures import Failure, Kind
from provcache_trio._vocabulary.protocols import E, E_co

from .backoff import Backoff
from .durability import Durability
from .journaled_line import Notes
from .replay import Replay
from .supervisor import Task
from .verdict import result_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence

    from .batch import Place
    from .journaled_line import JournaledLine
    from .lanes import Lanes
    from .lifetime import Lifetime
    from .waiting_room import WaitingRoom
    from .watch import StoreWatch


class Source(Protocol[E_co]):
    """The source of a relay's entries, which keeps each of them until it is settled.

    Attributes:
        label: its name in the log.
    """

    label: str

    async def take(self, most: int, /) -> Sequence[tuple[int, E_co]]:
        """Wait for entries; return 1 to ``most`` of them, each with its number.

        Entries that belong together have the same number. Building the result is the last step, so
        a call that is cancelled takes none.

        Raises:
            StoreError: the source can't be used at the moment.
        """
        ...

    async def check(self) -> None:
        """Raise a StoreError if ``take`` would."""
        ...

    def settled(self, numbers: Sequence[int], /) -> None:
        """Note settled entries, with a number for each of them; must not raise."""
        ...

    def tasks(self) -> Sequence[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return the functions to run as long as the queue does, each with its name."""
        ...

    def stop(self) -> None:
        """Make ``take`` wait for ever, since the queue is being closed."""
        ...

    async def finish(self) -> None:
        """Give back what is not settled; shielded, so it must not take long."""
        ...


class SourceNotes(Notes[E]):
    """Notes that report to the source at once what is settled."""

    __slots__ = ("_source",)

    def __init__(self, clock: Callable[[], float], source: Source[E]) -> None:
        super().__init__(clock)
        self._source = source

    def hold(self, place: Place, entry: E) -> None:
        """Do nothing: the source holds the entry, and nobody writes it anew."""

    def settle(self, places: Iterable[Place]) -> None:
        """See ``Notes.settle``."""
        self._source.settled([number for place in places for number in place.numbers])
        self.bell.ring()


class Intake(Generic[E]):
    """Takes over a source's entries as far as there is room: a replay without end."""

    def __init__(
        self,
        source: Source[E],
        lanes: Lanes[E],
        lines: Sequence[JournaledLine[E]],
        room: WaitingRoom[E],
        notes: SourceNotes[E],
        lifetime: Lifetime,
        watch: StoreWatch,
        *,
        key: Callable[[E], Hashable],
    ) -> None:
        self._source = source
        self._lifetime = lifetime
        self._watch = watch
        self._backoff = Backoff(lifetime)
        self._finished = False
        self._replay: Replay[E] = Replay(
            self,
            lanes,
            lines,
            room,
            notes,
            lifetime,
            key=key,
            durability=Durability(notes, lifetime, 0.0),
            record=f"entry of message %d of {source.label}",
        )

    def tasks(self) -> list[Task]:
        """Return the tasks that only a relay has."""
        own = [Task(name, run) for name, run in self._source.tasks()]
        return [Task("intake", self._run), *own]

    async def _run(self) -> None:
        while True:
            await self._replay.go_on()

    def stop(self) -> None:
        """Take nothing over any more."""
        self._source.stop()

    async def finish(self) -> None:
        """Give back what is left; shielded, and once."""
        if self._finished:
            return
        self._finished = True
        with trio.CancelScope(shield=True):
            await self._source.finish()

    # What the replay asks of a journal

    always = False

    async def replay(self, _after: int, most: int, /) -> Sequence[tuple[int, E]]:
        """Wait for the next entries, at least one; report the source's trouble meanwhile."""
        source, scope, failures = self._source, self._lifetime.scope, 0
        while True:
            page = await result_of(lambda: source.take(most), scope, source)
            if not isinstance(page, Failure):
                return page
            failure: Failure | None = page
            while failure is not None:
                self._note(failure)
                failures += 1
                await self._backoff.wait(failures)
                # ``take`` may wait long for the next entries, so it does not show soon whether the
                # source works.
                failure = await result_of(source.check, scope, source)
            self._watch.answered(self._backoff)

    def _note(self, failure: Failure) -> None:
        failure = failure._replace(
            error_class=f"{self._source.label}: {failure.error_class}",
            # A defect has no entry to blame, so a person has to mend it.
            kind=failure.kind if failure.kind is Kind.UNAVAILABLE else Kind.MISCONFIGURED,
        )
        self._watch.note(failure)
        self._watch.lost(self._backoff, failure)

    async def set_aside(self, _number: int, /) -> NoReturn:
        """Raise, as it is never called: decoded entries have a key."""
        raise AssertionError("unreachable")
