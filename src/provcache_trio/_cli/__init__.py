"""The command ``provcache``, of the extra ``cli``.

::

    _app        the command line
    _arguments  what arguments mean, where that is not plain
    _help       how help is printed
    _ending     exit statuses, and what is wrong
    _run        the work of a command, and what it came to
    _signals    SIGINT, SIGTERM and SIGHUP become a cancelled scope
    _urls       which store a URL names
    _stores     where entries go and come from
    _text       how lines, numbers and names are written
    _stream     ... where nobody may be reading
    _canvas     ... and drawn
    _show       the two jobs that are watched, and what they end with

    _demo       the job of `provcache demo`, which knows no terminal
    _wheels     files held against RECORD
    _decisions  a verdict becomes an entry
    _screen     a panel on a terminal, plain lines in a pipe
    _report     the summary

    _ingest     the job of `provcache ingest`
    _input      a file or a pipe, chunk by chunk, and its lines
    _lines      a line becomes an entry
    _ingest_report  where the job is, and its summary
    _progress   one line on a terminal, plain lines in a pipe

    _read       `provcache get` and `provcache stats`

    _dead_letters        looking at dead letters, and throwing them away
    _dead_letters_retry  sending them again
    _dead_letters_app    the commands `provcache dead-letters ...`

    _top        `provcache top`: once, in lines, or on a screen
    _top_status what a status page answers, and how it is asked
    _top_watch  the answers so far, and what they come to
    _top_view   the screen
    _top_words  words, numbers and bars
    _terminal   a whole terminal, left as it was found
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

    While there is nothing to clean up, SIGINT had best be the system's, as the program's entry
    has it: as Python's, one that comes while trio starts or ends may come out in a traceback.

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
        if missing not in {"cyclopts", "rich"}:
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
