"""Logging with fields, under the package's one name; a filter that raises stops nothing."""

from __future__ import annotations

import logging
import traceback
from typing import Final

logger: Final = logging.getLogger("provcache_trio")


def log(level: int, message: str, *args: object, **fields: object) -> None:
    """Log with ``fields`` on the record."""
    try:
        logger.log(level, message, *args, extra=fields)
    except Exception:  # noqa: BLE001  # a filter or a record factory: no reason to stop
        if logging.raiseExceptions:  # as the handlers of logging do it
            traceback.print_exc()
