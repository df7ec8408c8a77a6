"""What the servers' and the network's errors mean to the queue.

===================================================== ========================================
error                                                  meaning
===================================================== ========================================
no answer in time, connection refused or lost          unavailable
503: no responder, no leader, no quorum (10008)        unavailable
10077: the stream is full, and discards what is new    unavailable
authorization, permissions, TLS                        misconfigured
10059, 10014: no such stream, no such consumer         misconfigured
10005: enough servers, but one of them is offline      unavailable
10005, 10047, 10074: too few servers, or little room   misconfigured
10058, 10148: there, with other settings               misconfigured
anything else that a server says                       misconfigured
===================================================== ========================================

A publisher gets the same 503 whether the stream is missing or has no leader, so it asks for the
stream then.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import msgspec

from provcache_trio._vocabulary.errors import (
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

FULL: Final = 10077
NO_STREAM: Final = 10059
NO_CONSUMER: Final = 10014
NO_MESSAGE: Final = 10037
_SERVICE_UNAVAILABLE: Final = 503
_NO_ROOM: Final = 10047
_NO_PEERS: Final = 10005
_OFFLINE: Final = "peer offline"
_WORDS: Final[Mapping[int, str]] = {
    FULL: "the stream is full",
    NO_STREAM: "there is no such stream; create_stream, or provcache init --to, makes it",
    NO_CONSUMER: "the stream has no consumer; create_stream makes it",
    _NO_ROOM: "the servers have too little room for a stream of that size",
    _NO_PEERS: "too few servers, or too little room on them, for that many replicas",
    10074: "a single server can't hold several replicas",
    10058: "the stream is there, with other settings",
    10148: "the stream's consumer is there, with other settings",
}
_CUT_OFF: Final = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)


class ApiError(msgspec.Struct, frozen=True):
    """An error in a server's answer.

    Attributes:
        code: a status as in HTTP.
        err_code: JetStream's number of the error.
        description: the server's words.
    """

    code: int = 500
    err_code: int = 0
    description: str = ""

    def meaning(self) -> StoreError:
        """Return the error to raise."""
        name = f"JetStream {self.err_code}"
        if self.err_code == _NO_PEERS and _OFFLINE in self.description:
            return StoreUnavailableError("a server that has to keep it is away", error_class=name)
        is_away = self.code == _SERVICE_UNAVAILABLE and self.err_code != _NO_ROOM
        away = is_away or self.err_code == FULL
        kind = StoreUnavailableError if away else StoreMisconfiguredError
        words = _WORDS.get(self.err_code, f"NATS reported: {self.description}")
        return kind(words, error_class=name)


class DeniedError(Exception):
    """A server denied something; the text is the server's, in lower case."""


class LostError(Exception):
    """The connection is lost."""


def meaning_of(error: Exception, doing: str) -> StoreError:
    """Return the error to raise for one that nats-py or asyncio raised.

    Args:
        error: what was raised.
        doing: what failed, for the message.
    """
    name = type(error).__name__
    text = str(error).lower()
    if isinstance(error, DeniedError) or "authorization" in text or "authentication" in text:
        return StoreMisconfiguredError(f"{doing}: access was refused", error_class=name)
    of_tls = isinstance(error, ssl.SSLError) and not isinstance(error, _CUT_OFF)
    if of_tls or isinstance(error, PlainTextError):
        return StoreMisconfiguredError(f"{doing}: no TLS that both sides trust", error_class=name)
    if isinstance(error, (FileNotFoundError, PermissionError, ImportError, ValueError)):
        return StoreMisconfiguredError(f"{doing}: the credentials can't be used", error_class=name)
    if isinstance(error, TimeoutError):
        return StoreUnavailableError(f"{doing}: no answer in time", error_class=name)
    return StoreUnavailableError(f"{doing}: {name}", error_class=name)


class PlainTextError(Exception):
    """A server wants no TLS, though we do."""
