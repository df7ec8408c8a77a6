"""Put each bug of the table into a copy of the installed package and demand that it is found.

    python -m tests.mutants [--jobs 3] [--writers 4] [name ...]

A mutant is killed when each of its tests fails on it. One that survives, that no longer
applies (its text is not in the file exactly once), or whose tests can't be run, makes the exit
status 1. So does a test that fails without a bug.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

from tests.mutants.forked import end, run_pytest
from tests.mutants.table import MUTANTS, Mutant

LONGEST_SECONDS = 600  # only a hang that no test ends takes longer, on the busiest machine
SLOWEST = 10
PASSED = "without a bug, all of the tests pass"


def find_package() -> Path:
    """Return the folder of the package, which must not be imported here."""
    found = importlib.util.find_spec("provcache_trio")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("provcache_trio is not installed")
    return Path(found.origin).parent


PACKAGE = find_package()


def judge(mutant: Mutant, writers: int) -> tuple[str, float]:
    """Return "killed", or why it was not, and how many seconds that took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        verdict = put_into_a_copy(mutant, folder) or run_tests(mutant.killed_by, folder, writers)
    return verdict, time.monotonic() - began


def check_that_all_pass(mutants: list[Mutant], writers: int) -> str:
    """Run their tests on the package without a bug; else what kills may be the warm process."""
    tests = sorted({test for mutant in mutants for test in mutant.killed_by})
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(PACKAGE, Path(name) / PACKAGE.name)
        # However few examples are drawn, it is the same process.
        options = ["--tb=short", "--few", "--writers", str(writers)]
        said = run_pytest([*options, *tests], Path(name), LONGEST_SECONDS * 2)
    passed = said is not None and re.search(r"^\d+ passed in ", said, re.MULTILINE)
    return PASSED if passed else f"without a bug, some of the tests fail, too:\n{said}"


def put_into_a_copy(mutant: Mutant, folder: Path) -> str:
    """Put the package with the bug into ``folder``; return "", or why that can't be done."""
    copy = folder / PACKAGE.name
    link_to_all_but(PACKAGE, copy, {PACKAGE / change.file for change in mutant.changes})
    for change in mutant.changes:
        file = copy / change.file
        text = (file if file.exists() else PACKAGE / change.file).read_text("utf-8")
        if text.count(change.old) != 1:
            return f"no longer applies: {change.file} has the text {text.count(change.old)} times"
        file.write_text(text.replace(change.old, change.new), "utf-8")
    return ""


def link_to_all_but(source: Path, target: Path, files: set[Path]) -> None:
    """Make ``target`` the folder ``source`` without ``files``, and links of the rest of it."""
    target.mkdir()
    for path in source.iterdir():
        if any(path in file.parents for file in files):
            link_to_all_but(path, target / path.name, files)
        elif path.name == "__pycache__" and any(file.parent == source for file in files):
            stems = {file.stem for file in files}
            compiled = [one for one in path.iterdir() if one.name.partition(".")[0] not in stems]
            (target / path.name).mkdir()
            for one in compiled:
                (target / path.name / one.name).symlink_to(one)
        elif path not in files:
            (target / path.name).symlink_to(path)


def run_tests(tests: tuple[str, ...], folder: Path, writers: int) -> str:
    """Run ``tests`` on the package in ``folder``; every one of them has to fail."""
    options = ["--tb=no", "--first-failure", "--writers", str(writers)]
    said = run_pytest([*options, *tests], folder, LONGEST_SECONDS)
    if said is None:
        return f"not found within {LONGEST_SECONDS} s"
    failed = re.findall(r"^FAILED (\S+)", said, re.MULTILINE)
    failed += [test.partition("[")[0] for test in failed]
    survived = [test for test in tests if test not in failed]
    if not survived:
        return "killed"
    return f"not found by {', '.join(survived)} ({' '.join(said.strip().splitlines()[-1:])})"


def main() -> int:
    """Judge the mutants, print the table, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # One more than there are processors: some tests find a mutant by waiting in vain.
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1)
    parser.add_argument("--writers", type=int, default=1, help="give every queue so many")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if mutant.name in arguments.names or not arguments.names]
    took: list[tuple[float, str]] = []
    alive = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        checked = pool.submit(check_that_all_pass, chosen, arguments.writers)
        verdicts = pool.map(judge, chosen, repeat(arguments.writers))
        for mutant, (verdict, seconds) in zip(chosen, verdicts, strict=True):
            alive += verdict != "killed"
            took.append((seconds, mutant.name))
            print(f"{mutant.name:60} {verdict}", flush=True)  # noqa: T201  # the table
    end()
    print("the slowest:")  # noqa: T201
    for seconds, name in sorted(took, reverse=True)[:SLOWEST]:
        print(f"{seconds:6.1f} s  {name}")  # noqa: T201
    print(checked.result())  # noqa: T201
    print(  # noqa: T201
        f"{len(chosen) - alive} of {len(chosen)} mutants killed"
    )
    return 1 if alive or not chosen or checked.result() != PASSED else 0


if __name__ == "__main__":
    sys.exit(main())
