"""``provcache journal``: its commands, their options, and what they end with."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  # cyclopts reads annotations
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from provcache_trio import ProvcacheError
from provcache_trio._cli.arguments import check_give_up_after
from provcache_trio._cli.output import complain, say
from provcache_trio._cli.running import Status, carry_out
from provcache_trio._cli.urls import check_is_no_url, target_of

from .inspection import inspect_journal
from .replay import Replay

app = App(name="journal", help="Look at the journal of a dead process, and write what it left.")


@app.command
def status(
    path: Path, /, *, json_: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> int:
    """Print what a journal holds, and what is wrong with it. Nothing is changed.

    A service may own it meanwhile. The status is 1 if records are missing or damaged, and 3 if
    it can't be read.

    Args:
        path: The journal.
        json_: Print one line of JSON.
    """
    check_is_no_url(str(path))
    try:
        found = inspect_journal(path)
    except (ProvcacheError, OSError) as error:
        complain(str(error), str(path))
        return Status.FAILED
    if json_:
        lines = [msgspec.json.encode(found).decode()]
    else:
        lines = [
            f"entries {found.entries:>15,}  of type {found.entry_type}",
            f"bytes   {found.bytes:>15,}",
            f"in use  {'yes' if found.in_use else 'no':>15}",
        ]
        for first, last in found.missing:
            lines.append(f"missing {f'{first} to {last}':>15}  (numbers of records)")
        if found.damaged_bytes:
            lines.append(
                f"damaged {found.damaged_bytes:>15,}  bytes, {found.unfinished_bytes:,} of them at "
                "the end, where a crash cuts a record off"
            )
    for line in lines:
        say(line, sys.stdout)
    return Status.DONE if found.sound else Status.NOT_ALL


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
    check_give_up_after(give_up_after)
    check_is_no_url(str(path))
    job = Replay(path, target_of(to), give_up_after=give_up_after)
    return await carry_out(job)
