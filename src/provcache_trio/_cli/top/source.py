"""Where a program's status is, and how it is fetched."""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import quote, unquote, urlsplit

import h11
import trio

from provcache_trio._cli.misuse import MisuseError

from .document import Document, NoAnswerError, decode

_LARGEST: Final = 4 * 1024 * 1024  # bytes of an answer; a queue takes about 2 KB
_TIMEOUT: Final = 3.0  # seconds for a whole answer, the name's look-up included


class Source:
    """Where a program's status is.

    Attributes:
        label: the URL, without user name and password.
        instance: host and port, as Prometheus calls it.

    Raises:
        MisuseError: ``url`` is not one of http or https, or malformed.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode()
        except ValueError:
            # The URL may hold a password, and the message may quote it.
            raise MisuseError("the URL is malformed") from None
        known = parts.scheme in {"http", "https"} and re.fullmatch(r"[A-Za-z0-9._:%-]+", host)
        if not known or parts.query or parts.fragment:
            raise MisuseError("a status page is named by its URL, such as http://127.0.0.1:9464")
        place = f"[{host}]" if ":" in host else host
        if port is not None:
            place += f":{port}"
        path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self.label = f"{parts.scheme}://{place}{path}"
        self.instance = place
        self._host = host
        self._tls = parts.scheme == "https"
        self._port = port or (443 if self._tls else 80)
        headers = [
            ("Host", place),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            headers.append(("Authorization", f"Basic {token}"))
        self._request = h11.Request(method="GET", target=f"{path}/status.json", headers=headers)

    async def fetch(self) -> tuple[Document, bytes]:
        """Return the current status, decoded and as bytes.

        Cancellation ends the exchange at once; only a thread that looks up a name may stay behind.

        Raises:
            NoAnswerError: there was no answer within 3 s, or it is not a status document.
        """
        exchange = Exchange(self._request)
        with trio.move_on_after(_TIMEOUT) as limit:
            try:
                await self._do(exchange)
            except (OSError, trio.BrokenResourceError) as error:
                raise NoAnswerError(_reason(error)) from None
        if limit.cancelled_caught:
            raise NoAnswerError(f"nothing came within {_TIMEOUT:g} s")
        body = bytes(exchange.body)
        return decode(body), body

    async def _do(self, exchange: Exchange) -> None:
        stream: trio.abc.Stream
        if self._tls:
            context = ssl.create_default_context()
            stream = await trio.open_ssl_over_tcp_stream(
                self._host, self._port, https_compatible=True, ssl_context=context
            )
        else:
            stream = await trio.open_tcp_stream(self._host, self._port)
        try:
            await stream.send_all(exchange.request)
            while not exchange.take(bytes(await stream.receive_some())):
                pass
        finally:
            await trio.aclose_forcefully(stream)


class Exchange:
    """A request and its answer, without any I/O.

    Attributes:
        request: the bytes to send.
        body: the answer's body, as far as it has come.
    """

    def __init__(self, request: h11.Request) -> None:
        self._connection = h11.Connection(h11.CLIENT)
        parts = map(self._connection.send, (request, h11.EndOfMessage()))
        self.request = b"".join(filter(None, parts))
        self.body = bytearray()
        self._received = 0

    def take(self, data: bytes) -> bool:
        """Take the next bytes, b"" at their end, and return whether the answer is complete.

        Raises:
            NoAnswerError: it is not an answer that can be used.
        """
        self._received += len(data)
        if not self._received:
            raise NoAnswerError("it closed the connection")
        if self._received > _LARGEST:
            raise NoAnswerError(f"what it sent is longer than {_LARGEST >> 20} MiB")
        try:
            self._connection.receive_data(data)
            return self._is_whole()
        except h11.RemoteProtocolError:
            raise NoAnswerError("its answer is cut off, or no HTTP") from None

    def _is_whole(self) -> bool:
        while (event := self._connection.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response) and event.status_code != HTTPStatus.OK:
                raise NoAnswerError(_refusal(event.status_code))
            if isinstance(event, h11.Data):
                self.body += event.data
            if isinstance(event, h11.EndOfMessage):
                return True
        return False


def _refusal(status: int) -> str:
    # Not the server's own words: it may be anybody's.
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    return f"it answered {status} {phrase}".rstrip()


def _reason(error: BaseException) -> str:
    """Return in one line why there is no connection, for every address that was tried."""
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
