"""What an error of asyncpg means to the queue, and to the connection."""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING, Final

from asyncpg.exceptions import (
    ClientConfigurationError,
    InterfaceError,
    InternalClientError,
    PostgresError,
    TargetServerAttributeNotMatched,
)

from provcache_trio._vocabulary.errors import StoreUnavailableError
from provcache_trio._vocabulary.failures import described_defect
from provcache_trio._vocabulary.sqlstates import (
    AWAY,
    PERSON,
    REFUSED,
    ROLLED_BACK,
    UNKNOWN,
    Meaning,
    meaning_of,
    words_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provcache_trio._vocabulary.errors import EntryRejectedError, StoreError

_ROOT_CERTIFICATE: Final = "root certificate file"
# Functions of the server whose messages name tables, columns, roles and the like, but no values.
_NAMES_ONLY: Final = frozenset(
    {
        "ClientAuthentication",  # no pg_hba.conf entry for host, user, database
        "InitPostgres",  # no such database
        "InitializeSessionUserId",  # no such role
        "aclcheck_error",  # permission denied for table
        "aclcheck_error_col",
        "auth_failed",  # for user
        "checkInsertTargets",  # no such column of relation
        "errorMissingColumn",
        "errorMissingRTE",
        "get_namespace_oid",  # no such schema
        "infer_arbiter_indexes",  # no unique index
        "nextval_internal",  # permission denied for sequence
        "parserOpenTable",  # no such relation
    }
)
# Raised by calls on a connection that was lost; TimeoutError is an OSError.
_LOST: Final = (OSError, EOFError, InternalClientError, InterfaceError)
# Raised while connecting, for arguments that can't be used.
_OF_ARGUMENTS: Final = (ValueError, OverflowError)
_CUT_OFF: Final = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)


def meaning_of_error(
    error: Exception, *, connected: bool, ended: bool = False, pgbouncer: bool = False
) -> Meaning:
    """Return what ``error`` means.

    Args:
        error: the exception that was raised: by asyncpg, by asyncio below it, or by a defect.
        connected: whether there was a connection; without one, nothing can have been stored.
        ended: whether that connection is known to be closed.
        pgbouncer: whether there is a PgBouncer in between.
    """
    if isinstance(error, PostgresError):
        if pgbouncer and error.sqlstate == "08P01":
            # This is how PgBouncer reports that the server is away.
            return AWAY
        meaning = _meaning_of_server(error)
        # Before there is a connection, the schema was refused, not an entry.
        return meaning if connected or meaning is not REFUSED else PERSON
    if isinstance(error, TargetServerAttributeNotMatched):
        # In a failover there is no primary for a moment.
        return AWAY
    # OverflowError: a time beyond the year 9999 that another program stored.
    if isinstance(error, (ssl.CertificateError, ClientConfigurationError, OverflowError)):
        return PERSON
    if connected:
        return AWAY if is_lost(error, ended=ended) else UNKNOWN
    # A file that is not a certificate, a wrong key, or no common version of TLS.
    of_tls = isinstance(error, ssl.SSLError) and not isinstance(error, _CUT_OFF)
    away = isinstance(error, OSError) and not of_tls and not _is_without_tls(error)
    return AWAY if away else PERSON


def is_lost(error: Exception, *, ended: bool) -> bool:
    """Return whether the connection was lost; ``ended``: it is closed by now.

    Any other error that is no ``PostgresError`` is a defect, which must not be waited for as if it were
    an outage.
    """
    # On a connection that has ended asyncpg may raise even AttributeError. On one that works,
    # InterfaceError means that it was called wrongly.
    return ended or (isinstance(error, _LOST) and not isinstance(error, InterfaceError))


def _meaning_of_server(error: PostgresError) -> Meaning:
    if type(error).__name__ == "InvalidCachedStatementError":
        # Its SQLSTATE is 0A000, as of many errors.
        # The table was altered, and asyncpg has dropped the plan.
        return ROLLED_BACK
    function: object = error.server_source_function
    return meaning_of(error.sqlstate or "", _name(function))


def timed_out(error: Exception) -> bool:
    """Return whether our own time limit of a statement passed, not one of the network."""
    return isinstance(error, TimeoutError) and error.errno is None


def translated(
    error: Exception, meaning: Meaning, *, too_slow: bool = False, hint: str = ""
) -> StoreError | EntryRejectedError:
    """Return the error to raise, which holds names only, never a row or a connection string.

    Args:
        error: the exception that was raised.
        meaning: what it means.
        too_slow: whether the server was at work when our time limit passed.
        hint: what else is known of the cause.
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
        reason = _joined(f"asyncpg reported {name}", _reason_of(error, meaning), hint)
        if meaning is UNKNOWN or not isinstance(error, (*_LOST, *_OF_ARGUMENTS)):
            reason = described_defect(error)
        # SSLCertVerificationError has OpenSSL's code there; none of these has an SQLSTATE.
        return meaning.error(reason, error_class=name)
    state = error.sqlstate
    reason = f"PostgreSQL reported {state} ({name})"
    return meaning.error(
        _joined(
            reason, words_for(state or ""), _own_words_of_server(error) or _names_in(error), hint
        ),
        error_class=name,
        sqlstate=state,
        constraint=_name(error.constraint_name),
        table=_name(error.table_name),
        column=_name(error.column_name),
    )


def _joined(*parts: str) -> str:
    return ": ".join(filter(None, parts))


def _reason_of(error: Exception, meaning: Meaning) -> str:
    """Return in plain words why there is no connection, without anything that asyncpg quotes."""
    reason = ""
    if meaning is AWAY and type(error) in {InterfaceError, InternalClientError}:
        # This is what asyncpg raises on a connection that the server or the network has ended.
        reason = "the connection was lost"
    elif isinstance(error, ssl.SSLCertVerificationError):
        reason = f"the server's certificate is not accepted, {error.verify_message}"
    elif _is_without_tls(error):
        reason = "the server offers no TLS, and sslmode demands it"
    elif isinstance(error, socket.gaierror):
        reason = "the host's name can't be resolved"
    elif isinstance(error, TimeoutError):
        reason = "no answer in time"
    elif isinstance(error, ClientConfigurationError) and _ROOT_CERTIFICATE in str(error):
        reason = "sslmode demands a root certificate: name its file by sslrootcert"
    elif isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno:
        reason = os.strerror(error.errno)
    return reason


def _is_without_tls(error: Exception) -> bool:
    return type(error) is ConnectionError and "rejected SSL upgrade" in str(error)


def _own_words_of_server(error: PostgresError) -> str:
    """Return the server's message if it holds names only, else "".

    The message of a trigger or a constraint may quote a row.
    """
    if _name(error.server_source_function) not in _NAMES_ONLY:
        return ""
    message = _name(error.message)
    return message or ""


def _names_in(error: PostgresError) -> str:
    """Return the names that the server reports beside its message."""
    named = {
        "table": _name(error.table_name),
        "column": _name(error.column_name),
        "constraint": _name(error.constraint_name),
    }
    return ", ".join(f"{what} {name}" for what, name in named.items() if name)


def wrong_parameters(error: Exception, names: Iterable[str]) -> str:
    """Return which of the run-time parameters ``names`` the server does not take."""
    wrong = [name for name in names if f'"{name}"' in str(error).lower()]
    if not isinstance(error, PostgresError) or not wrong:
        return ""
    return f"the run-time parameter {' or '.join(wrong)}, of the URL or server_settings"


def _name(value: object) -> str | None:
    return value if isinstance(value, str) else None
