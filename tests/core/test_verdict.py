"""What a repository's exception means."""

from __future__ import annotations

import json

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
        (trio.WouldBlock(), Kind.UNAVAILABLE),
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


class SlowError(StoreUnavailableError):
    """Does not call its base."""

    def __init__(self) -> None:
        self.too_slow = True


@pytest.mark.parametrize(
    ("error", "too_slow"),
    [
        (StoreUnavailableError("x"), False),
        (StoreUnavailableError("x", too_slow=True), True),
        (SlowError(), True),
        (StoreMisconfiguredError("x", too_slow=True), False),
        (TimeoutError(), True),
        (TimeoutError(110, "the network's"), False),
        (trio.TooSlowError(), True),
        (MemoryError(), True),
        (trio.WouldBlock(), True),
        (OSError("x"), False),
        (ExceptionGroup("g", [TimeoutError(), trio.TooSlowError()]), True),
        (ExceptionGroup("g", [TimeoutError(), OSError()]), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_a_store_that_was_at_work_was_too_slow(error: Exception, too_slow: bool) -> None:
    assert classify(error).too_slow is too_slow


def test_only_a_closed_store_was_closed() -> None:
    assert classify(trio.ClosedResourceError()).closed
    assert classify(QueueClosedError("x")).closed
    assert not classify(StoreMisconfiguredError("x")).closed


class Owner:
    """A repository whose errors come out of the standard library."""

    async def through_a_library(self) -> None:  # noqa: ASYNC124  # raises
        json.loads("not JSON")

    async def by_itself(self) -> None:  # noqa: ASYNC124  # raises
        raise KeyError("a secret")

    async def in_a_group(self) -> None:
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # for the group
            nursery.start_soon(self.by_itself)


@pytest.mark.parametrize("method", ["through_a_library", "by_itself", "in_a_group"])
async def test_an_unknown_error_is_located_in_the_repository_s_own_code(method: str) -> None:
    owner = Owner()
    with trio.CancelScope() as scope:
        failure = await result_of(getattr(owner, method), scope, owner)
    assert isinstance(failure, Failure)
    own = Owner.by_itself if method == "in_a_group" else getattr(Owner, method)
    assert failure.where == f"{__file__}:{own.__code__.co_firstlineno + 1}"
    assert failure.described() == f"{failure.error_class} at {failure.where}"
    assert "secret" not in failure.described()
    assert __file__ not in str(failure.rejection())


async def test_the_place_of_an_error_whose_owner_was_not_running_is_the_code_that_was() -> None:
    with trio.CancelScope() as scope:
        failure = await result_of(Owner().by_itself, scope, owner=json.JSONDecoder())
    assert isinstance(failure, Failure)
    assert failure.where == f"{__file__}:{Owner.by_itself.__code__.co_firstlineno + 1}"


def test_only_an_unknown_error_has_a_place() -> None:
    assert classify(OSError()).where is None
    assert classify(KeyError()).where is None  # it was never raised


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
