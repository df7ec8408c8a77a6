"""Ends a Postgres server that its program left behind, however the program ended.

A separate program (``python guard.py PLACE``) that uses the standard library only. Its standard
input is a pipe from the program that it guards: a byte means that the server is no longer needed,
and the end of the pipe that the program and all its forks have ended. A parent-death signal would
come too early, when the thread ends that started the server.

``PLACE`` is the server's directory, with ``data``, ``log`` and ``lock`` in it. Every process of the
server holds the lock, as it inherits the descriptor.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.01
# Fast shutdown, immediate shutdown, and at last a kill. Immediate shutdown kills stragglers after 5 s.
_STEPS: Final = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))


def is_running(place: Path) -> bool:
    """Return whether any process of the server, or of initdb, is left."""
    try:
        with (place / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_status(place: Path) -> list[str]:
    """Return the lines of postmaster.pid, with the process id first and the state last, if any.

    A server that was killed leaves the file behind.
    """
    try:
        return (place / "data" / "postmaster.pid").read_text("utf-8").splitlines()
    except OSError:
        return []


def shut_down(place: Path) -> None:
    """Stop the server, at the latest after 20 seconds, and remove the directory."""
    for number, seconds in _STEPS:
        _signal_until_ended(place, number, seconds)
    _free_shared_memory(place)
    shutil.rmtree(place, ignore_errors=True)


def _signal_until_ended(place: Path, number: signal.Signals, seconds: float) -> None:
    signalled = 0
    deadline = time.monotonic() + seconds
    while is_running(place) and time.monotonic() < deadline:
        process_id = int(next(iter(read_status(place)), "0"))
        # Without a number it is starting. A negative one is initdb's, which ends by itself.
        if process_id > 0 and process_id != signalled:
            with suppress(ProcessLookupError):
                os.kill(process_id, number)
            signalled = process_id
        time.sleep(POLL_SECONDS)


def _free_shared_memory(place: Path) -> None:
    """Remove the System V segment that a killed server leaves in the kernel."""
    status = read_status(place)
    if len(status) > 6:  # noqa: PLR2004  # its seventh line: key and number of the segment
        command = ["ipcrm", "-m", status[6].split()[-1]]
        with suppress(OSError):
            subprocess.run(command, stderr=subprocess.DEVNULL, check=False)  # noqa: S603


if __name__ == "__main__":
    sys.stdin.buffer.read(1)
    shut_down(Path(sys.argv[1]))
