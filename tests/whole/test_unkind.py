"""What makes a machine unkind does what it says, and no lasting harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until
from tests.unkind.__main__ import COMPILER, compile_slow_sync, draw_conditions
from tests.unkind.stops import find_running

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.whole_process

SLEEP = (sys.executable, "-c", "import time; print(flush=True); time.sleep(600)")
STOP = "import sys; from tests.unkind.stops import Waker; Waker().stop(int(sys.argv[1]), 600)"
SYNC = "import os, time; file = os.open('x', os.O_CREAT); began = time.monotonic(); os.{}(file); print(time.monotonic() - began)"


@contextmanager
def running(*command: str) -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.stops_processes
def test_a_process_goes_on_though_the_one_that_stopped_it_is_killed() -> None:
    with running(*SLEEP) as sleeping:
        assert sleeping.stdout is not None
        sleeping.stdout.readline()
        with running(sys.executable, "-c", STOP, str(sleeping.pid)) as stopping:
            wait_until(lambda: sleeping.pid not in find_running(os.getpid()))
            stopping.kill()
            wait_until(lambda: sleeping.pid in find_running(os.getpid()))


@pytest.mark.stops_processes
def test_what_somebody_else_has_stopped_is_left_alone() -> None:
    with running(*SLEEP) as sleeping:
        wait_until(lambda: sleeping.pid in find_running(os.getpid()))
        sleeping.send_signal(signal.SIGSTOP)
        wait_until(lambda: sleeping.pid not in find_running(os.getpid()))
        assert os.getpid() not in find_running(os.getpid())
        assert os.getpid() in find_running(os.getppid())


@pytest.mark.skipif(not COMPILER, reason="no C compiler (apt-get install gcc)")
@pytest.mark.parametrize("function", ["fsync", "fdatasync"])
def test_a_slow_disk_takes_20_ms_for_each_sync(tmp_path: Path, function: str) -> None:
    environment = {**os.environ, "LD_PRELOAD": compile_slow_sync(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SYNC.format(function)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert float(done.stdout) >= 0.02


def test_a_seed_says_the_conditions() -> None:
    drawn = [draw_conditions(str(seed)) for seed in range(20)]
    assert drawn == [draw_conditions(str(seed)) for seed in range(20)]
    for condition in zip(*drawn, strict=True):
        assert len(set(condition)) > 1


def test_a_seed_says_the_order_of_tests(tmp_path: Path) -> None:
    names = [f"test_{number}" for number in range(20)]
    module = tmp_path / "test_order.py"
    module.write_text("\n".join(f"def {name}(): pass" for name in names), "utf-8")

    def order(seed: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--noconftest"]
        command += ["-p", "tests.unkind.plugin", "--shuffle", seed, str(module)]
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # it needs none
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        lines = [line.rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line]
        assert sorted(lines) == sorted(names)
        return lines

    of_one = order("1")
    assert order("1") == of_one
    assert order("2") != of_one
