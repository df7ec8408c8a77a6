"""What an error of asyncpg means to the queue, and to the connection."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from asyncpg.exceptions import (
    ClientConfigurationError,
    PostgresError,
    TargetServerAttributeNotMatched,
)

from provcache_trio._vocabulary.errors import StoreUnavailableError
from provcache_trio._vocabulary.sqlstates import (
    AWAY,
    PERSON,
    REFUSED,
    ROLLED_BACK,
    Meaning,
    meaning_of,
)

if TYPE_CHECKING:
    from provcache_trio._vocabulary.errors import EntryRejectedError, StoreError

_CUT_OFF: Final = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)


def meaning_of_error(error: Exception, *, connected: bool, pgbouncer: bool = False) -> Meaning:
    """Return what ``error`` means.

    Args:
        error: what asyncpg, or asyncio below it, raised.
        connected: whether there was a connection; without one, nothing can have been stored.
        pgbouncer: there is a PgBouncer in between.
    """
    if isinstance(error, PostgresError):
        if pgbouncer and error.sqlstate == "08P01":
            return AWAY  # how it tells that the server is away
        meaning = _meaning_of_server(error)
        # Before there is a connection, it is the schema that was refused, not an entry.
        return meaning if connected or meaning is not REFUSED else PERSON
    if isinstance(error, TargetServerAttributeNotMatched):
        return AWAY  # in a failover, there is no primary for a moment
    # The last is a time beyond the year 9999 that somebody else has stored.
    if isinstance(error, (ssl.CertificateError, ClientConfigurationError, OverflowError)):
        return PERSON
    # A file that is no certificate, the key of another, versions of TLS that do not meet.
    of_tls = isinstance(error, ssl.SSLError) and not isinstance(error, _CUT_OFF)
    # OSError and TimeoutError. And asyncpg's own: on a connection that the server ended it
    # may raise InternalClientError or InterfaceError, whatever the call was.
    away = connected or (isinstance(error, OSError) and not of_tls)
    return AWAY if away else PERSON


def _meaning_of_server(error: PostgresError) -> Meaning:
    if type(error).__name__ == "InvalidCachedStatementError":  # 0A000, like much else
        return ROLLED_BACK  # the table was altered; asyncpg has dropped the plan
    function: object = error.server_source_function
    return meaning_of(error.sqlstate or "", _name(function))


def timed_out(error: Exception) -> bool:
    """Return whether time ran out for a statement on our side, not for the network below it."""
    return isinstance(error, TimeoutError) and error.errno is None


def translated(
    error: Exception, meaning: Meaning, *, too_slow: bool = False
) -> StoreError | EntryRejectedError:
    """Return the error to raise, which holds names only: no row, no connection string.

    Args:
        error: what was raised.
        meaning: what it means.
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
        return meaning.error(f"asyncpg reported {name}", error_class=name)
    state = error.sqlstate
    return meaning.error(
        f"PostgreSQL reported {state} ({name})",
        error_class=name,
        sqlstate=state,
        constraint=_name(error.constraint_name),
        table=_name(error.table_name),
        column=_name(error.column_name),
    )


def _name(value: object) -> str | None:
    return value if isinstance(value, str) else None
