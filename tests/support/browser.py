"""A program with queues and a status server, and a real Chromium that looks at its page."""

from __future__ import annotations

import os
import queue as threads
import shutil
import threading
import time
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from provcache_trio import WriteBehindOptions, WriteBehindQueue, open_write_behind_queue
from provcache_trio.status import StatusServer, open_status_server
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from playwright.sync_api import Browser

    T = TypeVar("T")

_PATIENCE_SECONDS = 30
_CHROMIUM = os.environ.get("CHROMIUM", "chromium")
_ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
)


class Program:
    """What a test sees of a program that runs in another thread.

    Attributes:
        server: its status server.
        stores: what each queue writes to, by the queue's name.
        queues: the queues, by name.
    """

    def __init__(self, names: tuple[str, ...], per_second: int) -> None:
        self.stores = {name: MemoryRepository[Item](latency_seconds=0.02) for name in names}
        self.queues: dict[str, WriteBehindQueue[Item]] = {}
        self.server: StatusServer
        self._per_second = per_second
        self._leaving = trio.Event()
        self._ending = trio.Event()
        self._token: trio.lowlevel.TrioToken
        self._begun = threads.SimpleQueue[BaseException | None]()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        error = self._begun.get(timeout=_PATIENCE_SECONDS)
        if error is not None:
            raise error

    def do(self, call: Callable[[], T]) -> T:
        """Call something in the program's thread."""
        return trio.from_thread.run_sync(call, trio_token=self._token)

    def stall(self, name: str) -> None:
        """Let a store answer no more, and wait until its queue has something to drain."""
        self.do(self.stores[name].stall)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.do(self.queues[name].metrics).current_queue_depth == 0:
            assert time.monotonic() < deadline, name
            time.sleep(0.01)

    def leave(self) -> None:
        """Leave the queues' blocks; the server stays."""
        self.do(self._leaving.set)

    def end(self) -> None:
        """End it whatever it does, and wait for that."""
        with suppress(trio.RunFinishedError):
            for store in self.stores.values():
                self.do(store.up)
                self.do(store.resume)
            self.do(self._leaving.set)
            self.do(self._ending.set)
        self._thread.join(_PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: ASYNC103, BLE001  # for start()
            self._begun.put(error)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with open_status_server() as self.server:
            async with AsyncExitStack() as stack:
                for name, store in self.stores.items():
                    opening = open_write_behind_queue(
                        store, WriteBehindOptions(flush_interval_seconds=0.1), name=name
                    )
                    self.queues[name] = await stack.enter_async_context(opening)
                    self.server.app.add(self.queues[name])
                self._begun.put(None)
                async with trio.open_nursery() as nursery:
                    for queue in self.queues.values():
                        nursery.start_soon(self._feed, queue)
                    await self._leaving.wait()
                    nursery.cancel_scope.cancel()
            await self._ending.wait()

    async def _feed(self, queue: WriteBehindQueue[Item]) -> None:
        number = 0
        while True:
            for _ in range(self._per_second // 20):
                number += 1
                await queue.enqueue(Item(str(number)))
            await trio.sleep(1 / 20)


@contextmanager
def run_program(*names: str, per_second: int = 400) -> Iterator[Program]:
    """Run a program with a queue for each name, each of which is fed all the time."""
    program = Program(names, per_second)
    program.start()
    try:
        yield program
    finally:
        program.end()


@contextmanager
def run_browser() -> Iterator[Browser]:
    """Run Debian's Chromium, with a profile of its own.

    Raises:
        RuntimeError: it, or what drives it, is not installed.
    """
    try:
        # Here, so that whoever does not run these tests needs neither.
        from playwright.sync_api import sync_playwright  # noqa: PLC0415
    except ModuleNotFoundError:
        raise RuntimeError("install the dependency group 'browser': it has playwright") from None
    executable = shutil.which(_CHROMIUM)
    if executable is None:
        raise RuntimeError("install Chromium (Debian: apt-get install chromium), or set CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
