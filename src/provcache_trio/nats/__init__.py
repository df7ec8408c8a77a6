"""Entries that survive the loss of a machine: a stream on NATS JetStream. Needs the extra ``nats``.

``open_stream_repository`` opens a repository for queues. What they report as persisted is in the stream, on the
disks of a majority of its servers. ``open_relay`` opens a relay, which writes it to a store.
``create_stream`` creates the stream; nothing else creates or changes one.

Run three servers of version 2.15 or later, with ``sync_interval: always`` in their configuration. Without
it, a power cut of all three loses up to two minutes of acknowledged messages.

The client is nats-py, an asyncio library, which runs over the same bridges as the PostgreSQL driver;
``provcache_trio.postgres`` describes how they affect a process.
"""

# Here are the sessions, message envelopes, the repository, the relay, and the meaning of errors.
# It may import the vocabulary, ``_asyncio``, and the core: a relay is one of its queues.
# It must never import a store, and nothing outside of this folder may call nats-py.

from provcache_trio._vocabulary.faces import needing_extra, show_public_names
from provcache_trio._vocabulary.metrics import (
    StreamLook as StreamLook,
    StreamMetrics as StreamMetrics,
)

with needing_extra("nats", "nats"):
    from ._relay import Relay as Relay, open_relay as open_relay
    from ._repository import (
        StreamRepository as StreamRepository,
        open_stream_repository as open_stream_repository,
    )
    from ._stream import StreamReport as StreamReport, create_stream as create_stream

__all__ = [
    "Relay",
    "StreamLook",
    "StreamMetrics",
    "StreamReport",
    "StreamRepository",
    "create_stream",
    "open_relay",
    "open_stream_repository",
]

show_public_names(globals())
