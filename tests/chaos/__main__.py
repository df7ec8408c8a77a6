"""Run the storm from the command line; see the package."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from tests.chaos.storm import chaos


def main() -> int:
    """Make faults, print what came of it, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=chaos.__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="provcache-chaos-"))
    print(f"seed {arguments.seed}, records in {folder}", flush=True)  # noqa: T201
    run = partial(chaos, seconds=arguments.seconds, seed=arguments.seed, folder=folder)
    outcome = trio.run(run)
    for event in outcome.events:
        print(event)  # noqa: T201
    for line in outcome.wrong[:50]:
        print(f"WRONG: {line}")  # noqa: T201
    print(f"{len(outcome.wrong)} promises broken")  # noqa: T201
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
