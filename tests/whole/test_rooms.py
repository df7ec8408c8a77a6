"""The plan of the house: which folder may import which, and that each one says so."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import provcache_trio
import provcache_trio._core

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(provcache_trio.__file__).parent
TESTS = Path(__file__).parents[1]
# From below. What stands in one row doesn't know each other.
RANKS = (
    {"_vocabulary"},
    {"_core", "_disk", "_asyncio", "_pgserver"},
    {"sqlite", "postgres", "journal", "dead_letters", "testing", "otel", "prometheus"},
    {"status", "nats", "cache"},
    {"_cli"},
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
# Beside the vocabulary. What is not here may import no other room; the command may import all.
NEIGHBOURS = {
    "sqlite": {"_disk"},
    "postgres": {"_asyncio"},
    "journal": {"_disk"},
    "dead_letters": {"_disk"},
    "status": {"prometheus"},
    "nats": {"_core", "_asyncio"},
    "cache": {"_core"},
}
# Which folders may know a driver; its package is imported nowhere else.
DRIVERS = {
    "sqlite3": {"_disk", "sqlite", "dead_letters"},
    "asyncpg": {"postgres"},
    "nats": {"nats"},
}
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
FACE = "__init__"
READING_ORDER = re.findall(r"^    (\w+)  ", provcache_trio._core.__doc__ or "", re.MULTILINE)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def imports(path: Path, top: Path = PACKAGE) -> list[str]:
    """Return what a module below ``top`` imports, for checkers only too, as dotted paths."""
    package = path.relative_to(top.parent).parent.parts
    found: list[str] = []
    for statement in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(statement, ast.ImportFrom):
            base = package[: len(package) - statement.level + 1] if statement.level else ()
            named = ".".join((*base, *filter(None, [statement.module])))
            found += (f"{named}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.Import):
            found += (alias.name for alias in statement.names)
    return found


def imported_rooms(path: Path) -> Iterator[str]:
    for name in imports(path):
        root, _, rest = name.partition(".")
        if root == PACKAGE.name:
            yield rest.partition(".")[0]


MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if room_of(path) not in {"__init__", "__main__"}
)


def test_every_room_has_its_rank() -> None:
    rooms = {room_of(path) for path in MODULES}
    assert rooms == set(RANK)


@pytest.mark.two_pythons
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_the_ranks(path: Path) -> None:
    own = room_of(path)
    for room in imported_rooms(path):
        if room in RANK:
            assert room == own or RANK[room] < RANK[own], f"{own} imports {room}"
        else:
            # What the package offers at its top is for users, and for the command.
            assert own == "_cli", f"{own} imports provcache_trio.{room}"


@pytest.mark.two_pythons
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_its_neighbours_and_no_others(path: Path) -> None:
    own = room_of(path)
    if own != "_cli":
        allowed = {own, "_vocabulary", *NEIGHBOURS.get(own, ())}
        assert set(imported_rooms(path)) <= allowed
    imported = {name.partition(".")[0] for name in imports(path)}
    assert not {driver for driver in imported & DRIVERS.keys() if own not in DRIVERS[driver]}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_who_lives_there_and_what_it_may_touch(folder: str) -> None:
    text = (PACKAGE / folder / "__init__.py").read_text("utf-8")
    assert re.search(r"\bmay import\b", text), folder
    assert re.search(r"\bmust never\b", text), folder


def test_the_map_of_the_package_names_every_folder_and_module_from_below() -> None:
    drawn = re.findall(r"^    (\w+)  ", provcache_trio.__doc__ or "", re.MULTILINE)
    assert sorted(drawn) == sorted(RANK)
    assert all(RANK[lower] <= RANK[upper] for lower, upper in pairwise(drawn))


def test_the_reading_order_names_every_module_of_the_core() -> None:
    assert sorted(READING_ORDER) == sorted(
        path.stem for path in (PACKAGE / "_core").glob("*.py") if path.stem != FACE
    )


@pytest.mark.parametrize("module", READING_ORDER)
def test_imports_of_the_core_point_down_its_reading_order(module: str) -> None:
    below = READING_ORDER[READING_ORDER.index(module) + 1 :]
    for name in imports(PACKAGE / "_core" / f"{module}.py"):
        if name.startswith("provcache_trio._core."):
            imported = name.split(".")[2]
            assert imported in below, f"{module} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_can_be_imported(path: Path) -> None:
    """Those that only checkers import, too."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    importlib.import_module(".".join(parts).removesuffix(f".{FACE}"))


@pytest.mark.two_pythons
@pytest.mark.parametrize(
    "path", sorted(TESTS.glob("*/*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_what_tests_share_is_no_test(path: Path) -> None:
    for name in imports(path, TESTS):
        assert not re.match(r"tests(\.\w+)*\.test_", name), f"{name} belongs into tests/support"
