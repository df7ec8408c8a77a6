"""What errors of asyncpg mean; those that a server here can be made to report are in test_postgres."""

from __future__ import annotations

import re
import socket
import ssl

import asyncpg
import pytest
from asyncpg import exceptions

from provcache_trio import (
    EntryRejectedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
    store_error_of,
)
from provcache_trio._vocabulary.sqlstates import MEANINGS, words_for
from provcache_trio.postgres._errors import meaning_of_error, translated

KNOWN: list[type[asyncpg.PostgresError]] = [
    one
    for one in vars(exceptions).values()
    if isinstance(one, type) and issubclass(one, asyncpg.PostgresError) and one.sqlstate
]


DEFECTS = [
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
]


def no_ids_left(function: str) -> asyncpg.PostgresError:
    error = exceptions.ProgramLimitExceededError("x")
    error.server_source_function = function
    return error


def no_partition() -> asyncpg.PostgresError:
    error = exceptions.CheckViolationError("x")
    error.server_source_function = "ExecFindPartition"
    return error


@pytest.mark.parametrize(
    ("error", "meaning", "keep"),
    [
        # The server's, by SQLSTATE
        (exceptions.SerializationError("x"), TransientStoreError, True),
        (exceptions.DeadlockDetectedError("x"), TransientStoreError, True),
        (exceptions.InvalidCachedStatementError("x"), TransientStoreError, True),
        (exceptions.FeatureNotSupportedError("x"), StoreMisconfiguredError, False),
        (exceptions.LockNotAvailableError("x"), StoreUnavailableError, True),
        (exceptions.QueryCanceledError("x"), StoreUnavailableError, True),
        (exceptions.StatementCompletionUnknownError("x"), StoreUnavailableError, True),
        (exceptions.AdminShutdownError("x"), StoreUnavailableError, False),
        (exceptions.TooManyConnectionsError("x"), StoreUnavailableError, False),
        (exceptions.DiskFullError("x"), StoreUnavailableError, False),
        (exceptions.ReadOnlySQLTransactionError("x"), StoreUnavailableError, False),
        (exceptions.InvalidPasswordError("x"), StoreMisconfiguredError, False),
        (exceptions.UndefinedTableError("x"), StoreMisconfiguredError, False),
        (exceptions.DataCorruptedError("x"), StoreMisconfiguredError, False),
        (exceptions.NumericValueOutOfRangeError("x"), EntryRejectedError, True),
        (exceptions.CheckViolationError("x"), EntryRejectedError, True),
        (exceptions.AssertError("x"), EntryRejectedError, True),
        (exceptions.ProgramLimitExceededError("x"), EntryRejectedError, True),
        (no_ids_left("GetNewTransactionId"), StoreMisconfiguredError, False),
        (no_ids_left("GetNewMultiXactId"), StoreMisconfiguredError, False),
        (no_partition(), StoreMisconfiguredError, True),
        (exceptions.SequenceGeneratorLimitExceededError("x"), StoreMisconfiguredError, False),
        (exceptions.ObjectNotInPrerequisiteStateError("x"), StoreMisconfiguredError, False),
        (exceptions.InternalServerError("x"), StoreError, False),
        (exceptions.InFailedSQLTransactionError("x"), StoreError, False),
        (asyncpg.PostgresError("x"), StoreError, False),
        # asyncpg's own
        (exceptions.DataError("x"), EntryRejectedError, True),
        (exceptions.InternalClientError("x"), StoreUnavailableError, False),
        (exceptions.InterfaceError("x"), StoreError, False),
        (exceptions.ClientConfigurationError("x"), StoreMisconfiguredError, False),
        (OverflowError("x"), StoreMisconfiguredError, False),
        # asyncio's
        (ConnectionResetError("x"), StoreUnavailableError, False),
        (TimeoutError("x"), StoreUnavailableError, False),
        (ssl.SSLCertVerificationError("x"), StoreMisconfiguredError, False),
        (ssl.SSLError("x"), StoreUnavailableError, False),
        (EOFError("x"), StoreUnavailableError, False),
        # A defect
        *((kind("x"), StoreError, False) for kind in DEFECTS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_on_a_connection_means_one_thing(
    error: Exception, meaning: type[Exception], keep: bool
) -> None:
    assert meaning_of_error(error, connected=True) == (meaning, keep)


@pytest.mark.parametrize("kind", [exceptions.InterfaceError, *DEFECTS])
def test_on_a_connection_that_the_server_ended_nothing_is_a_defect(kind: type[Exception]) -> None:
    found = meaning_of_error(kind("x"), connected=True, ended=True)
    assert found == (StoreUnavailableError, False)


@pytest.mark.parametrize("connected", [True, False])
def test_a_defect_is_reported_by_its_class_and_its_place_in_the_package(connected: bool) -> None:
    with pytest.raises(TypeError, match="subscriptable") as caught:
        words_for(None)  # type: ignore[arg-type]  # a defect
    told = translated(caught.value, meaning_of_error(caught.value, connected=connected))
    assert type(told) is (StoreError if connected else StoreMisconfiguredError)
    assert told.error_class == "TypeError"
    place = rf"TypeError at {re.escape(words_for.__code__.co_filename)}:\d+"
    defect = "a defect of provcache_trio or its driver, to be reported"
    assert re.fullmatch(f"{defect}: {place}", str(told))
    # Without frames of the package there is no place.
    told = translated(KeyError("s3cr3t"), meaning_of_error(KeyError(), connected=connected))
    assert str(told) == f"{defect}: KeyError"


@pytest.mark.parametrize(
    ("error", "ended", "words"),
    [
        (exceptions.InternalClientError("got result for unknown protocol state 3"), False, True),
        (exceptions.InterfaceError("the underlying connection is closed"), True, True),
        (exceptions.InterfaceError("another operation is in progress"), False, False),
        (exceptions.TargetServerAttributeNotMatched("x"), False, False),
        (ConnectionResetError("x"), False, False),
    ],
)
def test_a_lost_connection_is_called_so_whatever_asyncpg_calls_it(
    error: Exception, ended: bool, words: bool
) -> None:
    message = str(translated(error, meaning_of_error(error, connected=True, ended=ended)))
    assert message.endswith(": the connection was lost") == words


def test_behind_pgbouncer_a_protocol_violation_is_a_server_that_is_away() -> None:
    error = exceptions.ProtocolViolationError("x")
    for connected in (True, False):
        assert meaning_of_error(error, connected=connected) == (StoreMisconfiguredError, False)
        found = meaning_of_error(error, connected=connected, pgbouncer=True)
        assert found == (StoreUnavailableError, False)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ConnectionRefusedError("x"), StoreUnavailableError),
        (socket.gaierror("x"), StoreUnavailableError),
        (TimeoutError("x"), StoreUnavailableError),
        (ssl.SSLError("x"), StoreMisconfiguredError),
        (ssl.SSLEOFError("x"), StoreUnavailableError),
        (ssl.SSLSyscallError("x"), StoreUnavailableError),
        (ssl.SSLZeroReturnError("x"), StoreUnavailableError),
        (exceptions.CannotConnectNowError("x"), StoreUnavailableError),
        (exceptions.TargetServerAttributeNotMatched("x"), StoreUnavailableError),
        (exceptions.CheckViolationError("x"), StoreMisconfiguredError),
        (exceptions.RaiseError("x"), StoreMisconfiguredError),
        (exceptions.DataError("x"), StoreMisconfiguredError),
        (exceptions.InterfaceError("x"), StoreMisconfiguredError),
        (exceptions.UnsupportedClientFeatureError("x"), StoreMisconfiguredError),
        (ValueError("x"), StoreMisconfiguredError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_before_there_is_a_connection_blames_no_entry(
    error: Exception, meaning: type[Exception]
) -> None:
    assert meaning_of_error(error, connected=False) == (meaning, False)


def test_no_error_that_the_server_may_report_blames_an_entry_before_there_is_a_connection() -> None:
    meanings = {kind: meaning_of_error(kind("x"), connected=False) for kind in KNOWN}
    assert [kind for kind, one in meanings.items() if one.error is EntryRejectedError] == []


def test_no_connection_is_kept_after_an_error_that_is_not_understood() -> None:
    meanings = {kind: meaning_of_error(kind("x"), connected=True) for kind in KNOWN}
    assert [kind for kind, one in meanings.items() if one.error is StoreError and one.keep] == []


def test_every_row_of_the_table_is_for_errors_that_there_are() -> None:
    states = [str(kind.sqlstate) for kind in KNOWN]
    assert [row for row in MEANINGS if not any(state.startswith(row) for state in states)] == []


def test_a_certificate_that_is_refused_is_told_without_the_code_of_openssl() -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_message = "self-signed certificate"
    told = translated(error, meaning_of_error(error, connected=False))
    assert type(told) is StoreMisconfiguredError
    assert told.error_class == "SSLCertVerificationError"
    assert told.sqlstate is None
    assert str(told) == (
        "asyncpg reported SSLCertVerificationError: the server's certificate is not accepted, "
        "self-signed certificate"
    )


@pytest.mark.parametrize(
    ("state", "function", "meaning"),
    [
        ("40001", None, TransientStoreError),
        ("23503", None, TransientStoreError),
        ("23505", None, EntryRejectedError),
        ("23514", "ExecConstraints", EntryRejectedError),
        ("23514", "ExecFindPartition", StoreMisconfiguredError),
        ("42501", "ExecWithCheckOptions", EntryRejectedError),
        ("42501", "aclcheck_error", StoreMisconfiguredError),
        ("0A000", "ExecCrossPartitionUpdate", EntryRejectedError),
        ("0A000", None, StoreMisconfiguredError),
        ("57P01", None, StoreUnavailableError),
        ("99999", None, StoreError),
        ("?", None, StoreError),
    ],
)
def test_a_repository_of_one_s_own_raises_what_a_sqlstate_means(
    state: str, function: str | None, meaning: type[Exception]
) -> None:
    error = store_error_of(state, error_class="Oops", function=function, constraint="c")
    assert type(error) is meaning
    assert (error.sqlstate, error.error_class, error.constraint) == (state, "Oops", "c")
    assert str(error).startswith(f"PostgreSQL reported {state} (Oops)")
    assert str(store_error_of(state)).startswith(f"PostgreSQL reported {state}")


def test_a_sqlstate_is_said_in_plain_words() -> None:
    told = {state: str(store_error_of(state)) for state in ("42P01", "23999", "99999")}
    assert told == {
        "42P01": "PostgreSQL reported 42P01: there is no such table",
        "23999": "PostgreSQL reported 23999: a constraint refuses the row",
        "99999": "PostgreSQL reported 99999",
    }


def test_only_messages_that_name_things_are_quoted() -> None:
    for function, quoted in (("parserOpenTable", True), ("exec_stmt_raise", False)):
        error = exceptions.UndefinedTableError("x")
        error.server_source_function = function
        error.message = 'relation "seen" does not exist'
        told = translated(error, meaning_of_error(error, connected=True))
        assert ('relation "seen" does not exist' in str(told)) is quoted


def test_what_is_no_sqlstate_is_refused() -> None:
    with pytest.raises(TypeError, match="sqlstate must be a str, not NoneType"):
        store_error_of(None)  # type: ignore[arg-type]  # as a driver gives without an answer
    with pytest.raises(ValueError, match="sqlstate must not be empty"):
        store_error_of("")
