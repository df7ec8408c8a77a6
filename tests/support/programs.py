"""Programs in processes of their own, and keys that people press."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"


def run_program(folder: Path, *arguments: str | Path) -> str:
    """Run a Python program, which must succeed without a warning; return what it printed."""
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(
        command, cwd=folder, check=True, timeout=60, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


async def run_python(program: str, *arguments: str) -> bytes:
    """Run ``program`` in a process of its own and return what it printed."""
    done = await trio.run_process(
        [sys.executable, "-c", program, *arguments],
        capture_stdout=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    return done.stdout


@trio.lowlevel.enable_ki_protection
def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)
