"""``open_cache``: checks the arguments, and opens the cache and its nursery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Literal, final

import trio

from provcache_trio._core.queue import WriteBehindQueue
from provcache_trio._vocabulary.checks import check_int, check_moment, check_seconds
from provcache_trio._vocabulary.opening import Opening
from provcache_trio._vocabulary.protocols import E

from ._cache import Cache
from ._foreign import Tasks
from ._memory import Memory, clock_of_trio
from ._rules import Rules

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from provcache_trio._core.seam import Seam

    from ._reads import ReadableRepository

_CHOICES: Final = ("raise", "miss")


def open_cache(
    queue: WriteBehindQueue[E],
    repository: ReadableRepository[E],
    *,
    max_entries: int = 100_000,
    memory_seconds: float = 5,
    negative_seconds: float = 0,
    on_store_error: Literal["raise", "miss"] = "raise",
    wall_clock: Callable[[], datetime] | None = None,
) -> AbstractAsyncContextManager[Cache[E], None]:
    """Open a cache over a queue and the repository that it writes to.

    ::

        async with open_write_behind_queue(repository) as queue:
            async with open_cache(queue, repository) as cache:
                entry = await cache.get(veri_key)

    A queue has one cache, which tasks share. Leaving the block ends its reads and computations;
    tasks that wait for one get ``trio.ClosedResourceError``. An exception of the block leaves it
    as the very same object. Open the cache inside the queue's block, so that it closes first.

    Args:
        queue: ``put`` and ``get_or_compute`` store through it. The cache also sees what others
            enqueue directly.
        repository: where the queue writes, with a method ``get_many`` that reads from the primary.
            Its ``table`` says when entries expire; without one they are ``ProvcacheEntry``.
        max_entries: the most keys to remember, including those known to have no entry.
        memory_seconds: how long an answer may be given without asking the store again, and so how
            long writes of other processes may go unseen. With 0, every ``get`` asks the store.
        negative_seconds: the same for the answer that there is no entry; at most
            ``memory_seconds``.
        on_store_error: what ``get_or_compute`` does when the store can't be read. "raise" raises;
            "miss" computes, and does not store the result if the line is full.
        wall_clock: returns an aware datetime; it is asked at every look-up whether an entry has
            expired. By default the system clock; a look-up in memory does not notice its jumps.

    Returns:
        A context manager to be entered once, with ``async with``, and left by the same trio task.

    Raises:
        TypeError: an argument has the wrong type, or ``repository`` has no ``get_many``.
        ValueError: an argument has a value that it can't have.
        RuntimeError: at entry: the queue has a cache already. At exit: another task than the one
            that entered leaves.
    """
    _check_parts(queue, repository)
    check_int("max_entries", max_entries, at_least=1)
    check_seconds("memory_seconds", memory_seconds)
    check_seconds("negative_seconds", negative_seconds)
    if negative_seconds > memory_seconds:
        raise ValueError("negative_seconds must be at most memory_seconds")
    if on_store_error not in _CHOICES:
        raise ValueError('on_store_error must be "raise" or "miss"')
    if wall_clock is not None:
        if not callable(wall_clock):
            raise TypeError(f"wall_clock must be callable, not {type(wall_clock).__name__}")
        check_moment("what wall_clock returns", wall_clock())
    return _Opening(
        _Setup(
            seam=queue._seam(),  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # made for this
            repository=repository,
            max_entries=max_entries,
            memory_seconds=memory_seconds,
            negative_seconds=negative_seconds,
            may_miss=on_store_error == "miss",
            wall_clock=wall_clock,
        )
    )


def _check_parts(queue: object, repository: object) -> None:
    for argument, value in (("queue", queue), ("repository", repository)):
        if isinstance(value, Opening):
            raise TypeError(
                f"{argument} is not open yet: give what 'async with {value.function}(...) as "
                f"{argument}:' gives"
            )
    if not isinstance(queue, WriteBehindQueue):
        raise TypeError(f"queue must be a WriteBehindQueue, not {type(queue).__name__}")
    if not callable(getattr(repository, "get_many", None)):
        kind = type(repository).__name__
        raise TypeError(f"repository must have a method get_many; {kind} has none")


@dataclass(frozen=True, kw_only=True)
class _Setup(Generic[E]):
    seam: Seam[E]
    repository: ReadableRepository[E]
    max_entries: int
    memory_seconds: float
    negative_seconds: float
    may_miss: bool
    wall_clock: Callable[[], datetime] | None


@final
class _Opening(Opening["Cache[E]"], Generic[E]):
    """Opens a cache, and closes it."""

    what = "a cache"
    function = "open_cache"
    one_task = True

    def __init__(self, setup: _Setup[E]) -> None:
        self._setup = setup
        self._cache: Cache[E]
        self._tasks: Tasks
        self._nursery: AbstractAsyncContextManager[trio.Nursery, bool | None]

    async def _open(self) -> Cache[E]:
        # Nothing here yields, so a cache is never half open.
        setup, clock = self._setup, clock_of_trio()
        seam = setup.seam
        table: object = getattr(setup.repository, "table", None)
        rules = Rules(table, seam.key, seam.merge, setup.wall_clock)
        memory = Memory(
            rules,
            clock,
            max_entries=setup.max_entries,
            memory_seconds=setup.memory_seconds,
            negative_seconds=setup.negative_seconds,
        )
        self._nursery = trio.open_nursery(strict_exception_groups=True)
        # Not `async with`: an exception of the body must not pass through our nursery.
        self._tasks = Tasks()
        self._cache = Cache(
            seam,
            setup.repository,
            memory,
            rules,
            self._tasks,
            clock,
            may_miss=setup.may_miss,
        )
        # Raises if the queue has a cache already.
        seam.observe(self._cache)
        self._tasks.nursery = await self._nursery.__aenter__()
        return self._cache

    async def _close(self, _error: BaseException | None, /) -> None:
        self._setup.seam.observe(None)
        self._cache._close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # the only one who may
        self._tasks.cancel()
        try:
            # Waits for the tasks even if a surrounding scope is cancelled.
            await self._nursery.__aexit__(None, None, None)  # noqa: ASYNC102  # ended above
        except BaseExceptionGroup as group:
            interrupts, others = group.split(KeyboardInterrupt)
            # Our tasks raise nothing else.
            if interrupts is None or others is not None:
                raise AssertionError("unreachable") from group
            raise KeyboardInterrupt from None
