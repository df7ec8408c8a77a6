"""The messages of a relay, from their arrival until they are acknowledged, on trio's side of the bridge.

A message is known once, by its sequence. It is

- *arrived*: still bytes;
- *held*: its entries are decoded, and each is *ready* or was taken by the queue;
- *done*: the last of them is settled, which means persisted, or a letter that was kept. Then it is
  acknowledged.

The time of arrived and held messages is extended again and again, so that no other relay gets them. At the end,
what is not done is given back.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

import trio

from provcache_trio._vocabulary.errors import (
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
)
from provcache_trio._vocabulary.log import log
from provcache_trio._vocabulary.plurals import counted
from provcache_trio._vocabulary.protocols import E

from ._messages import DECODED_IN_A_STEP, UnreadableError
from ._puller import ACKNOWLEDGED, GIVEN_BACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from provcache_trio._asyncio.bridge import Bridge
    from provcache_trio._vocabulary.metrics import StreamMetrics

    from ._looks import Looks
    from ._messages import Codec
    from ._puller import Message, Puller

T = TypeVar("T")

# Of trio's scheduler, from the answer to one call until the next one is sent.
_ROUNDS_TO_SEND: Final = 4
_PAUSE_SECONDS: Final = 0.25
_FINISH_SECONDS: Final = 2.0
# Every server writes to its disk each time that answers arrive, so those of this time are sent together.
_GATHER_SECONDS: Final = 0.05
_EXTENSIONS: Final = 3  # in the time after which a message would be given to others


async def _let_others_run() -> None:
    """Let the writer receive an answer and send its next batch, so that the store does not wait for us."""
    for _ in range(_ROUNDS_TO_SEND):
        await trio.lowlevel.checkpoint()


class _Held:
    """A message whose entries are being written."""

    __slots__ = ("left", "reply", "taken")

    def __init__(self, reply: str, entries: int) -> None:
        self.reply = reply
        self.left = entries  # not settled yet
        self.taken = False  # some of them, by the queue


@final
class StreamSource(Generic[E]):
    """The ``Source`` of a relay's queue."""

    def __init__(
        self,
        puller: Puller,
        codec: Codec[E],
        bridge: Bridge,
        looks: Looks,
        *,
        stream: str,
        relay: str,
    ) -> None:
        self.label: str = f"stream {stream}"
        self.entry_type: type[E] = codec.entry_type
        self._puller = puller
        self._codec = codec
        self._bridge = bridge
        self._looks = looks
        self._relay = relay
        self._arrived: dict[int, Message] = {}
        self._ready: deque[tuple[int, E]] = deque()
        self._held: dict[int, _Held] = {}
        self._done: list[str] = []
        self._back: list[str] = []
        self._unreadable: int | None = None  # the message at which we stopped
        self._stopped = False
        self._released = True  # nothing is being pulled
        self._bell = trio.Event()

    # Taking

    async def take(self, most: int, /) -> Sequence[tuple[int, E]]:
        """See ``Source.take``."""
        await _let_others_run()
        while not self._ready:
            if self._stopped:
                await trio.sleep_forever()
            if not self._arrived:
                self._released = False
                self._receive(await self._bridge.run(self._puller.get))
            await self._decode()
        ready = self._ready
        page = [ready.popleft() for _ in range(min(most, len(ready)))]
        for number in dict(page):
            self._held[number].taken = True
        return page

    def _receive(self, messages: Iterable[Message]) -> None:
        for message in messages:
            held = self._held.get(message.number)
            if self._stopped:
                self._back.append(message.reply)
                self._bell.set()
            elif held is None:
                self._arrived[message.number] = message
            else:
                held.reply = message.reply  # it was redelivered

    async def _decode(self) -> None:
        while self._arrived and len(self._ready) < DECODED_IN_A_STEP:
            number, message = next(iter(self._arrived.items()))
            entries: list[E] = []
            in_step = 0
            try:
                for some in self._codec.decode(message.data):
                    entries += some
                    in_step += len(some)
                    if in_step >= DECODED_IN_A_STEP:
                        in_step = 0
                        await _let_others_run()
            except UnreadableError as error:
                if not self._ready:
                    self._stop_at(number, str(error))
                return
            if self._arrived.pop(number, None) is None:
                return  # ``stop`` gave it back meanwhile
            self._held[number] = _Held(message.reply, len(entries))
            self._ready.extend(zip(repeat(number), entries))  # repeated without end

    def _stop_at(self, number: int, why: str) -> None:
        """Take nothing until the message is gone: a newer relay may read it, or a person removes it.

        Raises:
            StoreMisconfiguredError: always.
        """
        log(
            logging.ERROR,
            "%s: message %d of %s can't be read, and nothing is taken until it is gone: %s; a newer "
            "program may read it, or provcache relay --from … --skip %d --into FILE takes it out",
            self._relay,
            number,
            self.label,
            why,
            number,
            queue=self._relay,
            sequence=number,
        )
        self._unreadable = number
        self._give_back_the_untouched()
        raise self._unreadable_error(number)

    def _unreadable_error(self, number: int) -> StoreMisconfiguredError:
        return StoreMisconfiguredError(
            f"message {number} of {self.label} can't be read",
            error_class=f"UnreadableMessage {number}",
        )

    async def check(self) -> None:
        """See ``Source.check``."""
        number = self._unreadable
        if number is None:
            await self._bridge.run(self._puller.check)
        elif await self._bridge.run(partial(self._puller.exists, number)):
            raise self._unreadable_error(number)
        self._unreadable = None

    # Settling

    def settled(self, numbers: Sequence[int], /) -> None:
        """See ``Source.settled``."""
        for number, entries in Counter(numbers).items():
            held = self._held[number]
            held.left -= entries
            if not held.left:
                del self._held[number]
                self._done.append(held.reply)
        if self._done:
            self._bell.set()

    def tasks(self) -> Sequence[tuple[str, Callable[[], Awaitable[None]]]]:
        """See ``Source.tasks``."""
        watch = partial(self._looks.run, self._bridge.run)
        return [("answers", self._answer), ("extensions", self._extend), ("looks", watch)]

    def stream_metrics(self) -> StreamMetrics | None:
        """Return what the stream held when it was last looked at; from any thread."""
        return self._looks.metrics()

    async def _answer(self) -> None:
        # When this begins anew after a crash, nobody else would say that there is something to send.
        self._bell.set()
        while True:
            await self._bell.wait()
            await trio.sleep(_GATHER_SECONDS)
            self._bell = trio.Event()
            try:
                await self._send_answers()
            except StoreUnavailableError:
                self._bell.set()
                await trio.sleep(_PAUSE_SECONDS)

    async def _send_answers(self) -> None:
        await self._send(ACKNOWLEDGED, self._done)
        if (self._stopped or self._unreadable is not None) and not self._released:
            self._released = True
            await self._bridge.run(self._puller.release)
        await self._send(GIVEN_BACK, self._back)

    async def _send(self, answer: bytes, replies: list[str]) -> None:
        some = tuple(replies)
        if some:
            await self._bridge.run(partial(self._puller.answer, answer, some))
            # Only now: answers that were cut off are sent again.
            del replies[: len(some)]

    async def _extend(self) -> None:
        while True:
            await trio.sleep(self._puller.ack_wait_seconds / _EXTENSIONS or _PAUSE_SECONDS)
            try:
                await self._bridge.run(partial(self._puller.extend, self._replies()))
            except StoreUnavailableError:
                await trio.sleep(_PAUSE_SECONDS)

    def _replies(self) -> list[str]:
        held = [one.reply for one in self._held.values()]
        return [*held, *(message.reply for message in self._arrived.values())]

    # The end

    def stop(self) -> None:
        """See ``Source.stop``."""
        self._stopped = True
        self._give_back_the_untouched()

    def _give_back_the_untouched(self) -> None:
        self._back += [message.reply for message in self._arrived.values()]
        self._arrived.clear()
        self._ready.clear()
        for number in [number for number, one in self._held.items() if not one.taken]:
            self._back.append(self._held.pop(number).reply)
        self._bell.set()

    async def finish(self) -> None:
        """See ``Source.finish``."""
        back = (*self._back, *self._replies())
        try:
            with trio.fail_after(_FINISH_SECONDS):
                await self._bridge.run(partial(self._puller.finish, tuple(self._done), back))
        except (StoreError, trio.TooSlowError):
            if self._done or back:
                log(
                    logging.WARNING,
                    "%s: %s of %s not given back, as no server could be told: to come after a while",
                    self._relay,
                    counted(len(self._done) + len(back), "message"),
                    self.label,
                    queue=self._relay,
                )
