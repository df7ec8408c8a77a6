"""What the queue does to its host: how late others get their turn, and how long it keeps its own."""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from provcache_trio import (
    DrainTimeoutError,
    WriteBehindOptions,
    WriteBehindQueue,
    open_write_behind_queue,
)

from benchmarks.figures import (
    Figure,
    Findings,
    Timings,
    absolute,
    interleaved,
    percentile,
    ratio,
)
from benchmarks.stores import DownRepository, Item, NullRepository

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from provcache_trio import Repository

    Host = Callable[[], AbstractAsyncContextManager[None]]

PART = "harm"
PRODUCERS = 4
# A producer's list is longer than the queue, so whoever starts over finds none of its keys in
# line: nothing coalesces, and everybody waits for room again and again.
OPTIONS = WriteBehindOptions(queue_capacity=10_000, drain_timeout_seconds=0)
LISTS = [[Item(f"{producer}-{n}") for n in range(12_500)] for producer in range(PRODUCERS)]
PAUSE = 0.001  # between two requests
SETTLING = 0.05  # seconds until a load is under way
ECHO_P99_BAR = 5.0
STEP_P99_BAR = 2.0
STEP_WORST_BAR = 5.0

PRODUCER = "producer"
QUEUE_TASKS = ("batcher", "writer")

IDLE = "an idle host"
FLOOR = f"{PRODUCERS} tasks of checkpoints"
LOAD = f"{PRODUCERS} producers at full load"
OUTAGE = "an outage with a full queue"


class Steps(trio.abc.Instrument):
    """Notes the CPU time of every step of the tasks with certain names, in milliseconds."""

    def __init__(self, *names: str) -> None:
        self.milliseconds: dict[str, list[float]] = {name: [] for name in names}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # trio passes it
        """Begin."""
        self._began = time.thread_time_ns()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """End."""
        taken = time.thread_time_ns() - self._began
        if task.name in self.milliseconds:
            self.milliseconds[task.name].append(taken / 1e6)


def run(*, quick: bool) -> Findings:
    """Measure how late an unrelated echo is, and how long the steps of the queue are."""
    # What an outage logs would go to the terminal.
    logging.getLogger("provcache_trio").propagate = False
    findings = Findings(figures=echo_figures(quick=quick))
    findings.figures += step_figures(quick=quick)
    return findings


def echo_figures(*, quick: bool) -> list[Figure]:
    """Return how late an echo is in each host, and how much later by the queue."""
    rounds, seconds = (3, 0.2) if quick else (9, 3.0)
    hosts: dict[str, Host] = {
        IDLE: idle,
        FLOOR: checkpoints,
        LOAD: lambda: producing(NullRepository()),
        OUTAGE: lambda: producing(DownRepository()),
    }
    worst: Timings = {name: [] for name in hosts}

    def case(name: str, host: Host) -> Callable[[], float]:
        def measure() -> float:
            milliseconds = trio.run(echoes, host, seconds)
            worst[name].append(max(milliseconds))
            return percentile(milliseconds, 99)

        return measure

    cases = {name: case(name, host) for name, host in hosts.items()}
    timings = interleaved(cases, rounds)
    figures = [
        ratio(PART, f"p99 of an echo beside {of}", timings, of, to, bar=bar)
        for of, to, bar in ((LOAD, FLOOR, ECHO_P99_BAR), (OUTAGE, IDLE, None))
    ]
    for name in hosts:
        figures += [
            absolute(PART, f"p99 of an echo beside {name}", timings[name], "ms"),
            absolute(PART, f"worst echo of a round beside {name}", worst[name][1:], "ms"),
        ]
    return figures


def step_figures(*, quick: bool) -> list[Figure]:
    """Return how long the steps at full load are, of the producers and of the queue's tasks."""
    steps = Steps(PRODUCER, *QUEUE_TASKS)
    trio.run(full_load, 0.3 if quick else 10.0, instruments=[steps])
    found = {
        "a producer": steps.milliseconds[PRODUCER],
        "the queue": [taken for name in QUEUE_TASKS for taken in steps.milliseconds[name]],
    }
    figures: list[Figure] = []
    for who, taken in found.items():
        p99, worst = percentile(taken, 99), max(taken)
        figures += [
            absolute(PART, f"p99 of a step of {who} at full load", [p99], "ms", bar=STEP_P99_BAR),
            absolute(PART, f"worst step of {who} at full load", [worst], "ms", bar=STEP_WORST_BAR),
        ]
    return figures


async def full_load(seconds: float) -> None:
    """Have producers work for ``seconds``."""
    async with producing(NullRepository()):
        await trio.sleep(seconds)


@asynccontextmanager
async def idle() -> AsyncIterator[None]:
    """Have nothing beside the block."""
    await trio.lowlevel.checkpoint()
    yield


@asynccontextmanager
async def checkpoints() -> AsyncIterator[None]:
    """Have as many tasks beside the block as there are producers; they do nothing but yield."""

    async def spin() -> None:
        while True:  # noqa: ASYNC110  # it waits for nothing: these checkpoints are the load
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(PRODUCERS):
            nursery.start_soon(spin)
        await trio.sleep(SETTLING)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def producing(repository: Repository[Item]) -> AsyncIterator[None]:
    """Have a queue and its producers beside the block; what is left at the end is dropped."""
    try:
        async with (
            open_write_behind_queue(repository, OPTIONS) as queue,
            trio.open_nursery() as nursery,
        ):
            for items in LISTS:
                nursery.start_soon(produce, queue, items, name=PRODUCER)
            await trio.sleep(SETTLING)
            yield
            nursery.cancel_scope.cancel()
    except DrainTimeoutError:
        pass


async def produce(queue: WriteBehindQueue[Item], items: Sequence[Item]) -> None:
    """Bring ``items`` again and again, as fast as the queue takes them."""
    while True:
        await queue.enqueue_many(items)


async def echoes(host: Host, seconds: float) -> list[float]:
    """Return how long each round trip to an echo took beside ``host``, in milliseconds."""
    here, there = (trio.SocketStream(end) for end in trio.socket.socketpair())
    found: list[float] = []
    async with here, host(), trio.open_nursery() as nursery:
        nursery.start_soon(echo, there)
        ends = time.perf_counter() + seconds
        while (began := time.perf_counter()) < ends:
            await here.send_all(b".")
            await here.receive_some()
            found.append((time.perf_counter() - began) * 1000)
            await trio.sleep(PAUSE)
        await here.aclose()  # so that the echo ends
    return found


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes."""
    async with stream:
        async for request in stream:
            await stream.send_all(request)
