"""What tests ask of files and directories, and do to databases of SQLite."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path


def run(path: Path, script: str) -> None:
    """Do something to the file, as somebody else."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()


def descriptors(directory: Path) -> list[str]:
    """Return the files below ``directory`` that this process has open."""
    found: list[str] = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            target = link.readlink()
            if target.is_relative_to(directory):
                found.append(str(target))
    return found


def names(directory: Path) -> set[str]:
    return {one.name for one in directory.iterdir()}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
