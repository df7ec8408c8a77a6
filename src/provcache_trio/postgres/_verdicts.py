"""What an error of asyncpg means to the queue, and to the connection."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from asyncpg.exceptions import (
    ClientConfigurationError,
    PostgresError,
    TargetServerAttributeNotMatched,
)

from provcache_trio._vocabulary.errors import (
    EntryRejectedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Meaning: TypeAlias = (
    type[StoreError]
    | type[StoreUnavailableError]
    | type[StoreMisconfiguredError]
    | type[TransientStoreError]
    | type[EntryRejectedError]
)


class Verdict(NamedTuple):
    """What an error means.

    Attributes:
        meaning: the class to raise; StoreError itself stands for "unknown".
        keep: whether the connection is as good as before.
    """

    meaning: Meaning
    keep: bool


_AWAY: Final = Verdict(StoreUnavailableError, keep=False)
_BUSY: Final = Verdict(StoreUnavailableError, keep=True)
_ROLLED_BACK: Final = Verdict(TransientStoreError, keep=True)
_REFUSED: Final = Verdict(EntryRejectedError, keep=True)
_PERSON: Final = Verdict(StoreMisconfiguredError, keep=False)
_UNKNOWN: Final = Verdict(StoreError, keep=False)

# By SQLSTATE, and by its first two characters for what is not listed in full.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
VERDICTS: Final[Mapping[str, Verdict]] = {
    "08": _AWAY,  # connection exceptions
    "08P01": _PERSON,  # protocol violation: that is no PostgreSQL, or a pooler in the way
    "0A": _PERSON,  # feature not supported
    "21": _UNKNOWN,  # cardinality violation: a key twice, which is merged before
    "22": _REFUSED,  # data exceptions
    "2200H": _PERSON,  # a sequence is used up: of a column that somebody added
    "23": _REFUSED,  # constraints
    "25006": _AWAY,  # read-only: this server is a standby, after a failover perhaps
    "25P03": _AWAY,  # the server ended an idle transaction
    "25P04": _AWAY,  # the server ended a long transaction
    "26000": _PERSON,  # no such prepared statement: a pooler, without pgbouncer=True
    "28": _PERSON,  # password, pg_hba.conf
    "3D000": _PERSON,  # no such database
    "3F000": _PERSON,  # no such schema
    "40": _ROLLED_BACK,  # serialization failure, deadlock
    "40003": _BUSY,  # statement completion unknown
    "42": _PERSON,  # syntax and access: no such table or column, no grant
    "44000": _REFUSED,  # WITH CHECK OPTION
    "53": _AWAY,  # disk full, out of memory, too many connections
    "54000": _REFUSED,  # program limit: a value too long for somebody's index
    "55": _PERSON,  # not in the right state, such as a publication without replica identity
    "55006": _BUSY,  # object in use
    "55P03": _BUSY,  # lock_timeout: somebody holds a row or the table
    "57014": _BUSY,  # statement_timeout, or an administrator cancelled; see ``translated``
    "57": _AWAY,  # shutting down, crashed, starting, idle session ended
    "57P04": _PERSON,  # the database was dropped
    "58": _AWAY,  # I/O error
    "72": _ROLLED_BACK,  # snapshot too old
    "P0": _REFUSED,  # RAISE and the like, in somebody's trigger
    "XX001": _PERSON,  # data corrupted
    "XX002": _PERSON,  # index corrupted
}
_CUT_OFF: Final = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)
# Where 54000 means, not that a value is too long, but that the server has to be vacuumed by a
# person before it writes again.
_NO_IDS_LEFT: Final = frozenset({"GetNewTransactionId", "GetNewMultiXactId"})
# Where 23514 means that there is no partition for the row, so that somebody has to attach one; or
# that the table is itself a partition, and the row belongs into another.
_NO_PARTITION: Final = frozenset({"ExecFindPartition", "ExecPartitionCheckEmitError"})


def verdict_of(error: Exception, *, connected: bool, pgbouncer: bool = False) -> Verdict:
    """Return what ``error`` means.

    Args:
        error: what asyncpg, or asyncio below it, raised.
        connected: whether there was a connection; without one, nothing can have been stored.
        pgbouncer: there is a PgBouncer in between.
    """
    if isinstance(error, PostgresError):
        if pgbouncer and error.sqlstate == "08P01":
            return _AWAY  # how it tells that the server is away
        verdict = _verdict_of_server(error)
        # Before there is a connection, it is the schema that was refused, not an entry.
        return verdict if connected or verdict is not _REFUSED else _PERSON
    if isinstance(error, TargetServerAttributeNotMatched):
        return _AWAY  # in a failover, there is no primary for a moment
    # The last is a time beyond the year 9999 that somebody else has stored.
    if isinstance(error, (ssl.CertificateError, ClientConfigurationError, OverflowError)):
        return _PERSON
    # A file that is no certificate, the key of another, versions of TLS that do not meet.
    of_tls = isinstance(error, ssl.SSLError) and not isinstance(error, _CUT_OFF)
    # OSError and TimeoutError. And asyncpg's own: on a connection that the server ended it
    # may raise InternalClientError or InterfaceError, whatever the call was.
    away = connected or (isinstance(error, OSError) and not of_tls)
    return _AWAY if away else _PERSON


def _verdict_of_server(error: PostgresError) -> Verdict:
    if type(error).__name__ == "InvalidCachedStatementError":  # 0A000, like much else
        return _ROLLED_BACK  # the table was altered; asyncpg has dropped the plan
    if error.server_source_function in _NO_IDS_LEFT:
        return _PERSON
    if error.sqlstate == "23514" and error.server_source_function in _NO_PARTITION:
        return Verdict(StoreMisconfiguredError, keep=True)
    state = error.sqlstate or ""
    return VERDICTS.get(state) or VERDICTS.get(state[:2]) or _UNKNOWN


def timed_out(error: Exception) -> bool:
    """Return whether time ran out for a statement on our side, not for the network below it."""
    return isinstance(error, TimeoutError) and error.errno is None


def translated(
    error: Exception, verdict: Verdict, *, too_slow: bool = False
) -> StoreError | EntryRejectedError:
    """Return the error to raise, which holds names only: no row, no connection string.

    Args:
        error: what was raised.
        verdict: what it means.
        too_slow: the server was at work when the time that we give it ran out.
    """
    name = type(error).__name__
    if too_slow:
        return StoreUnavailableError(
            f"the statement took too long ({name})",
            too_slow=True,
            error_class=name,
            sqlstate=error.sqlstate if isinstance(error, PostgresError) else None,
        )
    if not isinstance(error, PostgresError):
        # SSLCertVerificationError has the code of OpenSSL; none of these has an SQLSTATE.
        return verdict.meaning(f"asyncpg reported {name}", error_class=name)
    state = error.sqlstate
    return verdict.meaning(
        f"PostgreSQL reported {state} ({name})",
        error_class=name,
        sqlstate=state,
        constraint=_name(error.constraint_name),
        table=_name(error.table_name),
        column=_name(error.column_name),
    )


def _name(value: object) -> str | None:
    return value if isinstance(value, str) else None
