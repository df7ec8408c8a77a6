"""A journal in memory, with latency and failures on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias, TypeVar

import trio

from provcache_trio import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

E = TypeVar("E")

Failure: TypeAlias = Literal["before", "after"] | None  # what it was asked for
SYNC_SECONDS: Final = 0.05


class MemoryJournal(Generic[E]):
    """Keeps the promises of ``Journal``, and demands that its queue keeps its own.

    Attributes:
        rows: what would survive a crash, by number.
        aside: the numbers of what was set aside.
        latency_seconds: how long each call takes; it goes on to its end when cancelled.
        fails: asked once a call, by its name, whether it fails, before or after it had effect.
        shrinks: whether it says that a rewrite would make it smaller.
        waits: a call returns only once it is set.
        in_call: whether a call is under way.
        settled: all numbers that it was told of.
    """

    def __init__(
        self,
        *,
        holds: Mapping[int, E] | None = None,
        always: bool = False,
        latency_seconds: float = 0.0,
    ) -> None:
        self.always: bool = always
        self.sync_interval_seconds: float = SYNC_SECONDS
        self.rows: dict[int, E] = dict(holds or {})
        self.holds_entries: bool = bool(self.rows)
        self.entries_to_replay: int = len(self.rows)
        self.aside: list[int] = []
        self.latency_seconds = latency_seconds
        self.fails: Callable[[str], Failure] = lambda _: None
        self.shrinks: bool = False
        self.waits = trio.Event()
        self.waits.set()
        self.in_call: bool = False
        self.settled: list[int] = []
        self._found = tuple(sorted(self.rows.items()))  # what there is to replay
        self._last = max(self.rows, default=0)
        self._is_trusted = True
        self._is_attached = False

    @property
    def overgrown(self) -> bool:
        return self.shrinks

    def attach(self) -> None:
        if self._is_attached:
            raise RuntimeError("a journal serves one queue, once")
        self._is_attached = True

    async def append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Sequence[int], /
    ) -> Sequence[int | None]:
        if not self._is_trusted:
            await self._work("append", lambda: None)
            raise JournalError("only a rewrite helps")
        self.settled += settled
        numbers: list[int | None] = []

        def work() -> None:
            for entry, replaces in entries:
                numbers.append(self._add(entry))
                self._drop(replaces)
            self._drop(settled)

        self._is_trusted = False
        await self._work("append", work)
        self._is_trusted = True
        return numbers

    async def rewrite(self, entries: Sequence[E], /) -> Sequence[int | None]:
        numbers: list[int | None] = []

        def work() -> None:
            self.rows.clear()
            numbers.extend(self._add(entry) for entry in entries)

        await self._work("rewrite", work)
        self._is_trusted, self.shrinks = True, False
        return numbers

    async def replay(self, after: int, most: int, /) -> Sequence[tuple[int, E]]:
        assert most >= 1
        await self._work("replay", lambda: None)
        return [found for found in self._found if found[0] > after][:most]

    async def set_aside(self, number: int, /) -> None:
        await self._work("set_aside", lambda: self.aside.append(number))

    def _add(self, entry: E) -> int:
        self._last += 1
        self.rows[self._last] = entry
        return self._last

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.rows.pop(number, None)

    async def _work(self, name: str, work: Callable[[], object]) -> None:
        assert not self.in_call, "two calls at once"
        self.in_call = True
        with trio.CancelScope(shield=True):
            fails = self.fails(name)
            await trio.sleep(self.latency_seconds / 2)
            if fails != "before":
                work()
            await trio.sleep(self.latency_seconds / 2)
            await self.waits.wait()
        self.in_call = False
        if fails is not None:
            raise JournalError(f"{name} failed, as the test asked")
