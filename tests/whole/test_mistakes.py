"""docs/using/mistakes.md says what people read after the likeliest mistakes, and that is what they read."""

from __future__ import annotations

import logging
import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from provcache_trio import (
    DrainTimeoutError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository

from tests.support.entries import entry
from tests.support.mistakes import MISTAKES, PASSWORD, VISITS, Visit
from tests.support.programs import ROOT
from tests.support.servers import postgres
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "using" / "mistakes.md").read_text("utf-8")
MESSAGES = dict(re.findall(r"^### (.+)\n\n    (.+)$", PAGE, re.MULTILINE))
MAY_MOUNT = os.geteuid() == 0 and shutil.which("mount") is not None


def test_the_page_has_every_mistake_in_order_and_no_other() -> None:
    assert list(MESSAGES) == list(MISTAKES)
    assert len(MESSAGES) >= 20


@pytest.mark.whole_process
@pytest.mark.parametrize("name", MISTAKES)
async def test_each_mistake_is_answered_as_the_page_says(name: str, tmp_path: Path) -> None:
    if name == "The disk is full" and not MAY_MOUNT:
        pytest.skip("needs to mount a volume")
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the page says which
        await MISTAKES[name](tmp_path)
    told = f"{type(caught.value).__name__}: {caught.value}"
    # What depends on the program is one part of the message: a place, a name, a path.
    pattern = "(?:(?!: ).)*".join(map(re.escape, MESSAGES[name].split("…")))
    assert re.fullmatch(pattern, told), told
    assert PASSWORD not in told
    assert not isinstance(caught.value, BaseExceptionGroup)


OPTIONS = WriteBehindOptions(flush_interval_seconds=0, drain_timeout_seconds=0)


async def test_the_log_says_why_a_store_is_misconfigured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_sqlite_repository(tmp_path / "visits.db", table=VISITS) as visits:
        (tmp_path / "visits.db").touch()
        with pytest.raises(DrainTimeoutError):
            async with open_write_behind_queue(visits, OPTIONS) as queue:
                await queue.enqueue(Visit("https://example.org"))
                await until(lambda: queue.metrics().last_error is not None)
    async with open_postgres_repository(postgres().dsn_of("shpo")) as repository:
        with pytest.raises(DrainTimeoutError):
            async with open_write_behind_queue(repository, OPTIONS) as other:
                await other.enqueue(entry())
                await until(lambda: other.metrics().last_error is not None)
    first, second = [
        record.getMessage()
        for record in caplog.records
        if "misconfigured" in record.getMessage() and record.levelno == logging.ERROR
    ]
    assert f"{tmp_path}/visits.db: the file has no table 'visits'" in first
    assert 'database "shpo" does not exist' in second
    assert "user postgres" in second
