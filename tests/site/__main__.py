"""``python -m tests.site FOLDER``: print what is wrong with the site in it, and fail if anything is."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.site import Link, Site
from tests.support.site import SITE, find_addresses


def main(folder: Path) -> int:
    """Check the pages, and every address of the site in README, alerts, code and metadata."""
    site = Site(folder, SITE)
    problems = list(site.problems())
    for path, address in find_addresses():
        if problem := site.problem_of(Link(address, is_loaded=False)):
            problems.append(f"{path}: {address}: {problem}")
    print(*problems, f"{len(problems)} problems", sep="\n")  # noqa: T201
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
