"""How commands write lines, numbers and names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

_BARS: Final = "▁▂▃▄▅▆▇█"


def say(text: str, file: TextIO) -> None:
    """Print a line at once, whatever the encoding is, and go on when nobody reads it."""
    encoding = file.encoding
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)
    except BrokenPipeError:
        # As after `| head`: finish the job in silence.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def printable(text: str) -> str:
    """Return ``text`` with an escape for everything that a terminal might obey.

    File names come from RECORD files, that is, from strangers.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def duration(seconds: float) -> str:
    """Return a duration with its unit, about three digits."""
    if seconds < 1e-3:  # noqa: PLR2004
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.1f} s"


def size(count: int) -> str:
    """Return a number of bytes with its unit."""
    return f"{count / 1e6:,.1f} MB"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, such as ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def sparkline(values: Sequence[int], width: int) -> str:
    """Return the last ``width`` values as bars; a 0 is blank, the highest is a full one."""
    shown = values[-width:]
    highest = max(shown, default=0)
    bars = (_BARS[(value * len(_BARS) - 1) // highest] if value else " " for value in shown)
    return "".join(bars)
