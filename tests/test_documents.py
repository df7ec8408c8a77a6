"""Every Python block of the documents runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio.testing import MemoryRepository

from tests.items import Item

if TYPE_CHECKING:
    from trio.testing import MockClock

ROOT = Path(__file__).parent.parent


def blocks_of(name: str) -> list[str]:
    text = (ROOT / name).read_text("utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


BLOCKS = [
    pytest.param(block, id=f"{name} {number}")
    for name in ("README.md",)
    for number, block in enumerate(blocks_of(name))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(block: str, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-W", "error", "-c", block], check=True, cwd=tmp_path, timeout=60
    )


async def test_the_recipes_for_a_full_queue_do_what_they_say(autojump_clock: MockClock) -> None:
    recipes: dict[str, Any] = {"trio": trio}
    exec(next(block for block in blocks_of("README.md") if "def skip" in block), recipes)  # noqa: S102  # our own
    store = MemoryRepository[Item]()
    store.down()
    options = WriteBehindOptions(queue_capacity=1, batch_size=1)
    async with open_write_behind_queue(store, options) as queue:
        for key in "ab":  # one is being written, one waits in line
            assert recipes["skip"](queue, Item(key))
            await trio.testing.wait_all_tasks_blocked()
        assert not recipes["skip"](queue, Item("c"))
        started = trio.current_time()
        assert not await recipes["wait_at_most_50_ms"](queue, Item("d"))
        assert trio.current_time() - started == pytest.approx(0.05)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recipes["wait"], queue, Item("e"))
            await trio.sleep(3600)
            assert queue.metrics().producers_waiting == 1
            store.up()
    assert list(store.rows) == ["a", "b", "e"]


def test_readme_has_the_two_commands_and_ci_runs_the_second() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("provcache demo")
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert commands[1].replace("pip install", "pip install --quiet") in ci
