"""What a repository's exception means."""

from __future__ import annotations

import pytest
import trio

from provcache_trio import (
    EntryRejectedError,
    QueueClosedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
)
from provcache_trio._core.verdict import classify, result_of
from provcache_trio._vocabulary.failures import Failure, Kind


class Crash(BaseException):
    """Neither an Exception nor trio's."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StoreUnavailableError("x"), Kind.UNAVAILABLE),
        (StoreMisconfiguredError("x"), Kind.MISCONFIGURED),
        (OSError("x"), Kind.UNAVAILABLE),
        (ConnectionResetError("x"), Kind.UNAVAILABLE),
        (TimeoutError("x"), Kind.UNAVAILABLE),
        (trio.TooSlowError(), Kind.UNAVAILABLE),
        (TransientStoreError("x"), Kind.TRANSIENT),
        (EntryRejectedError("x"), Kind.REJECTED),
        (StoreError("x"), Kind.UNKNOWN),
        (ValueError("x"), Kind.UNKNOWN),
        (MemoryError(), Kind.UNAVAILABLE),
        (trio.BrokenResourceError(), Kind.UNAVAILABLE),
        (trio.BusyResourceError(), Kind.UNAVAILABLE),
        (EOFError(), Kind.UNAVAILABLE),
        (trio.ClosedResourceError(), Kind.MISCONFIGURED),
        (QueueClosedError("x"), Kind.MISCONFIGURED),
        (KeyboardInterrupt(), Kind.UNAVAILABLE),
        (Crash("x"), Kind.CRASH),
        (SystemExit(), Kind.CRASH),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_means_one_thing(error: BaseException, kind: Kind) -> None:
    assert classify(error).kind is kind


REJECTED, TRANSIENT, UNKNOWN = EntryRejectedError("r"), TransientStoreError("t"), KeyError("u")
UNAVAILABLE, MISCONFIGURED, CRASH = OSError("o"), StoreMisconfiguredError("m"), Crash()


@pytest.mark.parametrize(
    ("leaves", "kind"),
    [
        ([REJECTED, REJECTED], Kind.REJECTED),
        ([REJECTED, TRANSIENT], Kind.TRANSIENT),
        ([TRANSIENT, UNKNOWN, REJECTED], Kind.UNKNOWN),
        ([UNKNOWN, UNAVAILABLE, TRANSIENT], Kind.UNAVAILABLE),
        ([UNAVAILABLE, MISCONFIGURED], Kind.MISCONFIGURED),
        ([UNAVAILABLE, CRASH, MISCONFIGURED], Kind.CRASH),
    ],
)
def test_the_leaves_of_a_group_decide(leaves: list[BaseException], kind: Kind) -> None:
    first, *rest = leaves
    assert classify(BaseExceptionGroup("flat", leaves)).kind is kind
    nested = BaseExceptionGroup("outer", [first, BaseExceptionGroup("inner", rest)])
    assert classify(nested).kind is kind


def test_a_failure_keeps_names_and_no_message() -> None:
    error = EntryRejectedError(
        "row (1, secret)", error_class="CheckViolationError", sqlstate="23514", index=3
    )
    failure = classify(error)
    assert failure.described() == "CheckViolationError, SQLSTATE 23514"
    assert failure.position == 3
    assert "secret" not in str(failure.rejection())
    assert classify(KeyError("secret")).described() == "KeyError"


async def test_a_cancelled_scope_wins_over_whatever_else_was_raised() -> None:
    async def call() -> int:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("while being cancelled")

    with trio.CancelScope() as scope:
        scope.cancel()
        await result_of(call, scope)
        raise AssertionError("unreachable")
    assert scope.cancelled_caught


async def test_a_call_that_was_done_before_the_cancellation_keeps_its_result() -> None:
    async def call() -> int:  # noqa: ASYNC124  # does not yield, so can't be cancelled
        return 7

    with trio.CancelScope() as scope:
        scope.cancel()
        assert await result_of(call, scope) == 7


async def test_a_foreign_cancelled_is_an_unknown_error() -> None:
    async def call() -> int:
        with trio.CancelScope() as own:
            own.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:  # noqa: ASYNC103  # that is the point
                stray = error
        raise stray

    with trio.CancelScope() as scope:
        result = await result_of(call, scope)
    assert isinstance(result, Failure)
    assert result.kind is Kind.UNKNOWN
