"""A real program, killed at random and at every system call of its journal.

A kill is no power cut: the kernel writes what a dead process wrote. So that the disk comes
before the answer is seen in another way, by the order of the system calls.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.killed import check, key_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STRACE: Final = shutil.which("strace")
ENTRIES: Final = "10"

pytestmark = pytest.mark.heavy


def can_trace() -> bool:
    """Whether there is a strace, and the machine lets it trace and inject."""
    if STRACE is None:
        return False
    command = [STRACE, "-f", "-o", os.devnull, "-e", "inject=fsync:error=EIO", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


needs_strace = pytest.mark.skipif(not can_trace(), reason="needs strace, and leave to use it")


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.support.killed", *map(str, arguments)]


def traced(directory: Path, *options: str, without_sync: bool = False) -> tuple[int, bytes]:
    """Run the program under strace; return its status and what it said."""
    assert STRACE is not None
    where = [f"-P{directory / name}" for name in ("journal", "journal.new", ".")]
    done = subprocess.run(
        [STRACE, "-f", "-qq", *where, *options, *program("run", directory, ENTRIES)],
        check=False,
        stdout=subprocess.PIPE,
        timeout=120,
        env={**os.environ, "WITHOUT_SYNC": "1" if without_sync else ""},
    )
    return done.returncode, done.stdout


def test_what_was_accepted_survives_sigkill_at_any_moment(
    tmp_path: Path, counts: Callable[[int, int], int]
) -> None:
    subprocess.run(program("many", tmp_path, counts(8, 300), 1), check=True, timeout=1200)


@needs_strace
@pytest.mark.parametrize("call", ["openat", "write", "fdatasync", "rename", "fsync"])
def test_what_was_accepted_survives_sigkill_at_any_system_call(
    tmp_path: Path, call: str, counts: Callable[[int, int], int]
) -> None:
    for number in range(1, counts(3, 100)):
        directory = tmp_path / str(number)
        directory.mkdir()
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        status, said = traced(directory, "-o", os.devnull, "-e", inject)
        check(directory, said)
        if status == 0:  # there is no such call any more
            assert number > 1, "the call was never made"
            return


def early_answers(log: str) -> list[int]:
    """Return the numbers of entries that were accepted before a sync followed their record.

    A write counts from its beginning, and a sync from its end.
    """
    written: dict[str, set[int]] = {}  # by descriptor
    syncing: dict[str, str] = {}  # the descriptor, by thread
    safe: set[int] = set()
    early: list[int] = []
    for line in log.splitlines():
        thread, _, call = line.partition(" ")
        name, _, arguments = call.strip().partition("(")
        descriptor = re.split(r"[,) ]", arguments, maxsplit=1)[0]
        if name == "write" and "veri_key" in call:
            keys = re.findall(r'veri_key\\":\\"sha256:(\w{64})', call)
            written.setdefault(descriptor, set()).update(int(key, 16) for key in keys)
        elif name == "write" and (answer := re.match(r'1, "a (\d+)\\n"', arguments)):
            early += {int(answer[1])} - safe
        elif name == "fdatasync":
            syncing[thread] = descriptor
        if "fdatasync" in call and call.endswith("= 0"):
            safe |= written.get(syncing[thread], set())
    return early


@needs_strace
@pytest.mark.parametrize("without_sync", [False, True], ids=["as it is", "without sync"])
def test_the_answer_follows_the_sync(tmp_path: Path, *, without_sync: bool) -> None:
    """Also of the program without it, which has to be found out."""
    log = tmp_path / "log"
    assert STRACE is not None
    done = subprocess.run(
        [
            *(STRACE, "-f", "-qq", "-o", str(log), "-s", "100000"),
            *("-e", "trace=write,fdatasync"),
            *program("run", tmp_path, ENTRIES),
        ],
        check=True,
        stdout=subprocess.PIPE,
        timeout=120,
        env={**os.environ, "WITHOUT_SYNC": "1" if without_sync else ""},
    )
    text = log.read_text("utf-8", "replace")
    assert key_of(7) in text
    assert bool(early_answers(text)) == without_sync
    check(tmp_path, done.stdout)  # a kill, or none, finds neither out
