"""What the servers' and the network's errors mean to the queue.

===================================================== ========================================
error                                                  meaning
===================================================== ========================================
no answer in time, connection refused or lost          unavailable
503: no responder, no leader, no quorum (10008)        unavailable
10077: the stream is full, and discards what is new    unavailable
authorization, permissions, TLS                        misconfigured
a login that took the server too long                  unavailable
10059, 10014: no such stream, no such consumer         misconfigured
10005: enough servers, but one of them is offline      unavailable
10005, 10047, 10074: too few servers, or little room   misconfigured
10058, 10148: there, with other settings               misconfigured
anything else that a server says                       misconfigured
a defect, on a connection that works                   unknown
a defect, while connecting                             misconfigured
===================================================== ========================================

A publisher gets the same 503 whether the stream is missing or has no leader, so it asks for the
stream then.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import msgspec
from nats.errors import Error as NatsError

from provcache_trio._vocabulary.errors import (
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
)
from provcache_trio._vocabulary.failures import described_defect

if TYPE_CHECKING:
    from collections.abc import Mapping

FULL: Final = 10077
NO_STREAM: Final = 10059
NO_CONSUMER: Final = 10014
NO_MESSAGE: Final = 10037
OTHER_STREAM: Final = 10058
OTHER_CONSUMER: Final = 10148
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
    10074: "a single server can't hold several replicas; with one server, set replicas=1, or "
    "--replicas 1",
    OTHER_STREAM: "the stream is there, with other settings",
    OTHER_CONSUMER: "the stream's consumer is there, with other settings",
}
_SLOW_LOGIN: Final = "authentication timeout"
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


class LeaderChangedError(Exception):
    """The stream has another leader, and the former one answers no more."""


_OF_NETWORK: Final = (OSError, EOFError, NatsError, LostError, LeaderChangedError)
_OF_CREDENTIALS: Final = (FileNotFoundError, PermissionError, ImportError, ValueError)


def meaning_of(error: Exception, doing: str, *, connected: bool, lost: bool = False) -> StoreError:
    """Return the error to raise for one that nats-py, asyncio or a defect raised.

    Args:
        error: what was raised.
        doing: what failed, for the message.
        connected: whether there was a connection; without one, nothing can have been stored.
        lost: whether that connection has ended by now, when nats-py may raise anything.
    """
    name = type(error).__name__
    needed = _what_needs_a_person(error)
    if needed is None and not connected and isinstance(error, _OF_CREDENTIALS):
        needed = "the credentials can't be used"
    if needed is not None:
        return StoreMisconfiguredError(f"{doing}: {needed}", error_class=name)
    # Whoever was too busy to log in is told so in words.
    if isinstance(error, TimeoutError) or _SLOW_LOGIN in str(error).lower():
        return StoreUnavailableError(f"{doing}: no answer in time", error_class=name)
    if lost or isinstance(error, _OF_NETWORK):
        return StoreUnavailableError(f"{doing}: {name}", error_class=name)
    # Not an outage, which would be waited for.
    kind = StoreError if connected else StoreMisconfiguredError
    return kind(f"{doing}: {described_defect(error)}", error_class=name)


def _what_needs_a_person(error: Exception) -> str | None:
    text = str(error).lower()
    of_access = "authorization" in text or "authentication" in text
    if isinstance(error, DeniedError) or (of_access and _SLOW_LOGIN not in text):
        return "access was refused"
    if isinstance(error, PlainTextError):
        return "the server speaks no TLS"
    if isinstance(error, ssl.SSLError) and not isinstance(error, _CUT_OFF):
        why = getattr(error, "verify_message", None) or error.reason
        return f"no TLS that both sides trust ({why})"
    return None


class PlainTextError(Exception):
    """A server wants no TLS, though we do."""
