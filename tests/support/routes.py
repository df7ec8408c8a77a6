"""What connects the servers of a cluster: a proxy for each of them and each other one it connects to.

So a test can cut a server off without a right to do anything to the machine's network.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from itertools import permutations
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHUNK: Final = 65536


class _Way(NamedTuple):
    """Who connects, and to whom."""

    of: str
    to: str


class Routes:
    """Proxies that can fall silent, as a line does that is unplugged, or be cut.

    Args:
        ports: where each server listens for the others.
    """

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = ports
        self._listeners = {
            _Way(of, to): socket.create_server(("127.0.0.1", 0))
            for of, to in permutations(ports, 2)
        }
        self._open: dict[_Way, threading.Event] = {
            way: threading.Event() for way in self._listeners
        }
        self._links: set[tuple[socket.socket, socket.socket]] = set()
        self._is_cut = False
        self.heal()
        for way in self._listeners:
            threading.Thread(target=self._accept, args=[way], daemon=True).start()

    def urls(self, of: str) -> list[str]:
        """Return where a server finds the others."""
        found = [one.getsockname()[1] for way, one in self._listeners.items() if way.of == of]
        return [f"nats://127.0.0.1:{port}" for port in found]

    def silence(self, name: str) -> None:
        """Hold all that is said to and by a server; it comes when the routes are healed."""
        for way, gate in self._open.items():
            if name in way:
                gate.clear()

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._is_cut = True
        for link in tuple(self._links):
            for end in link:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        """Let everything pass again."""
        self._is_cut = False
        for gate in self._open.values():
            gate.set()

    def close(self) -> None:
        """Stop; what is connected is cut."""
        for listener in self._listeners.values():
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
            listener.close()
        self.heal()
        self.cut()

    def _accept(self, way: _Way) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listeners[way].accept()
                threading.Thread(target=self._connect, args=[way, near], daemon=True).start()

    def _connect(self, way: _Way, near: socket.socket) -> None:
        self._open[way].wait()
        address = "127.0.0.1", self._ports[way.to]
        with near, suppress(OSError), socket.create_connection(address) as far:
            link = near, far
            self._links.add(link)
            if not self._is_cut:  # asked only now, so that no link escapes ``cut``
                back = threading.Thread(target=self._pass_on, args=[way, far, near], daemon=True)
                back.start()
                self._pass_on(way, near, far)
                back.join()
            self._links.discard(link)

    def _pass_on(self, way: _Way, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                self._open[way].wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
