"""What a SQLSTATE of PostgreSQL means to the queue, whichever driver reports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from .checks import check_text
from .errors import (
    EntryRejectedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Reported: TypeAlias = (
    type[StoreError]
    | type[StoreUnavailableError]
    | type[StoreMisconfiguredError]
    | type[TransientStoreError]
    | type[EntryRejectedError]
)


class Meaning(NamedTuple):
    """What a SQLSTATE means.

    Attributes:
        error: the class to raise; StoreError itself stands for "unknown".
        keep: whether the connection is as good as before.
    """

    error: Reported
    keep: bool


AWAY: Final = Meaning(StoreUnavailableError, keep=False)
_BUSY: Final = Meaning(StoreUnavailableError, keep=True)
ROLLED_BACK: Final = Meaning(TransientStoreError, keep=True)
REFUSED: Final = Meaning(EntryRejectedError, keep=True)
PERSON: Final = Meaning(StoreMisconfiguredError, keep=False)
UNKNOWN: Final = Meaning(StoreError, keep=False)

# By SQLSTATE; by its first two characters for states that are not listed in full.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
MEANINGS: Final[Mapping[str, Meaning]] = {
    "08": AWAY,  # connection exceptions
    "08P01": PERSON,  # protocol violation: that is no PostgreSQL, or a pooler in the way
    "0A": PERSON,  # feature not supported
    "21": UNKNOWN,  # cardinality violation: a key twice, which is merged before
    "22": REFUSED,  # data exceptions
    "2200H": PERSON,  # a sequence is used up: of a column that somebody added
    "23": REFUSED,  # constraints
    "23503": ROLLED_BACK,  # a foreign key: what it refers to may still be on its way
    "25006": AWAY,  # read-only: this server is a standby, after a failover perhaps
    "25P03": AWAY,  # the server ended an idle transaction
    "25P04": AWAY,  # the server ended a long transaction
    "26000": PERSON,  # no such prepared statement: a pooler, without pgbouncer=True
    "28": PERSON,  # password, pg_hba.conf
    "3D000": PERSON,  # no such database
    "3F000": PERSON,  # no such schema
    "40": ROLLED_BACK,  # serialization failure, deadlock
    "40003": _BUSY,  # statement completion unknown
    "42": PERSON,  # syntax and access: no such table or column, no grant
    "44000": REFUSED,  # WITH CHECK OPTION
    "53": AWAY,  # disk full, out of memory, too many connections
    "54000": REFUSED,  # program limit: a value too long for a user's index
    "55": PERSON,  # not in the right state, such as a publication without replica identity
    "55006": _BUSY,  # object in use
    "55P03": _BUSY,  # lock_timeout: somebody holds a row or the table
    "57014": _BUSY,  # statement_timeout, or an administrator cancelled; and the caller knows which
    "57": AWAY,  # shutting down, crashed, starting, idle session ended
    "57P04": PERSON,  # the database was dropped
    "58": AWAY,  # I/O error
    "72": ROLLED_BACK,  # snapshot too old
    "P0": REFUSED,  # RAISE and the like, in a user's trigger
    "XX001": PERSON,  # data corrupted
    "XX002": PERSON,  # index corrupted
}
# By SQLSTATE and the function of the server that reports it, where that makes a difference.
_BY_FUNCTION: Final[Mapping[tuple[str, str], Meaning]] = {
    # There is no partition for the row, so a person has to attach one.
    ("23514", "ExecFindPartition"): Meaning(StoreMisconfiguredError, keep=True),
    # The table is itself a partition, and the row belongs into another.
    ("23514", "ExecPartitionCheckEmitError"): Meaning(StoreMisconfiguredError, keep=True),
    # The row breaks a policy of row security. Otherwise a grant is missing.
    ("42501", "ExecWithCheckOptions"): REFUSED,
    # The newer version belongs into another partition.
    ("0A000", "ExecCrossPartitionUpdate"): REFUSED,
    # Not a value that is too long: a person has to vacuum before the server writes again.
    ("54000", "GetNewTransactionId"): PERSON,
    ("54000", "GetNewMultiXactId"): PERSON,
}

# What a person reads; by SQLSTATE, and by its first two characters.
_WORDS: Final[Mapping[str, str]] = {
    "08": "the connection failed",
    "08P01": "what answers there is no PostgreSQL, or a pooler that needs pgbouncer=True",
    "0A": "the server does not support that",
    "22": "a value does not fit its column",
    "22001": "a text is too long for its column",
    "22003": "a number is too large for its column",
    "22023": "a run-time parameter has a wrong value",
    "23": "a constraint refuses the row",
    "23502": "a column that must not be NULL gets no value",
    "23503": "a foreign key refers to a row that is not there",
    "23505": "a unique index has the value already",
    "23514": "a check constraint refuses the row, or there is no partition for it",
    "25006": "the server may only be read now",
    "26000": "prepared statements get lost: a pooler needs pgbouncer=True",
    "28": "the server does not let this user in",
    "28P01": "the password is wrong",
    "3D000": "there is no such database",
    "3F000": "there is no such schema",
    "40": "the transaction was rolled back",
    "40P01": "a deadlock was resolved by a roll-back",
    "42501": "a grant is missing",
    "42703": "there is no such column",
    "42704": "the server does not know a name that was given",
    "42804": "a column has another type",
    "42P01": "there is no such table",
    "42P05": "prepared statements collide: a pooler needs pgbouncer=True",
    "42P10": "no unique index is on exactly the key",
    "53": "the server has run out of something",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has no connection left",
    "55006": "it is in use",
    "55P03": "somebody holds a lock",
    "57014": "the statement was cancelled, by a time limit or by somebody",
    "57P01": "the server shuts down, or somebody ended the connection",
    "57P02": "the server crashed",
    "57P03": "the server is starting or shutting down",
    "57P04": "the database was dropped",
    "57P05": "the server ended an idle connection",
    "58": "the server's disk or system fails",
    "P0": "a trigger or a function refuses the row",
    "XX001": "the server's data is corrupted",
    "XX002": "an index of the server is corrupted",
}


def words_for(sqlstate: str) -> str:
    """Return what ``sqlstate`` means in plain words, or nothing."""
    return _WORDS.get(sqlstate) or _WORDS.get(sqlstate[:2], "")


def meaning_of(sqlstate: str, function: str | None = None) -> Meaning:
    """Return what ``sqlstate`` means, reported by that function of the server."""
    exactly = _BY_FUNCTION.get((sqlstate, function)) if function is not None else None
    return exactly or MEANINGS.get(sqlstate) or MEANINGS.get(sqlstate[:2]) or UNKNOWN


def store_error_of(
    sqlstate: str,
    *,
    error_class: str | None = None,
    function: str | None = None,
    constraint: str | None = None,
) -> StoreError | EntryRejectedError:
    """Return the error that a repository of your own should raise for an error of PostgreSQL.

    Raise it ``from None``: a driver's error may quote the row. With psycopg::

        except psycopg.Error as error:
            if error.sqlstate is None:
                raise StoreUnavailableError("no answer", error_class=type(error).__name__) from None
            diagnosis = error.diag
            raise store_error_of(
                error.sqlstate,
                error_class=type(error).__name__,
                function=diagnosis.source_function,
                constraint=diagnosis.constraint_name,
            ) from None

    Args:
        sqlstate: its five-character code.
        error_class: name of the driver's exception class.
        function: name of the server's function that reported it, if the driver knows it; it
            decides between the two meanings of a few codes.
        constraint: name of the violated constraint, if there is one.

    Returns:
        A ``StoreUnavailableError``, ``StoreMisconfiguredError``, ``TransientStoreError`` or
        ``EntryRejectedError``; for a code that means nothing to the queue a plain
        ``StoreError``, which counts as unknown.

    Raises:
        TypeError: ``sqlstate`` is not a str.
        ValueError: ``sqlstate`` is empty.
    """
    check_text("sqlstate", sqlstate)
    of_class = f" ({error_class})" if error_class is not None else ""
    words = f": {found}" if (found := words_for(sqlstate)) else ""
    return meaning_of(sqlstate, function).error(
        f"PostgreSQL reported {sqlstate}{of_class}{words}",
        error_class=error_class,
        sqlstate=sqlstate,
        constraint=constraint,
    )
