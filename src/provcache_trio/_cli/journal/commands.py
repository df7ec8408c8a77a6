"""``provcache journal``: its commands, their options, and their exit statuses."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path  # noqa: TC003  # cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import App, Parameter

from provcache_trio import JournalError
from provcache_trio._cli.arguments import check_give_up_after
from provcache_trio._cli.entries import entries_of
from provcache_trio._cli.output import complain, put_line
from provcache_trio._cli.running import Status, attempt, carry_out, warnings_shown_by
from provcache_trio._cli.text import counted
from provcache_trio._cli.urls import check_is_no_url, target_of
from provcache_trio.journal import Restored, restore_set_aside

from .inspection import as_text, as_words, check_type, inspect_journal
from .replay import Replay

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

app = App(
    name="journal", help="Inspect the journal of a dead process, and write its entries to a store."
)


@app.command
def status(
    path: Path,
    /,
    *,
    table: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Print what a journal holds and what is wrong with it; change nothing.

    A service may have it open. The status is 1 if records are missing or damaged, or entries were
    set aside, and 3 if it can't be read.

    Args:
        path: The journal.
        table: Fail unless its entries are those of this Table, as MODULE:NAME.
        json_: Print one line of JSON.
    """
    check_is_no_url(str(path))
    entries = entries_of(table)
    try:
        found = inspect_journal(path)
        if table is not None:
            check_type(path, found, entries)
    except JournalError as error:
        # The message names the file.
        complain(str(error))
        return Status.FAILED
    for line in [msgspec.json.encode(found).decode()] if json_ else as_text(found):
        put_line(line, sys.stdout)
    return Status.DONE if found.sound else Status.NOT_ALL


@app.command
async def restore(
    path: Path,
    /,
    *,
    alias: Annotated[list[str] | None, Parameter(negative="")] = None,
    table: str | None = None,
) -> int:
    """Put entries that were set aside back into their journal, unchanged.

    The next program that opens the journal replays them. Entries that it can't read, even with
    upgrade=, are set aside again. By then the store may have a newer version of an entry, which it
    has to keep. What stays set aside is in PATH.set-aside. The status is 1 if entries stay set
    aside, and 3 if the journal can't be used.

    Args:
        path: The journal, of any type. No process may have it open.
        alias: A former name of the journal's type, as status prints it; may be repeated.
        table: The Table that declares the entries, as MODULE:NAME; entries of other types stay set
            aside. By default they are put back unread.
    """
    check_is_no_url(str(path))
    entry_type = entries_of(table).any_type

    async def work() -> Restored:
        with warnings_shown_by(complain):
            found = await restore_set_aside(path, entry_type=entry_type, aliases=alias or ())
        if found.left.entries:
            for line in _why_left(found, inspect_journal(path).entry_type, alias or ()):
                complain(line, str(path))
        return found

    status, found = await attempt(work, str(path))
    if found is None:
        return status
    restored = counted(found.entries, "entry", "entries")
    left = f"{found.left.entries:,} {as_words(found.left)}"
    put_line(f"{restored} restored; {left} stay set aside", sys.stdout)
    return status or (Status.NOT_ALL if found.left.entries else Status.DONE)


def _why_left(found: Restored, journal_type: str, aliases: Sequence[str]) -> Iterator[str]:
    """Say of each type that stays set aside what to do about it."""
    for name in found.left.entry_types:
        about = f"entries of type {name}"
        if name in {journal_type, *aliases}:
            yield f"{about} can't be read by --table; leave it out to put them back unread"
        else:
            option = f"--alias {shlex.quote(name)}"
            yield f"{about}, and the journal is for {journal_type}: {option}"


@app.command
async def replay(
    path: Path,
    /,
    *,
    to: str,
    table: str | None = None,
    alias: Annotated[list[str] | None, Parameter(negative="")] = None,
    give_up_after: float = 600,
) -> int:
    """Write the entries of a journal that a dead process left to a store.

    Written entries are removed from the journal. Entries that the store refuses stay in it, and
    those that can't be read are set aside in PATH.set-aside. The status is 1 if any stays or is set
    aside, by this command or before it, or if records were damaged or missing. It is 3 if the
    journal or the store can't be used. SIGINT (Ctrl-C), SIGTERM and
    SIGHUP end it with status 130, 143 or 129; the rest stays in the journal.

    Args:
        path: The journal. No process may have it open.
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It has to exist.
        table: The Table that declares the entries, as MODULE:NAME; by default ProvcacheEntry.
        alias: A former name of their class, as status prints it; may be given repeatedly.
        give_up_after: Stop after the store has been away, or has needed a person, for this many
            seconds; inf waits for ever.
    """
    check_give_up_after(give_up_after)
    check_is_no_url(str(path))
    job = Replay(path, target_of(to, entries_of(table, alias)), give_up_after=give_up_after)
    return await carry_out(job)
