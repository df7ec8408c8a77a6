"""Fixtures of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import provcache_trio._cli.app  # noqa: F401  # before a test changes sys.path
from provcache_trio._cli import main

from tests.cli.support import BAD, change, url

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return a store that is empty and refuses bad entries."""
    cache = tmp_path / "cache.db"
    assert main(["init", "--to", url(cache)]) == 0
    capsys.readouterr()
    refuse = f"NEW.hit_count = {BAD} BEGIN SELECT RAISE(ABORT, 's3cr3t'); END"
    change(cache, f"CREATE TRIGGER picky BEFORE INSERT ON provcache_entries WHEN {refuse}")
    return cache


@pytest.fixture(autouse=True)
def no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show no progress in a pipe, however slow the machine is."""
    monkeypatch.setattr("provcache_trio._cli.progress._FIRST_PAUSE", 3600.0)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a pseudo-terminal be one that can show everything."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
