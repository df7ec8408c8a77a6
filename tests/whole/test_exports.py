"""The package's face: what it offers, what it imports, and in which order it is read."""

from __future__ import annotations

import enum
import importlib
import importlib.metadata
import importlib.resources
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

import provcache_trio
import provcache_trio.testing
from provcache_trio._vocabulary.faces import needing_extra

from tests.support.exports import MODULES, is_protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FunctionType

PACKAGE = Path(provcache_trio.__file__).parent
# What DESIGN names, and two types that are needed beside, in the flat namespace.
NAMES = [
    "DeadLetter",
    "DeadLetterSink",
    "DecisionDigest",
    "DrainTimeoutError",
    "EntryQueue",
    "EntryRejectedError",
    "HasVeriKey",
    "Histogram",
    "Journal",
    "JournalError",
    "LastError",
    "ProvcacheEntry",
    "ProvcacheError",
    "QueueClosedError",
    "QueueState",
    "ReplaySeed",
    "Repository",
    "StoreError",
    "StoreMisconfiguredError",
    "StoreUnavailableError",
    "Table",
    "TransientStoreError",
    "WriteBehindCrashedError",
    "WriteBehindMetrics",
    "WriteBehindOptions",
    "WriteBehindQueue",
    "__version__",
    "build_veri_key",
    "merge_entries",
    "open_write_behind_queue",
    "store_error_of",
]

OFFERED = {name: getattr(provcache_trio, name) for name in provcache_trio.__all__}
CLASSES = [value for value in OFFERED.values() if isinstance(value, type)]
FUNCTIONS = [value for value in OFFERED.values() if inspect.isfunction(value)]
FAKES = [getattr(provcache_trio.testing, name) for name in provcache_trio.testing.__all__]


# Names


def test_all_is_sorted_and_names_what_the_package_promises() -> None:
    assert provcache_trio.__all__ == sorted(NAMES)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_beside_the_core_offers_what_it_promises(module: str) -> None:
    offered = importlib.import_module(f"provcache_trio.{module}")
    assert sorted(offered.__all__) == sorted(MODULES[module])
    assert all(hasattr(offered, name) for name in offered.__all__)


def test_these_are_all_public_modules() -> None:
    assert {path.stem for path in PACKAGE.glob("[!_]*")} - {"py"} == {*MODULES}


def test_every_public_name_is_offered() -> None:
    public = {name for name in vars(provcache_trio) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(provcache_trio, name))}
    assert {path.stem for path in PACKAGE.glob("[!_]*")} >= modules
    assert public - modules == set(NAMES) - {"__version__"}


def test_every_class_is_final_or_made_to_be_a_base_or_a_record() -> None:
    for kind in CLASSES:
        assert (
            getattr(kind, "__final__", False)
            or is_protocol(kind)
            or issubclass(kind, msgspec.Struct | Exception | enum.Enum)
        ), kind


def test_structs_are_frozen_and_take_keywords_only() -> None:
    for kind in CLASSES:
        if issubclass(kind, msgspec.Struct):
            assert kind.__struct_config__.frozen, kind
            with pytest.raises(TypeError, match="positional"):
                kind(1)


def test_every_error_belongs_to_the_tree() -> None:
    errors = [kind for kind in CLASSES if issubclass(kind, BaseException)]
    assert errors
    for error in errors:
        assert issubclass(error, provcache_trio.ProvcacheError), error


def members(kind: type) -> Iterator[FunctionType | property]:
    for name, member in vars(kind).items():
        if not name.startswith("_") and (
            inspect.isfunction(member) or isinstance(member, property)
        ):
            yield member


@pytest.mark.parametrize("thing", [*CLASSES, *FUNCTIONS, *FAKES], ids=lambda thing: thing.__name__)
def test_everything_offered_has_a_docstring(thing: type | FunctionType) -> None:
    assert thing.__doc__
    if isinstance(thing, type):
        for base in thing.__mro__:
            if base.__module__.startswith("provcache_trio"):
                for member in members(base):
                    assert member.__doc__, member


def test_every_field_of_a_record_is_documented() -> None:
    for kind in CLASSES:
        if issubclass(kind, msgspec.Struct):
            documented = re.findall(r"^    (\w+): ", inspect.getdoc(kind) or "", re.MULTILINE)
            assert set(kind.__struct_fields__) <= set(documented), kind


def test_every_class_is_found_under_the_name_that_it_shows() -> None:
    for kind in [*CLASSES, *filter(inspect.isclass, FAKES)]:
        assert getattr(sys.modules[kind.__module__], kind.__qualname__) is kind
        if issubclass(kind, msgspec.Struct):
            # msgspec resolves annotations in the module that ``__module__`` names.
            msgspec.inspect.type_info(kind)
        elif kind in CLASSES:
            assert kind.__module__ == "provcache_trio"


# Imports


def modules_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.whole_process
def test_importing_the_package_imports_no_driver_and_no_user_interface() -> None:
    added = modules_after("import provcache_trio") - modules_after("import trio")
    extras = {
        "asyncpg",
        "trio_asyncio",
        "cyclopts",
        "rich",
        "h11",
        "opentelemetry",
        "prometheus_client",
    }
    assert added & {"asyncio", "sqlite3", *extras} == set()
    assert {"provcache_trio", "msgspec"} <= added


# What is shipped


def test_checkers_are_told_that_the_package_is_typed() -> None:
    assert importlib.resources.files(provcache_trio).joinpath("py.typed").is_file()


def test_the_version_is_the_one_of_the_distribution() -> None:
    assert provcache_trio.__version__ == importlib.metadata.version("provcache-trio")


# Extras


@pytest.mark.whole_process
def test_a_module_whose_extra_is_not_installed_names_it() -> None:
    needed = {
        "nats": "nats",
        "otel": "opentelemetry",
        "postgres": "asyncpg",
        "prometheus": "prometheus_client",
    }
    program = f"""
import importlib, sys

class Hider:
    def find_spec(self, name, *_):
        if name in {[*needed.values()]}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hider())
for extra in {[*needed]}:
    try:
        importlib.import_module("provcache_trio." + extra)
    except ModuleNotFoundError as error:
        print(error.name, error, sep=": ")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"{module}: provcache_trio.{extra} needs {module}: pip install 'provcache-trio[{extra}]'"
        for extra, module in needed.items()
    ]


def test_the_extra_is_named_for_its_own_module_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ModuleNotFoundError, match=r"^No module named 'asyncpg.part'$"),
        needing_extra("postgres", "asyncpg"),
    ):
        importlib.import_module("asyncpg.part")
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with (
        pytest.raises(
            ModuleNotFoundError, match=r"install 'provcache-trio\[postgres\]'$"
        ) as caught,
        needing_extra("postgres", "asyncpg"),
    ):
        importlib.import_module("asyncpg")
    assert caught.value.name == "asyncpg"
