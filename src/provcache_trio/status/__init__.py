"""How queues are doing, over HTTP: for orchestrators, for Prometheus, and for people.

``StatusApp`` is a small ASGI app to mount in the server that a program has.
``open_status_server`` is a server for programs that have none; it needs the extra ``status``::

    async with open_status_server(port=8080) as server:
        async with open_write_behind_queue(repository) as queue:
            server.app.add(queue)

Opened around the queue, it also reports the drain.
"""

# This folder reports on queues over HTTP: the report, the page, the answers, and a server for them.
# It may import the vocabulary, and ``provcache_trio.prometheus`` where ``/metrics`` is answered.
# It must never import the core: a queue is anything with a name and ``metrics()``.

from provcache_trio._vocabulary.faces import show_public_names
from provcache_trio._vocabulary.protocols import ObservedQueue as ObservedQueue

from ._app import StatusApp as StatusApp
from ._opening import open_status_server as open_status_server
from ._server import StatusServer as StatusServer

__all__ = ["ObservedQueue", "StatusApp", "StatusServer", "open_status_server"]

show_public_names(globals())
