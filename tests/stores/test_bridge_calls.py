"""How calls over a bridge end when it closes, over either bridge, without a driver or a server."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio

from provcache_trio._asyncio.bridge import make_bridge
from provcache_trio._asyncio.calls import BridgeCalls, call_once, shut_down

from tests.support.bridges import each_bridge, threads_left
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from provcache_trio._asyncio.bridge import BridgeKind


class Calls:
    """Calls over a new bridge that take as long as they may; what happened stands in ``steps``."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def open(self, kind: BridgeKind) -> BridgeCalls:
        self.bridge = make_bridge(kind)
        await self.bridge.open()
        return BridgeCalls(self.bridge, "the thing")

    def endless(self) -> Callable[[], Awaitable[None]]:
        return partial(self.bridge.run, self._wait)

    async def _wait(self) -> None:
        self.steps.append("call")
        try:
            await asyncio.sleep(HANG_SECONDS)
        finally:
            await asyncio.sleep(0.02)  # noqa: ASYNC102  # asyncio's; longer than ``last`` takes
            self.steps.append("cancelled")

    async def last(self) -> None:
        await asyncio.sleep(0)
        self.steps.append("last")


@each_bridge
async def test_closing_cancels_every_call_and_waits_for_its_end(bridge: BridgeKind) -> None:
    made = Calls()

    async def call(calls: BridgeCalls) -> None:
        with pytest.raises(trio.ClosedResourceError, match=r"^the thing is closed$"):
            await calls.run(made.endless())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            calls = await made.open(bridge)
            for _ in range(3):
                nursery.start_soon(call, calls)
            await until(lambda: len(made.steps) == 3)
            scope.cancel()
            await calls.close(made.last)
    assert made.steps == ["call"] * 3 + ["cancelled"] * 3 + ["last"]
    assert threads_left() == []


@each_bridge
async def test_a_call_after_closing_is_refused_before_it_begins(bridge: BridgeKind) -> None:
    made = Calls()
    calls = await made.open(bridge)
    await calls.close(made.last)
    with pytest.raises(trio.ClosedResourceError, match="the thing is closed"):
        await calls.run(made.endless())
    assert made.steps == ["last"]


@each_bridge
async def test_an_interrupt_while_it_closes_comes_out_when_everything_is_done(
    bridge: BridgeKind,
) -> None:
    made = Calls()
    calls = await made.open(bridge)
    times = iter([1])

    async def interrupted() -> None:
        if next(times, None):
            raise KeyboardInterrupt
        await made.bridge.run(made.last)

    with pytest.raises(KeyboardInterrupt):
        await shut_down(calls.bridge, interrupted)
    assert made.steps == ["last"]
    assert threads_left() == []


@each_bridge
async def test_the_bridge_is_closed_when_the_last_call_fails(bridge: BridgeKind) -> None:
    async def fail() -> NoReturn:  # noqa: ASYNC124  # as an asyncio function
        raise OSError("not closed")

    with pytest.raises(OSError, match="not closed"):
        await (await Calls().open(bridge)).close(fail)
    assert threads_left() == []


@each_bridge
async def test_a_single_call_returns_or_raises_and_leaves_no_bridge(bridge: BridgeKind) -> None:
    async def succeed() -> str:  # noqa: ASYNC124  # as an asyncio function
        return type(asyncio.get_running_loop()).__name__

    async def fail() -> NoReturn:  # noqa: ASYNC124  # as an asyncio function
        raise OSError("refused")

    before = len(trio.lowlevel.current_task().child_nurseries)
    assert "Loop" in await call_once(bridge, succeed)
    with pytest.raises(OSError, match="refused"):
        await call_once(bridge, fail)
    assert len(trio.lowlevel.current_task().child_nurseries) == before
    assert threads_left() == []
