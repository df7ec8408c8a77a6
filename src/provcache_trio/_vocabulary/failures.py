"""What a failed call of a repository or a sink comes to."""

from __future__ import annotations

import enum
from typing import NamedTuple, cast

from .errors import EntryRejectedError


class Kind(enum.IntEnum):
    """What to do; of several leaves of a group, the lowest decides."""

    CRASH = -1  # no answer of a store: the task that called it ends
    MISCONFIGURED = 0  # keep, wait, and tell a person
    UNAVAILABLE = 1  # keep and wait, without end
    UNKNOWN = 2  # retry, then isolate
    TRANSIENT = 3  # retry, then dead-letter
    REJECTED = 4  # isolate


class Failure(NamedTuple):
    """A failed call, without the exception's message, which may quote a row."""

    kind: Kind
    error: BaseException
    error_class: str
    sqlstate: str | None
    constraint: str | None
    position: int | None  # of the refused entry, where the store tells

    def described(self) -> str:
        """Name the error: its class and, if there is one, its SQLSTATE."""
        sqlstate = f", SQLSTATE {self.sqlstate}" if self.sqlstate else ""
        return f"{self.error_class}{sqlstate}"

    def rejection(self) -> EntryRejectedError:
        """Return an error for one waiting caller; each needs its own object."""
        error = EntryRejectedError(
            f"the store refused the entry ({self.described()})",
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
