"""Sending kept entries once more, which some store may refuse for good."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from provcache_trio import DeadLetter, ProvcacheEntry

# A queue that sees twenty refusals in a row takes them for the store's fault and waits. Here
# each is an entry's own: it stays where it is. So no queue sees twenty.
AT_ONCE: Final = 19


class Refused:
    """A sink that remembers what was refused; the entries themselves never moved."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter[ProvcacheEntry]] = []

    async def put_many(self, letters: Sequence[DeadLetter[ProvcacheEntry]], /) -> None:
        """Take all of them."""
        await trio.lowlevel.checkpoint()
        self.letters += letters


def reason_of(letter: DeadLetter[ProvcacheEntry]) -> str:
    """Return why it was refused."""
    sqlstate = f", SQLSTATE {letter.sqlstate}" if letter.sqlstate else ""
    constraint = f", constraint {letter.constraint}" if letter.constraint else ""
    return f"{letter.error_class}{sqlstate}{constraint}"


@contextmanager
def without_dead_letter_lines(queue: str) -> Generator[None]:
    """Keep the queue of that name from logging as dead letters what the command tells itself."""

    def is_other(record: logging.LogRecord) -> bool:
        return getattr(record, "queue", "") != queue or not hasattr(record, "key")

    logger = logging.getLogger("provcache_trio")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
