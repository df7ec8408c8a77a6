"""What is promised between two processes, each with a cache of its own over one store."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.support.cache_worker import History
from tests.support.programs import ROOT
from tests.support.servers import postgres
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = (sys.executable, "-W", "error", "-m", "tests.support.cache_worker")


def run_both(store: str, records: list[Path]) -> None:
    """Run two processes that begin at the same time."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [*COMMAND, store, str(number), str(record)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
            )
            for number, record in enumerate(records)
        ]
        for process in processes:
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            print(file=process.stdin, flush=True)
        for process in processes:
            assert process.wait(HANG_SECONDS) == 0


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_two_processes_see_each_other_s_writes_and_invalidations_in_time(
    kind: str, tmp_path: Path
) -> None:
    if kind == "postgres":
        store = postgres().create_database(str(uuid4()))
    else:
        store = str(tmp_path / "cache.db")
    records = [tmp_path / "0", tmp_path / "1"]
    run_both(store, records)
    history = History(records)
    assert history.complaints() == []
    seen = {(one.reader, one.process, one.version) for one in history.reads}
    for reader in (0, 1):
        of_the_other = {one for one in seen if one[0] == reader != one[1]}
        assert len(of_the_other) > 10, "they never met"
