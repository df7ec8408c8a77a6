"""The ASGI side: an app that any server can mount, whichever event loop it runs on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, final

from ._answers import Answer, answer
from ._report import Observed

if TYPE_CHECKING:
    from provcache_trio._vocabulary.protocols import ObservedQueue

# So wide that the app fits every server's and framework's type of an ASGI app: some of them have a
# TypedDict for each message, others one mapping for all.
Message: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]


@final
class StatusApp:
    """An ASGI 3 app that reports how queues are doing, with their caches and streams.

    Mount it at any path of any ASGI server, on trio or asyncio, in the queues' process; it
    uses no event loop itself, and only reads memory. Programs that have no server use
    ``open_status_server``.

    ``/`` is a page for people, ``/status.json`` has the same for programs. ``/livez`` is 200 for
    as long as the process answers, whatever the queues do: a restart would lose what they
    hold. ``/readyz`` is 503, with a reason for each queue, unless every queue is running and,
    if it has a journal, durable; also while there is no queue. ``/metrics`` is for
    Prometheus, in text or OpenMetrics; 501 without the extra ``prometheus``.

    Nothing that is served holds an entry, a key, or an error's message. It does hold the
    queues' names and error classes; whoever may not see them must not reach it.

    Args:
        queues: what to report on; see ``add``.

    Raises:
        ValueError: two queues have the same name.
    """

    def __init__(self, *queues: ObservedQueue) -> None:
        # Never changed but replaced, so that a request in another thread sees one or the other.
        self._observed: dict[str, Observed] = {}
        for queue in queues:
            self.add(queue)

    def add(
        self, queue: ObservedQueue, *, dead_letters: Callable[[], int | None] | None = None
    ) -> None:
        """Report on ``queue`` too, also after it was closed, until it is removed.

        A cache over it, and a stream that it writes to or takes from, are reported with it.

        Args:
            queue: a ``WriteBehindQueue``, a ``Relay``, or anything else that has what
                ``ObservedQueue`` says.
            dead_letters: returns how many dead letters are kept, or None if that is not known
                at the moment. It is called for every request, so it must not wait; what it
                raises is taken for None.

        Raises:
            ValueError: there is another queue of that name. Remove that one first.
        """
        if self._observed.get(queue.name, Observed(queue)).queue is not queue:
            raise ValueError(f"there is another queue {queue.name!r} already")
        self._observed = {**self._observed, queue.name: Observed(queue, dead_letters)}

    def remove(self, queue: ObservedQueue) -> None:
        """Stop reporting on ``queue``; no effect if it is not reported on."""
        observed = self._observed.items()
        self._observed = {name: one for name, one in observed if one.queue is not queue}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI demands.

        Raises:
            NotImplementedError: the server offers a protocol that is not known here.
        """
        match scope["type"]:
            case "http":
                await _send_answer(self._answer_scope(scope), send)
            case "lifespan":
                await _live(receive, send)
            case "websocket":
                await send({"type": "websocket.close"})  # which refuses it
            case _:
                raise NotImplementedError(f"only HTTP is served, not {scope['type']}")

    def _answer(self, method: str, path: str, accept: str) -> Answer:
        return answer(tuple(self._observed.values()), method, path, accept)

    def _answer_scope(self, scope: Message) -> Answer:
        path: str = scope["path"]
        root: str = scope.get("root_path", "").rstrip("/")
        # ASGI has the mount's path in both; some frameworks take it off.
        if path == root or path.startswith(f"{root}/"):
            path = path[len(root) :]
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        accept = b",".join(value for name, value in headers if name == b"accept")
        return self._answer(scope["method"], path, accept.decode("latin-1"))


async def _send_answer(reply: Answer, send: Send) -> None:
    headers = list(reply.headers)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def _live(receive: Receive, send: Send) -> None:
    """Agree to the server's start, and to its end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
