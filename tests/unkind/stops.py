"""Stops processes for moments, as a machine does that has too much to do.

A process that is stopped is continued by another one, the waker: also when the one that stops
is killed in between.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    import subprocess

BETWEEN_SECONDS = (0.0, 0.4)
STOPPED_SECONDS = (0.005, 0.2)
NOBODY = 0
PID_BYTES = 8


class Waker:
    """The process that continues what was stopped; it ends with the one that made it."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        if os.fork() == 0:
            os.close(self._writing)
            os.setsid()  # what a terminal or a CI sends to our group does not reach it
            continue_all(reading)
            os._exit(0)
        os.close(reading)

    def stop(self, pid: int, seconds: float) -> None:
        """Stop a process for so long."""
        self._say(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        self._say(NOBODY)

    def _say(self, pid: int) -> None:
        os.write(self._writing, pid.to_bytes(PID_BYTES))


def continue_all(reading: int) -> None:
    """Continue each process of which ``reading`` says so, when it says the next thing or ends."""
    stopped = NOBODY
    while True:
        said = os.read(reading, PID_BYTES)
        if stopped != NOBODY:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stopped, signal.SIGCONT)
        if not said:
            return
        stopped = int.from_bytes(said)


def stop_some(run: subprocess.Popen[bytes], draw: random.Random, waker: Waker) -> None:
    """Stop descendants of ``run``, one after the other, until it has ended."""
    while run.poll() is None:
        time.sleep(draw.uniform(*BETWEEN_SECONDS))
        found = find_running(run.pid)
        if found:
            waker.stop(draw.choice(found), draw.uniform(*STOPPED_SECONDS))


def find_running(ancestor: int) -> list[int]:
    """Return the descendants of a process, but those that somebody has stopped already."""
    states: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The name, in parentheses, may hold anything.
            state, parent = file.read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
            pid = int(file.parent.name)
            states[pid] = state
            children.setdefault(int(parent), []).append(pid)
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        descendants = children.get(waiting.pop(), [])
        waiting += descendants
        found += [pid for pid in descendants if states[pid] in "RSD"]
    return sorted(found)
