"""Put each bug of the table into a copy of the installed package and demand that it is found.

    python -m tests.mutants [--jobs 3] [name ...]

A mutant is killed when each of its tests fails on it. One that survives, that no longer
applies (its text is not in the file exactly once), or whose tests can't be run, makes the exit
status 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import provcache_trio

from tests.mutants.table import MUTANTS, Mutant

PACKAGE = Path(provcache_trio.__file__).parent
LONGEST_SECONDS = 120


def verdict_on(mutant: Mutant) -> str:
    """Return "killed", or why it was not."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PACKAGE.name
        shutil.copytree(PACKAGE, copy)  # with times of files, so compiled ones stay valid
        for change in mutant.changes:
            file = copy / change.file
            text = file.read_text("utf-8")
            if text.count(change.old) != 1:
                return (
                    f"no longer applies: {change.file} has the text {text.count(change.old)} times"
                )
            file.write_text(text.replace(change.old, change.new), "utf-8")
        return run_tests(mutant.killed_by, folder)


def run_tests(tests: tuple[str, ...], folder: str) -> str:
    """Run ``tests`` on the package in ``folder``; every one of them has to fail."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("--tb=no", "--first-failure", *tests),
    ]
    environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not found within {LONGEST_SECONDS} s"
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    failed += [test.partition("[")[0] for test in failed]
    survived = [test for test in tests if test not in failed]
    if not survived:
        return "killed"
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
    return f"not found by {', '.join(survived)} ({' '.join(last)})"


def main() -> int:
    """Judge the mutants, print the table, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # One more than there are processors: some tests find a mutant by waiting in vain.
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if mutant.name in arguments.names or not arguments.names]
    alive = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for mutant, verdict in zip(chosen, pool.map(verdict_on, chosen), strict=True):
            alive += verdict != "killed"
            print(f"{mutant.name:60} {verdict}", flush=True)  # noqa: T201  # the table
    print(  # noqa: T201
        f"{len(chosen) - alive} of {len(chosen)} mutants killed"
    )
    return 1 if alive or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
