"""docs/quickstart.md as a newcomer follows it: its files are saved, its commands run as they stand."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final

from tests.support.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PAGE: Final = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
FILES: Final = dict(
    re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)
)


def commands_of(text: str) -> list[str]:
    """Return each line of what a page shows for the shell."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


COMMANDS: Final = commands_of(PAGE)
README_COMMANDS: Final = commands_of((ROOT / "README.md").read_text("utf-8"))
PRINTED: Final[str] = re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0]
URL: Final = "postgresql://me@localhost/shop"


def is_installation(command: str) -> bool:
    """Return whether ``command`` makes an environment, or puts something into it."""
    return "venv .venv" in command or "/pip install " in command


def save_files(folder: Path) -> None:
    """Save each file of the page under the name that the page gives it."""
    for name, text in FILES.items():
        (folder / name).write_text(text, "utf-8")


def run(command: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command of the page in ``folder``; return what it printed, or raise with all of it."""
    done = subprocess.run(  # noqa: S602  # commands of our own
        command,
        shell=True,  # as a newcomer types it
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout
