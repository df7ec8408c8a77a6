"""What a failed call of a repository or a sink comes to."""

from __future__ import annotations

import enum
from typing import NamedTuple, cast

from .errors import EntryRejectedError, StoreError


class Kind(enum.IntEnum):
    """What to do; of several leaves of a group, the lowest decides."""

    CRASH = -1  # no answer of a store: the task that called it ends
    MISCONFIGURED = 0  # keep, wait, and tell a person
    UNAVAILABLE = 1  # keep and wait, without end
    UNKNOWN = 2  # retry once, halve, and wait for evidence
    TRANSIENT = 3  # retry, then halve
    REJECTED = 4  # isolate


class Failure(NamedTuple):
    """A failed call, without the exception's message, which may quote a row."""

    kind: Kind
    error: BaseException
    error_class: str
    sqlstate: str | None
    constraint: str | None
    position: int | None  # of the refused entry, where the store tells
    too_slow: bool = False  # the store was at work; fewer entries at a time may do
    closed: bool = False  # the store was closed, and nobody will open it for us
    where: str | None = None  # file and line in the repository, of an unknown error

    def described(self) -> str:
        """Name the error: all that is known of it, but for a message that may quote a row."""
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
        if reason:  # which may have some of it
            beside = [one for one in beside if one.rpartition(" ")[2] not in reason]
        where = f" at {self.where}" if self.where else ""
        return f"{reason or self.error_class}{''.join(beside)}{where}"

    @property
    def field(self) -> str | None:
        """Return the name of the field that can't be stored, if the store tells."""
        field: object = getattr(self.error, "field", None)
        return field if isinstance(field, str) else None

    def rejection(self) -> EntryRejectedError:
        """Return an error for one waiting caller; each needs its own object."""
        named = self._replace(where=None).described()
        error = EntryRejectedError(
            f"the store refused the entry ({named})",
            field=self.field,
            error_class=self.error_class,
            sqlstate=self.sqlstate,
            constraint=self.constraint,
            table=getattr(self.error, "table", None),
            column=getattr(self.error, "column", None),
        )
        error.__cause__ = self.error
        return error


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return the exceptions that are no groups, of a group of any depth."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for child in group.exceptions for leaf in leaves_of(child)]
