"""``open_status_server``, which checks its arguments at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, cast

from provcache_trio._vocabulary.checks import check_int, check_text, check_type

from ._app import StatusApp
from ._server import ServerOpening, StatusServer

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

_HIGHEST_PORT: Final = 65535


def open_status_server(
    app: StatusApp | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    allowed_hosts: Iterable[str] = (),
) -> AbstractAsyncContextManager[StatusServer, None]:
    """Serve ``app`` over HTTP, for the length of an ``async with``.

    When the surrounding scope is cancelled it goes on until the block is left, so that the
    drain of a queue in the block can be watched. Leaving the block closes every connection at
    once, whatever its client does. No request can hold up the program or its exit: one takes
    ten seconds at most, and should the server itself fail, that is logged and the block goes
    on without it.

    There is neither TLS nor a login: whoever can reach the address can read the page. By
    default only this machine can.

    Args:
        app: the app to serve; by default a new one, which is the server's ``.app``.
        host: an address, or a name, of which the first address is taken.
        port: 0 takes a free one; see the server's ``.port`` and ``.url``.
        allowed_hosts: further names, without a port, under which it may be asked, such as that of a
            proxy in front of it. A server that others can reach answers under any name unless some
            are given here.

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
    names = _checked_names(allowed_hosts)
    # Here, because the app does without h11.
    try:
        from ._connection import serve_connection  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"a status server needs {error.name}: pip install 'provcache-trio[status]'",
            name=error.name,
        ) from None

    return ServerOpening(app, host, port, names, serve_connection)


# Annotated as object: callers may give what their annotations do not allow.


def _checked_names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        kind = type(names).__name__
        raise TypeError(f"allowed_hosts must be an iterable of str, not {kind}")
    checked = tuple(cast("Iterable[str]", names))
    for name in checked:
        check_text("each of allowed_hosts", name)
    return checked
