"""A store of your own behind an HTTP API: http_store.py http://127.0.0.1:8000/readings.

The API takes a batch whole or not at all, keeps the newer of two readings, and says which reading it
refuses: ``PUT`` with ``[{"sensor": …, "taken_at": …, "celsius": …}, …]`` answers ``{"changed": 2}``, or 422 with
``{"index": 1}``. Needs httpx2 beside the package: ``pip install httpx2``.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter

import httpx2
import msgspec
import trio

from provcache_trio import (
    EntryRejectedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
    open_write_behind_queue,
)


class Reading(msgspec.Struct, frozen=True):
    sensor: str
    taken_at: datetime
    celsius: float


class Answer(msgspec.Struct):
    changed: int = 0
    index: int | None = None


def newer(older: Reading, later: Reading) -> Reading:
    """Return what the API keeps of two readings of one sensor."""
    return later if later.taken_at >= older.taken_at else older


class HttpStore:
    """httpx2 runs on trio, so a cancelled call ends at once; its connection is closed."""

    def __init__(self, url: str, *, seconds: float = 10) -> None:
        self._url = url
        self._client = httpx2.AsyncClient(timeout=httpx2.Timeout(seconds, connect=5))

    async def upsert_many(self, readings: Sequence[Reading], /) -> int:
        answer = await self._ask("PUT", content=msgspec.json.encode(readings))
        return msgspec.json.decode(answer, type=Answer).changed

    async def get_many(self, sensors: Iterable[str]) -> Mapping[str, Reading]:
        answer = await self._ask("GET", params={"sensor": [*sensors]})
        return {each.sensor: each for each in msgspec.json.decode(answer, type=list[Reading])}

    async def _ask(
        self,
        method: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, list[str]] | None = None,
    ) -> bytes:
        try:
            response = await self._client.request(method, self._url, content=content, params=params)
        except httpx2.UnsupportedProtocol as error:  # the URL is no URL
            raise StoreMisconfiguredError("no such URL", error_class=type(error).__name__) from None
        except httpx2.TransportError as error:
            # It may have been stored. Only a server that reads and does not answer is at work.
            raise StoreUnavailableError(
                "no answer",
                error_class=type(error).__name__,
                too_slow=isinstance(error, httpx2.ReadTimeout),
            ) from None
        if not response.is_success:
            raise verdict_on(response)
        return response.content

    async def aclose(self) -> None:
        await self._client.aclose()


def verdict_on(response: httpx2.Response) -> StoreError | EntryRejectedError:
    status = response.status_code
    said, name = f"the API answered {status}", f"HTTP {status}"
    match status:
        case 409:  # somebody else's transaction won
            return TransientStoreError(said, error_class=name)
        case 413:  # the batch is too large: it comes again in smaller parts
            return StoreUnavailableError(said, error_class=name, too_slow=True)
        case 422:
            index = msgspec.json.decode(response.content, type=Answer).index
            return EntryRejectedError(said, error_class=name, index=index)
        case 408 | 425 | 429 | 500 | 502 | 503 | 504:
            return StoreUnavailableError(said, error_class=name)
        case _:  # 401, 403, 404 and what else nobody expects: nothing is lost while it is mended
            return StoreMisconfiguredError(said, error_class=name)


async def main(url: str) -> None:
    store = HttpStore(url)
    try:
        async with open_write_behind_queue(store, key=attrgetter("sensor"), merge=newer) as queue:
            for celsius in (20.5, 21.0):
                await queue.enqueue(Reading("attic", datetime.now(UTC), celsius))
    finally:
        with trio.move_on_after(5, shield=True):
            await store.aclose()
    print(f"{queue.metrics().total_persisted} written")


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
