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
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

NOX = str(Path(sys.executable).with_name("nox"))
AT_ONCE = min(3, (os.cpu_count() or 1) + 1)
WORKERS = "2"  # of each session that runs tests
# What takes longest begins first, so that the ends come about together; and each with a Python of
# its own, so that later ones find the tests compiled.
LONGEST_FIRST = ("heavy", "unkind", "lint", "tests-3.11", "mutants", "lowest", "tests")
# Those that install ALL_TESTS of the noxfile.
ALIKE = {"tests", "heavy", "tools", "unkind", "mutants", "package"}
SHARED = Path(".nox", "shared")
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
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


class Session(NamedTuple):
    """One that ``nox`` alone would run."""

    session: str
    name: str
    python: str

    @property
    def rank(self) -> int:
        """Its place in the order of beginning."""
        for place, beginning in enumerate(LONGEST_FIRST):
            if self.session.startswith(beginning):
                return place
        return len(LONGEST_FIRST)

    @property
    def folder(self) -> str:
        """What ``nox`` calls the folder of its environment."""
        return self.session.replace(".", "-")


def find_sessions() -> list[Session]:
    """Return all of them, in the order of beginning."""
    done = subprocess.run([NOX, "--list", "--json"], stdout=subprocess.PIPE, check=True)
    found = [
        Session(one["session"], one["name"], one["python"] or OWN_PYTHON)
        for one in json.loads(done.stdout)
    ]
    return sorted(found, key=lambda session: session.rank)


def run_nox(name: str, arguments: list[str], folder: Path) -> Outcome:
    """Run ``nox``, and show what it printed."""
    report, output = folder / "report.json", folder / "output"
    began = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            [NOX, *arguments, "--report", str(report)],
            env={**os.environ, "PYTEST_DEBUG_TEMPROOT": str(folder), "TEST_WORKERS": WORKERS},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    result = "failed"
    if process.returncode == 0:
        result = json.loads(report.read_text("utf-8"))["sessions"][0]["result"]
    outcome = Outcome(name, result, seconds, usage.ru_utime + usage.ru_stime)
    with SHOWING:
        sys.stdout.buffer.write(output.read_bytes())
        print(outcome, flush=True)
    return outcome


def install(session: Session) -> Outcome:
    """Install the environment of ``session``, for all that are alike and have its Python."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--session", session.session, "--install-only", "--envdir", str(SHARED)]
        return run_nox(f"environment of {session.python}", arguments, Path(folder))


class Environment(NamedTuple):
    """One that is shared, where it is when it has been installed."""

    folder: Path
    installed: Future[Outcome]


def run(session: Session, environment: Environment | None) -> Outcome:
    """Run a session, in that environment if there is one."""
    # Runs of pytest that share a folder for temporary files tidy up behind each other's back.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        arguments = ["--session", session.session]
        if environment is not None and environment.installed.result().result != "failed":
            linked = Path(name, "environments", session.folder)
            linked.parent.mkdir()
            linked.symlink_to(environment.folder.absolute())
            # Where it does not find one, nox installs it.
            arguments += ["-R", "--envdir", str(linked.parent)]
        return run_nox(session.session, arguments, Path(name))


def main() -> int:
    """Run all sessions, print the table, and return the exit status."""
    began = time.monotonic()
    sessions = find_sessions()
    [last] = [session for session in sessions if session.name == LAST]
    sessions.remove(last)
    alike = [session for session in sessions if session.name in ALIKE]
    of_python = Counter(session.python for session in alike)
    shared: dict[str, Environment] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # First: whoever waits for one has nobody before it in the line who has not begun.
        for session in alike:
            if of_python[session.python] > 1 and session.python not in shared:
                installed = pool.submit(install, session)
                shared[session.python] = Environment(SHARED / session.folder, installed)
        environments = [
            shared.get(session.python) if session in alike else None for session in sessions
        ]
        outcomes = [*pool.map(run, sessions, environments), run(last, None)]
    outcomes[:0] = [environment.installed.result() for environment in shared.values()]
    print("   wall s     CPU s")
    for outcome in outcomes:
        print(outcome)
    cpu_seconds = sum(outcome.cpu_seconds for outcome in outcomes)
    print(f"{time.monotonic() - began:9.1f} {cpu_seconds:9.1f}  in all")
    return 1 if any(outcome.result == "failed" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
