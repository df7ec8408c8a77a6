"""The driver of state machines is believed, so it is tested: what it must see, it sees."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import Phase, settings
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from tests.support.machine import TrioMachine, in_loop

FEW = settings(max_examples=20, stateful_step_count=5, phases=[Phase.generate])


class Toy(TrioMachine):
    """Does one thing in the background and one as a rule, and lets time pass."""

    @initialize(seed=st.integers(0, 2**16))
    def start(self, seed: int) -> None:
        self.wrong = ""
        self.boot(seed)

    def check(self) -> None:
        assert not getattr(self, "wrong", ""), self.wrong

    @rule()
    @in_loop
    async def work(self) -> None:
        self.nursery.start_soon(self.background)
        await self.job()
        await trio.sleep(1)

    async def background(self) -> None:
        await trio.lowlevel.checkpoint()

    async def job(self) -> None:
        await trio.lowlevel.checkpoint()


def run(machine: type[Toy]) -> None:
    run_state_machine_as_test(machine, settings=FEW)
    # A loop that was left behind would not let another one run.
    trio.run(trio.lowlevel.checkpoint)


def test_what_is_wrong_for_one_step_only_is_seen() -> None:
    class Flickers(Toy):
        async def background(self) -> None:
            self.wrong = "flickers"
            await trio.lowlevel.checkpoint()
            self.wrong = ""

    with pytest.raises(AssertionError, match="flickers") as info:
        run(Flickers)
    assert any("after a step of task" in note for note in info.value.__notes__)
    trio.run(trio.lowlevel.checkpoint)


def test_what_is_wrong_only_between_two_steps_is_seen() -> None:
    class FlickersOnAbort(Toy):
        async def background(self) -> None:
            def abort(_: object) -> trio.lowlevel.Abort:
                self.wrong = "flickers"
                return trio.lowlevel.Abort.SUCCEEDED

            with trio.move_on_after(0.5):
                try:
                    await trio.lowlevel.wait_task_rescheduled(abort)
                finally:
                    self.wrong = ""

    with pytest.raises(AssertionError, match="flickers") as info:
        run(FlickersOnAbort)
    assert any("before a step of task" in note for note in info.value.__notes__)


def test_what_a_rule_raises_comes_out_as_it_is() -> None:
    class Fails(Toy):
        async def job(self) -> None:
            await trio.lowlevel.checkpoint()
            raise LookupError("of the rule")

    with pytest.raises(LookupError, match="of the rule"):
        run(Fails)


def test_what_a_task_in_the_background_raises_fails_the_machine() -> None:
    class Crashes(Toy):
        async def background(self) -> None:
            await trio.sleep(0.5)
            raise LookupError("of the task")

    with pytest.RaisesGroup(LookupError):
        run(Crashes)


def test_what_finish_raises_fails_the_machine() -> None:
    class Unfinished(Toy):
        async def finish(self) -> None:
            await trio.lowlevel.checkpoint()
            raise LookupError("at the end")

    with pytest.raises(LookupError, match="at the end"):
        run(Unfinished)


def test_a_machine_that_failed_is_not_finished_but_its_loop_ends() -> None:
    finished: list[TrioMachine] = []

    class Fails(Toy):
        async def job(self) -> None:
            await trio.lowlevel.checkpoint()
            raise LookupError("of the rule")

        async def finish(self) -> None:
            finished.append(self)

        async def release(self) -> None:
            self.released.set()

        async def background(self) -> None:
            self.released: trio.Event = getattr(self, "released", trio.Event())
            with trio.CancelScope(shield=True):
                await self.released.wait()

    with pytest.raises(LookupError):
        run(Fails)
    assert not finished
    trio.run(trio.lowlevel.checkpoint)


def test_a_rule_that_waits_for_nothing_ends_in_too_slow_error() -> None:
    class Waits(Toy):
        async def job(self) -> None:
            await trio.Event().wait()

    with pytest.raises(trio.TooSlowError):
        run(Waits)


def test_tasks_that_never_wait_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.machine.MOST_STEPS", 1000)

    class Spins(Toy):
        async def job(self) -> None:
            for _ in itertools.count():
                await trio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="no end after 1000 steps"):
        run(Spins)


def test_time_and_tasks_stand_still_between_rules() -> None:
    class Ticks(Toy):
        async def background(self) -> None:
            while True:
                await trio.sleep(0.25)
                self.ticks = getattr(self, "ticks", 0) + 1

        async def job(self) -> None:
            assert trio.current_time() == getattr(self, "stopped_at", trio.current_time())
            self.stopped_at = trio.current_time() + 1  # work sleeps for a second

        async def finish(self) -> None:
            assert getattr(self, "stopped_at", 0) == trio.current_time()

    run(Ticks)


def orders(seeds: range) -> list[str]:
    """Return the order in which five equal tasks ran under each seed."""
    seen: list[str] = []

    class Tasks(Toy):
        async def finish(self) -> None:
            order: list[str] = []

            async def task(name: str) -> None:
                await trio.lowlevel.checkpoint()
                order.append(name)

            async with trio.open_nursery() as nursery:
                for name in "abcde":
                    nursery.start_soon(task, name)
            seen.append("".join(order))

    for seed in seeds:
        machine = Tasks()
        machine.start(seed)
        machine.teardown()
    return seen


def test_the_seed_decides_the_order_of_tasks_and_nothing_else_does() -> None:
    first = orders(range(50))
    assert len(set(first)) > 25
    assert orders(range(50)) == first
