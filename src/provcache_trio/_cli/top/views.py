"""``provcache top``: the state of the write-behind queues of a running program."""

from __future__ import annotations

import json
import re
import signal
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TextIO

import trio

from provcache_trio._cli.ending import Status, check_output, complain, status_of
from provcache_trio._cli.running import attempt
from provcache_trio._cli.stream import Stream
from provcache_trio._cli.urls import MisuseError

from .screen import draw
from .source import Source
from .terminal import Terminal, can_draw
from .watch import Watch
from .words import in_one_line, no_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SHORTEST: Final = 0.1  # seconds
_LONGEST: Final = 3600.0
_QUIT: Final = b"qQ"


class _View(Protocol):
    """Shows queues.

    Attributes:
        status: what the command ends with, unless it is ended by a signal.
        complaint: what is to be told then; empty for nothing.
    """

    status: int
    complaint: str

    async def run(self) -> None:
        """Show them until there is no more to show, or nobody to show it to."""
        ...


async def watch_queues(
    url: str,
    file: TextIO,
    keys: TextIO | None,
    *,
    interval: float = 1.0,
    plain: bool = False,
    once: bool = False,
    as_json: bool = False,
) -> int:
    """Show the queues whose status page is at ``url``, and return the exit status.

    Args:
        url: of the page; ``/status.json`` is added.
        file: where to show them.
        keys: where keys come from, if ``file`` is a terminal; or None.
        interval: seconds between two tries, 0.1 to 3600.
        plain: print lines, on a terminal too.
        once: print what there is and end.
        as_json: print it as it came; goes with ``once``.

    Raises:
        MisuseError: the URL, or what is asked for, makes no sense.
    """
    if as_json and not once:
        raise MisuseError("--json goes with --once")
    if not _SHORTEST <= interval <= _LONGEST:
        raise MisuseError(f"--interval is {_SHORTEST:g} to {_LONGEST:g} seconds")
    watch = Watch(Source(url), interval)
    view: _View
    if once:
        view = Once(watch, file, as_json=as_json)
    elif plain or not can_draw(file):
        view = Lines(watch, file)
    else:
        view = Screen(watch, Terminal(file, keys))
    ending = await attempt(view.run, _ignore)
    if complaint := ending.failure or view.complaint:
        complain(complaint, watch.source.label, quotes=False)
    return status_of(ending) or view.status


def _ignore(_: object) -> None:
    """Tell nothing: there is nothing to wait for."""


async def _keep_asking(watch: Watch, tell: Callable[[], Awaitable[bool]]) -> None:
    """Ask at every interval, and tell what there is each time, for as long as that is wanted."""
    due = trio.current_time()
    while True:
        await watch.ask()
        if not await tell():
            return
        due = max(due + watch.interval, trio.current_time())
        await trio.sleep_until(due)


class Once:
    """One answer, in lines or as it came."""

    def __init__(self, watch: Watch, file: TextIO, *, as_json: bool) -> None:
        self.status = 0
        self.complaint = ""
        self._watch = watch
        self._stream = Stream(file)
        self._as_json = as_json

    async def run(self) -> None:
        """Tell the state of every queue; the status is 1 unless there is one and all are ready.

        Raises:
            OutputError: it can't be written.
        """
        watch = self._watch
        await watch.ask()
        if watch.document is None:
            self.status, self.complaint = Status.FAILED, watch.trouble
            return
        queues = watch.document.queues
        ready = bool(queues) and all(queue.ready for queue in queues)
        self.status = Status.DONE if ready else Status.NOT_ALL
        self._stream.add(_as_it_came(watch) if self._as_json else _lines(watch))
        await self._stream.flush()
        check_output(self._stream)


class Lines:
    """A line for each queue, again and again, without any control character."""

    def __init__(self, watch: Watch, file: TextIO) -> None:
        self.status = 0
        self.complaint = ""
        self._watch = watch
        self._stream = Stream(file)

    async def run(self) -> None:
        """Tell the state of every queue until nobody reads it, as after ``| head``.

        Raises:
            OutputError: it can't be written.
        """
        await _keep_asking(self._watch, self._tell)
        check_output(self._stream)

    async def _tell(self) -> bool:
        watch = self._watch
        self._stream.add(f"{no_answer(watch)}\n" if watch.trouble else _lines(watch))
        await self._stream.flush()
        return self._stream.trouble is None


class Screen:
    """The whole screen of a terminal, until a key ends it, or the terminal is gone."""

    def __init__(self, watch: Watch, terminal: Terminal) -> None:
        self.status = 0
        self.complaint = ""
        self._watch = watch
        self._terminal = terminal
        self._changed = trio.Event()

    async def run(self) -> None:
        """Show the queues; the status is 129 when the terminal is gone, 131 after SIGQUIT."""
        async with self._terminal, trio.open_nursery() as nursery:
            for work in (self._ask, self._draw, self._obey_keys, self._obey_signals):
                nursery.start_soon(self._until_it_ends, work, nursery.cancel_scope)

    async def _until_it_ends(
        self, work: Callable[[], Awaitable[None]], scope: trio.CancelScope
    ) -> None:
        try:
            await work()
        except OSError:  # the terminal is gone; the SIGHUP that tells so may come later
            self.status = 128 + signal.SIGHUP
        scope.cancel()

    async def _ask(self) -> None:
        await _keep_asking(self._watch, self._show)

    async def _show(self) -> bool:
        self._changed.set()
        await trio.lowlevel.checkpoint()
        return True

    async def _draw(self) -> None:
        while True:
            self._changed = trio.Event()
            await self._terminal.draw(partial(draw, self._watch))
            with trio.move_on_after(1):  # to tell how long there is no answer
                await self._changed.wait()

    async def _obey_keys(self) -> None:
        while not set(_QUIT) & set(await self._terminal.next_keys()):
            pass

    async def _obey_signals(self) -> None:
        numbers = (signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH)
        with trio.open_signal_receiver(*numbers) as signals:
            async for number in signals:
                if number == signal.SIGQUIT:  # which ends other commands by itself
                    self.status = 128 + number
                    return
                if number == signal.SIGTSTP:
                    await self._terminal.suspend()
                await self._show()


def _lines(watch: Watch) -> str:
    lines = [in_one_line(queue, history.pace(), watch.now) for queue, history in watch.rows]
    return "".join(f"{line}\n" for line in lines or ["no queue is open"])


def _as_it_came(watch: Watch) -> str:
    """Return the document, with an escape for whatever a terminal might obey."""
    text = watch.body.decode(errors="replace").replace("\r", " ").strip()
    return re.sub(r"[^\n\t -~]", lambda found: json.dumps(found[0])[1:-1], text) + "\n"
