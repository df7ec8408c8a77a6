"""What arrives from the stream, and what is answered. This is asyncio's side of the bridge.

It owns what arrived until ``get`` returns it; then the source owns it. At most one pull more is under
way than what ``get`` has not returned yet, so two pulls bound what is here and there.
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


class Message(NamedTuple):
    """A message as it arrived.

    Attributes:
        number: its sequence in the stream.
        reply: where it is answered.
        data: what is in it.
    """

    number: int
    reply: str
    data: bytes


class _Exists(Answer, frozen=True, kw_only=True):
    """The answer of STREAM.MSG.GET, of which only the error matters."""


def number_in(reply: str) -> int:
    """Return the sequence of the message that is answered at ``reply``."""
    words = reply.split(".")
    # $JS.ACK, in newer servers a domain and an account, stream, consumer, deliveries, sequence.
    return int(words[_SEQUENCE_AT if len(words) == _WORDS_OF_OLD else _SEQUENCE_AT + 2])


_WORDS_OF_OLD: Final = 9
_SEQUENCE_AT: Final = 5


@final
class Puller:
    """Pulls messages over a session of its own, and answers them.

    Attributes:
        ack_wait_seconds: after so much silence of ours the servers give a message to others; 0.0
            until it is known.
    """

    def __init__(self, access: Access, names: Names) -> None:
        self.session: Session = Session(access, self._begin)
        self.ack_wait_seconds: float = 0.0
        self._names = names
        self._arrived: dict[int, Message] = {}
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._left = 0  # messages that the pull under way may still bring
        self._heard_at = 0.0
        self._failure: StoreError | None = None
        self._news = asyncio.Event()
        self._resting = False

    async def _begin(self, connection: Connection) -> None:
        """Make a new connection ready to pull."""
        self._ack_wait_of(await consumer_of(connection, self._names))
        connection.on_trouble(self._note_trouble)
        self._subscription = None
        self._left = 0

    def _ack_wait_of(self, info: object) -> None:
        self.ack_wait_seconds = float(getattr(info, "ack_wait_seconds", 0.0))

    def _note_trouble(self, error: Exception) -> None:
        if isinstance(error, DeniedError):
            self._failure = meaning_of(error, "pulling")
        self._news.set()

    # Pulling

    async def get(self) -> list[Message]:
        """Wait for messages, and return all that are here. To take them is the last step.

        Raises:
            StoreError: there are none to be had, for now.
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
                await asyncio.Event().wait()  # whoever released what arrived cancels this
        arrived = list(self._arrived.values())
        self._arrived.clear()
        return arrived

    async def _reason(self, failure: StoreError) -> StoreError:
        """Return why nobody answers a pull: it may be that there is no consumer."""
        if isinstance(failure, NoRespondersError):
            try:
                await self.check()
            except StoreError as error:
                return error
        return failure

    async def check(self) -> None:
        """Return if there is a consumer that can be pulled from.

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
            # So large that one message always fits.
            "max_bytes": max(_BYTES_IN_PULL, 2 * connection.most_bytes),
            "expires": _PULL_SECONDS * _NANOSECONDS,
            "idle_heartbeat": _HEARTBEAT_SECONDS * _NANOSECONDS,
        }
        self._heard_at = asyncio.get_running_loop().time()
        self._left = _MESSAGES_IN_PULL
        subject = self._names.api("CONSUMER.MSG.NEXT", consumer=True)
        await connection.publish(subject, msgspec.json.encode(request), self._inbox)

    async def _arrive(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        status = (message.headers or {}).get("Status")
        if status is not None and not message.data:
            if status == _HEARTBEAT:
                return
            self._left = 0  # this pull is over, for whatever reason
            if status == _NOBODY:
                self._failure = NoRespondersError(
                    "nobody answers for the stream", error_class="NoResponders"
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
                return  # a heartbeat came
            # The pull may have died with a server, or ours stands still.
            self._left = 0
            await self.session.use(lambda _: connection.settle(_PATIENCE), "a ping")

    async def release(self) -> None:
        """Pull no more until ``get`` is called anew, and give back what arrived.

        Raises:
            StoreError: it could not; then it comes back by itself.
        """
        self._resting = True
        subscription, self._subscription = self._subscription, None
        self._left = 0
        if subscription is not None and (connection := self.session.current) is not None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await subscription.drain()  # so what the server had sent is here
                raise_if_cancelled()
            except Exception:  # noqa: BLE001  # then what is under way comes back by itself
                await self.session.drop(connection)
        arrived = [message.reply for message in self._arrived.values()]
        self._arrived.clear()
        await self.answer(GIVEN_BACK, arrived)

    async def exists(self, number: int) -> bool:
        """Return whether a message is in the stream.

        Raises:
            StoreError: nobody knows.
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
        """Say that we still work on these messages, and on all that arrived.

        Raises:
            StoreError: nobody may have heard it.
        """
        arrived = [message.reply for message in self._arrived.values()]
        await self.answer(_IN_PROGRESS, [*replies, *arrived])

    async def finish(self, acknowledged: Sequence[str], given_back: Sequence[str]) -> None:
        """Send the last answers, and wait until a server has them.

        Raises:
            StoreError: it may not.
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
