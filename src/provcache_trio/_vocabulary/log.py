"""Logging with fields, under the package's one name; a filter that raises is ignored."""

from __future__ import annotations

import logging
import traceback
from typing import Final

logger: Final = logging.getLogger("provcache_trio")


class Lines(str):
    """Text of our own that may hold line feeds, such as the frames of a traceback."""

    __slots__ = ()


def log(level: int, message: str, *args: object, **fields: object) -> None:
    """Log with ``fields`` on the record, and every argument of ``message`` escaped.

    Otherwise a line feed or an escape sequence in a key or a name could forge lines.
    """
    if not logger.isEnabledFor(level):
        return
    shown = [arg if isinstance(arg, (int, float, Lines)) else escaped(arg) for arg in args]
    try:
        logger.log(level, message, *shown, extra=fields)
    except Exception:  # noqa: BLE001  # a filter or a record factory: no reason to stop
        # The handlers of logging ask the same.
        if logging.raiseExceptions:
            traceback.print_exc()


def escaped(value: object) -> str:
    """Return ``str(value)`` with an escape for each character that can't be printed."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  # whatever a key's class raises
        return f"<{type(value).__qualname__} that can't be shown>"
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )
