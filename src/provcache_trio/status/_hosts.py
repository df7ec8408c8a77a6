"""The names under which a status server answers: a guard against DNS rebinding.

A stranger's page, in a browser on this machine, can have its own name resolve to our address, and
could then read what we serve. Its requests still carry that name in ``Host``.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class AllowedHosts:
    """Decides which ``Host`` headers are served.

    A server that listens on loopback serves the names and addresses of loopback, the host that it
    was given, and ``names``. One that others can reach serves every name, or only ``names`` if there
    are any, and every address, which no DNS can rebind.

    Args:
        address: where the server listens.
        host: what the user gave, a name or an address.
        names: further names or addresses.
    """

    def __init__(self, address: str, host: str, names: Sequence[str]) -> None:
        self._on_loopback = _is_loopback(address)
        self._serves_all = not self._on_loopback and not names
        self._names = {"localhost", host.lower(), *(name.lower() for name in names)}

    def serves(self, header: str) -> bool:
        """Return whether a request with this ``Host`` is answered; without one it is."""
        name = _without_port(header.strip().lower()).rstrip(".")
        if self._serves_all or not name or name in self._names:
            return True
        # A browser sends the name, never the address that it resolves to, so addresses are safe.
        return _is_loopback(name) if self._on_loopback else _is_address(name)


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback
