"""One connection of the trio server: one request, one answer, over h11."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio

from ._answers import Answer, refusal

if TYPE_CHECKING:
    from ._app import StatusApp
    from ._hosts import AllowedHosts

_MOST_BYTES: Final = 16 * 1024  # of a request
_REQUEST_SECONDS: Final = 5  # until it is complete
_RECEIVE_BYTES: Final = 4096
_LINGER_SECONDS: Final = 1


async def serve_connection(
    app: StatusApp, hosts: AllowedHosts, stream: trio.abc.HalfCloseableStream
) -> None:
    """Answer one request; the caller closes ``stream``, and limits the time.

    Args:
        app: makes the answer.
        hosts: decides which names are served.
        stream: the connection.

    Raises:
        Exception: what ``metrics()`` of a queue raised.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_BYTES)
    try:
        reply = await _read_and_answer(app, hosts, connection, stream)
        if reply is None:
            return
        await stream.send_all(_serialize(connection, reply))
        await stream.send_eof()
        # Closing with anything unread would discard what the client has not read yet.
        with trio.move_on_after(_LINGER_SECONDS):
            while await stream.receive_some(_RECEIVE_BYTES):
                pass
    except trio.BrokenResourceError:  # the client did not wait for the answer
        return


async def _read_and_answer(
    app: StatusApp,
    hosts: AllowedHosts,
    connection: h11.Connection,
    stream: trio.abc.ReceiveStream,
) -> Answer | None:
    """Return the reply, or None if nothing was asked."""
    with trio.move_on_after(_REQUEST_SECONDS):
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                return refusal(error.error_status_hint, "not understood")
            if isinstance(event, h11.Request):
                return _answer(app, hosts, event)
            if event is not h11.NEED_DATA:
                return None
            connection.receive_data(bytes(await stream.receive_some(_RECEIVE_BYTES)))
    return refusal(408, f"the request was not complete after {_REQUEST_SECONDS} seconds")


def _answer(app: StatusApp, hosts: AllowedHosts, request: h11.Request) -> Answer:
    if not hosts.serves(_header_of(request, b"host")):
        return refusal(421, "not served under this name: see allowed_hosts of open_status_server")
    path = request.target.partition(b"?")[0].decode("latin-1")
    method = request.method.decode("latin-1")
    return app._answer(method, path, _header_of(request, b"accept"))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _header_of(request: h11.Request, wanted: bytes) -> str:
    """Return the values of a header, joined by commas; empty without it."""
    return b",".join(value for name, value in request.headers if name == wanted).decode("latin-1")


def _serialize(connection: h11.Connection, reply: Answer) -> bytes:
    headers = [
        *reply.headers,
        (b"date", formatdate(usegmt=True).encode()),
        (b"connection", b"close"),
    ]
    reason = HTTPStatus(reply.status).phrase.encode()
    parts = (
        connection.send(h11.Response(status_code=reply.status, headers=headers, reason=reason)),
        connection.send(h11.Data(data=reply.body)),
        connection.send(h11.EndOfMessage()),
    )
    return b"".join(part for part in parts if part)
