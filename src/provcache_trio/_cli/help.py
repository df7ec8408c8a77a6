"""How help is printed."""

from __future__ import annotations

import io
import sys
from typing import TextIO, cast

from rich.console import Console

from .output import put


class _StandardOutput(io.TextIOBase):
    """A file for rich, so that rich does not end the program after an error."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a variable
        return sys.stdout.encoding

    def isatty(self) -> bool:
        return sys.stdout.isatty()

    def write(self, text: str, /) -> int:
        put(text, sys.stdout)
        return len(text)


def help_console() -> Console:
    """Return a console for standard output, which raises ``OutputError``."""
    return Console(file=cast("TextIO", _StandardOutput()))
