"""The status document of running queues."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

from provcache_trio import ProvcacheError

_VERSION: Final = 1

# Bounded, because what is computed of them has to fit a float.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class NoAnswerError(ProvcacheError):
    """The status can't be fetched; the message gives the reason, in one line."""


class LastError(msgspec.Struct, frozen=True):
    """The last error of the store or the dead letter sink."""

    error_class: str
    at: Moment
    sqlstate: str | None = None


class QueueNumbers(msgspec.Struct, frozen=True):
    """The part of a queue's ``WriteBehindMetrics`` that is shown; see there.

    ``state`` is any text: a newer server may have other states.
    """

    state: str
    timestamp: Moment
    total_enqueued: Count
    total_persisted: Count
    total_failed: Count
    total_retries: Count
    total_batches: Count
    current_queue_depth: Count
    in_flight: Count
    producers_waiting: Count
    oldest_pending_seconds: Seconds
    total_recovered: Count = 0
    next_try_in_seconds: Seconds | None = None
    last_error: LastError | None = None


class CacheNumbers(msgspec.Struct, frozen=True):
    """The part of a ``CacheMetrics`` that is shown; see there."""

    hits_memory: Count
    hits_pending: Count
    hits_store: Count
    misses: Count
    computations: Count
    errors: Count
    entries: Count

    @property
    def hits(self) -> int:
        """Keys that were found."""
        return self.hits_memory + self.hits_pending + self.hits_store

    @property
    def lookups(self) -> int:
        """Keys that were looked for."""
        return self.hits + self.misses


class StreamLook(msgspec.Struct, frozen=True):
    """What a stream held when somebody last looked; see ``provcache_trio.nats.StreamLook``."""

    age_seconds: Seconds
    current: bool
    messages: Count
    bytes: Count
    oldest_seconds: Seconds
    ack_pending: Count
    redelivered: Count
    max_bytes: Count | None = None


class StreamStatus(msgspec.Struct, frozen=True):
    """A stream, and what it held; None: nobody knows."""

    stream: str
    look: StreamLook | None = None


class QueueStatus(msgspec.Struct, frozen=True):
    """One queue.

    Attributes:
        name: its name in the program; several may have the same.
        summary: what it is doing, in a plain sentence.
        ready: whether it does its work.
        reason: why it is not ready, or None.
        metrics: its numbers.
        dead_letters: how many are kept; None if nobody counts them.
        cache: the cache over it, or None.
        stream: the stream that it writes to or takes from, or None.
    """

    name: str
    summary: str
    ready: bool
    metrics: QueueNumbers
    reason: str | None = None
    dead_letters: Count | None = None
    cache: CacheNumbers | None = None
    stream: StreamStatus | None = None


class Document(msgspec.Struct, frozen=True):
    """The state of every queue of a program."""

    time: Moment
    queues: tuple[QueueStatus, ...]


class _Versioned(msgspec.Struct, frozen=True):
    version: Count


def decode(body: bytes) -> Document:
    """Return the document; unknown fields are ignored.

    Raises:
        NoAnswerError: this is not one, or its format has another version.
    """
    try:
        version = msgspec.json.decode(body, type=_Versioned).version
        if version == _VERSION:
            return msgspec.json.decode(body, type=Document)
    except RecursionError:
        raise NoAnswerError("what it sent is no status document: too deep") from None
    except ValueError as error:
        # msgspec's words name a place, such as `$.queues[...]`, and quote no value.
        detail = str(error) if isinstance(error, msgspec.DecodeError) else "no UTF-8"
        raise NoAnswerError(f"what it sent is no status document: {detail}") from None
    raise NoAnswerError(f"its status is of version {version}; this command knows {_VERSION}")
