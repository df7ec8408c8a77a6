"""``open_write_behind_queue``: the arguments, the nursery, and the way in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast, final, overload

import trio

from provcache_trio._vocabulary.opening import Opening
from provcache_trio._vocabulary.options import WriteBehindOptions
from provcache_trio._vocabulary.protocols import E
from provcache_trio._vocabulary.table import Table

from .assembly import Setup, assemble
from .entry_types import check_entry_types
from .exits import Life
from .queue import by_veri_key

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from contextlib import AbstractAsyncContextManager

    from provcache_trio._vocabulary.protocols import DeadLetterSink, Journal, Repository
    from provcache_trio._vocabulary.telemetry import Telemetry

    from .intake import Source
    from .queue import WriteBehindQueue


class HasVeriKey(Protocol):
    """An entry that carries its key."""

    @property
    def veri_key(self) -> Hashable:
        """What identifies the entry in the store."""
        ...


V = TypeVar("V", bound=HasVeriKey)


class TableRepository(Protocol[E]):
    """A repository that states its table, as the built-in ones do."""

    @property
    def table(self) -> Table[E] | None:
        """The table that the repository was opened with."""
        ...

    async def upsert_many(self, entries: Sequence[E], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``."""
        ...


@overload
def open_write_behind_queue(
    repository: Repository[V],
    options: WriteBehindOptions = ...,
    *,
    name: str = ...,
    merge: Callable[[V, V], V] | None = ...,
    dead_letters: DeadLetterSink[V] | None = ...,
    wall_clock: Callable[[], datetime] | None = ...,
    telemetry: Telemetry | None = ...,
    journal: Journal[V] | None = ...,
) -> AbstractAsyncContextManager[WriteBehindQueue[V], None]: ...


@overload
def open_write_behind_queue(
    repository: Repository[E],
    options: WriteBehindOptions = ...,
    *,
    name: str = ...,
    key: Callable[[E], Hashable],
    merge: Callable[[E, E], E] | None = ...,
    dead_letters: DeadLetterSink[E] | None = ...,
    wall_clock: Callable[[], datetime] | None = ...,
    telemetry: Telemetry | None = ...,
    journal: Journal[E] | None = ...,
) -> AbstractAsyncContextManager[WriteBehindQueue[E], None]: ...


@overload
def open_write_behind_queue(
    repository: TableRepository[E],
    options: WriteBehindOptions = ...,
    *,
    name: str = ...,
    key: Callable[[E], Hashable] | None = ...,
    merge: Callable[[E, E], E] | None = ...,
    dead_letters: DeadLetterSink[E] | None = ...,
    wall_clock: Callable[[], datetime] | None = ...,
    telemetry: Telemetry | None = ...,
    journal: Journal[E] | None = ...,
) -> AbstractAsyncContextManager[WriteBehindQueue[E], None]: ...


def open_write_behind_queue(
    repository: Repository[E],
    options: WriteBehindOptions = WriteBehindOptions(),  # noqa: B008  # it is immutable
    *,
    name: str = "default",
    key: Callable[[E], Hashable] | None = None,
    merge: Callable[[E, E], E] | None = None,
    dead_letters: DeadLetterSink[E] | None = None,
    wall_clock: Callable[[], datetime] | None = None,
    telemetry: Telemetry | None = None,
    journal: Journal[E] | None = None,
) -> AbstractAsyncContextManager[WriteBehindQueue[E], None]:
    """Open a queue that writes to ``repository`` behind its callers.

    ::

        async with open_write_behind_queue(repository) as queue:
            await queue.enqueue(entry)

    Leaving the block closes the intake and writes everything that was accepted, in order, shielded
    from cancellation, for at most ``options.drain_timeout_seconds``. The exception that the block
    raised goes on as the very same object. KeyboardInterrupt is held back until the drain is over;
    a second one ends the drain.

    Args:
        repository: where entries go. Open it around the queue, so that it closes last.
        options: see ``WriteBehindOptions``.
        name: labels logs and metrics.
        key: returns what identifies an entry; by default the key of the repository's table, or else
            the entry's ``veri_key``.
        merge: makes one entry of the version in line and a newer one of the same key; must
            be quick and not call the queue. By default the rule of the repository's table, or
            ``merge_entries`` for ``ProvcacheEntry``; otherwise the newer version wins.
        dead_letters: takes the entries that the store refuses. Without it such an entry is logged
            by its key and counted, and its payload is lost.
        wall_clock: stamps metrics and dead letters with an aware datetime; by default the
            system's clock in UTC, which also replaces one that raises later on. All waiting uses
            trio's clock.
        telemetry: reports every batch: a ``provcache_trio.otel.OpenTelemetry``, which any number
            of queues may share.
        journal: keeps accepted entries on disk, so that a crash of the process loses none; see
            ``provcache_trio.journal``. Entries that a dead process left in it are replayed before
            anything new is accepted, and leaving the block writes them, too. Open it around the
            queue.

    Returns:
        A context manager to enter once, with ``async with``, and to leave in the same trio task.

    Raises:
        TypeError: an argument has the wrong type; or the repository, the journal and the dead
            letters state different types of entries by ``table`` or ``entry_type``.
        ValueError: ``name`` is empty, or ``wall_clock`` returns naive datetimes.
        DrainTimeoutError: at exit: entries were left when the time was up, and no journal keeps
            them. Also instead of Cancelled; if the block raised, its exception goes on with a
            note.
        RuntimeError: at entry: the journal serves another queue. At exit: the task that leaves is
            not the one that entered, as when an async generator that was left open is closed;
            the queue stays open.
        WriteBehindCrashedError: at exit: a background task crashed three times with nothing
            persisted in between. The block is cancelled when that happens, and the exception
            that it raised is the error's ``__context__``.
    """
    _check_arguments(repository, options, name, dead_letters)
    if journal is not None:
        _check_method("journal", journal, "append")
    if telemetry is not None and not callable(getattr(telemetry, "flush", None)):
        raise TypeError(f"telemetry must be an OpenTelemetry, not {type(telemetry).__name__}")
    check_entry_types(repository=repository, journal=journal, dead_letters=dead_letters)
    for argument, value in (("key", key), ("merge", merge), ("wall_clock", wall_clock)):
        if value is not None and not callable(value):
            raise TypeError(f"{argument} must be callable, not {type(value).__name__}")
    # A wrapper of a repository forwards ``table``; another class may use that name differently.
    table = getattr(repository, "table", None)
    declared = cast("Table[E]", table) if isinstance(table, Table) else None
    if declared is not None:
        key, merge = key or declared.key, merge or declared.merge
    wall_clock = _utc_now if wall_clock is None else wall_clock
    _check_time(wall_clock())
    return _Opening(
        Setup(
            repository=repository,
            options=options,
            name=name,
            key=by_veri_key if key is None else key,
            merge=merge,
            dead_letters=dead_letters,
            wall_clock=wall_clock,
            telemetry=telemetry,
            journal=journal,
            table=declared,
        )
    )


def open_relaying_queue(
    repository: Repository[E],
    options: WriteBehindOptions,
    source: Source[E],
    *,
    name: str,
    dead_letters: DeadLetterSink[E] | None,
    telemetry: Telemetry | None,
) -> Opening[WriteBehindQueue[E]]:
    """Open a queue that takes its entries from ``source`` alone; nobody may call it.

    Entries that it could not write stay with the source, so leaving raises no DrainTimeoutError.

    Raises:
        TypeError, ValueError: as for ``open_write_behind_queue``.
    """
    _check_arguments(repository, options, name, dead_letters)
    check_entry_types(stream=source, repository=repository, dead_letters=dead_letters)
    table: Table[E] | None = getattr(repository, "table", None)
    return _Opening(
        Setup(
            repository=repository,
            options=options,
            name=name,
            key=by_veri_key if table is None else table.key,
            merge=None if table is None else table.merge,
            dead_letters=dead_letters,
            wall_clock=_utc_now,
            telemetry=telemetry,
            journal=None,
            source=source,
        )
    )


def _check_arguments(repository: object, options: object, name: object, sink: object) -> None:
    _check_method("repository", repository, "upsert_many")
    if not isinstance(options, WriteBehindOptions):
        raise TypeError(f"options must be WriteBehindOptions, not {type(options).__name__}")
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("name must not be empty")
    if sink is not None:
        _check_method("dead_letters", sink, "put_many")


def _check_method(argument: str, value: object, method: str) -> None:
    if isinstance(value, Opening):
        raise TypeError(
            f"{argument} is not open yet: give what 'async with {value.function}(...) as "
            f"{argument}:' gives"
        )
    if not callable(getattr(value, method, None)):
        kind = type(value).__name__
        raise TypeError(f"{argument} must have a method {method}; {kind} has none")


def _check_time(now: object) -> None:
    if not isinstance(now, datetime):
        raise TypeError(f"wall_clock must return a datetime, not {type(now).__name__}")
    if now.utcoffset() is None:
        raise ValueError("wall_clock must return an aware datetime, not a naive one")


def _utc_now() -> datetime:
    return datetime.now(UTC)


@final
class _Opening(Opening["WriteBehindQueue[E]"], Generic[E]):
    """A queue's life, from ``__aenter__`` to ``__aexit__``."""

    what = "a queue"
    function = "open_write_behind_queue"
    one_task = True

    def __init__(self, setup: Setup[E]) -> None:
        self._setup = setup
        self._life: Life[E]

    async def _open(self) -> WriteBehindQueue[E]:
        # Nothing here yields, so a queue is either open or not.
        parts = assemble(self._setup)
        parts.note_opened()
        manager = trio.open_nursery(strict_exception_groups=True)
        # Not `async with`: what the body raises must not pass through our nursery.
        nursery = await manager.__aenter__()
        self._life = Life(parts, manager, nursery)
        nursery.start_soon(self._life.host, name=f"{__name__}: queue {self._setup.name!r}")
        return parts.queue

    async def _close(self, error: BaseException | None, /) -> None:
        await self._life.leave(error)
