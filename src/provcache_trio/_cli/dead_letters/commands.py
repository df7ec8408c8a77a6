"""``provcache dead-letters``: its commands, their options, and what they end with."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import trio
from cyclopts import App, Parameter

from provcache_trio._cli.ending import (
    Status,
    check_output,
    complain,
    complaint,
    finish,
    status_of,
    warnings_told_by,
)
from provcache_trio._cli.ingest.source import Input, InputError
from provcache_trio._cli.running import attempt, attempt_in_sight
from provcache_trio._cli.stream import Stream
from provcache_trio._cli.text import counted, put, say
from provcache_trio._cli.urls import MisuseError, check_is_no_url, target_of
from provcache_trio.dead_letters import StoredLetter

from .letters import (
    HEADING,
    Only,
    Purge,
    as_json,
    as_text,
    count_letters,
    facts_of,
    in_one_line,
    read_letter,
    read_since,
    visit,
)
from .retry import Retry

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence

    import msgspec

    from provcache_trio._cli.running import Ending
    from provcache_trio.dead_letters import UnreadableLetter

_LONGEST_PAUSE: Final = 60.0  # seconds

Place: TypeAlias = Annotated[Path, Parameter(name="--in")]
AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", negative="")]
Yes: TypeAlias = Annotated[bool, Parameter(negative="")]

app = App(
    name="dead-letters",
    help="Look at what a store refused, send it again, or throw it away.",
)


@app.command(name="list")
async def list_(
    *, in_: Place, key: str | None = None, since: str | None = None, json_: AsJson = False
) -> int:
    """Print the letters, one per line, without their entries.

    A service may own the file meanwhile. The status is 1 if a letter can't be read, and 3 if
    the file can't be.

    Args:
        in_: The file of dead letters.
        key: Only letters with this key.
        since: Only letters that failed then or later: a time, in UTC, or a duration, such as 1h.
        json_: Print one JSON object per line.
    """
    check_is_no_url(str(in_))
    only = _only(key, since)
    results = Stream(sys.stdout)
    readable = unreadable = 0

    async def see(page: Sequence[StoredLetter[msgspec.Raw] | UnreadableLetter]) -> None:
        nonlocal readable, unreadable
        for each in page:
            if not isinstance(each, StoredLetter):
                unreadable += 1
                complain(f"letter {each.id} can't be read (key {each.key})", str(in_))
                continue
            readable += 1
            if readable == 1 and not json_:
                results.add(f"{HEADING}\n")
            line = json.dumps(facts_of(each), separators=(",", ":")) if json_ else in_one_line(each)
            results.add(f"{line}\n")
        await results.flush()

    ending = await attempt(lambda: visit(in_, only, see), _ignore)
    check_output(results)
    if status := _status(ending, str(in_)):
        return status
    if not readable and not unreadable and not json_:
        say("no letters", sys.stdout)
    return Status.NOT_ALL if unreadable else Status.DONE


@app.command
async def show(number: int, /, *, in_: Place, json_: AsJson = False) -> int:
    """Print everything about one letter, its entry included.

    A service may own the file meanwhile. The status is 1 if there is no such letter, or it
    can't be read, and 3 if the file can't be.

    Args:
        number: The letter's number, as list prints it.
        in_: The file of dead letters.
        json_: Print one line of JSON.
    """
    check_is_no_url(str(in_))
    if not 0 <= number < 2**63:
        raise MisuseError("the number of a letter is 1 or more")
    found: StoredLetter[msgspec.Raw] | UnreadableLetter | None = None

    async def work() -> None:
        nonlocal found
        found = await read_letter(in_, number)

    if status := _status(await attempt(work, _ignore), str(in_)):
        return status
    if found is None:
        complain(f"there is no letter {number}", str(in_))
        return Status.NOT_ALL
    if not isinstance(found, StoredLetter):
        complain(f"letter {number} can't be read (key {found.key})", str(in_))
        return Status.NOT_ALL
    for line in [as_json(found)] if json_ else as_text(found):
        say(line, sys.stdout)
    return Status.DONE


@app.command
async def retry(
    *,
    in_: Place,
    to: str,
    key: str | None = None,
    since: str | None = None,
    give_up_after: float = 600,
    json_: AsJson = False,
) -> int:
    """Send letters through a queue again, into a store, and remove those that were persisted.

    No service may own the file meanwhile. A letter that is refused again stays as it is.
    Where the store has a newer version of an entry, that stays. The status is 0 if no letter
    stays, 1 if some were refused again or can't be read, 3 if it had to stop. SIGINT (Ctrl-C),
    SIGTERM and SIGHUP write what was sent, remove what was persisted, and end with status 130,
    143 or 129.

    Args:
        in_: The file of dead letters.
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It has to be there.
        key: Only letters with this key.
        since: Only letters that failed then or later: a time, in UTC, or a duration, such as 1h.
        give_up_after: End when the store has been away, or has needed a person, for so many
            seconds; inf waits for ever.
        json_: Print the summary as one line of JSON.
    """
    if not give_up_after > 0:  # nan is not, either
        raise MisuseError("--give-up-after is a number of seconds above 0, or inf")
    check_is_no_url(str(in_))
    job = Retry(in_, target_of(to), _only(key, since), give_up_after=give_up_after)
    return await _show_retry(job, as_json=json_)


async def _show_retry(job: Retry, *, as_json: bool) -> int:
    results, progress = Stream(sys.stdout), _RetryProgress(job)

    async def conclude(ending: Ending) -> None:
        if as_json:
            results.add(f"{json.dumps(job.facts())}\n")
        elif job.started:
            for line in job.summary(ending.stopped_by):
                results.add(f"{line}\n")
        complaints = [complaint(ending.failure, job.place)] if ending.failure else []
        await progress.finish()
        await finish(results, complaints)

    with warnings_told_by(progress.notice):
        ending = await attempt_in_sight(
            lambda: job.run(progress.report, progress.notice),
            progress,
            job.options.drain_timeout_seconds,
            beside=job.give_up_when_due,
            conclude=conclude,
        )
    check_output(results)
    return status_of(ending) or (Status.DONE if job.all_went_in else Status.NOT_ALL)


class _RetryProgress:
    """Lines on standard error, one after a second and then less and less often."""

    def __init__(self, job: Retry) -> None:
        self._job = job
        self._stream = Stream(sys.stderr)

    async def run(self) -> None:
        pause = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stream.run)
            while True:
                await trio.sleep(pause)
                self.notice(self._job.in_one_line())
                pause = min(2 * pause, _LONGEST_PAUSE)

    def notice(self, text: str) -> None:
        if self._stream.has_room:
            self.report(text)

    def report(self, text: str) -> None:
        self._stream.add(f"{complaint(text)}\n")

    async def finish(self) -> None:
        await self._stream.flush()


@app.command
async def purge(
    *,
    in_: Place,
    key: str | None = None,
    since: str | None = None,
    yes: Yes = False,
    json_: AsJson = False,
) -> int:
    """Throw letters away, for good.

    No service may own the file meanwhile. On a terminal it asks first. The status is 1 if the
    answer is no, and 3 if the file can't be used.

    Args:
        in_: The file of dead letters.
        key: Only letters with this key.
        since: Only letters that failed then or later: a time, in UTC, or a duration, such as 1h.
        yes: Do not ask. Needed to purge every letter, and where there is no terminal.
        json_: Print how many were purged as one line of JSON.
    """
    check_is_no_url(str(in_))
    only = _only(key, since)
    if not yes:
        _check_that_it_may_ask(only)
    job = Purge(in_, only)
    agreed = True

    async def work() -> None:
        nonlocal agreed
        expected: int | None = None
        if not yes:
            expected = await count_letters(in_, only)
            agreed = await _agreed(f"Purge {counted(expected, 'letter')}?")
        if agreed:
            await job.run(expected)

    ending = await attempt(work, _ignore)
    if job.removed or not ending.failure:
        purged = counted(job.removed, "letter")
        say(json.dumps({"purged": job.removed}) if json_ else f"{purged} purged", sys.stdout)
    return _status(ending, str(in_)) or (Status.DONE if agreed else Status.NOT_ALL)


def _check_that_it_may_ask(only: Only) -> None:
    if only.means_all:
        raise MisuseError("to purge every letter needs --yes; --key and --since purge some")
    if sys.stdin is None or not sys.stdin.isatty():
        raise MisuseError("there is no terminal to ask on: --yes purges without")


async def _agreed(question: str) -> bool:
    """Ask on the terminal; a signal ends the wait, and no answer means no."""
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


def _only(key: str | None, since: str | None) -> Only:
    return Only(key, None if since is None else read_since(since, datetime.now(UTC)))


def _status(ending: Ending, label: str) -> int:
    """Tell what failed and return the exit status, as far as the ending decides it."""
    if ending.failure:
        complain(ending.failure, label)
    return status_of(ending)


def _ignore(_: signal.Signals) -> None:
    """Tell nothing: what only reads or removes just ends."""
