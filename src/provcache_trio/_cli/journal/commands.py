"""``provcache journal``: its commands, their options, and what they end with."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  # cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated

import msgspec
import trio
from cyclopts import App, Parameter

from provcache_trio import ProvcacheError
from provcache_trio._cli.ending import Status, complain, status_of, warnings_told_by
from provcache_trio._cli.running import attempt
from provcache_trio._cli.text import counted, say
from provcache_trio._cli.urls import MisuseError, check_is_no_url, target_of

from .replay import Replay, facts_of

if TYPE_CHECKING:
    import signal

app = App(name="journal", help="Look at the journal of a dead process, and write what it left.")


@app.command
def status(
    path: Path, /, *, json_: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> int:
    """Tell what a journal holds, and what is wrong with it. Nothing is changed.

    A service may own it meanwhile. The status is 1 if records are missing or damaged, and 3 if
    it can't be read.

    Args:
        path: The journal.
        json_: Print one line of JSON.
    """
    check_is_no_url(str(path))
    try:
        facts = facts_of(path)
    except (ProvcacheError, OSError) as error:
        complain(str(error), str(path))
        return Status.FAILED
    if json_:
        say(msgspec.json.encode(facts).decode(), sys.stdout)
        return Status.DONE if facts.sound else Status.NOT_ALL
    say(f"entries {facts.entries:>15,}  of type {facts.entry_type}", sys.stdout)
    say(f"bytes   {facts.bytes:>15,}", sys.stdout)
    say(f"in use  {'yes' if facts.in_use else 'no':>15}", sys.stdout)
    for first, last in facts.missing:
        say(f"missing {f'{first} to {last}':>15}  (numbers of records)", sys.stdout)
    if facts.damaged_bytes:
        say(
            f"damaged {facts.damaged_bytes:>15,}  bytes, {facts.unfinished_bytes:,} of them at the "
            "end, where a crash cuts a record off",
            sys.stdout,
        )
    return Status.DONE if facts.sound else Status.NOT_ALL


@app.command
async def replay(path: Path, /, *, to: str, give_up_after: float = 600) -> int:
    """Write the entries of a journal that a dead process left into a store.

    What is written leaves the journal. What the store refuses stays in it, and the status is
    then 1; it is 3 if the journal or the store can't be used. SIGINT (Ctrl-C), SIGTERM and SIGHUP
    end it with status 130, 143 or 129; the rest stays in the journal.

    Args:
        path: The journal, of ProvcacheEntry. No process may have it open.
        to: The store, such as sqlite:cache.db or postgresql://HOST/DATABASE. It has to be there.
        give_up_after: End when the store has been away, or has needed a person, for so many
            seconds; inf waits for ever.
    """
    if not give_up_after > 0:  # nan is not, either
        raise MisuseError("--give-up-after is a number of seconds above 0, or inf")
    check_is_no_url(str(path))
    job = Replay(path, target_of(to), give_up_after=give_up_after)

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        with warnings_told_by(complain):
            await job.run(complain)

    ending = await attempt(work, _ignore, watch=job.give_up_when_due)
    if job.started:
        say(
            f"replayed {counted(job.replayed, 'entry', 'entries')}: {job.written:,} written; "
            f"{job.left:,} stay in the journal",
            sys.stdout,
        )
    if ending.failure:
        complain(ending.failure, job.place)
    if decided := status_of(ending):
        return decided
    return Status.NOT_ALL if job.left else Status.DONE


def _ignore(_: signal.Signals) -> None:
    """Tell nothing: what is not written stays where it is."""
