"""Where the runs into PostgreSQL happen: a server of its own and two processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from provcache_trio._pgserver.server import run_postgres_server

from benchmarks.entries import Load
from benchmarks.figures import Figure
from benchmarks.postgres import clients, queue_runs, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Bench:
    """A server, and two processes to reach it from: of the queue, and of what is beside it."""

    def __init__(
        self, part: str, dsn: str, ours: ProcessPoolExecutor, theirs: ProcessPoolExecutor
    ) -> None:
        self.dsn = dsn
        self._part = part
        self._ours = ours
        self._theirs = theirs
        self._kept: dict[str, float] = {}

    def ours(self, function: Callable[..., Any], *arguments: object, **options: object) -> Any:  # noqa: ANN401  # whatever it returns
        """Return what ``function`` returns in the queue's process."""
        return self._ours.submit(function, *arguments, **options).result()

    def theirs(self, function: Callable[..., Any], *arguments: object, **options: object) -> Any:  # noqa: ANN401  # likewise
        """Return what ``function`` returns in the other process, which is free of trio-asyncio."""
        return self._theirs.submit(function, *arguments, **options).result()

    def empty(self, load: Load | None = None) -> None:
        """Leave in the table what is there before ``load``."""
        self.theirs(clients.prepare, self.dsn, Load(number=0) if load is None else load)

    def queue_rate(self, load: Load, size: int, writers: int = 1, dsn: str | None = None) -> float:
        """Return the entries per second of the whole queue.

        Raises:
            AssertionError: it lost entries.
        """
        self.empty(load)
        seconds: float = self.ours(queue_runs.whole_queue, dsn or self.dsn, load, size, writers)
        self.demand(load, "the queue")
        return load.number / seconds

    def demand(self, load: Load, who: str) -> None:
        """Raise AssertionError unless all of ``load`` is in the table as it should be."""
        rows = self.theirs(clients.count, self.dsn, load)
        if rows != load.rows:
            raise AssertionError(f"of {load.rows} rows, {who} left {rows} as they should be")

    def rate(
        self,
        name: str,
        function: Callable[..., float],
        load: Load,
        *arguments: object,
        **options: object,
    ) -> float:
        """Return the entries per second of a peer, and remember what it lost."""
        self.empty(load)
        seconds: float = self.theirs(function, self.dsn, load, *arguments, **options)
        share = self.theirs(clients.count, self.dsn, load) / load.rows
        self._kept[name] = min(share, self._kept.get(name, 1))
        return load.number / seconds

    def table_rate(
        self, function: Callable[..., float], columns: int, number: int, size: int
    ) -> float:
        """Return the entries per second into an own table, of the queue or of what is beside it.

        Raises:
            AssertionError: it lost entries.
        """
        self.theirs(tables.prepare, self.dsn, columns)
        run = self.ours if function is tables.whole_queue else self.theirs
        seconds: float = run(function, self.dsn, columns, number, size)
        rows = self.theirs(tables.count, self.dsn, columns, number)
        if rows != number // 2:
            name = function.__name__
            raise AssertionError(f"of {number // 2} rows, {name} left {rows} as they should be")
        return number / seconds

    def losses(self) -> list[Figure]:
        """Return a figure for each peer that lost entries: the share that it kept at worst."""
        return [
            Figure(
                part=self._part,
                name=f"{name}: rows in the table / rows offered",
                value=share,
                unit="",
                better="more",
            )
            for name, share in self._kept.items()
            if share < 1
        ]


@contextmanager
def open_bench(part: str) -> Generator[Bench]:
    """Run a server and the two processes for ``part`` of the suite while the block runs."""

    def pool() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    with run_postgres_server() as server, pool() as ours, pool() as theirs:
        yield Bench(part, server.dsn, ours, theirs)
