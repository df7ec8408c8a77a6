"""Computations: one per key, shared by all callers, in a task that runs while anyone waits."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic

import trio

from provcache_trio._vocabulary.protocols import E

from ._foreign import Failed, outcome_of
from ._rules import any_matches

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Hashable

    from provcache_trio._core.seam import Seam

    from ._counts import Counts
    from ._foreign import Tasks
    from ._rules import Invalidation, Rules


class Computation(Generic[E]):
    """One call of a user's ``compute``, and the handling of its result.

    Attributes:
        key: the key of the entry.
        done: set when there is an answer or an error.
        answer: the answer for all who wait.
        error: the error instead of an answer.
        invalidations: those that began after this computation.
        may_read: the store could be read a moment ago.
        result: the computed entry, while it waits to be accepted.
        waiters: the number of tasks that wait.
        awaits: other computations whose results this one waits for.
        scope: the shielded scope that it runs in.
        is_over: it has ended, or nobody waits for it any more.
    """

    __slots__ = (
        "_storing",
        "answer",
        "awaits",
        "done",
        "error",
        "invalidations",
        "is_over",
        "key",
        "may_read",
        "result",
        "scope",
        "waiters",
    )

    def __init__(self, key: Hashable, *, may_read: bool) -> None:
        self.key: Hashable = key
        self.done: trio.Event = trio.Event()
        self.answer: E | None = None
        self.error: BaseException | None = None
        self.result: E | None = None
        self.invalidations: list[Invalidation[E]] = []
        self.may_read: bool = may_read
        self.waiters: int = 0
        self.is_over: bool = False
        self.awaits: list[Computation[Any]] = []
        self.scope: trio.CancelScope = trio.CancelScope(shield=True)
        self._storing = trio.CancelScope()

    def needs(self, other: Computation[Any]) -> bool:
        """Return whether this is ``other``, or awaits it, directly or not."""
        return self is other or any(one.needs(other) for one in self.awaits)

    def leave(self) -> bool:
        """Remove one waiter; return whether it was the last one, so that this ends."""
        self.waiters -= 1
        if self.waiters or self.is_over:
            return False
        self.is_over = True
        self.scope.cancel()
        return True

    def overtake(self, invalidation: Invalidation[E]) -> None:
        """Do not accept the result any more if ``invalidation``, which begins now, matches it."""
        self.invalidations.append(invalidation)
        if self.result is not None and invalidation.matches(self.result):
            self._storing.cancel()

    @contextmanager
    def storing(self, result: E) -> Generator[trio.CancelScope]:
        """Surround the acceptance of ``result``; an invalidation cancels it."""
        self.result = result
        try:
            with self._storing:
                yield self._storing
        finally:
            self.result = None

    @contextmanager
    def awaited(self) -> Generator[None]:
        """Surround the wait of a caller.

        Raises:
            RuntimeError: this computation waits for the caller, directly or not.
        """
        asker = _inside.get()
        if asker is not None and asker.is_over:
            # A task that the computation started, and that outlives it.
            asker = None
        if asker is not None:
            if self.needs(asker):
                raise RuntimeError("a computation asks for its own key, and would wait for itself")
            asker.awaits.append(self)
        self.waiters += 1
        try:
            yield
        finally:
            if asker is not None:
                asker.awaits.remove(self)


# The computation that a task runs in, or was started in.
_inside: Final[ContextVar[Computation[Any] | None]] = ContextVar(
    "provcache_trio.cache.inside", default=None
)


class Computations(Generic[E]):
    """The computations that are under way."""

    def __init__(
        self,
        seam: Seam[E],
        rules: Rules[E],
        tasks: Tasks,
        counts: Counts,
        find: Callable[[Hashable], Awaitable[E | None]],
        *,
        may_wait_for_room: bool,
    ) -> None:
        self._seam = seam
        self._rules = rules
        self._tasks = tasks
        self._counts = counts
        self._find = find
        self._may_wait_for_room = may_wait_for_room
        # Those that may be joined, by key.
        self._by_key: dict[Hashable, Computation[E]] = {}

    def join(
        self, key: Hashable, compute: Callable[[], Awaitable[E]], *, store_is_away: bool
    ) -> Computation[E]:
        """Return the computation of ``key`` that is under way, or begin one."""
        computation = self._by_key.get(key)
        if computation is not None:
            self._counts.shared_waits += 1
            return computation
        computation = Computation[E](key, may_read=not store_is_away)
        self._by_key[key] = computation
        self._counts.computations += 1
        run = partial(self._run, computation, compute)
        self._tasks.start(run, computation.scope, "provcache_trio.cache: computation")
        return computation

    # Protected: a waiter that Ctrl-C left counted would keep the computation alive for ever.
    @trio.lowlevel.enable_ki_protection
    async def wait(self, computation: Computation[E]) -> None:
        """Wait until there is an answer or an error.

        Raises:
            RuntimeError: the caller is part of this computation.
        """
        with computation.awaited():
            try:
                await computation.done.wait()
            finally:
                if computation.leave():
                    self._forget(computation)

    def _forget(self, computation: Computation[E]) -> None:
        if self._by_key.get(computation.key) is computation:
            del self._by_key[computation.key]

    async def _run(self, computation: Computation[E], compute: Callable[[], Awaitable[E]]) -> None:
        _inside.set(computation)
        outcome = await outcome_of(lambda: self._work(computation, compute), computation.scope)
        if isinstance(outcome, Failed):
            computation.error = outcome.error
            self._counts.errors += 1
        else:
            computation.answer = outcome
        computation.is_over = True
        self._forget(computation)
        computation.done.set()

    async def _work(self, computation: Computation[E], compute: Callable[[], Awaitable[E]]) -> E:
        key, result = computation.key, await _computed(compute)
        self._check(key, result)
        is_overtaken = any_matches(computation.invalidations, result)
        if not is_overtaken and await self._store(computation, result) and computation.may_read:
            state = await outcome_of(lambda: self._find(key), computation.scope)
            if state is not None and not isinstance(state, Failed):
                return state
        version = self._seam.open_versions((key,)).get(key)
        return result if version is None else self._rules.merge(version, result)

    def _check(self, key: Hashable, result: E) -> None:
        try:
            own = self._rules.key(result)
        except Exception:  # noqa: BLE001  # whatever reading somebody's key raises
            kind = type(result).__name__
            raise TypeError(f"compute must return an entry; {kind} has no key") from None
        if own != key:
            raise ValueError("compute returned an entry with another key than was asked for")

    async def _store(self, computation: Computation[E], result: E) -> bool:
        """Return whether ``result`` was accepted."""
        key = computation.key
        if not (self._may_wait_for_room or self._seam.has_room(key)):
            return False
        with computation.storing(result) as scope:
            await self._seam.enqueue(result)
        return not scope.cancelled_caught

    def overtake(self, invalidation: Invalidation[E]) -> None:
        """Tell every computation that ``invalidation`` begins."""
        for computation in self._by_key.values():
            computation.overtake(invalidation)

    def close(self) -> None:
        """Wake up everyone who waits."""
        for computation in self._by_key.values():
            computation.is_over = True
            computation.done.set()


async def _computed(compute: Callable[[], Awaitable[E]]) -> E:
    awaitable: object = compute()
    if not inspect.isawaitable(awaitable):
        raise TypeError(f"compute must return an awaitable, not {type(awaitable).__name__}")
    result: E = await awaitable
    return result
