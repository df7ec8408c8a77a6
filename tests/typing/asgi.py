"""How the status page fits where others ask for an ASGI app or for a queue; never executed."""  # noqa: INP001  # a package would be imported and measured

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware

from provcache_trio.prometheus import QueueCollector
from provcache_trio.status import ObservedQueue, StatusApp

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

    from provcache_trio import WriteBehindQueue

# As starlette has it, and those who build on that.
Plain = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]


def mount(app: Plain) -> None:
    """As frameworks do."""


def the_app_fits_whatever_others_call_an_asgi_app(app: StatusApp, other: ASGIFramework) -> None:
    mount(app)
    TrioDispatcherMiddleware({"/": other, "/internal/queue": app})
    TrioDispatcherMiddleware({"/queue": app})


class Nameless:
    """Not a queue that can be shown."""

    def metrics(self) -> None: ...


def a_queue_is_shown_by_both(queue: WriteBehindQueue[str], other: Nameless) -> None:
    observed: ObservedQueue = queue
    StatusApp(observed).add(queue)
    QueueCollector(observed).add(queue)
    StatusApp(other)  # type: ignore[arg-type]
    QueueCollector(other)  # type: ignore[arg-type]
