"""A relay that stands for the way to a server far away."""

from __future__ import annotations

import multiprocessing
import queue
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from multiprocessing.connection import Connection

_HOST: Final = "127.0.0.1"
_BYTES: Final = 1 << 18

_Pieces = queue.SimpleQueue[tuple[float, bytes]]


@contextmanager
def delay_lines(dsn: str, delays: Sequence[float]) -> Generator[list[str]]:
    """While the block runs, reach the server of ``dsn`` by URLs, one for each of ``delays``.

    All bytes of one arrive so many seconds later, half on the way there and half on the way
    back; however many are on the way does not slow them. The relay is a process of its own.
    """
    parts = urlsplit(dsn)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    address = (parts.hostname or _HOST, parts.port or 5432)
    process = spawn.Process(target=_serve, args=(address, delays, theirs))
    process.start()
    try:
        user = parts.netloc.rpartition("@")[0]
        netlocs = [f"{user}@{_HOST}:{port}" for port in ours.recv()]
        yield [parts._replace(netloc=netloc).geturl() for netloc in netlocs]
    finally:
        ours.close()
        process.join()


def _serve(server: tuple[str, int], delays: Sequence[float], caller: Connection) -> None:
    listeners = [socket.create_server((_HOST, 0)) for _ in delays]
    for listener, delay in zip(listeners, delays, strict=True):
        _start(_accept, listener, server, delay / 2)
    caller.send([listener.getsockname()[1] for listener in listeners])
    caller.poll(None)  # until it closes its end, or is gone


def _start(function: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def _accept(listener: socket.socket, server: tuple[str, int], delay: float) -> None:
    while True:
        client, _ = listener.accept()
        ends = (client, socket.create_connection(server))
        for source, target in (ends, ends[::-1]):
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pieces: _Pieces = queue.SimpleQueue()
            _start(_take, source, delay, pieces)
            _start(_give, target, pieces)


def _take(source: socket.socket, delay: float, pieces: _Pieces) -> None:
    """Read what comes, until nothing does; the last piece is empty."""
    try:
        for piece in iter(partial(source.recv, _BYTES), b""):
            pieces.put((time.monotonic() + delay, piece))
    except OSError:
        pass  # one side ended abruptly; the other is told
    pieces.put((time.monotonic() + delay, b""))


def _give(target: socket.socket, pieces: _Pieces) -> None:
    """Send every piece when it is due."""
    try:
        while True:
            due, piece = pieces.get()
            time.sleep(max(0, due - time.monotonic()))
            if not piece:
                target.shutdown(socket.SHUT_WR)
                return
            target.sendall(piece)
    except OSError:
        pass  # nobody wants it any more
