"""Journals and dead letters."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from provcache_trio import (
    EntryRejectedError,
    JournalError,
    StoreMisconfiguredError,
    StoreUnavailableError,
)
from provcache_trio.dead_letters import DeadLettersFullError, open_dead_letters
from provcache_trio.journal import count_set_aside, open_journal, restore_set_aside

from . import HERE, SECRET, calls, walk
from .queues import row
from .values import VISITS, WRONG
from tests.support.entries import NOW
from tests.support.letters import letter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from provcache_trio.dead_letters import DeadLetters

OPEN = "dead_letters.open_dead_letters"
JOURNAL = "journal.open_journal"

calls(OPEN, TypeError, "path", lambda: open_dead_letters(WRONG))
calls(OPEN, TypeError, "entry_type", lambda: open_dead_letters("x", entry_type=WRONG))
calls(OPEN, TypeError, "aliases", lambda: open_dead_letters("x", aliases=SECRET))
calls(OPEN, ValueError, "path", lambda: open_dead_letters(""))
calls(OPEN, ValueError, "max_letters", lambda: open_dead_letters("x", max_letters=0))
calls(JOURNAL, TypeError, "path", lambda: open_journal(WRONG))
calls(JOURNAL, TypeError, "entry_type", lambda: open_journal("x", entry_type=WRONG))
calls(JOURNAL, TypeError, "upgrade", lambda: open_journal("x", upgrade=WRONG))
calls(JOURNAL, ValueError, "path", lambda: open_journal(""))
calls(JOURNAL, ValueError, "durability", lambda: open_journal("x", durability="never"))  # type: ignore[call-overload]  # the mistake
calls(
    JOURNAL, ValueError, "sync_interval_seconds", lambda: open_journal("x", sync_interval_seconds=0)
)


# Dead letters


@walk(OPEN, StoreUnavailableError, f"{HERE}/dead.db", "this process owns it")
async def of_another_owner(path: Path) -> None:
    async with open_dead_letters(path / "dead.db"), open_dead_letters(path / "dead.db"):
        raise AssertionError("it has two owners")


@walk(OPEN, StoreMisconfiguredError, f"{HERE}/dead.db")
async def of_another_application(path: Path) -> None:
    (path / "dead.db").write_text(f"no database {SECRET} " * 100, "utf-8")
    async with open_dead_letters(path / "dead.db"):
        raise AssertionError("it opened")


@walk(OPEN, StoreMisconfiguredError, f"{HERE}/dead.db", "a symbolic link")
async def of_a_link(path: Path) -> None:
    (path / "dead.db").symlink_to(path / "elsewhere.db")
    async with open_dead_letters(path / "dead.db"):
        raise AssertionError("it opened")


@asynccontextmanager
async def letters(
    path: Path, *, max_letters: int = 10, max_bytes: int = 10_000
) -> AsyncGenerator[DeadLetters[Any]]:
    async with open_dead_letters(
        path / "dead.db", max_letters=max_letters, max_bytes=max_bytes
    ) as opened:
        yield opened


for method, error, about, call in (
    ("get", TypeError, "number", lambda it: it.get(SECRET)),
    ("get", ValueError, "number", lambda it: it.get(-1)),
    ("remove", TypeError, "numbers", lambda it: it.remove(WRONG)),
    ("remove", ValueError, "numbers", lambda it: it.remove([-1])),
    ("letters", TypeError, "key", lambda it: it.letters(key=WRONG)),
    ("letters", ValueError, "limit", lambda it: it.letters(limit=0)),
    ("letters", ValueError, "since", lambda it: it.letters(since=NOW.replace(tzinfo=None))),
):

    @walk(f"dead_letters.DeadLetters.{method}", error, about)
    async def of_letters(path: Path, call: Any = call) -> None:  # noqa: ANN401  # of any method
        async with letters(path) as opened:
            await call(opened)


@walk("dead_letters.DeadLetters.put_many", DeadLettersFullError, f"{HERE}/dead.db", "max_letters")
async def when_full(path: Path) -> None:
    async with letters(path, max_letters=1) as opened:
        await opened.put_many([letter(row(number), key=str(number)) for number in (1, 2)])


@walk("dead_letters.DeadLetters.put_many", EntryRejectedError, f"{HERE}/dead.db", "max_bytes")
async def that_never_fits(path: Path) -> None:
    async with letters(path, max_bytes=10) as opened:
        await opened.put_many([letter(row(1))])


for method, call in {
    "count": lambda it: it.count(),
    "size": lambda it: it.size(),
    "purge": lambda it: it.purge(),
    "get": lambda it: it.get(1),
}.items():

    @walk(f"dead_letters.DeadLetters.{method}", trio.ClosedResourceError, f"{HERE}/dead.db")
    async def of_closed_letters(path: Path, call: Any = call) -> None:  # noqa: ANN401  # of any method
        async with letters(path) as opened:
            pass
        await call(opened)


# Journals


@walk(JOURNAL, JournalError, f"journal {HERE}/log", "this process owns it")
async def of_another_process(path: Path) -> None:
    async with open_journal(path / "log"), open_journal(path / "log"):
        raise AssertionError("it has two owners")


@walk(JOURNAL, JournalError, f"{HERE}/log", "Name another file")
async def of_no_journal(path: Path) -> None:
    (path / "log").write_text(f"no journal {SECRET}", "utf-8")
    async with open_journal(path / "log"):
        raise AssertionError("it opened")


@walk(JOURNAL, JournalError, f"journal {HERE}/log", "Visit", "aliases=")
async def of_another_type(path: Path) -> None:
    async with open_journal(path / "log"):
        pass
    async with open_journal(path / "log", entry_type=VISITS):
        raise AssertionError("it opened")


@walk(JOURNAL, JournalError, f"journal {HERE}/file/log")
async def below_a_file(path: Path) -> None:
    (path / "file").touch()
    async with open_journal(path / "file" / "log"):
        raise AssertionError("it opened")


@walk("journal.FileJournal.attach", RuntimeError, f"journal {HERE}/log", "open it again")
async def of_two_queues(path: Path) -> None:
    async with open_journal(path / "log") as journal:
        journal.attach()
        journal.attach()


for method, call in {
    "append": lambda it: it.append([(row(), ())], ()),
    "rewrite": lambda it: it.rewrite([row()]),
}.items():

    @walk(f"journal.FileJournal.{method}", JournalError, f"journal {HERE}/there/log")
    async def of_a_journal_that_is_gone(path: Path, call: Any = call) -> None:  # noqa: ANN401  # of any method
        (path / "there").mkdir()
        async with open_journal(path / "there" / "log") as journal:
            shutil.rmtree(path / "there")
            await call(journal)


@walk("journal.FileJournal.replay", JournalError, f"journal {HERE}/log")
async def of_a_closed_journal(path: Path) -> None:
    async with open_journal(path / "log") as journal:
        pass
    await journal.replay(0, 1)


ASIDE = "journal.count_set_aside"
RESTORE = "journal.restore_set_aside"


@walk(ASIDE, TypeError, "path")
async def counted_nowhere(_: Path) -> None:
    await trio.to_thread.run_sync(count_set_aside, WRONG)


@walk(ASIDE, ValueError, "path")
async def counted_without_a_name(_: Path) -> None:
    await trio.to_thread.run_sync(count_set_aside, "")


@walk(ASIDE, JournalError, f"journal {HERE}/log")
async def counted_in_a_directory(path: Path) -> None:
    (path / "log.set-aside").mkdir()
    await trio.to_thread.run_sync(count_set_aside, path / "log")


@walk(RESTORE, TypeError, "path")
async def restored_nowhere(_: Path) -> None:
    await restore_set_aside(WRONG)


@walk(RESTORE, ValueError, "path")
async def restored_without_a_name(_: Path) -> None:
    await restore_set_aside("")


@walk(RESTORE, JournalError, f"journal {HERE}/log")
async def restored_into_nothing(path: Path) -> None:
    await restore_set_aside(path / "log", entry_type=msgspec.Raw)
