"""One connection of the trio server: one request, one answer, over h11."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio

from ._answers import Answer, misunderstanding

if TYPE_CHECKING:
    from ._app import StatusApp

_MOST_BYTES: Final = 16 * 1024  # of a request
_RECEIVE_BYTES: Final = 4096
_LINGER_SECONDS: Final = 1


async def serve_connection(app: StatusApp, stream: trio.abc.HalfCloseableStream) -> None:
    """Answer one request; the caller closes ``stream``, and limits the time.

    Raises:
        Exception: what ``metrics()`` of a queue raised, if it is none of ours.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_BYTES)
    try:
        reply = await _read_and_answer(app, connection, stream)
        if reply is None:
            return
        await stream.send_all(_serialize(connection, reply))
        await stream.send_eof()
        # To close with anything unread would take back what the client has not yet read.
        with trio.move_on_after(_LINGER_SECONDS):
            while await stream.receive_some(_RECEIVE_BYTES):
                pass
    except trio.BrokenResourceError:  # the client did not wait for the answer
        return


async def _read_and_answer(
    app: StatusApp, connection: h11.Connection, stream: trio.abc.ReceiveStream
) -> Answer | None:
    """Return what to reply, or None: nothing was asked."""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            return misunderstanding(error.error_status_hint)
        if isinstance(event, h11.Request):
            return _answer(app, event)
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(bytes(await stream.receive_some(_RECEIVE_BYTES)))


def _answer(app: StatusApp, request: h11.Request) -> Answer:
    path = request.target.partition(b"?")[0].decode("latin-1")
    accept = b",".join(value for name, value in request.headers if name == b"accept")
    method = request.method.decode("latin-1")
    return app._answer(method, path, accept.decode("latin-1"))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


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
