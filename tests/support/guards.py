"""Servers that let in only who knows a password, over TLS that an authority of the test's own vouches for."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

HOST: Final = "127.0.0.1"
PASSWORD: Final = "s3cr3t/%40"  # noqa: S105  # of servers of the test's own
_USER: Final = "provcache"
_LONG_AGO: Final = dt.datetime(2020, 1, 1)  # noqa: DTZ001  # as trustme wants it


class Guard:
    """What one server demands of its clients, and what it shows them; both hold from its next (re)start on.

    Args:
        folder: where the server's certificate is kept.
        authority: vouches for it.
    """

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self._folder = folder
        self._authority = authority
        folder.mkdir(parents=True, exist_ok=True)
        self.mend()

    def mend(self) -> None:
        """Make it as it was in the beginning."""
        self.user = _USER
        self.password = PASSWORD
        self.certify()

    def certify(self, host: str = HOST, *, expired: bool = False) -> None:
        """Show a certificate for ``host``."""
        until = _LONG_AGO + dt.timedelta(days=1) if expired else None
        since = _LONG_AGO if expired else None
        issued = self._authority.issue_cert(host, not_before=since, not_after=until)
        issued.private_key_pem.write_to_path(self._folder / "key.pem")
        issued.cert_chain_pems[0].write_to_path(self._folder / "cert.pem")

    @property
    def settings(self) -> str:
        """Lines of the server's configuration."""
        return (
            f'tls {{ cert_file: "{self._folder}/cert.pem", key_file: "{self._folder}/key.pem" }}\n'
            f'authorization {{ users = [ {{ user: "{self.user}", password: "{self.password}" }} ] }}\n'
        )


def pass_of(user: str = _USER, password: str = PASSWORD) -> str:
    """Return what stands before the ``@`` of a URL."""
    return f"{user}:{password.replace('%', '%25').replace('/', '%2F')}"
