"""A model of everything that may fail, run again and again under virtual time.

    python -m tests.support.failures RUNS [FIRST_SEED]

A seed decides the options, what is enqueued when, which entries are poison, which outages the
store has, and when the queue is left. Asked of every run: no good entry is dead-lettered beyond
what docs/design/index.md allows, nothing is stuck though the store is well, the versions of a key are
written in order, the counters balance at every step, and the bounds are kept.
"""

from __future__ import annotations

import copy
import logging
import math
import random
import sys
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple
from unittest.mock import patch

import trio
from trio.testing import MockClock

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    JournalError,
    QueueState,
    StoreUnavailableError,
    TransientStoreError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._core.outbox import Outbox
from provcache_trio._vocabulary.failures import Kind
from provcache_trio.testing import MemoryDeadLetters

from tests.support.items import Item, balance
from tests.support.memory_journal import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provcache_trio import WriteBehindQueue
    from provcache_trio._core.batch import Batch
    from provcache_trio._vocabulary.failures import Failure

BLAMED_AFTER: Final = 20  # refusals in a row
EPSILON_SECONDS: Final = 1e-6
SETTLING_SECONDS: Final = 400.0  # backoffs, halving, and a wait behind a lone unknown error
LONGER_SECONDS: Final = 800.0  # a batch with several in doubt, and their retries before
MENDED_SECONDS: Final = 4000.0
CALLS_FOR_AN_ENTRY: Final = 4
LONGEST_SECONDS: Final = 200_000.0
OUTAGES: Final = ("unavailable", "refusing", "unknown", "slow", "transient", "flapping")
STEPS_BETWEEN_COUNTS: Final = 8


class Outage(NamedTuple):
    """What is wrong with the store, from when until when."""

    kind: str
    begins_at: float
    ends_at: float
    p: float  # of a call that fails, while it flaps
    error: type[Exception]
    most: int  # entries that a slow store can take


class Plan:
    """What one seed decides."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311  # no secret
        self.seed = seed
        self.dice = dice
        batch_size = dice.choice([1, 2, 3, 5, 8, 25])
        self.options = WriteBehindOptions(
            queue_capacity=dice.choice([1, 5, 20, 1000]),
            batch_size=batch_size,
            flush_interval_seconds=dice.choice([0, 0.25, 2]),
            max_retries=dice.choice([0, 1, 3, 10, 10, None]),
            retry_cap_seconds=dice.choice([2, 30]),
            drain_timeout_seconds=dice.choice([0, 5, 20]),
            coalesce=dice.random() < 0.7,
            writers=dice.choice([1, 1, 1, 2, 3, 8]),
        )
        self.latency = dice.choice([0, 0, 0.01, 0.5])
        self.hints = dice.choice(["right", "none", "wrong", "first"])
        self.lost_answers = dice.choice([0, 0, 0.05])
        self.span = dice.choice([0, 5, 40])  # of what is enqueued
        self.keys = [f"k{number}" for number in range(dice.choice([1, 4, 30, 60]))]
        self.arrivals = self._draw_arrivals(dice.choice([1, 2, 10, 60, 120]), dice.choice([1, 3]))
        self.poison = self._draw_poison()
        self.poison_error: type[Exception] = dice.choice([EntryRejectedError, KeyError])
        self.outages = self._draw_outages()
        self.healed_at = max((outage.ends_at for outage in self.outages), default=0.0)
        self.leaves_at = dice.uniform(0, self.span + 20) if dice.random() < 0.35 else math.inf
        self.with_sink = dice.random() < 0.8
        self.journal = dice.choice([None, None, "interval", "always"])
        self.journal_fails = dice.choice([0, 0, 0.1])

    def _draw_arrivals(self, entries: int, producers: int) -> list[list[tuple[float, Item]]]:
        """Return what each producer brings, and when, at the earliest."""
        dice, arrivals = self.dice, list[list[tuple[float, Item]]]()
        for producer in range(producers):
            # The versions of a key come from one producer, so their order is known.
            keys, now = self.keys[producer::producers], 0.0
            mine: list[tuple[float, Item]] = []
            for at in range(entries // producers + 1 if keys else 0):
                # Mostly in turn, so that clusters are clusters.
                key = dice.choice(keys) if dice.random() < 0.2 else keys[at % len(keys)]
                now += dice.expovariate(entries / self.span) if self.span else 0.0
                mine.append((now, Item(key, at)))
            arrivals.append(mine)
        return arrivals

    def _draw_poison(self) -> set[str]:
        dice, keys = self.dice, self.keys
        match dice.choice(["none", "none", "alone", "cluster", "at the end", "here and there"]):
            case "alone":
                return {dice.choice(keys)}
            case "cluster":
                first, many = dice.randrange(len(keys)), dice.choice([2, 5, 25])
                return set(keys[first : first + many])
            case "at the end":
                return set(keys[-dice.choice([1, 3, 22]) :])
            case "here and there":
                return {key for key in keys if dice.random() < 0.1}
            case _:
                return set()

    def _draw_outages(self) -> list[Outage]:
        dice, outages, now = self.dice, list[Outage](), 0.0
        for _ in range(dice.choice([0, 1, 1, 2, 4])):
            begins_at = now + dice.choice([0, dice.uniform(0, 15)])
            now = begins_at + dice.choice([0.05, 1, 10, 25, 200, 1000])
            outages.append(
                Outage(
                    dice.choice(OUTAGES),
                    begins_at,
                    now,
                    dice.choice([0.2, 0.5, 0.75]),
                    dice.choice([RuntimeError, KeyError, ZeroDivisionError]),
                    dice.choice([1, 2, 4]),
                )
            )
        return outages

    @property
    def poison_entries(self) -> int:
        return sum(item.veri_key in self.poison for mine in self.arrivals for _, item in mine)

    @property
    def must_go_on(self) -> bool:
        """Whether no run of refusals can be taken for the store's fault, or waits without end."""
        if not self.poison_entries:
            return True
        if self.poison_error is not EntryRejectedError and self.options.max_retries is None:
            return False
        blaming = {"refusing", "unknown", "transient", "flapping"}
        carried = any(outage.kind in blaming for outage in self.outages)
        return self.poison_entries + (BLAMED_AFTER - 1) * carried < BLAMED_AFTER

    @property
    def settled_by(self) -> float:
        """When at the latest all good entries are settled."""
        entries = sum(map(len, self.arrivals))
        last = max((at for mine in self.arrivals for at, _ in mine), default=0.0)
        calls = CALLS_FOR_AN_ENTRY * entries * 10 * (self.latency + 0.01)
        doubts = self.poison_entries if self.poison_error is not EntryRejectedError else 0
        return max(self.healed_at, last) + SETTLING_SECONDS + calls + LONGER_SECONDS * doubts


class FailingStore:
    """A store that fails as planned, and knows what it was asked.

    Attributes:
        rows: what it holds.
        alone: for each entry, the calls in which it failed alone for an unknown reason.
        proofs: for each lane, the calls that changed something.
        tries: for each entry, how many calls included it.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: dict[str, Item] = {}
        self.poison = set(plan.poison)
        self.lane_of: dict[str, int] = {}
        self.alone: dict[Item, list[int]] = defaultdict(list)
        self.proofs: dict[int, list[int]] = defaultdict(list)
        self.tries: Counter[Item] = Counter()
        self.stored_at: dict[str, float] = {}
        self.broken: list[str] = []
        self._tried: dict[str, int] = {}
        self._calls = 0
        self._in_call: set[str] = set()
        self._dice = random.Random(plan.seed + 1)  # noqa: S311  # no secret

    def outage(self) -> Outage | None:
        now = trio.current_time()
        each = (one for one in self.plan.outages if one.begins_at <= now < one.ends_at)
        return next(each, None)

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        self._check(entries)
        self._calls += 1
        call = self._calls
        keys = {item.veri_key for item in entries}
        self._in_call |= keys
        # What a call comes to is decided when it arrives, or when it is done.
        early = self.outage() if self._dice.random() < 0.5 else None
        try:
            await trio.sleep(self.plan.latency * self._dice.choice([0, 1, 1, 10]))
            return await self._answer(entries, call, early or self.outage())
        except Exception as error:
            unknown = not isinstance(
                error, (EntryRejectedError, TransientStoreError, StoreUnavailableError, OSError)
            )
            if unknown and len(entries) == 1:
                self.alone[entries[0]].append(call)
            raise
        finally:
            self._in_call -= keys

    def _check(self, entries: Sequence[Item]) -> None:
        keys = [item.veri_key for item in entries]
        if not 1 <= len(entries) <= self.plan.options.batch_size:
            self.broken.append(f"{len(entries)} entries in a call")
        if len(set(keys)) < len(keys) or self._in_call.intersection(keys):
            self.broken.append(f"a key twice: {keys}")
        if len({self.lane_of[key] for key in keys}) > 1:
            self.broken.append(f"keys of several lanes: {keys}")
        for item in entries:
            self.tries[item] += 1
            if item.version < self._tried.get(item.veri_key, -1):
                self.broken.append(f"{item} is written after a newer version")
            self._tried[item.veri_key] = item.version

    async def _answer(self, entries: Sequence[Item], call: int, outage: Outage | None) -> int:
        if outage is not None:
            await self._fail(entries, outage)
        bad = [at for at, item in enumerate(entries) if item.veri_key in self.poison]
        if bad:
            if self.plan.poison_error is EntryRejectedError:
                raise EntryRejectedError("poison", index=self._hint(bad, len(entries)))
            raise self.plan.poison_error("poison")
        changed = 0
        for item in entries:
            row = self.rows.get(item.veri_key)
            # The newer version is kept, as every store should: a journal may replay what is older.
            if row is None or row.version < item.version:
                changed += 1
                self.rows[item.veri_key] = item
                self.stored_at[item.veri_key] = trio.current_time()
        if self._dice.random() < self.plan.lost_answers:
            raise StoreUnavailableError("the answer was lost")
        if changed:
            self.proofs[self.lane_of[entries[0].veri_key]].append(call)
        return changed

    async def _fail(self, entries: Sequence[Item], outage: Outage) -> None:
        match outage.kind:
            case "unavailable":
                raise self._dice.choice([OSError, StoreUnavailableError, EOFError])("away")
            case "refusing":
                hint = self._hint(range(len(entries)), len(entries))
                raise EntryRejectedError("all are refused", index=hint)
            case "unknown":
                raise outage.error
            case "slow":
                if len(entries) > outage.most:
                    await trio.sleep(1)
                    raise TimeoutError
            case "transient":
                raise TransientStoreError("rolled back")
            case _:
                if self._dice.random() < outage.p:
                    raise outage.error

    def _hint(self, bad: Sequence[int], entries: int) -> int | None:
        match self.plan.hints:
            case "right":
                return self._dice.choice(bad)
            case "wrong":
                return self._dice.randrange(entries + 1)
            case "first":
                return 0
            case _:
                return None


class Posted(NamedTuple):
    """An entry that became a dead letter."""

    item: Item
    failure: Failure
    tries: int
    stored: bool  # something of its batch was
    draining: bool


class Outcome(NamedTuple):
    """What a run came to, beside being right."""

    accepted: int
    good_letters: Counter[str]  # by kind of failure
    waited: float  # how long good entries were held up after the store was mended, at most


class Model(trio.abc.Instrument):
    """One run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.store = FailingStore(plan)
        self.sink = MemoryDeadLetters[Item]()
        self.journal: MemoryJournal[Item] | None = None
        self.queue: WriteBehindQueue[Item] | None = None
        self.accepted: dict[str, int] = {}  # the newest version of each key
        self.posted: list[Posted] = []
        self.broken: list[str] = []
        self.waited = 0.0
        self._steps = 0

    # At every step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # trio's
        queue = self.queue
        if queue is None or self.broken:
            return
        ledger = queue._ledger
        settled = ledger.persisted + ledger.coalesced + ledger.failed + ledger.abandoned
        unsettled = ledger.depth + ledger.in_flight
        if ledger.enqueued + ledger.recovered != settled + unsettled:
            self.broken.append("the counters do not balance")
        # The queue's own: a run of all tests may give it more writers than the plan does.
        options = queue._lifetime.options
        if unsettled > options.queue_capacity + 2 * options.batch_size * options.writers:
            self.broken.append("the memory bound was exceeded")
        self._steps += 1
        if self._steps % STEPS_BETWEEN_COUNTS == 0:
            self._count(queue)

    def _count(self, queue: WriteBehindQueue[Item]) -> None:
        lines = queue._lanes.lines
        depth = sum(len(batch.entries) for line in lines for batch in line.batches)
        writing = sum(line.writing.unsettled() for line in lines if line.writing is not None)
        if depth != queue._ledger.depth:
            self.broken.append("the depth is wrong")
        if writing + len(queue._outbox.letters) != queue._ledger.in_flight:
            self.broken.append("what is in flight is counted wrong")

    def note_posted(self, batch: Batch[Item]) -> None:
        if self.queue is None or not batch.refused:
            return
        draining = self.queue._lifetime.closing.is_set()
        self.posted += [
            Posted(one.entry, one.failure, one.tries, batch.progress.stored, draining)
            for one in batch.refused.values()
        ]

    # The run

    async def run_in_time(self) -> Outcome:
        with trio.fail_after(LONGEST_SECONDS):
            return await self.run()

    async def run(self) -> Outcome:
        plan = self.plan
        left_at = math.inf
        early = trio.CancelScope(deadline=plan.leaves_at)
        if plan.journal is not None:
            self.journal = MemoryJournal(
                always=plan.journal == "always",
                latency_seconds=0.01,
                dice=plan.dice,
                p_fail=plan.journal_fails,
            )
        kept = True
        try:
            async with open_write_behind_queue(
                self.store,
                plan.options,
                dead_letters=self.sink if plan.with_sink else None,
                journal=self.journal,
            ) as queue:
                self.queue = queue
                number_of = queue._lanes.number_of
                self.store.lane_of = {key: number_of(key) for key in plan.keys}
                with early:
                    async with trio.open_nursery() as nursery:
                        for mine in plan.arrivals:
                            nursery.start_soon(self._produce, queue, mine)
                        await self._see_it_through(queue)
                left_at = trio.current_time()
        except DrainTimeoutError:
            kept = False
        took = trio.current_time() - left_at
        queue = self.opened()
        await self._check_end(queue, took, kept=kept, early=early.cancelled_caught)
        return Outcome(queue.metrics().total_enqueued, self._judge_letters(), self.waited)

    def opened(self) -> WriteBehindQueue[Item]:
        assert self.queue is not None
        return self.queue

    async def _produce(
        self, queue: WriteBehindQueue[Item], arrivals: list[tuple[float, Item]]
    ) -> None:
        for at, item in arrivals:
            await trio.sleep_until(at)
            while True:
                try:
                    await queue.enqueue(item)
                except JournalError:  # it may reappear all the same
                    await trio.sleep(0.1)
                else:
                    break
            self.accepted[item.veri_key] = item.version

    async def _see_it_through(self, queue: WriteBehindQueue[Item]) -> None:
        """Wait until all is settled: what is good, once the store is; the rest, once it is mended."""
        plan = self.plan
        if plan.must_go_on:
            await self._wait_for(self._good_ones_are_settled, plan.settled_by)
            if not self._good_ones_are_settled():
                self.broken.append("good entries are stuck though the store is well")
            self.waited = trio.current_time() - plan.healed_at
        else:
            await trio.sleep_until(plan.healed_at)
        self.store.poison.clear()
        deadline = max(trio.current_time(), plan.settled_by) + MENDED_SECONDS
        await self._wait_for(self._all_are_accepted, deadline)
        with trio.move_on_at(deadline):
            await queue.flush()
            await trio.sleep(1)
        metrics = queue.metrics()
        if metrics.in_flight or metrics.current_queue_depth or not self._all_are_accepted():
            self.broken.append("entries are stuck though a person has mended everything")
        elif metrics.state is not QueueState.RUNNING:
            self.broken.append(f"everything is settled, and the state is {metrics.state}")

    async def _wait_for(self, what: Callable[[], bool], deadline: float) -> None:
        pause = 0.5
        while not what() and trio.current_time() < deadline:  # noqa: ASYNC110  # it has no event
            await trio.sleep(pause)
            pause = min(1.1 * pause, 10)

    def _all_are_accepted(self) -> bool:
        newest = {item.veri_key: item.version for mine in self.plan.arrivals for _, item in mine}
        return self.accepted == newest

    def _good_ones_are_settled(self) -> bool:
        lettered = {posted.item for posted in self.posted}
        return self._all_are_accepted() and all(
            key in self.plan.poison
            or (key in self.store.rows and self.store.rows[key].version >= version)
            or Item(key, version) in lettered
            for key, version in self.accepted.items()
        )

    # The end

    async def _check_end(
        self, queue: WriteBehindQueue[Item], took: float, *, kept: bool, early: bool
    ) -> None:
        plan, metrics = self.plan, queue.metrics()
        self.broken += self.store.broken
        if took > plan.options.drain_timeout_seconds + 1:
            self.broken.append(f"the exit took {took} s")
        if balance(metrics) or metrics.current_queue_depth or metrics.in_flight:
            self.broken.append("something is open after the end")
        if not early and queue.undelivered:
            self.broken.append("something was handed back though there was time")
        if kept and queue.undelivered and self.journal is None:
            self.broken.append("something was handed back, and nobody was told")
        rows = dict(self.store.rows)
        if self.journal is not None and kept:
            rows = await self._replay(rows)
            handed_back: set[Item] = set()
        else:
            handed_back = set(queue.undelivered)
        ends = {posted.item for posted in self.posted} | handed_back
        for key, version in self.accepted.items():
            newest = max((item.version for item in ends if item.veri_key == key), default=-1)
            stored = rows[key].version if key in rows else -1
            if max(newest, stored) < version:
                self.broken.append(f"{key} version {version} is lost")

    async def _replay(self, rows: dict[str, Item]) -> dict[str, Item]:
        """Open another queue with what the journal holds, over a store that works."""
        assert self.journal is not None
        plan = copy.copy(self.plan)
        plan.outages, plan.lost_answers, plan.latency = [], 0, 0
        store = FailingStore(plan)
        store.rows, store.poison = dict(rows), set()
        store.lane_of = self.store.lane_of
        journal = MemoryJournal(self.journal.rows)
        self.queue = None
        async with open_write_behind_queue(
            store, WriteBehindOptions(coalesce=plan.options.coalesce), journal=journal
        ) as queue:
            while queue.metrics().recovering:  # noqa: ASYNC110  # it has no event
                await trio.sleep(0.01)
        return store.rows

    def _judge_letters(self) -> Counter[str]:
        """Check that no good entry was dead-lettered beyond what the design allows."""
        plan = self.plan
        counts: Counter[str] = Counter()
        for posted in self.posted:
            if posted.tries < self.store.tries[posted.item] and plan.options.coalesce:
                self.broken.append(f"{posted.item} had more attempts than its letter says")
            if posted.item.veri_key in plan.poison:
                continue
            kind = posted.failure.kind.name.lower()
            counts[f"{kind}, batch stored" if posted.stored else kind] += 1
            self._judge(posted)
        refusing = sum(outage.kind == "refusing" for outage in plan.outages)
        # A call of another lane that began before the outage may speak for the store once.
        if counts["rejected"] > (BLAMED_AFTER - 1 + plan.options.writers) * refusing:
            self.broken.append(f"{counts['rejected']} good entries were dead-lettered as refused")
        # Each end of an outage may fall into a batch of which something is stored, in each lane.
        beside_one = 2 * (plan.options.batch_size - 1) * plan.options.writers
        if counts["rejected, batch stored"] > beside_one * refusing:
            self.broken.append("good entries were dead-lettered beside stored ones")
        return counts

    def _judge(self, posted: Posted) -> None:
        most = self.plan.options.max_retries
        if posted.failure.kind is Kind.TRANSIENT:
            if most is None or posted.tries <= most:
                self.broken.append(f"{posted.item} had retries left")
        elif posted.failure.kind is Kind.UNKNOWN:
            alone = self.store.alone[posted.item]
            proofs = self.store.proofs[self.store.lane_of[posted.item.veri_key]]
            convicted = len(alone) > 1 and any(alone[-2] < proof < alone[-1] for proof in proofs)
            used_up = most is not None and len(alone) > most and not posted.draining
            if not (convicted or used_up):
                self.broken.append(f"{posted.item} was dead-lettered without evidence")


def run(seed: int) -> Outcome:
    """Run the model once.

    Raises:
        AssertionError: something is wrong; it names the seed.
    """
    plan = Plan(seed)
    model = Model(plan)
    post = Outbox.post

    async def noting(outbox: Outbox[Item], batch: Batch[Item]) -> None:
        model.note_posted(batch)
        await post(outbox, batch)

    trio._core._run._r.seed(seed)
    random.seed(seed)
    logger = logging.getLogger("provcache_trio")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with patch.object(Outbox, "post", noting):
            clock = MockClock(autojump_threshold=0)
            outcome = trio.run(model.run_in_time, clock=clock, instruments=[model])
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        logger.setLevel(before)
    assert not model.broken, f"seed {seed}: {model.broken[:3]}"
    return outcome


def main() -> None:
    """Run as often as the command line says, and print what came of it."""
    runs, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    letters: Counter[str] = Counter()
    accepted, waits, failed = 0, list[float](), 0
    for seed in range(first, first + runs):
        try:
            outcome = run(seed)
        except Exception as error:  # noqa: BLE001  # all of them are to be seen
            failed += 1
            print(f"{type(error).__name__}: {error} (seed {seed})", flush=True)  # noqa: T201
            continue
        letters += outcome.good_letters
        accepted += outcome.accepted
        waits.append(outcome.waited)
    waits = sorted(waits) or [0.0]
    print(  # noqa: T201
        f"{runs} runs from seed {first}, {failed} failed; {accepted} entries accepted; "
        f"good ones dead-lettered as allowed: {dict(letters)}; held up after the store was well: "
        f"half of the runs {waits[len(waits) // 2]:.0f} s, 99 % {waits[len(waits) * 99 // 100]:.0f} s, "
        f"at most {waits[-1]:.0f} s"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
