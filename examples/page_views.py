"""A service to deploy: page views come in over TCP, and go to a table in PostgreSQL behind the reply.

Its environment says where everything is::

    DATABASE_URL   postgresql://views@db/shop; the password comes from PGPASSWORD or a password file
    STATE_DIR      a directory that only this process uses, for the journal and the dead letters
    PORT           where it listens; a JSON object a line, each is answered by ok or by an error
    STATUS_PORT    where probes, Prometheus and people look

``ok`` means accepted: the journal has the view within 50 ms, the database as soon as it can.
SIGTERM and SIGINT end the service in order.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003  # a table reads its class's annotations
import logging
import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import trio

from provcache_trio import Table, WriteBehindOptions, WriteBehindQueue, open_write_behind_queue
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.journal import open_journal
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.status import open_status_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

LONGEST_LINE = 4096
REPLY_SECONDS = 3.0
# An orchestrator sends SIGKILL some time after SIGTERM: give it more than these two and 5 s.
OPTIONS = WriteBehindOptions(drain_timeout_seconds=20.0)


@dataclass(frozen=True)
class PageView:
    """The last view of a page by a visitor."""

    visitor: str
    page: str
    seen_at: Annotated[dt.datetime, msgspec.Meta(tz=True)]  # a naive one is refused at the door
    seconds: float = 0.0


PAGE_VIEWS = Table(PageView, "page_view", key=("visitor", "page"), newer="seen_at")


async def answer(queue: WriteBehindQueue[PageView], line: bytes) -> bytes:
    """Accept the view in ``line``, and return the reply."""
    try:
        view = msgspec.json.decode(line, type=PageView)
    except msgspec.DecodeError as error:
        return f"error: {error}\n".encode()
    await queue.enqueue(view)  # waits while the queue is full: the client feels it
    return b"ok\n"


async def handle(queue: WriteBehindQueue[PageView], stream: trio.SocketStream) -> None:
    """Answer one client until it hangs up or the service ends."""
    rest = b""
    try:
        async for chunk in stream:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                reply = await answer(queue, line)
                with trio.fail_after(REPLY_SECONDS, shield=True):  # whole, or not at all
                    await stream.send_all(reply)
            if len(rest) > LONGEST_LINE:
                break
    except (trio.BrokenResourceError, trio.TooSlowError):
        pass  # the client is gone, or does not read; what was accepted stays accepted


async def cancel_on_signal(signals: AsyncIterable[int], scope: trio.CancelScope) -> None:
    """Turn the first signal into what trio ends everything with."""
    async for _ in signals:
        scope.cancel()


async def serve(url: str, state: Path, port: int, status_port: int) -> None:
    """Serve until a signal comes, then write what was accepted."""
    # Blocks are left from the last to the first: the clients' tasks end, the queue writes what
    # it accepted, then its files and the store are closed. The status server shows all of that.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            open_status_server(host="0.0.0.0", port=status_port) as status,  # noqa: S104  # in a pod
            open_postgres_repository(url, table=PAGE_VIEWS, create=True) as repository,
            # For a rolling restart: the process before may still be writing.
            open_journal(
                state / "journal", entry_type=PAGE_VIEWS, lock_timeout_seconds=30
            ) as journal,
            open_dead_letters(state / "dead-letters.db", entry_type=PAGE_VIEWS) as dead_letters,
            open_write_behind_queue(
                repository, OPTIONS, name="views", journal=journal, dead_letters=dead_letters
            ) as queue,
            trio.open_nursery() as nursery,
        ):
            status.app.add(queue)
            nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope)
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, partial(handle, queue), port, host="0.0.0.0")  # noqa: S104
            )
            here = listeners[0].socket.getsockname()[1]
            print(f"listening on {here}, status on {status.port}", flush=True)


def main() -> None:
    """Read the environment, and serve."""
    logging.basicConfig(level=logging.INFO)
    environment = os.environ
    trio.run(
        serve,
        environment["DATABASE_URL"],
        Path(environment["STATE_DIR"]),
        int(environment.get("PORT", "8080")),
        int(environment.get("STATUS_PORT", "9464")),
    )


if __name__ == "__main__":
    # Under its own name: a journal notes what its entries' class is called, and __main__.PageView
    # is none that `provcache journal replay --table page_views:PAGE_VIEWS` could import.
    from page_views import main as run

    run()
