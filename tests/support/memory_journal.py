"""A journal in memory that keeps the protocol's promises, with latency and failures on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from provcache_trio import JournalError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence

E = TypeVar("E")


class MemoryJournal(Generic[E]):
    """What survives a process is in ``rows``: give it to the next journal as ``content``.

    Args:
        content: what an earlier one held, by number.
        always: whether entries are on disk before they are accepted.
        latency_seconds: how long a call takes; up to three times that, with ``dice``.
        dice: decides which calls fail.
        p_fail: how likely a call fails.
    """

    def __init__(
        self,
        content: Mapping[int, E] | None = None,
        *,
        always: bool = False,
        latency_seconds: float = 0.0,
        dice: random.Random | None = None,
        p_fail: float = 0.0,
    ) -> None:
        self.rows: dict[int, E] = dict(content or {})
        self.always = always
        self.sync_interval_seconds = 0.05
        self.holds_entries = bool(self.rows)
        self.overgrown = False
        self.aside: list[int] = []
        self._last = max(self.rows, default=0)
        self._page = dict(self.rows)  # what is replayed
        self._trusted = True
        self._attached = False
        self._latency_seconds = latency_seconds
        self._dice = dice
        self._p_fail = p_fail
        self._in_call = False

    def attach(self) -> None:
        if self._attached:
            raise RuntimeError("it serves another queue")
        self._attached = True

    async def _wait(self) -> None:
        assert not self._in_call, "two calls at once"
        self._in_call = True
        factor = 1.0 if self._dice is None else self._dice.choice([0.0, 0.2, 1.0, 3.0])
        with trio.CancelScope(shield=True):
            await trio.sleep(self._latency_seconds * factor)
        self._in_call = False

    def _fails(self) -> bool:
        return self._dice is not None and self._dice.random() < self._p_fail

    async def append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Iterable[int], /
    ) -> Sequence[int | None]:
        fails = self._fails()
        await self._wait()
        if not self._trusted or (fails and self._last % 2):
            self._trusted = False
            raise JournalError("it failed before anything was written")
        numbers: list[int | None] = []
        for entry, replaces in entries:
            self._last += 1
            for number in replaces:
                self.rows.pop(number, None)
            self.rows[self._last] = entry
            numbers.append(self._last)
        for number in settled:
            self.rows.pop(number, None)
        if fails:
            self._trusted = False
            raise JournalError("it failed after everything was written")
        return numbers

    async def rewrite(self, entries: Sequence[E], /) -> Sequence[int | None]:
        await self._wait()
        if self._fails():
            raise JournalError("it can't be rewritten")
        first = self._last + 1
        self.rows = dict(enumerate(entries, first))
        self._last += len(entries)
        self._trusted = True
        return list(self.rows)

    async def replay(self, after: int, most: int, /) -> Sequence[tuple[int, E]]:
        await self._wait()
        if self._fails():
            raise JournalError("it can't be read")
        numbers = [number for number in sorted(self._page) if number > after]
        return [(number, self._page[number]) for number in numbers[:most]]

    async def set_aside(self, number: int, /) -> None:
        await self._wait()
        self.aside.append(number)
