"""``provcache dead-letters``: reading and removing letters."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from provcache_trio import ProvcacheError, StoreUnavailableError
from provcache_trio._cli.reading import plain
from provcache_trio._cli.text import counted, printable
from provcache_trio.dead_letters import StoredLetter, UnreadableLetter, open_dead_letters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from provcache_trio._cli.entries import Entries
    from provcache_trio.dead_letters import DeadLetters

_PAGE: Final = 100
_COUNTING_SECONDS: Final = 5.0


class Only(msgspec.Struct, frozen=True):
    """Selects letters.

    Attributes:
        key: letters with this key; None: with any key.
        since: letters that failed then or later; None: at any time.
        entry_type: the type that their entries are read as.
        aliases: former names of that type.
    """

    key: str | None = None
    since: datetime | None = None
    entry_type: Any = msgspec.Raw
    aliases: tuple[str, ...] = ()

    @property
    def means_all(self) -> bool:
        """Whether every letter is selected."""
        return self.key is None and self.since is None


# Reading


async def visit(
    path: Path,
    only: Only,
    see: Callable[[Sequence[StoredLetter[Any] | UnreadableLetter]], Awaitable[None]],
) -> None:
    """Await ``see`` with each page of letters, while another process may own the file.

    Raises:
        StoreError: the file can't be read.
    """
    async with open_dead_letters(
        path, entry_type=only.entry_type, aliases=only.aliases, read_only=True
    ) as letters:
        after = 0
        while page := await letters.letters(
            after=after, limit=_PAGE, key=only.key, since=only.since
        ):
            await see(page)
            after = page[-1].id


HEADING: Final = f"{'id':>6}  {'failed at':<20}  {'attempts':>8}  key and error"


def as_row(stored: StoredLetter[Any]) -> str:
    """Return a line of the table: why a letter is there, without its entry."""
    letter = stored.letter
    error = " ".join(filter(None, (letter.error_class, letter.sqlstate, letter.constraint)))
    if letter.field or letter.reason:
        error = f"{error}: {letter.reason or f'field {letter.field}'}"
    failed_at = f"{letter.failed_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    line = f"{stored.id:>6}  {failed_at}  {letter.attempts:>8}  {letter.key}  {error}"
    return printable(line)


def unreadable(letter: UnreadableLetter) -> str:
    """Return the line for a letter that can't be read, with the reason if it is known."""
    reason = letter.reason or letter.misfit
    why = f": {reason}" if reason else ""
    return f"letter {letter.id} can't be read (key {letter.key}){why}"


def facts_as_json(stored: StoredLetter[Any]) -> str:
    """Return what is known of a letter, except its entry, in one line of JSON."""
    return json.dumps(letter_facts(stored), separators=(",", ":"))


def letter_facts(stored: StoredLetter[Any]) -> dict[str, object]:
    """Return what is known of a letter, except its entry."""
    letter = stored.letter
    return {
        "id": stored.id,
        "key": letter.key,
        "error_class": letter.error_class,
        "sqlstate": letter.sqlstate,
        "constraint": letter.constraint,
        "field": letter.field,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "opened_at": letter.opened_at.astimezone(UTC).isoformat(),
        "failed_at": letter.failed_at.astimezone(UTC).isoformat(),
    }


async def read_letter(
    path: Path, number: int, entries: Entries
) -> StoredLetter[Any] | UnreadableLetter | None:
    """Return the letter with this number, or None: there is none."""
    async with open_dead_letters(
        path, entry_type=entries.any_type, aliases=entries.aliases, read_only=True
    ) as letters:
        return await letters.get(number)


def as_json(stored: StoredLetter[Any]) -> str:
    """Return everything about a letter in one line of JSON.

    The line is ASCII, so that it holds no control sequences, and every encoding can write it.
    """
    whole = {**letter_facts(stored), "entry": plain(stored.letter.entry)}
    return json.dumps(whole, separators=(",", ":"))


def as_text(stored: StoredLetter[Any]) -> list[str]:
    """Return everything about a letter for people; the entry is JSON in ASCII."""
    facts = [
        f"{name:<12} {value}" for name, value in letter_facts(stored).items() if value is not None
    ]
    entry = json.dumps(plain(stored.letter.entry), indent=2)
    return [*map(printable, facts), "entry", *entry.splitlines()]


# Removing


async def count_letters(path: Path, only: Only) -> int:
    """Return how many letters are selected, while another process may own the file.

    Raises:
        StoreError: the file can't be read.
    """
    async with open_dead_letters(path, entry_type=msgspec.Raw, read_only=True) as letters:
        return await letters.count(key=only.key, since=only.since)


class Purge:
    """Removes letters.

    Attributes:
        removed: the number of letters that were removed.
    """

    def __init__(self, path: Path, only: Only) -> None:
        self._path = path
        self._only = only
        self.removed = 0

    async def run(self, expected: int | None) -> None:
        """Remove the selected letters; if cancelled, some of them.

        Args:
            expected: the number of letters that there should be; nothing is removed if there is
                another number. None: any number.

        Raises:
            StoreError: the file can't be used, or the number is another.
        """
        async with open_dead_letters(self._path, entry_type=msgspec.Raw, create=False) as letters:
            found = await self._count(letters)
            if expected is not None and found != expected:
                message = f"there are {counted(found, 'letter')} now; nothing was removed"
                raise StoreUnavailableError(message)
            try:
                self.removed = await letters.purge(key=self._only.key, since=self._only.since)
            except BaseException:
                with trio.move_on_after(_COUNTING_SECONDS, shield=True), suppress(ProvcacheError):
                    self.removed = found - await self._count(letters)
                raise

    async def _count(self, letters: DeadLetters[msgspec.Raw]) -> int:
        return await letters.count(key=self._only.key, since=self._only.since)
