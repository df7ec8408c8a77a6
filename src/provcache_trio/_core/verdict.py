"""What an exception of a repository means to the queue."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from provcache_trio._vocabulary.errors import (
    EntryRejectedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
)
from provcache_trio._vocabulary.failures import Failure, Kind, leaves_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


_KINDS: Final[tuple[tuple[type[BaseException], Kind], ...]] = (
    (StoreMisconfiguredError, Kind.MISCONFIGURED),
    (StoreUnavailableError, Kind.UNAVAILABLE),
    (OSError, Kind.UNAVAILABLE),  # TimeoutError is one
    (trio.TooSlowError, Kind.UNAVAILABLE),
    (TransientStoreError, Kind.TRANSIENT),
    (EntryRejectedError, Kind.REJECTED),
    (Exception, Kind.UNKNOWN),
    (KeyboardInterrupt, Kind.UNAVAILABLE),  # it cut the call short: outcome unknown
    # Ours is not: the writer lets that one pass. A repository that cancels itself (asyncio
    # bridges can) must not end the writer as if the queue had been told to stop.
    (trio.Cancelled, Kind.UNKNOWN),
)


def classify(error: BaseException) -> Failure:
    """Say what ``error`` means."""
    kind, decisive = min(
        ((_kind_of(leaf), leaf) for leaf in leaves_of(error)), key=lambda ranked: ranked[0]
    )
    if isinstance(decisive, (StoreError, EntryRejectedError)):
        return Failure(
            kind=kind,
            error=decisive,
            error_class=decisive.error_class or type(decisive).__qualname__,
            sqlstate=decisive.sqlstate,
            constraint=decisive.constraint,
            position=decisive.index if isinstance(decisive, EntryRejectedError) else None,
        )
    return Failure(
        kind=kind,
        error=decisive,
        error_class=type(decisive).__qualname__,
        sqlstate=None,
        constraint=None,
        position=None,
    )


async def result_of(call: Callable[[], Awaitable[T]], scope: trio.CancelScope) -> T | Failure:
    """Await foreign code and return its result or what its exception means.

    A KeyboardInterrupt that a task of its own has caught is handed on to the main task.

    Raises:
        trio.Cancelled: ``scope`` is cancelled; whatever else was raised does not matter.
        BaseException: the foreign code crashed (see ``classify``).
    """
    try:
        return await call()
    except BaseException as error:  # noqa: ASYNC103  # ours is raised again below
        if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves_of(error)):
            # A task of the foreign code's own caught what is meant for the main task. Ours
            # are protected, so this hands it on.
            signal.raise_signal(signal.SIGINT)
        if scope.cancel_called:
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102  # only to raise
        failure = classify(error)
        if failure.kind is Kind.CRASH:
            raise
        return failure  # noqa: ASYNC104


def _kind_of(leaf: BaseException) -> Kind:
    for cls, kind in _KINDS:
        if isinstance(leaf, cls):
            return kind
    return Kind.CRASH
