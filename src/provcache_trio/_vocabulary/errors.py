"""The tree of errors: those that a repository may raise, and those that a caller may see."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from .metrics import WriteBehindMetrics

E = TypeVar("E", bound="_DriverError")


class ProvcacheError(Exception):
    """Base of every error that this package defines."""


class QueueClosedError(ProvcacheError, trio.ClosedResourceError):
    """The queue takes no more entries, or abandoned an entry that the caller waits for.

    Attributes:
        accepted: how many entries ``enqueue_many`` had accepted; None from any other call.
    """

    def __init__(self, message: str, *, accepted: int | None = None) -> None:
        super().__init__(message)
        self.accepted = accepted


class _DriverError(ProvcacheError):
    """A database driver's error without its message.

    A driver's message may quote the row or the connection string, so only these names are kept.

    Attributes:
        error_class: name of the driver's exception class, or None.
        sqlstate: five-character SQLSTATE, or None.
        constraint: name of the violated constraint, or None.
        table: name of the table, or None.
        column: name of the column, or None.
        reason: the message, if it may be logged because it quotes neither a row nor a secret; or
            None. The built-in stores set it. Without it, the error is logged without a message.
    """

    # Also for a subclass whose __init__ does not call ours.
    reason: str | None = None
    error_class: str | None = None
    sqlstate: str | None = None
    constraint: str | None = None
    table: str | None = None
    column: str | None = None

    def __init__(
        self,
        message: str,
        *,
        error_class: str | None = None,
        sqlstate: str | None = None,
        constraint: str | None = None,
        table: str | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.table = table
        self.column = column


def reworded(error: E, message: str) -> E:
    """Return ``error`` with ``message``, which may be logged as it quotes no row and no secret."""
    error.args = (message,)
    error.reason = message
    return error


class EntryRejectedError(_DriverError):
    """One entry can't be stored; the others of its batch can.

    A repository raises it, and ``persist`` raises it for that entry.

    Attributes:
        index: position of the entry in the sequence given to ``upsert_many``, if it is known;
            a hint, which the queue checks by writing that entry alone. None: the queue finds
            the entry by halving.
        field: name of the field whose value can't be stored, or None.
        local: whether the repository itself found that out, before the store was asked. Such a
            refusal shows nothing about the store, so however many there are, the queue does not
            blame the store for them.
    """

    index: int | None = None
    field: str | None = None
    local: bool = False

    def __init__(
        self,
        message: str,
        *,
        index: int | None = None,
        field: str | None = None,
        local: bool = False,
        error_class: str | None = None,
        sqlstate: str | None = None,
        constraint: str | None = None,
        table: str | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(
            message,
            error_class=error_class,
            sqlstate=sqlstate,
            constraint=constraint,
            table=table,
            column=column,
        )
        self.index = index
        self.field = field
        self.local = local


def unfit(
    reason: str,
    *,
    index: int | None = None,
    field: str | None = None,
    error_class: str | None = None,
    table: str | None = None,
    column: str | None = None,
) -> EntryRejectedError:
    """Return the error for an entry that can't be stored, whatever the store.

    Args:
        reason: why; it names fields and types, and never quotes the entry, so it is logged and kept.
        index: see ``EntryRejectedError``.
        field: see there.
        error_class: see there.
        table: see there.
        column: see there.
    """
    error = EntryRejectedError(
        reason,
        index=index,
        field=field,
        local=True,
        error_class=error_class,
        table=table,
        column=column,
    )
    error.reason = reason
    return error


class StoreError(_DriverError):
    """A call failed because of the store, not because of an entry."""


class StoreUnavailableError(StoreError):
    """The store can't be reached, is locked, or the outcome of the call is unknown.

    The queue keeps the batch and tries again without end.

    Attributes:
        too_slow: the store was working on the call when time ran out, so fewer entries at a
            time may help. After three such calls in a row the queue halves the batch. Never set
            for a connection that was not made, a lock, or a silent network.
    """

    # Also for a subclass whose __init__ does not call ours.
    too_slow: bool = False

    def __init__(
        self,
        message: str,
        *,
        too_slow: bool = False,
        error_class: str | None = None,
        sqlstate: str | None = None,
        constraint: str | None = None,
        table: str | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(
            message,
            error_class=error_class,
            sqlstate=sqlstate,
            constraint=constraint,
            table=table,
            column=column,
        )
        self.too_slow = too_slow


class StoreMisconfiguredError(StoreUnavailableError):
    """The store needs a person: a missing table, a wrong password, a newer schema."""


class TransientStoreError(StoreError):
    """The server rolled this attempt back (deadlock, serialization); trying again may work."""


class JournalError(ProvcacheError):
    """The journal could not make an entry safe on disk."""


class _UndeliveredError(ProvcacheError):
    """The queue ended with entries that are not known to be stored.

    Attributes:
        undelivered: every such entry, oldest batch first.
        metrics: the queue's last metrics.
    """

    def __init__(
        self, message: str, *, undelivered: tuple[object, ...], metrics: WriteBehindMetrics
    ) -> None:
        super().__init__(message)
        self.undelivered = undelivered
        self.metrics = metrics

    def __reduce__(self) -> tuple[object, ...]:
        # By default an exception is copied and unpickled with its positional arguments only.
        make = partial(type(self), undelivered=self.undelivered, metrics=self.metrics)
        return make, self.args, self.__dict__


class DrainTimeoutError(_UndeliveredError):
    """The drain ended before everything was written, as its time was up or more time could not help.

    Attributes:
        undelivered: every entry that is not known to be stored, oldest batch first.
        metrics: the queue's last metrics.
    """


class WriteBehindCrashedError(_UndeliveredError):
    """A background task crashed three times with nothing persisted in between, so the queue ended.

    Attributes:
        undelivered: every entry that is not known to be stored, oldest batch first.
        metrics: the queue's last metrics.
    """
