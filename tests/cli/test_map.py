"""The maps at the heads of the command line's folders name what is there, and nothing else."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import provcache_trio._cli

ROOT = Path(provcache_trio._cli.__file__).parent
FOLDERS = ["", *sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_map_names_every_module_and_folder(folder: str) -> None:
    package = importlib.import_module(f"provcache_trio._cli.{folder}".rstrip("."))
    there = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
    there |= {f"{path.parent.name}/" for path in (ROOT / folder).glob("*/__init__.py")}
    lines = re.findall(r"^    (\S.*?)(?:  .*)?$", package.__doc__ or "", re.MULTILINE)
    assert sorted(name for line in lines for name in line.split(", ")) == sorted(there)
