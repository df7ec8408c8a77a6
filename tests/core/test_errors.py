"""Errors: what they carry survives being copied and sent to another process."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    JournalError,
    ProvcacheError,
    QueueClosedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
    WriteBehindCrashedError,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryRepository

if TYPE_CHECKING:
    from collections.abc import Callable

KNOWN = {"error_class": "E", "sqlstate": "23514", "constraint": "c", "table": "t", "column": "k"}


def send(error: ProvcacheError) -> object:
    return pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes


@pytest.mark.parametrize("duplicate", [copy.copy, send])
async def test_every_error_can_be_copied_and_pickled_with_its_attributes(
    duplicate: Callable[[ProvcacheError], object],
) -> None:
    async with open_write_behind_queue(MemoryRepository()) as queue:
        metrics = queue.metrics()
    errors: list[ProvcacheError] = [
        QueueClosedError("m", accepted=3),
        EntryRejectedError("m", index=4, local=True, **KNOWN),
        StoreError("m", **KNOWN),
        StoreUnavailableError("m", too_slow=True, **KNOWN),
        StoreMisconfiguredError("m", too_slow=False, **KNOWN),
        TransientStoreError("m", **KNOWN),
        JournalError("m"),
        DrainTimeoutError("m", undelivered=("a", "b"), metrics=metrics),
        WriteBehindCrashedError("m", undelivered=("a", "b"), metrics=metrics),
    ]
    for error in errors:
        error.add_note("and so on")
        twin = duplicate(error)
        assert type(twin) is type(error)
        assert str(twin) == "m"
        assert vars(twin) == vars(error)


def test_the_tree_is_the_one_that_callers_catch_by() -> None:
    assert issubclass(QueueClosedError, trio.ClosedResourceError)
    assert issubclass(StoreMisconfiguredError, StoreUnavailableError)
    assert issubclass(StoreUnavailableError, StoreError)
    assert issubclass(TransientStoreError, StoreError)
    assert not issubclass(EntryRejectedError, StoreError)
