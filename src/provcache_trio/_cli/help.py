"""How help is printed."""

from __future__ import annotations

import io
import sys
from typing import TextIO, cast

from rich.console import Console

from .output import put


class _StandardOutput(io.TextIOBase):
    """What rich writes to, so that no error ends the program in a way of rich's own."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a variable
        return sys.stdout.encoding

    def isatty(self) -> bool:
        return sys.stdout.isatty()

    def write(self, text: str, /) -> int:
        put(text, sys.stdout)
        return len(text)


def help_console() -> Console:
    """Return what draws for standard output; an ``OutputError`` comes out of it."""
    return Console(file=cast("TextIO", _StandardOutput()))
