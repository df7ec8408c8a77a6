"""docs/design/walk.md names every module that an entry passes, and no other."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

import provcache_trio
from provcache_trio import open_write_behind_queue

from tests.support.items import Item
from tests.support.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from trio.testing import MockClock

PACKAGE: Final = Path(provcache_trio.__file__).parent
PAGE: Final = (ROOT / "docs" / "design" / "walk.md").read_text("utf-8")
ROWS: Final[list[tuple[str, str]]] = re.findall(
    r"^\| `(\S+\.py)` \| .* \| (.*) \|$", PAGE, re.MULTILINE
)


class Store:
    """A repository of a user's, so that only the queue's own modules are entered."""

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        await trio.lowlevel.checkpoint()
        return len(entries)


class Footprints:
    """The functions of ours that are entered, by module."""

    def __init__(self) -> None:
        self.functions: dict[str, set[str]] = defaultdict(set)

    def note(self, frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            owner = type(frame.f_locals.get("self")).__name__
            name = frame.f_code.co_name
            names = {owner} if name == "__init__" else {name, f"{owner}.{name}"}
            self.functions[path.relative_to(PACKAGE).as_posix()] |= names


@pytest.mark.one_lane
async def test_the_walk_of_an_entry_is_the_one_that_the_page_describes(
    autojump_clock: MockClock, writers: int
) -> None:
    passed = Footprints()
    before = sys.getprofile()
    async with open_write_behind_queue(Store()) as queue:
        await trio.testing.wait_all_tasks_blocked()
        sys.setprofile(passed.note)
        try:
            await queue.enqueue(Item("a"))
            await trio.sleep(1)
        finally:
            sys.setprofile(before)
        assert queue.metrics().total_persisted == 1
    chooses = {"_core/lanes.py"} if writers > 1 else set[str]()
    assert {module for module, _ in ROWS} | chooses == passed.functions.keys()
    for module, functions in ROWS:
        named = set(re.findall(r"`([\w.]+)`", functions))
        assert named
        assert named <= passed.functions[module], module
