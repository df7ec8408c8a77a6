"""``open_status_server``, which checks its arguments at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from provcache_trio._vocabulary.checks import check_int, check_text, check_type

from ._app import StatusApp
from ._server import ServerOpening, StatusServer

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

_HIGHEST_PORT: Final = 65535


def open_status_server(
    app: StatusApp | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> AbstractAsyncContextManager[StatusServer, None]:
    """Serve ``app`` over HTTP, for the length of an ``async with``.

    When the surrounding scope is cancelled it goes on until the block is left, so that the
    drain of a queue in the block can be watched. Leaving the block closes every connection at
    once, whatever its client does. No request can hold up the program or its exit: one takes
    ten seconds at most, and should the server itself fail, that is logged and the block goes
    on without it.

    There is neither TLS nor a login: whoever can reach the address can read the page. By
    default that is this machine.

    Args:
        app: what to serve; by default a new one, which is the server's ``.app``.
        host: an address, or a name, of which the first address is taken.
        port: 0 takes one that is free; see the server's ``.port`` and ``.url``.

    Returns:
        A context manager to be entered once, in a trio task; entering is a checkpoint.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``host`` is empty, or ``port`` is not in 0..65535.
        ModuleNotFoundError: h11 is not installed; the extra ``status`` has it.
        OSError: at entry: the address is in use, or not of this machine, or the name is not
            known.
    """
    if app is None:
        app = StatusApp()
    check_type("app", app, StatusApp)
    check_text("host", host)
    check_int("port", port, at_least=0, at_most=_HIGHEST_PORT)
    # Here, because the app does without h11.
    from ._connection import serve_connection  # noqa: PLC0415

    return ServerOpening(app, host, port, serve_connection)
