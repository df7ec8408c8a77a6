"""The program ``provcache``; outside the package, which takes a while to import."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command that the program was started with, and return its exit status."""
    if os.name == "nt":
        sys.exit("provcache needs POSIX; on Windows, use the library")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Before and after the work there is nothing to clean up, so Ctrl-C needs no traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from provcache_trio._cli import main as run  # noqa: PLC0415  # see above

    return run()


if __name__ == "__main__":
    sys.exit(main())
