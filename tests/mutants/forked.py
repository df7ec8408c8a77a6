"""Tests run in a forked child of a warm process: all but the package was imported before.

Importing pytest and what tests use takes longer than most of the tests that find a mutant. The
server of multiprocessing, which forks, imports that once. It has one thread and no loop of
trio's. Each mutant gets a child of it, which imports the package as its own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HANG_SECONDS = "15"  # for a test that waits in vain
WARM = multiprocessing.get_context("forkserver")
# What the package and its tests import, but neither of them. One that can't be imported is left out.
WARM.set_forkserver_preload(
    [
        *("asyncio", "asyncpg", "cyclopts", "cyclopts.completion", "h11", "hypercorn.trio"),
        *("hypothesis.stateful", "msgspec.inspect", "nats.aio.client"),
        *("opentelemetry.sdk.trace.export.in_memory_span_exporter",),
        *("opentelemetry.sdk.metrics.export", "prometheus_client.parser", "pytest"),
        *("pytest_cov.plugin", "pytest_trio", "rich.live", "rich.table", "sqlite3"),
        *("trio.testing", "trio_asyncio", "trustme"),
        # What pytest imports by itself whenever it begins.
        *("_hypothesis_pytestplugin", "anyio.pytest_plugin", "anyio._backends._asyncio"),
        *("anyio._backends._trio", "pdb", "unittest.mock", "xdist.looponfail", "xdist.newhooks"),
    ]
)


def run_pytest(arguments: list[str], folder: Path, longest_seconds: float) -> str | None:
    """Return what pytest says of the package in ``folder``; None if that takes too long."""
    output = folder / "output"
    child = WARM.Process(target=_run, args=(arguments, folder, output))
    child.start()
    try:
        child.join(longest_seconds)
        return None if child.is_alive() else output.read_text("utf-8")
    finally:
        # What a test left running, and a test that hangs with all that it has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid or 0, signal.SIGKILL)
        child.join()


def end() -> None:
    """End the warm process: what its children took is counted as ours once it was waited for."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # it is not public


def _run(arguments: list[str], folder: Path, output: Path) -> None:
    """Be the child: import the package from ``folder``, write to ``output``."""
    os.setpgid(0, 0)
    gc.freeze()  # what was imported before need not be looked through for garbage
    import pytest  # noqa: PLC0415  # only here: the process that starts children need not

    sys.path.insert(0, str(folder))
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{others}" if others else str(folder)
    os.environ["HANG_SECONDS"] = HANG_SECONDS
    # Else it tidies up what other runs have left, and so does another one at the same moment.
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # Plugins were imported before pytest could rewrite their asserts, of which it warns.
    unwarned = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    try:
        pytest.main(["-q", "-p", "no:cacheprovider", *unwarned, *arguments])
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # multiprocessing runs none: servers would stay
