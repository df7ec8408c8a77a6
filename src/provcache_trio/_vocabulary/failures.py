"""What a failed call of a repository or a sink means."""

from __future__ import annotations

import enum
import traceback
from typing import Final, NamedTuple, cast

from .errors import EntryRejectedError, StoreError

_PACKAGE: Final = __name__.partition(".")[0]


class Kind(enum.IntEnum):
    """What to do after a failure; of several errors in a group, the lowest kind decides."""

    # Not an answer of the store: the task that called it ends.
    CRASH = -1
    # Keep the batch, wait, and log an error, as a person is needed.
    MISCONFIGURED = 0
    # Keep the batch, and wait without end.
    UNAVAILABLE = 1
    # Retry once, halve, and wait for evidence.
    UNKNOWN = 2
    # Retry, then halve.
    TRANSIENT = 3
    # Isolate the entry.
    REJECTED = 4


class Failure(NamedTuple):
    """A failed call, without the exception's message, which may quote a row."""

    kind: Kind
    error: BaseException
    error_class: str
    sqlstate: str | None
    constraint: str | None
    # The position of the refused entry, if the store reports it.
    position: int | None
    # The store was at work; fewer entries at a time may help.
    too_slow: bool = False
    # The store was closed, and nothing will open it again.
    closed: bool = False
    # For an unknown error: file and line in the repository.
    where: str | None = None

    def described(self) -> str:
        """Describe the error by all that is known, except a message that may quote a row."""
        reason = ""
        if isinstance(self.error, (EntryRejectedError, StoreError)):
            reason = self.error.reason or ""
        facts = {
            "SQLSTATE": self.sqlstate,
            "field": self.field,
            "table": getattr(self.error, "table", None),
            "column": getattr(self.error, "column", None),
            "constraint": self.constraint,
        }
        beside = [f", {name} {known}" for name, known in facts.items() if known]
        # The reason may name some of these already.
        if reason:
            beside = [one for one in beside if one.rpartition(" ")[2] not in reason]
        where = f" at {self.where}" if self.where else ""
        return f"{reason or self.error_class}{''.join(beside)}{where}"

    @property
    def local(self) -> bool:
        """Return whether an entry was refused without asking the store, which so is not to blame."""
        return self.kind is Kind.REJECTED and getattr(self.error, "local", False) is True

    @property
    def own_reason(self) -> str | None:
        """Return why an entry was refused, if that may be kept: a server's words may quote a row."""
        reason: object = getattr(self.error, "reason", None) if self.local else None
        return reason if isinstance(reason, str) else None

    @property
    def field(self) -> str | None:
        """Return the name of the field that can't be stored, if it is known."""
        field: object = getattr(self.error, "field", None)
        return field if isinstance(field, str) else None

    def rejection(self) -> EntryRejectedError:
        """Return an error for one waiting caller; each needs its own object."""
        named = self._replace(where=None).described()
        error = EntryRejectedError(
            f"the store refused the entry ({named})",
            field=self.field,
            local=self.local,
            error_class=self.error_class,
            sqlstate=self.sqlstate,
            constraint=self.constraint,
            table=getattr(self.error, "table", None),
            column=getattr(self.error, "column", None),
        )
        error.reason = self.own_reason
        error.__cause__ = self.error
        return error


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group at any depth, without the groups themselves."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for child in group.exceptions for leaf in leaves_of(child)]


def described_defect(error: Exception) -> str:
    """Describe an error that neither a store nor a network raises, by its class and where it is from.

    The place is file and line of the innermost frame of this package. The message is not included,
    as it may quote a row.
    """
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith(_PACKAGE):
            place = f" at {frame.f_code.co_filename}:{line}"
    return f"a defect of {_PACKAGE} or its driver, to be reported: {type(error).__name__}{place}"
