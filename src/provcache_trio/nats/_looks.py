"""Looks at a stream from time to time, for whoever exports what it holds."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar, final

import trio

from provcache_trio._vocabulary.errors import StoreError, StoreMisconfiguredError
from provcache_trio._vocabulary.log import log
from provcache_trio._vocabulary.metrics import StreamLook, StreamMetrics

from ._session import Session
from ._stream import ConsumerInfo, StreamInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ._servers import Access
    from ._stream import Names

T = TypeVar("T")

_EVERY_SECONDS: Final = 10.0
_REFUSED_SECONDS: Final = 60.0  # after a look that needs a person: servers log each refusal
_PATIENCE_SECONDS: Final = 5.0  # for a whole look, connecting included
_CURRENT_SECONDS: Final = 30.0  # three looks: one or two may fail
_REQUEST_SECONDS: Final = 2.0


class _Run(Protocol):
    async def __call__(self, call: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        """Return what ``call`` returns on asyncio's side."""
        ...


@final
class Looks:
    """Asks the servers again and again; exporters read the last answer, and cause no request.

    Two requests every ten seconds, of at most five seconds together, go over a connection of their own:
    a server that stands still, or that does not permit them, disturbs neither publishing nor pulling.

    Attributes:
        session: the connection, to be closed when nobody looks any more.
    """

    def __init__(self, access: Access, names: Names) -> None:
        self.session: Session = Session(access, names.stream)
        self._names = names
        self._clock: Callable[[], float] | None = None
        self._last: tuple[float, StreamInfo, ConsumerInfo] | None = None
        self._failing = False

    async def run(self, run: _Run) -> NoReturn:
        """Look until cancelled.

        Args:
            run: calls an asyncio function.

        Raises:
            trio.ClosedResourceError: ``run`` is closed.
        """
        self._clock = trio.lowlevel.current_clock().current_time
        while True:
            pause = _EVERY_SECONDS
            try:
                with trio.fail_after(_PATIENCE_SECONDS):
                    stream, consumer = await run(self._ask)
                self._last = self._clock(), stream, consumer
                self._note(None)
            except trio.ClosedResourceError:
                raise
            # Whatever it is: what the stream holds may be unknown, but no relay ends for that.
            except Exception as error:  # noqa: BLE001
                self._note(error)
                if isinstance(error, StoreMisconfiguredError):
                    pause = _REFUSED_SECONDS
            await trio.sleep(pause)

    async def _ask(self) -> tuple[StreamInfo, ConsumerInfo]:
        ask = partial(self.session.ask, payload=b"", patience=_REQUEST_SECONDS)
        stream = await ask(self._names.api("STREAM.INFO"), kind=StreamInfo)
        consumer = await ask(self._names.api("CONSUMER.INFO", consumer=True), kind=ConsumerInfo)
        return stream, consumer

    def _note(self, error: Exception | None) -> None:
        """Log once when the servers stop answering, and once when they answer again."""
        failed = error is not None
        if failed == self._failing:
            return
        self._failing = failed
        if error is None:
            log(logging.INFO, "stream %s: what it holds is known again", self._names.stream)
            return
        name = error.error_class if isinstance(error, StoreError) else type(error).__name__
        log(
            # An outage is the queue's to report.
            logging.WARNING if isinstance(error, StoreMisconfiguredError) else logging.INFO,
            "stream %s: what it holds can't be read, and is missing in metrics: %s",
            self._names.stream,
            name,
            error_class=name,
        )

    def metrics(self) -> StreamMetrics | None:
        """Return what is known, from any thread; None if nobody has looked."""
        if self._clock is None:
            return None
        look = None
        if self._last is not None:
            at, stream, consumer = self._last
            look = _look(stream, consumer, max(0.0, self._clock() - at))
        return StreamMetrics(stream=self._names.stream, look=look)


def _look(stream: StreamInfo, consumer: ConsumerInfo, age_seconds: float) -> StreamLook:
    limit = stream.config.max_bytes
    return StreamLook(
        age_seconds=age_seconds,
        current=age_seconds <= _CURRENT_SECONDS,
        messages=stream.state.messages,
        bytes=stream.state.bytes,
        max_bytes=limit if limit > 0 else None,
        oldest_seconds=stream.oldest_seconds,
        ack_pending=consumer.num_ack_pending,
        redelivered=consumer.num_redelivered,
    )
