"""The status document of running queues, and how it is fetched."""

from __future__ import annotations

import base64
import io
import os
import re
import socket
import ssl
from datetime import datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from typing import Annotated, Final, cast
from urllib.parse import quote, unquote, urlsplit

import msgspec
import trio

from provcache_trio._cli.urls import MisuseError

_VERSION: Final = 1
_LARGEST: Final = 4 * 1024 * 1024  # bytes of an answer; a queue takes about 2 KB
_TIMEOUT: Final = 3.0  # seconds for a whole answer, the name's look-up included

# Bounded, because what is computed of them has to fit a float.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class LastError(msgspec.Struct, frozen=True):
    """The last error of the store or the dead letter sink."""

    error_class: str
    at: Moment
    sqlstate: str | None = None


class Metrics(msgspec.Struct, frozen=True):
    """What is shown of a queue's ``WriteBehindMetrics``; see there.

    ``state`` is any text: a newer server may know more of them.
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
    next_try_in_seconds: Seconds | None = None
    last_error: LastError | None = None


class Queue(msgspec.Struct, frozen=True):
    """One queue.

    Attributes:
        name: what the program calls it; need not be the only one of that name.
        summary: what it is doing, in a plain sentence.
        ready: whether it does its work.
        reason: why it is not ready, or None.
        metrics: its numbers.
        dead_letters: how many are kept; None if nobody counts them.
    """

    name: str
    summary: str
    ready: bool
    metrics: Metrics
    reason: str | None = None
    dead_letters: Count | None = None


class Document(msgspec.Struct, frozen=True):
    """The state of every queue of a program."""

    time: Moment
    queues: tuple[Queue, ...]


class _Versioned(msgspec.Struct, frozen=True):
    version: Count


class NoAnswerError(Exception):
    """There is no status to be had; the message tells why, in one line."""


class Source:
    """Where the status of a program is.

    Attributes:
        label: the URL, without user name and password.

    Raises:
        MisuseError: ``url`` is none of http or https, or malformed.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode()
        except ValueError:
            # What it holds may be a password; so may the message.
            raise MisuseError("the URL is malformed") from None
        known = parts.scheme in {"http", "https"} and re.fullmatch(r"[A-Za-z0-9._:%-]+", host)
        if not known or parts.query or parts.fragment:
            raise MisuseError("a status page is named by its URL, such as http://127.0.0.1:9464")
        place = f"[{host}]" if ":" in host else host
        if port is not None:
            place += f":{port}"
        path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self.label = f"{parts.scheme}://{place}{path}"
        self._host = host
        self._tls = parts.scheme == "https"
        self._port = port or (443 if self._tls else 80)
        head = [
            f"GET {path}/status.json HTTP/1.1",
            f"Host: {place}",
            "Accept: application/json",
            "Accept-Encoding: identity",
            "Connection: close",
        ]
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            head.append(f"Authorization: Basic {token}")
        self._request = "".join(f"{line}\r\n" for line in (*head, "")).encode()

    async def fetch(self) -> tuple[Document, bytes]:
        """Return the status of now, and the bytes that it came as.

        Cancellation ends the exchange at once; no thread stays behind but one that looks up
        a name.

        Raises:
            NoAnswerError: there was none within 3 s, or it is none.
        """
        answer = b""
        with trio.move_on_after(_TIMEOUT) as limit:
            try:
                answer = await self._exchange()
            except (OSError, trio.BrokenResourceError) as error:
                raise NoAnswerError(_reason(error)) from None
        if limit.cancelled_caught:
            raise NoAnswerError(f"nothing came within {_TIMEOUT:g} s")
        body = _body(answer)
        return decode(body), body

    async def _exchange(self) -> bytes:
        # trio's streams, because a thread in http.client can't be cancelled: one that waits
        # for a silent server would stay behind at every try. Parsing is left to http.client.
        stream: trio.abc.Stream
        if self._tls:
            context = ssl.create_default_context()
            stream = await trio.open_ssl_over_tcp_stream(
                self._host, self._port, https_compatible=True, ssl_context=context
            )
        else:
            stream = await trio.open_tcp_stream(self._host, self._port)
        answer = bytearray()
        try:
            await stream.send_all(self._request)
            while chunk := await stream.receive_some():
                answer += chunk
                if len(answer) > _LARGEST:
                    raise NoAnswerError(f"what it sent is longer than {_LARGEST >> 20} MiB")
        finally:
            await trio.aclose_forcefully(stream)
        return bytes(answer)


def decode(body: bytes) -> Document:
    """Return the document; fields that are not known are passed over.

    Raises:
        NoAnswerError: it is none, or of another version of the format.
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


class _Received:
    """Bytes, in the place of the socket that they came from."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._received)


def _body(answer: bytes) -> bytes:
    response = HTTPResponse(cast("socket.socket", _Received(answer)))
    try:
        response.begin()
        body = response.read()
    except (HTTPException, OSError, ValueError, OverflowError):
        detail = "its answer is cut off, or no HTTP" if answer else "it closed the connection"
        raise NoAnswerError(detail) from None
    if response.status != HTTPStatus.OK:
        raise NoAnswerError(f"it answered {response.status} {_phrase(response.status)}".rstrip())
    return body


def _phrase(status: int) -> str:
    # Its own words are a stranger's.
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else ""


def _reason(error: BaseException) -> str:
    """Return in one line why there is no connection, of the errors of every address."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return "; ".join(dict.fromkeys(map(_reason, group.exceptions)))
    if error.__cause__ is not None:  # trio's own error
        return _reason(error.__cause__)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, (ssl.SSLError, socket.gaierror)):  # with numbers of their own
        return error.strerror or "TLS failed"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # its own text names an address
    return "the connection broke"
