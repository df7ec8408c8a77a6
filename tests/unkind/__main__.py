"""Run the tests under conditions that are drawn from a seed, and print both.

    python -m tests.unkind SEED [arguments of pytest ...]

Needs Linux. Without a C compiler there is no slow disk.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.unkind.stops import Waker, stop_some

MEMORY = Path("/dev/shm")  # noqa: S108  # a folder of our own is made in it
COMPILER = shutil.which("cc") or ""
SOURCE = Path(__file__).with_name("slow_sync.c")


class Conditions(NamedTuple):
    """What is unkind about the machine, beside the order of tests, which is always random."""

    slow_disk: bool
    one_core: bool
    stops: bool
    hash_seed: int

    def __str__(self) -> str:
        return "; ".join(
            (
                "a disk whose sync takes 20 ms" if self.slow_disk else "temporary files in memory",
                "two workers on one core" if self.one_core else "four workers on two cores",
                "processes stopped for moments" if self.stops else "none stopped",
                f"PYTHONHASHSEED={self.hash_seed}",
            )
        )


def draw_conditions(seed: str) -> Conditions:
    """Return what ``seed`` says."""
    draw = random.Random(f"conditions {seed}")  # noqa: S311  # not for secrets
    yes = (True, False)
    return Conditions(
        slow_disk=draw.choice(yes),
        one_core=draw.choice(yes),
        stops=draw.choice(yes),
        hash_seed=draw.randrange(2**32),
    )


def run(seed: str, conditions: Conditions, arguments: list[str]) -> int:
    """Run pytest under these conditions, and return its exit status."""
    cores = sorted(os.sched_getaffinity(0))[: 1 if conditions.one_core else 2]
    os.sched_setaffinity(0, cores)
    with tempfile.TemporaryDirectory(
        prefix="unkind-", dir=None if conditions.slow_disk else MEMORY
    ) as folder:
        temporary = {"TMPDIR": folder, "PYTEST_DEBUG_TEMPROOT": folder}
        hash_seed = {"PYTHONHASHSEED": str(conditions.hash_seed)}
        environment = {**os.environ, **temporary, **hash_seed}
        if conditions.slow_disk:
            environment["LD_PRELOAD"] = compile_slow_sync(Path(folder))
        command = [
            *(sys.executable, "-m", "pytest", "-p", "tests.unkind.plugin", "--shuffle", seed),
            *("-n", "2" if conditions.one_core else "4", *arguments),
        ]
        waker = Waker()
        with subprocess.Popen(command, env=environment) as tests:
            signal.signal(signal.SIGTERM, lambda *_: tests.terminate())
            if conditions.stops:
                stop_some(tests, random.Random(f"stops {seed}"), waker)  # noqa: S311  # no secret
        return tests.returncode


def compile_slow_sync(folder: Path) -> str:
    """Return the library that makes each sync slow."""
    library = str(folder / "slow_sync.so")
    command = [COMPILER, "-shared", "-fPIC", "-o", library, str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def main() -> int:
    """Run the tests, and return the exit status of pytest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seed")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    conditions = draw_conditions(options.seed)
    if conditions.slow_disk and not COMPILER:
        print("not run: a slow disk, for want of a C compiler (apt-get install gcc)")  # noqa: T201  # a person should know
        conditions = conditions._replace(slow_disk=False)
    print(f"seed {options.seed}: {conditions}", flush=True)  # noqa: T201  # to be run again
    status = run(options.seed, conditions, options.arguments)
    print(f"that was seed {options.seed}: {conditions}", flush=True)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
