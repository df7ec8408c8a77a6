"""``provcache top``: once, in lines, or in a table."""

from __future__ import annotations

import json
import re
import signal
from functools import partial
from typing import TYPE_CHECKING, Final, TextIO

import trio

from provcache_trio._cli.misuse import MisuseError
from provcache_trio._cli.output import Stream
from provcache_trio._cli.running import Status, attempt
from provcache_trio._cli.terminal import terminal_for

from .document import NoAnswerError
from .source import Source
from .table import draw
from .watch import Watch, ask_all
from .words import in_one_line, no_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provcache_trio._cli.terminal import Terminal

_SHORTEST: Final = 0.1  # seconds
_LONGEST: Final = 3600.0
_PATIENCE: Final = 1.0  # seconds that a terminal gets to take what restores it


async def watch_queues(
    urls: Sequence[str],
    file: TextIO,
    *,
    interval: float = 1.0,
    once: bool = False,
    as_json: bool = False,
) -> int:
    """Show the queues whose status pages are at ``urls``, and return the exit status.

    Args:
        urls: of the pages, one for each program; ``/status.json`` is added.
        file: where to show them.
        interval: seconds between two tries, 0.1 to 3600.
        once: print one answer and end.
        as_json: print it as it came; needs ``once``.

    Raises:
        MisuseError: an argument can't be used.
        OutputError: the output can't be written.
    """
    if as_json and not once:
        raise MisuseError("--json goes with --once")
    if not _SHORTEST <= interval <= _LONGEST:
        raise MisuseError(f"--interval is {_SHORTEST:g} to {_LONGEST:g} seconds")
    if not urls:
        raise MisuseError("a status page is named by its URL, such as http://127.0.0.1:9464")
    if as_json and len(urls) > 1:
        raise MisuseError("--json prints one page: give one URL")
    watches = [Watch(Source(url)) for url in urls]
    if once:
        view = partial(_print_once, watches, Stream(file), as_json=as_json)
    elif (terminal := terminal_for(file)) is None:
        view = partial(_print_again_and_again, watches, Stream(file), interval)
    else:
        view = partial(_show_table, watches, terminal, interval)
    status, shown = await attempt(view, "", quotes=False)
    return status or shown or Status.DONE


async def _print_once(watches: Sequence[Watch], stream: Stream, *, as_json: bool) -> int:
    """Print one answer each, in lines or as it came; the status is 1 unless all queues are ready.

    Raises:
        NoAnswerError: there is none of some program; those of the others are printed.
    """
    await ask_all(watches)
    answered = [watch for watch in watches if not watch.trouble]
    for watch in answered:
        several = len(watches) > 1
        stream.add(_as_it_came(watch) if as_json else _lines(watch, several=several))
    await stream.flush()
    stream.check()
    if len(answered) < len(watches):
        silent = (watch for watch in watches if watch.trouble)
        raise NoAnswerError("; ".join(f"{watch.source.label}: {watch.trouble}" for watch in silent))
    ready = all(
        watch.queues and all(queue.ready for queue, _ in watch.queues) for watch in answered
    )
    return Status.DONE if ready else Status.NOT_ALL


async def _print_again_and_again(watches: Sequence[Watch], stream: Stream, interval: float) -> int:
    """Print a line for each queue, again and again, until nobody reads them, as after ``| head``."""
    while True:
        await ask_all(watches)
        for watch in watches:
            stream.add(_lines(watch, several=len(watches) > 1))
        await stream.flush()
        stream.check()
        if stream.trouble is not None:
            return Status.DONE
        await trio.sleep(interval)


async def _show_table(watches: Sequence[Watch], terminal: Terminal, interval: float) -> int:
    """Show a table until the terminal is gone; SIGHUP, which reports that, may come later."""
    picture = partial(draw, watches, terminal.console)
    try:
        await ask_all(watches)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(terminal.show, picture, pause=min(interval, 1)))
            while terminal.stream.trouble is None:
                await trio.sleep(interval)
                await ask_all(watches)
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(_PATIENCE, shield=True):
            await terminal.stream.flush()
    return 128 + signal.SIGHUP


def _lines(watch: Watch, *, several: bool) -> str:
    """Return a line for each queue, or one that says why there is none."""
    lines = [in_one_line(queue, pace, watch.document.time) for queue, pace in watch.queues]
    if watch.trouble:
        lines = [no_answer(watch)]
    front = f"{watch.source.instance} " if several else ""
    return "".join(f"{front}{line}\n" for line in lines or ["no queue is open"])


def _as_it_came(watch: Watch) -> str:
    """Return the document, with everything escaped that a terminal might obey."""
    text = watch.body.decode(errors="replace").replace("\r", " ").strip()
    return re.sub(r"[^\n\t -~]", lambda found: json.dumps(found[0])[1:-1], text) + "\n"
