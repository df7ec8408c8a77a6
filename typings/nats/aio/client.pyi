# What we use of nats-py 2.16, private names included: they may change with any version.
import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

class Msg:
    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None

class Subscription:
    _wait_for_msgs_task: asyncio.Task[None] | None
    async def drain(self) -> None: ...

class Client:
    _transport: Any
    _reading_task: asyncio.Task[None] | None
    _ping_interval_task: asyncio.Task[None] | None
    _flusher_task: asyncio.Task[None] | None
    _server_info: dict[str, Any]
    _pongs: list[asyncio.Future[bool]]
    _pings_outstanding: int
    async def _process_connect_init(self) -> None: ...
    async def _process_pong(self) -> None: ...
    async def _send_ping(self, future: asyncio.Future[bool] | None = ...) -> None: ...
    async def connect(
        self,
        servers: str | list[str] = ...,
        error_cb: Callable[[Exception], Awaitable[None]] | None = ...,
        closed_cb: Callable[[], Awaitable[None]] | None = ...,
        name: str | None = ...,
        allow_reconnect: bool = ...,
        connect_timeout: float = ...,
        ping_interval: float = ...,
        max_outstanding_pings: int = ...,
        tls: ssl.SSLContext | None = ...,
        tls_hostname: str | None = ...,
        user: str | Callable[[], str] | None = ...,
        password: str | Callable[[], str] | None = ...,
        token: str | Callable[[], str] | None = ...,
        user_credentials: str | Path | None = ...,
        pending_size: int = ...,
    ) -> None: ...
    async def publish(self, subject: str, payload: bytes = ..., reply: str = ...) -> None: ...
    async def subscribe(
        self,
        subject: str,
        cb: Callable[[Msg], Awaitable[None]] | None = ...,
        pending_msgs_limit: int = ...,
        pending_bytes_limit: int = ...,
    ) -> Subscription: ...
    async def flush(self, timeout: float = ...) -> None: ...
    async def close(self) -> None: ...
    def new_inbox(self) -> str: ...
    @property
    def max_payload(self) -> int: ...
    @property
    def is_connected(self) -> bool: ...
