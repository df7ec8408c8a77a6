"""``provcache dead-letters``: its commands, their options, and their exit statuses."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import App, Parameter

from provcache_trio._cli.arguments import check_give_up_after, read_moment
from provcache_trio._cli.dead_letters import letters
from provcache_trio._cli.entries import entries_of
from provcache_trio._cli.input import Input, InputError
from provcache_trio._cli.misuse import MisuseError
from provcache_trio._cli.output import Stream, complain, put, put_line
from provcache_trio._cli.running import Status, attempt, carry_out
from provcache_trio._cli.text import counted
from provcache_trio._cli.urls import check_is_no_url, target_of
from provcache_trio.dead_letters import StoredLetter

from .letters import Only
from .retry import Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provcache_trio._cli.entries import Entries
    from provcache_trio.dead_letters import UnreadableLetter

LettersFile: TypeAlias = Annotated[Path, Parameter(name="--in")]
AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", negative="")]
Aliases: TypeAlias = Annotated[list[str] | None, Parameter(name="--alias", negative="")]
Yes: TypeAlias = Annotated[bool, Parameter(negative="")]

app = App(
    name="dead-letters",
    help="List entries that a store refused, send them again, or delete them.",
)


@app.command(name="list")
async def list_(
    *,
    in_: LettersFile,
    key: str | None = None,
    since: str | None = None,
    table: str | None = None,
    alias: Aliases = None,
    json_: AsJson = False,
) -> int:
    """Print the letters, one per line, without their entries.

    A service may have the file open. The status is 1 if a letter can't be read, or --key may need
    --table to match, and 3 if the file can't be read.

    Args:
        in_: The file of dead letters.
        key: Only letters with this key, as it is listed; one of several values is a JSON array.
        since: Only letters that failed at this time or later: a time in UTC, or how long ago, such
            as 1h.
        table: The Table that declares the entries, as MODULE:NAME; by default of any type.
        alias: A former name of their class, such as shop.OldOrder; may be given repeatedly.
        json_: Print one JSON object per line.
    """
    check_is_no_url(str(in_))
    entries = entries_of(table, alias)
    only = _only(key, since, entries)
    results = Stream(sys.stdout)
    row_of = letters.facts_as_json if json_ else letters.as_row
    readable = unreadable = 0

    async def see(page: Sequence[StoredLetter[Any] | UnreadableLetter]) -> None:
        nonlocal readable, unreadable
        for each in page:
            if not isinstance(each, StoredLetter):
                unreadable += 1
                complain(letters.unreadable(each), str(in_))
                continue
            readable += 1
            if readable == 1 and not json_:
                results.add(f"{letters.HEADING}\n")
            results.add(f"{row_of(each)}\n")
        await results.flush()

    status, _ = await attempt(partial(letters.visit, in_, only, see), str(in_))
    results.check()
    if status:
        return status
    found = readable or unreadable
    if not found and key is not None and entries.may_mean_another(key):
        complain(
            "no letter has a key that is written like this; --table MODULE:NAME reads it as the "
            "table's entries have it",
            str(in_),
        )
        return Status.NOT_ALL
    if not found and not json_:
        put_line("no letters", sys.stdout)
    return Status.NOT_ALL if unreadable else Status.DONE


@app.command
async def show(
    number: int,
    /,
    *,
    in_: LettersFile,
    table: str | None = None,
    alias: Aliases = None,
    json_: AsJson = False,
) -> int:
    """Print everything about one letter, including its entry.

    A service may have the file open. The status is 1 if there is no such letter, or it can't be
    read, and 3 if the file can't be read.

    Args:
        number: The letter's number, as list prints it.
        in_: The file of dead letters.
        table: The Table that declares its entry, as MODULE:NAME; by default of any type.
        alias: A former name of its class, such as shop.OldOrder; may be given repeatedly.
        json_: Print one line of JSON.
    """
    check_is_no_url(str(in_))
    if not 0 <= number < 2**63:
        raise MisuseError("the number of a letter is 1 or more")
    read = partial(letters.read_letter, in_, number, entries_of(table, alias))
    status, found = await attempt(read, str(in_))
    if status:
        return status
    if found is None:
        complain(f"there is no letter {number}", str(in_))
        return Status.NOT_ALL
    if not isinstance(found, StoredLetter):
        complain(letters.unreadable(found), str(in_))
        return Status.NOT_ALL
    for line in [letters.as_json(found)] if json_ else letters.as_text(found):
        put_line(line, sys.stdout)
    return Status.DONE


@app.command
async def retry(
    *,
    in_: LettersFile,
    to: str,
    key: str | None = None,
    since: str | None = None,
    table: str | None = None,
    alias: Aliases = None,
    give_up_after: float = 600,
    json_: AsJson = False,
) -> int:
    """Send letters through a queue to a store again, and remove those that were stored.

    No service may have the file open. A letter that is refused again stays in the file. A newer
    version of an entry in the store is kept. The status is 0 if no letter is left, 1 if some were
    refused again or can't be read, and 3 if it had to stop. On SIGINT (Ctrl-C), SIGTERM or SIGHUP
    it finishes the letters already sent, removes those that were stored, and ends with status 130,
    143 or 129.

    Args:
        in_: The file of dead letters.
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It has to exist.
        key: Only letters with this key.
        since: Only letters that failed at this time or later: a time in UTC, or how long ago, such
            as 1h.
        table: The Table that declares the entries, as MODULE:NAME; by default ProvcacheEntry.
        alias: A former name of their class, such as shop.OldOrder; may be given repeatedly.
        give_up_after: Stop after the store has been away, or has needed a person, for this many
            seconds; inf waits for ever.
        json_: Print the summary as one line of JSON.
    """
    check_give_up_after(give_up_after)
    check_is_no_url(str(in_))
    entries = entries_of(table, alias)
    only = _only(key, since, entries)
    job = Retry(in_, target_of(to, entries), only, as_json=json_, give_up_after=give_up_after)
    return await carry_out(job)


@app.command
async def purge(
    *,
    in_: LettersFile,
    key: str | None = None,
    since: str | None = None,
    table: str | None = None,
    yes: Yes = False,
    json_: AsJson = False,
) -> int:
    """Delete letters for good.

    No service may have the file open. On a terminal it asks first. The status is 1 if the
    answer is no, and 3 if the file can't be used.

    Args:
        in_: The file of dead letters.
        key: Only letters with this key.
        since: Only letters that failed at this time or later: a time in UTC, or how long ago, such
            as 1h.
        table: The Table that --key is a key of, as MODULE:NAME.
        yes: Do not ask. Needed to delete every letter, and without a terminal.
        json_: Print the number of deleted letters as one line of JSON.
    """
    check_is_no_url(str(in_))
    only = _only(key, since, entries_of(table))
    if not yes:
        _check_that_it_may_ask(only)
    job = letters.Purge(in_, only)

    async def work() -> bool:
        expected: int | None = None
        if not yes:
            expected = await letters.count_letters(in_, only)
            if not await _agreed(f"Purge {counted(expected, 'letter')}?"):
                return False
        await job.run(expected)
        return True

    status, agreed = await attempt(work, str(in_))
    if job.removed or status != Status.FAILED:
        purged = counted(job.removed, "letter")
        put_line(json.dumps({"purged": job.removed}) if json_ else f"{purged} purged", sys.stdout)
    return status or (Status.DONE if agreed else Status.NOT_ALL)


def _check_that_it_may_ask(only: Only) -> None:
    if only.means_all:
        raise MisuseError("to purge every letter needs --yes; --key and --since purge some")
    if sys.stdin is None or not sys.stdin.isatty():
        raise MisuseError("there is no terminal to ask on: --yes purges without")


async def _agreed(question: str) -> bool:
    """Ask on the terminal; a signal ends the question, and no answer means no."""
    put(f"{question} [y/N] ", sys.stderr)
    terminal = Input("-")
    try:
        await terminal.open()
        answer = await terminal.read()
    except InputError as error:
        complain(str(error))
        return False
    finally:
        terminal.close()
    return answer.strip().lower() in {b"y", b"yes"}


def _only(key: str | None, since: str | None, entries: Entries) -> Only:
    return Only(
        None if key is None else entries.letter_key(key),
        None if since is None else read_moment("--since", since, datetime.now(UTC)),
        entries.any_type,
        entries.aliases,
    )
