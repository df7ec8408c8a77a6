"""Takes a message that no relay can read out of a stream, for ``provcache relay --skip``."""

from __future__ import annotations

import base64
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from provcache_trio._asyncio.bridge import DEFAULT_KIND
from provcache_trio._asyncio.calls import call_once
from provcache_trio._vocabulary.errors import StoreMisconfiguredError

from ._messages import as_lines
from ._servers import read_access
from ._session import Answer, Session
from ._stream import names_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._stream import Names


class _Stored(msgspec.Struct, frozen=True):
    data: str = ""


class _Got(Answer, frozen=True, kw_only=True):
    """The answer to STREAM.MSG.GET."""

    message: _Stored = _Stored()


async def take_out(
    servers: str | Sequence[str], stream: str, number: int, keep: Callable[[bytes], None]
) -> None:
    """Remove the message with that sequence, after ``keep`` was called with what is in it.

    Raises:
        StoreError: there is no such message, or no server answers.
        Exception: whatever ``keep`` raises; the message stays then.
    """
    names = names_of(stream)
    session = Session(read_access(servers), names.stream)
    await call_once(DEFAULT_KIND, partial(_take_out, session, names, number, keep))


async def _take_out(
    session: Session, names: Names, number: int, keep: Callable[[bytes], None]
) -> None:
    wanted = msgspec.json.encode({"seq": number})
    try:
        found = await session.ask(names.api("STREAM.MSG.GET"), wanted, _Got)
        keep(as_lines(base64.b64decode(found.message.data)))
        await session.ask(names.api("STREAM.MSG.DELETE"), wanted, Answer)
    except StoreMisconfiguredError as error:
        raise StoreMisconfiguredError(f"message {number}: {error}") from None
    finally:
        await session.close()  # noqa: ASYNC102  # asyncio's, and bounded
