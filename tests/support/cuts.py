"""Cuts a call of SQLite short at a place that is held open, not at a moment."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import trio

from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    import pytest

    from provcache_trio._disk.sqlite_connection import SQLiteConnection


def cancel_after_the_first(
    statement: str,
    file: SQLiteConnection,
    scope: trio.CancelScope,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Have ``scope`` cancelled between the first ``statement`` of a call and the next one.

    SQLite itself is not told, as if the interrupt came when no statement was under way.
    """
    connection = file._connection
    assert connection is not None
    token = trio.lowlevel.current_trio_token()
    interrupted = threading.Event()
    beginning = statement.partition("?")[0].strip()

    def interrupt() -> None:
        file.stopped = True
        interrupted.set()

    def look(running: str) -> None:  # in the thread of the call, which waits meanwhile
        if running.strip().startswith(beginning) and not interrupted.is_set():
            token.run_sync_soon(scope.cancel)
            interrupted.wait(HANG_SECONDS)

    monkeypatch.setattr(file, "interrupt", interrupt)
    connection.set_progress_handler(None, 0)
    connection.set_trace_callback(look)
