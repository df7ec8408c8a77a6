"""A hypothesis state machine whose rules run inside one trio loop.

The loop lives in a greenlet of its own and stands still whenever hypothesis decides what to
do next, so neither time nor a task moves unasked. Virtual time jumps when every task waits,
so an hour costs nothing. The machine draws the scheduler's seed: under hypothesis that is
otherwise always the same, and so is the order in which trio runs its tasks.
"""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

import greenlet  # type: ignore[import-untyped]
import outcome
import trio
import trio.testing
from hypothesis.stateful import RuleBasedStateMachine, invariant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Action = Callable[[], Awaitable[None]]

P = ParamSpec("P")
M = TypeVar("M", bound="TrioMachine")

LONGEST_ACTION_SECONDS: Final = 100_000.0
MOST_STEPS: Final = 100_000  # of one action; tasks that never wait let no time pass


class Greenlet(Protocol):
    """What is used of a ``greenlet.greenlet``, which has no types of its own."""

    dead: bool

    def switch(self, value: object = ..., /) -> object: ...


def in_loop(
    action: Callable[Concatenate[M, P], Awaitable[None]],
) -> Callable[Concatenate[M, P], None]:
    """Make a rule out of an async method: it runs as one action of the machine's main task."""

    @functools.wraps(action)
    def run(self: M, /, *args: P.args, **kwargs: P.kwargs) -> None:
        self.do(functools.partial(action, self, *args, **kwargs))

    return run


class EveryStep(trio.abc.Instrument):
    """Runs a check before and after every step of every task and keeps its first error.

    Before, too: cancellation and deadlines act between two steps.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self.broken: Exception | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.look(f"before a step of task {task.name!r}")

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.look(f"after a step of task {task.name!r}")

    def look(self, when: str) -> None:
        if self.broken is None:
            try:
                self._check()
            except Exception as error:  # noqa: BLE001  # trio would log it and go on
                error.add_note(f"seen {when}")
                self.broken = error


class TrioMachine(RuleBasedStateMachine):
    """Base of a machine: call ``boot`` in the initializing rule, then use ``in_loop``.

    Attributes:
        nursery: for tasks that outlive the rule which starts them. What one of them raises
            fails the machine.
    """

    nursery: trio.Nursery

    def __init__(self) -> None:
        super().__init__()
        self._loop: Greenlet | None = None
        self._every_step = EveryStep(self._check_step)
        self._failed = False
        self._steps = 0
        self._action_scope = trio.CancelScope()

    def check(self) -> None:
        """Raise if something is wrong now; must not wait and not change anything."""

    async def finish(self) -> None:
        """Run as the last action, unless the machine has failed before."""

    async def release(self) -> None:
        """Let go of whatever would keep a task from ending when it is cancelled."""

    def boot(self, seed: int) -> None:
        """Start the loop; ``seed`` decides the order of its tasks and every jitter."""
        trio._core._run._r.seed(seed)
        random.seed(seed)  # hypothesis puts the old state back
        self._hypothesis: Greenlet = greenlet.getcurrent()
        clock = trio.testing.MockClock(autojump_threshold=0)
        loop: Greenlet = greenlet.greenlet(
            lambda: trio.run(self._main, instruments=[self._every_step], clock=clock)
        )
        self._loop = loop
        loop.switch()

    def do(self, action: Action) -> None:
        """Run ``action`` in the loop, and raise what it raised, or what was wrong before."""
        assert self._loop is not None
        self._failed = True  # until proved otherwise
        try:
            cast("outcome.Outcome[None]", self._loop.switch(action)).unwrap()
        finally:
            self.nothing_was_wrong_at_any_step()
        self._failed = False

    def look(self) -> None:
        """Check now, in the middle of a step, and raise the first thing that was wrong."""
        self._every_step.look("in the middle of a step")
        self.nothing_was_wrong_at_any_step()

    def _check_step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            self._action_scope.cancel()
            raise AssertionError(f"no end after {MOST_STEPS} steps")
        self.check()

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            result: outcome.Outcome[None] = outcome.Value(None)
            while True:
                action = cast("Action | None", self._hypothesis.switch(result))
                if action is None:
                    break
                self._steps = 0
                try:
                    with trio.fail_after(LONGEST_ACTION_SECONDS) as self._action_scope:
                        await action()
                    result = outcome.Value(None)
                except Exception as error:  # noqa: BLE001  # unwrapped where it was asked for
                    result = outcome.Error(error)
                # Rules that do not wait share one step.
                self._every_step.look("after a rule")
            await self.release()
            self.nursery.cancel_scope.cancel()

    @invariant()
    def nothing_was_wrong_at_any_step(self) -> None:
        if self._every_step.broken is not None:
            raise self._every_step.broken

    def teardown(self) -> None:
        """Finish, then end the loop; runs whether or not the machine has failed."""
        loop = self._loop
        if loop is None or loop.dead:
            return
        try:
            if not self._failed:
                self.do(self.finish)
        finally:
            if not loop.dead:
                loop.switch(None)
