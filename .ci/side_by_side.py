"""Run the sessions that ``nox`` runs, three at a time, and end with a table of what each took.

One after the other they leave a quarter of two processors idle: half of a test's time is spent
waiting, and checkers of types use one processor. Three with two workers each cost less than two
with three: each worker collects all tests, and starts servers. What a session printed is shown
when it ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

NOX = str(Path(sys.executable).with_name("nox"))
AT_ONCE = min(3, (os.cpu_count() or 1) + 1)
WORKERS = "2"  # of each session that runs tests
# What takes longest begins first, so that the ends come about together; and each with a Python of
# its own, so that later ones find the tests compiled.
LONGEST_FIRST = ("heavy", "unkind", "lint", "tests-3.11", "mutants", "lowest", "tests")
# What the tests measured can be reported when they have ended.
LAST = "coverage"
SHOWING = Lock()


class Outcome(NamedTuple):
    """How a session went."""

    session: str
    result: str
    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        took = f"{self.seconds:9.1f} {self.cpu_seconds:9.1f}"
        return f"{took}  {self.result:8} {self.session}"


def find_sessions() -> list[str]:
    """Return what ``nox`` alone would run."""
    done = subprocess.run([NOX, "--list", "--json"], stdout=subprocess.PIPE, check=True)  # noqa: S603  # ours
    return [session["session"] for session in json.loads(done.stdout)]


def rank(session: str) -> int:
    """Return a session's place in the order of beginning."""
    for place, beginning in enumerate(LONGEST_FIRST):
        if session.startswith(beginning):
            return place
    return len(LONGEST_FIRST)


def run(session: str) -> Outcome:
    """Run a session, and show what it printed."""
    # Runs of pytest that share a folder for temporary files tidy up behind each other's back.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report, output = Path(folder, "report.json"), Path(folder, "output")
        began = time.monotonic()
        with output.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603  # ours
                [NOX, "--session", session, "--report", str(report)],
                env={**os.environ, "PYTEST_DEBUG_TEMPROOT": folder, "TEST_WORKERS": WORKERS},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        result = "failed"
        if process.returncode == 0:
            result = json.loads(report.read_text("utf-8"))["sessions"][0]["result"]
        outcome = Outcome(session, result, seconds, usage.ru_utime + usage.ru_stime)
        with SHOWING:
            sys.stdout.buffer.write(output.read_bytes())
            print(outcome, flush=True)
    return outcome


def main() -> int:
    """Run all sessions, print the table, and return the exit status."""
    began = time.monotonic()
    waiting = sorted(find_sessions(), key=rank)
    waiting.remove(LAST)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = [*pool.map(run, waiting)]
    outcomes.append(run(LAST))
    print("   wall s     CPU s")
    for outcome in outcomes:
        print(outcome)
    cpu_seconds = sum(outcome.cpu_seconds for outcome in outcomes)
    print(f"{time.monotonic() - began:9.1f} {cpu_seconds:9.1f}  in all")
    return 1 if any(outcome.result == "failed" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
