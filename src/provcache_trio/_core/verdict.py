"""What an exception of a repository means to the queue."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

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

_OUR_CODE: Final = __name__.rpartition(".")[0]


class Verdict(NamedTuple):
    """What an exception means; of several, the lowest one decides."""

    kind: Kind
    # The store was at work when time, memory or room ran out.
    too_slow: bool = False
    # The store was closed.
    closed: bool = False


_CRASH: Final = Verdict(Kind.CRASH)
_PERSON: Final = Verdict(Kind.MISCONFIGURED)
_AWAY: Final = Verdict(Kind.UNAVAILABLE)
_TOO_SLOW: Final = Verdict(Kind.UNAVAILABLE, too_slow=True)

# The first class that an exception is an instance of decides.
VERDICTS: Final[tuple[tuple[type[BaseException], Verdict], ...]] = (
    (StoreMisconfiguredError, _PERSON),
    # Or too slow, if the error says so itself.
    (StoreUnavailableError, _AWAY),
    # With an errno it is the network's; see ``_verdict_on``.
    (TimeoutError, _TOO_SLOW),
    (OSError, _AWAY),
    (trio.TooSlowError, _TOO_SLOW),
    (MemoryError, _TOO_SLOW),
    # Raised by a full queue that serves as a store.
    (trio.WouldBlock, _TOO_SLOW),
    # Raised by a closed store, or by a closed queue that serves as a store.
    (trio.ClosedResourceError, Verdict(Kind.MISCONFIGURED, closed=True)),
    (trio.BrokenResourceError, _AWAY),
    (trio.BusyResourceError, _AWAY),
    (EOFError, _AWAY),
    (TransientStoreError, Verdict(Kind.TRANSIENT)),
    (EntryRejectedError, Verdict(Kind.REJECTED)),
    (Exception, Verdict(Kind.UNKNOWN)),
    # An interrupt cut the call short, so the outcome is unknown.
    (KeyboardInterrupt, _AWAY),
    # Raised by the repository itself; our own Cancelled is re-raised in ``result_of``. A
    # repository that cancels itself (asyncio bridges can) must not end the writer as if the
    # queue had been cancelled.
    (trio.Cancelled, Verdict(Kind.UNKNOWN)),
)


def classify(error: BaseException, owner: object = None) -> Failure:
    """Return what ``error``, raised by a method of ``owner``, means."""
    verdict, decisive = min(
        ((_verdict_on(leaf), leaf) for leaf in leaves_of(error)), key=lambda ranked: ranked[0]
    )
    failure = Failure(
        kind=verdict.kind,
        error=decisive,
        error_class=type(decisive).__qualname__,
        sqlstate=None,
        constraint=None,
        position=None,
        too_slow=verdict.too_slow,
        closed=verdict.closed,
        where=_place_in(owner, decisive) if verdict.kind is Kind.UNKNOWN else None,
    )
    if not isinstance(decisive, (StoreError, EntryRejectedError)):
        return failure
    return failure._replace(
        error_class=decisive.error_class or failure.error_class,
        sqlstate=decisive.sqlstate,
        constraint=decisive.constraint,
        # A built-in store's message names the place itself, if it matters.
        where=None if decisive.reason else failure.where,
        position=decisive.index if isinstance(decisive, EntryRejectedError) else None,
    )


async def result_of(
    call: Callable[[], Awaitable[T]], scope: trio.CancelScope, owner: object = None
) -> T | Failure:
    """Await foreign code, a method of ``owner``; return its result, or what its exception means.

    A KeyboardInterrupt caught by a task of the foreign code is passed on to the main task.

    Raises:
        trio.Cancelled: ``scope`` is cancelled; whatever else was raised does not matter.
        BaseException: the foreign code crashed (see ``classify``).
    """
    try:
        return await call()
    except BaseException as error:  # noqa: ASYNC103  # ours is raised again below
        if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves_of(error)):
            # A task of the foreign code caught an interrupt that is meant for the main task. Our
            # tasks are protected, so raising the signal again sends it there.
            signal.raise_signal(signal.SIGINT)
        if scope.cancel_called:
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102  # only to raise
        failure = classify(error, owner)
        if failure.kind is Kind.CRASH:
            raise
        return failure  # noqa: ASYNC104


def _verdict_on(leaf: BaseException) -> Verdict:
    for cls, verdict in VERDICTS:
        if isinstance(leaf, cls):
            if cls is StoreUnavailableError and getattr(leaf, "too_slow", False) is True:
                return _TOO_SLOW
            # ETIMEDOUT: a connection was lost, or never made.
            if cls is TimeoutError and getattr(leaf, "errno", None) is not None:
                return _AWAY
            return verdict
    return _CRASH


def _place_in(owner: object, error: BaseException) -> str | None:
    """Return file and line of the innermost frame of the owner's own code.

    That is code of the package of its class, or else the outermost code that is not ours.
    """
    package = type(owner).__module__.partition(".")[0]
    outermost: str | None = None
    innermost: str | None = None
    traceback = error.__traceback__
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if not module.startswith(_OUR_CODE):
            place = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
            outermost = outermost or place
            if module.partition(".")[0] == package:
                innermost = place
        traceback = traceback.tb_next
    return innermost or outermost
