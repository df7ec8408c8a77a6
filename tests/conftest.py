"""How much the tests do: reduced counts by default, everything with ``--full``."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import gc
import inspect
import math
import os
import random
import signal
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, Phase, settings

from provcache_trio._core import opening
from provcache_trio._core.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from provcache_trio._core.assembly import Setup

# Derandomized: a run fails on what the change broke, not on what it happened to draw.
settings.register_profile(
    "reduced",
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("full", settings.get_profile("reduced"), max_examples=2000)
settings.register_profile("few", settings.get_profile("reduced"), max_examples=10)
settings.register_profile(
    "first failure", settings.get_profile("reduced"), phases=(Phase.explicit, Phase.generate)
)


# The noxfile looks for these words, and leaves out all files in which there are none of them.
FOUND_BY_TEXT = {"browser", "heavy", "hypothesis", "promtool", "stops_processes"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the full counts of heavy tests")
    parser.addoption("--few", action="store_true", help="draw a tenth of the examples")
    parser.addoption(
        "--first-failure", action="store_true", help="report what fails as it was found"
    )
    parser.addoption(
        "--writers", type=int, default=1, help="give so many writers to every queue with one"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "heavy: takes seconds; needs to run on one Python only")
    config.addinivalue_line("markers", "browser: drives a real Chromium; needs playwright")
    config.addinivalue_line(
        "markers", "one_lane: about the order of calls, which lanes don't share"
    )
    config.addinivalue_line("markers", "promtool: needs Prometheus' promtool")
    config.addinivalue_line(
        "markers", "stops_processes: so that nobody else may continue them (tests/unkind)"
    )
    config.addinivalue_line(
        "markers", "whole_process: starts programs or servers; needs to run on two Pythons only"
    )
    config.addinivalue_line(
        "markers", "two_pythons: about what no Python changes; needs to run on two of them only"
    )
    # A shell ignores Ctrl-C for what it starts in the background; then Python does, and trio.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # so does nohup
    if config.getoption("--full"):
        settings.load_profile("full")
    elif config.getoption("--few"):
        settings.load_profile("few")
    elif config.getoption("--first-failure"):
        settings.load_profile("first failure")
    else:
        settings.load_profile("reduced")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among thousands of tests: that takes a third of the time.

    One worker after the other: the first one compiles the tests, which takes longer than the rest.
    """
    gc.disable()
    environment = os.open(sys.prefix, os.O_RDONLY)
    try:
        fcntl.flock(environment, fcntl.LOCK_EX)
        return (yield)
    finally:
        os.close(environment)
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    find_text = functools.cache(lambda path: path.read_text("utf-8"))
    for item in items:
        for marker in FOUND_BY_TEXT.intersection(mark.name for mark in item.iter_markers()):
            if marker not in find_text(item.path):
                raise pytest.UsageError(f"{item.path} has no word of its marker {marker}")
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = without_stray_cancelled(item.obj)


def pytest_runtest_setup() -> None:
    random.seed(0)  # the backoff's jitter comes from there


@pytest.fixture(autouse=True)
def ctrl_c() -> Generator[None]:
    """Give Ctrl-C back to Python: after a command's work, the system ends a program by it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def writers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Do as ``--writers`` says; a test of ``one_lane`` has all its keys in one of them."""
    wanted: int = request.config.getoption("--writers")
    if wanted == 1:
        return wanted
    begin = opening._Opening.__init__

    def begin_wider(self: opening._Opening[object], setup: Setup[object]) -> None:
        if setup.options.writers == 1:
            options = msgspec.structs.replace(setup.options, writers=wanted)
            setup = dataclasses.replace(setup, options=options)
        begin(self, setup)

    monkeypatch.setattr(opening._Opening, "__init__", begin_wider)
    if request.node.get_closest_marker("one_lane") is not None:
        monkeypatch.setattr(Lanes, "number_of", lambda _, key: hash(key) * 0)
    return wanted


def without_stray_cancelled(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Fail a test that a Cancelled ends: pytest-trio takes that for a success."""

    @functools.wraps(test)
    async def run(**arguments: object) -> None:
        try:
            await test(**arguments)
        except trio.Cancelled as error:
            if trio.current_effective_deadline() != -math.inf:
                raise AssertionError("a Cancelled came out of the test") from error  # noqa: ASYNC104  # that is it
            raise

    return run


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Return a function that picks the reduced or the full count."""
    full: bool = request.config.getoption("--full")
    return lambda reduced, at_full: at_full if full else reduced
