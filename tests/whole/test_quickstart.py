"""The page for the first five minutes does what it says, on both stores."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.quickstart import COMMANDS, PRINTED, URL, is_installation, run, save_files
from tests.support.servers import postgres

pytestmark = pytest.mark.whole_process


def test_every_command_of_the_quickstart_works_and_prints_what_the_page_says(
    tmp_path: Path,
) -> None:
    save_files(tmp_path)
    dsn = postgres().create_database(str(uuid4()))
    here = str(Path(sys.executable).parent)
    printed = {
        command: run(
            command.replace(".venv/bin", here).replace(URL, f"'{dsn}'"), tmp_path, os.environ
        )
        for command in COMMANDS
        if not is_installation(command)
    }
    sqlite, stats, get, server, tests = printed
    assert "record.py views.db" in sqlite
    assert URL in server
    assert printed[sqlite] == printed[server] == PRINTED
    assert "entries               2\n" in printed[stats]
    assert '"visitor":"ann","page":"/start"' in printed[get]
    assert '"longest_scroll":80}' in printed[get]
    assert "1 passed" in printed[tests]
