"""The command ``provcache``, of the extra ``cli``.

::

    _app        the command line, exit statuses
    _run        the work of a command, and what it came to
    _signals    SIGINT and SIGTERM become a cancelled scope
    _urls       which store a URL names
    _stores     where entries go and come from
    _text       how lines, numbers and names are written

    _demo       the job of `provcache demo`, which knows no terminal
    _wheels     files held against RECORD
    _decisions  a verdict becomes an entry
    _screen     a panel on a terminal, plain lines in a pipe
    _report     the summary

    _ingest     the job of `provcache ingest`, and its summary
    _input      a file or a pipe, chunk by chunk, and its lines
    _progress   one line on a terminal, plain lines in a pipe

    _read       `provcache get` and `provcache stats`
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: by default those that the program was started with.

    Returns:
        0, or 1: it failed, 2: it was called wrongly, 128 + n: it was ended by signal n.
    """
    try:
        from ._app import run  # noqa: PLC0415  # needs the extra
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"cyclopts", "rich"}:
            raise
        print(  # noqa: T201  # what the user reads
            f"provcache: {missing} is not installed: pip install 'provcache-trio[cli]'",
            file=sys.stderr,
        )
        return 1
    return run(sys.argv[1:] if arguments is None else arguments)
