"""Where the site is, as mkdocs.yml says; README, alerts, code and metadata have to agree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tests.support.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SITE: Final[str] = re.findall(
    r"^site_url: (https://\S+/)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE
)[0]
POINTING: Final = (
    "README.md",
    "pyproject.toml",
    "ops/*.yml",
    "ops/*.json",
    "src/**/*.py",
    "examples/*.py",
)


def anchors_of(page: Path) -> set[str]:
    """Return what a link to a heading of the page may end in."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def find_addresses() -> Iterator[tuple[str, str]]:
    """Yield each address of a page of the site, and the file that it stands in."""
    for pattern in POINTING:
        for path in sorted(ROOT.glob(pattern)):
            for address in re.findall(rf"{re.escape(SITE)}[\w/#.-]*", path.read_text("utf-8")):
                yield str(path.relative_to(ROOT)), address
