"""The command ``provcache``, of the extra ``cli``.

Here live the commands: their options, what they show, and their exit statuses. It stands on top
of everything: it may import any other folder, whose words it turns into a user's, and nothing
imports it. It must never touch a queue's or a store's inside where a public call does, print what
may hold a secret, or wait for whoever reads its output without heeding signals.

::

    app         the command line, and the commands that are no folder
    arguments, urls     what arguments mean, and which store a URL names
    entries     what entries are: ProvcacheEntry, or those of the table in --table
    misuse      the error of a command that was called wrongly
    running     an attempt: work under signals, its progress, its end, and the exit status
    progress    one line that changes on a terminal, plain lines elsewhere
    terminal    what rich draws
    output      lines for standard output and standard error
    help, text, accounting      how help is printed; numbers, names and entries in words

    stores, postgres, stream    where entries go and come from
    outage      a store that stays away
    relay       what `provcache relay` does until it is stopped
    sending     what a file keeps, on its way to a store
    reading     `provcache get` and `provcache stats`
    expiring    `provcache expire`
    input       a file or a pipe, chunk by chunk, and its lines

    ingest/, demo/, dead_letters/, journal/, top/       a command each, of several files
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_FAILED: Final = 3  # Status.FAILED, which can't be imported yet


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    While there is nothing to clean up, SIGINT is best left to the system, as the program's entry
    does: Python's handler could raise while trio starts or ends, and print a traceback.

    Args:
        arguments: by default those that the program was started with.

    Returns:
        0, 1: something in it needs a look, 2: it was called wrongly, 3: it could not be done,
        128 + n: it was ended by signal n.
    """
    _open_closed_streams()
    try:
        from .app import run  # noqa: PLC0415  # needs the extra
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"cyclopts", "h11", "rich"}:
            raise
        print(  # noqa: T201  # what the user reads
            f"provcache: {missing} is not installed: pip install 'provcache-trio[cli]'",
            file=sys.stderr,
        )
        return _FAILED
    return run(sys.argv[1:] if arguments is None else arguments)


def _open_closed_streams() -> None:
    """Open the standard descriptors that are closed, so that no file of ours becomes one.

    They can't be used, as before: nothing is to be read from the one, nor written to others.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # what Python makes of a closed one
            stream = open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # for good
            setattr(sys, name, stream)
