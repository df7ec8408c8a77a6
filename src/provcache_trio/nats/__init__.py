"""Entries that survive the loss of a machine: a stream on NATS JetStream. Needs the extra ``nats``.

``open_stream_repository`` is a repository for queues: what they persist is in the stream then, on
the disks of a majority of its servers. ``open_relay`` opens what takes it from there to a store.
``create_stream`` makes the stream; nothing else makes or changes one.

Three servers of version 2.15 or later, with ``sync_interval: always`` in their configuration: without
it, a power cut of all of them loses up to two minutes of what they acknowledged.

NATS is reached through nats-py, which is asyncio's, over the bridges by which PostgreSQL is
reached, too; see ``provcache_trio.postgres`` for what they change in a process.
"""

# The stream lives here: sessions, envelopes, the repository, the relay, and what errors mean.
# It may import the vocabulary, the core, whose queue a relay is, and ``_asyncio``.
# It must never import a store; what it calls nats-py with stays in this folder.

from provcache_trio._vocabulary.faces import show_public_names

from ._relay import Relay as Relay, open_relay as open_relay
from ._repository import (
    StreamRepository as StreamRepository,
    open_stream_repository as open_stream_repository,
)
from ._stream import StreamReport as StreamReport, create_stream as create_stream

__all__ = [
    "Relay",
    "StreamReport",
    "StreamRepository",
    "create_stream",
    "open_relay",
    "open_stream_repository",
]

show_public_names(globals())
