"""Pulls messages from the stream and answers them, on asyncio's side of the bridge.

A message belongs to the puller from its arrival until ``get`` returns it, and to the source after that.
At most one pull is under way beside the messages that ``get`` has not returned yet, so memory is bounded by
two pulls.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, final

import msgspec

from provcache_trio._vocabulary.errors import StoreError, StoreMisconfiguredError

from ._connection import raise_if_cancelled
from ._errors import NO_MESSAGE, ApiError, DeniedError, meaning_of
from ._session import Answer, NoRespondersError, Session
from ._stream import consumer_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nats.aio.client import Msg, Subscription

    from ._connection import Connection
    from ._servers import Access
    from ._stream import Names

ACKNOWLEDGED: Final = b"+ACK"
GIVEN_BACK: Final = b"-NAK"
_IN_PROGRESS: Final = b"+WPI"

_MESSAGES_IN_PULL: Final = 128
_BYTES_IN_PULL: Final = 8 * 1024 * 1024
_NANOSECONDS: Final = 1_000_000_000
_PULL_SECONDS: Final = 60
_HEARTBEAT_SECONDS: Final = 1
_SILENCE_SECONDS: Final = 2.5  # after which a pull is taken for dead
_PATIENCE: Final = 1.0
_SENT_IN_A_STEP: Final = 100
_HEARTBEAT, _NOBODY = "100", "503"
_TOO_LARGE: Final = "Message Size Exceeds MaxBytes"


class Message(NamedTuple):
    """A message as it arrived.

    Attributes:
        number: its sequence in the stream.
        reply: the subject to answer it on.
        data: its payload.
    """

    number: int
    reply: str
    data: bytes


class _Exists(Answer, frozen=True, kw_only=True):
    """The answer to STREAM.MSG.GET, of which only the error matters."""


def number_in(reply: str) -> int:
    """Return the sequence of the message whose answers go to ``reply``."""
    words = reply.split(".")
    # $JS.ACK, then (from newer servers) domain and account, then stream, consumer, deliveries, sequence.
    return int(words[_SEQUENCE_AT if len(words) == _WORDS_OF_OLD else _SEQUENCE_AT + 2])


_WORDS_OF_OLD: Final = 9
_SEQUENCE_AT: Final = 5


@final
class Puller:
    """Pulls messages over a session of its own, and answers them.

    Attributes:
        ack_wait_seconds: how long a message stays ours without a word from us; 0.0 until the
            servers have said it.
    """

    def __init__(self, access: Access, names: Names) -> None:
        self.session: Session = Session(access, names.stream, self._begin)
        self.ack_wait_seconds: float = 0.0
        self._names = names
        self._arrived: dict[int, Message] = {}
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._left = 0  # messages that the pull under way may still bring
        self._next_is_large = False  # the next message is larger than a pull allows
        self._heard_at = 0.0
        self._failure: StoreError | None = None
        self._news = asyncio.Event()
        self._resting = False

    async def _begin(self, connection: Connection) -> None:
        """Prepare a new connection for pulling."""
        self._ack_wait_of(await consumer_of(connection, self._names))
        connection.on_trouble(self._note_trouble)
        self._subscription = None
        self._left = 0

    def _ack_wait_of(self, info: object) -> None:
        self.ack_wait_seconds = float(getattr(info, "ack_wait_seconds", 0.0))

    def _note_trouble(self, error: Exception) -> None:
        if isinstance(error, DeniedError):
            self._failure = meaning_of(error, "pulling", connected=True)
        self._news.set()

    # Pulling

    async def get(self) -> list[Message]:
        """Wait for messages, and return all that have arrived; the last step takes them.

        Raises:
            StoreError: none can be had for now.
        """
        self._resting = False
        while True:
            connection = await self.session.connection()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise await self._reason(failure)
            self._news.clear()
            if self._left <= 0:
                await self.session.use(self._pull, "pulling")
            if self._arrived:
                break
            await self._wait_for_news(connection)
            if self._resting:
                await asyncio.Event().wait()  # until whoever called ``release`` cancels us
        arrived = list(self._arrived.values())
        self._arrived.clear()
        return arrived

    async def _reason(self, failure: StoreError) -> StoreError:
        """Return why nobody answers a pull: the consumer may be missing."""
        if isinstance(failure, NoRespondersError):
            try:
                await self.check()
            except StoreError as error:
                return error
        return failure

    async def check(self) -> None:
        """Raise unless there is a consumer to pull from.

        Raises:
            StoreError: there is none.
        """
        await self.session.use(lambda connection: consumer_of(connection, self._names), "a request")

    async def _pull(self, connection: Connection) -> None:
        if self._subscription is None:
            self._inbox = connection.new_inbox()
            self._subscription = await connection.subscribe(self._inbox, self._arrive)
        request = {
            "batch": _MESSAGES_IN_PULL,
            # Large enough for any message that this server takes.
            "max_bytes": max(_BYTES_IN_PULL, 2 * connection.most_bytes),
            "expires": _PULL_SECONDS * _NANOSECONDS,
            "idle_heartbeat": _HEARTBEAT_SECONDS * _NANOSECONDS,
        }
        if self._next_is_large:
            # Another server took it, or this one did before its limit was lowered.
            request["batch"] = 1
            del request["max_bytes"]
            self._next_is_large = False
        self._heard_at = asyncio.get_running_loop().time()
        self._left = request["batch"]
        subject = self._names.api("CONSUMER.MSG.NEXT", consumer=True)
        await connection.publish(subject, msgspec.json.encode(request), self._inbox)

    async def _arrive(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        headers = message.headers or {}
        status = headers.get("Status")
        if status is not None and not message.data:
            if status == _HEARTBEAT:
                return
            self._left = 0  # this pull is over, for whatever reason
            self._next_is_large = headers.get("Description") == _TOO_LARGE
            if status == _NOBODY:
                self._failure = NoRespondersError(
                    f"nobody answers for stream {self._names.stream}", error_class="NoResponders"
                )
        else:
            number = number_in(message.reply)
            self._arrived[number] = Message(number, message.reply, message.data)
            self._left -= 1
        self._news.set()

    async def _wait_for_news(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout_at(self._heard_at + _SILENCE_SECONDS):
                await self._news.wait()
        except TimeoutError:
            if asyncio.get_running_loop().time() < self._heard_at + _SILENCE_SECONDS:
                return  # a heartbeat came meanwhile
            # The pull may have died with another server, or our server has stopped.
            self._left = 0
            await self.session.use(lambda _: connection.settle(_PATIENCE), "a ping")

    async def release(self) -> None:
        """Stop pulling until ``get`` is called again, and give back what arrived.

        Raises:
            StoreError: that failed; the servers redeliver it after ``ack_wait_seconds``.
        """
        self._resting = True
        subscription, self._subscription = self._subscription, None
        self._left = 0
        if subscription is not None and (connection := self.session.current) is not None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    # After this, everything that the server had sent has arrived.
                    await subscription.drain()
                raise_if_cancelled()
            except Exception:  # noqa: BLE001  # what is under way is redelivered then
                await self.session.drop(connection)
        arrived = [message.reply for message in self._arrived.values()]
        self._arrived.clear()
        await self.answer(GIVEN_BACK, arrived)

    async def exists(self, number: int) -> bool:
        """Return whether a message is in the stream.

        Raises:
            StoreError: no server answers.
        """
        try:
            await self.session.ask(
                self._names.api("STREAM.MSG.GET"), msgspec.json.encode({"seq": number}), _Exists
            )
        except StoreMisconfiguredError as error:
            if error.error_class == ApiError(err_code=NO_MESSAGE).meaning().error_class:
                return False
            raise
        return True

    # Answering

    async def answer(self, answer: bytes, replies: Sequence[str]) -> None:
        """Send ``answer`` for each of these messages.

        Raises:
            StoreError: not all were sent.
        """
        if replies:
            await self.session.use(
                lambda connection: _publish_all(connection, answer, replies), "answering"
            )

    async def extend(self, replies: Iterable[str]) -> None:
        """Extend the time for these messages, and for all that arrived.

        Raises:
            StoreError: not all of it may have been sent.
        """
        arrived = [message.reply for message in self._arrived.values()]
        await self.answer(_IN_PROGRESS, [*replies, *arrived])

    async def finish(self, acknowledged: Sequence[str], given_back: Sequence[str]) -> None:
        """Send the last answers, and wait until the server has them.

        Raises:
            StoreError: the server may not have them.
        """
        await self.answer(ACKNOWLEDGED, acknowledged)
        await self.release()
        await self.answer(GIVEN_BACK, given_back)
        if self.session.current is not None:
            await self.session.use(lambda connection: connection.settle(_PATIENCE), "a ping")


async def _publish_all(connection: Connection, answer: bytes, replies: Sequence[str]) -> None:
    for at, reply in enumerate(replies, 1):
        await connection.publish(reply, answer)
        if at % _SENT_IN_A_STEP == 0:
            await asyncio.sleep(0)
