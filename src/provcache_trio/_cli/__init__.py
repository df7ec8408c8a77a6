"""The command ``provcache``, of the extra ``cli``.

The commands live here: their options, their output, and their exit statuses. They may import every
other folder, and no folder imports them. They must never use the inside of a queue or a store where
a public call does, print what may hold a secret, or wait for the reader of their output without
reacting to signals.

::

    app         the command line, and the commands without a folder
    arguments, urls     the meaning of arguments, and the store that a URL names
    entries     the type of the entries: ProvcacheEntry, or that of the table in --table
    misuse      the error for a wrong command line
    running     work under signals, its progress, its end, and the exit status
    progress    one line that changes on a terminal, plain lines elsewhere
    terminal    drawing with rich
    output      lines for standard output and standard error
    help, text, accounting      how help is printed; numbers, names and entries in words

    stores, postgres, stream    the stores that entries go to and come from
    outage      a store that stays away
    relay       the job of `provcache relay`
    sending     sends the entries that a file keeps to a store
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

# ``Status.FAILED``, which can't be imported yet.
_FAILED: Final = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Leave SIGINT to the system while there is nothing to clean up, as the program's entry does:
    Python's handler could raise while trio starts or ends, and print a traceback.

    Args:
        arguments: by default those of the program.

    Returns:
        0: done, 1: done, but something needs a look, 2: wrong command line, 3: failed, 128 + n:
        ended by signal n.
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

    They stay unusable: nothing can be read from standard input, nor written to the others.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        # Python sets the stream of a closed descriptor to None.
        if getattr(sys, name) is None:
            stream = open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # for good
            setattr(sys, name, stream)
