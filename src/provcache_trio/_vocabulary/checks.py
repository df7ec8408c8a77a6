"""Checks of arguments, shared by several entry points.

Values are annotated as object: callers may give what their annotations do not allow. Each
function raises TypeError for a wrong type and ValueError for a wrong value; both name the
argument, and never quote its value.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Final, cast

# The largest value of a signed 64-bit column.
MOST: Final = 2**63 - 1


def check_type(name: str, value: object, kind: type) -> None:
    """Raise unless ``value`` is exactly of type ``kind``, so that a bool is not an int."""
    if type(value) is not kind:
        article = "an" if kind is int else "a"
        raise TypeError(f"{name} must be {article} {kind.__name__}, not {type(value).__name__}")


def check_int(name: str, value: object, *, at_least: int, at_most: int | None = MOST) -> None:
    """Raise unless ``value`` is an int in that range; ``at_most=None``: no upper bound."""
    check_type(name, value, int)
    number = cast("int", value)
    if number < at_least or (at_most is not None and number > at_most):
        bound = "2**63 - 1" if at_most == MOST else at_most
        allowed = f"at least {at_least}" if at_most is None else f"{at_least} to {bound}"
        raise ValueError(f"{name} must be {allowed}")


def check_seconds(
    name: str, value: object, *, positive: bool = False, at_most: float | None = None
) -> None:
    """Raise unless ``value`` is a finite number of seconds, not negative, in that range."""
    if type(value) is not float and type(value) is not int:
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    most = sys.float_info.max if at_most is None else at_most
    # NaN fails this test, too, as does an int that no float can hold.
    if not 0 <= value <= most or (positive and value == 0):
        least = "above 0" if positive else "at least 0"
        allowed = f"finite and {least}" if at_most is None else f"{least} and at most {at_most}"
        raise ValueError(f"{name} must be {allowed}")


def check_text(name: str, value: object) -> None:
    """Raise unless ``value`` is a str that is not empty, or of a subclass."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")


def check_moment(name: str, value: object) -> None:
    """Raise unless ``value`` is an aware datetime."""
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise ValueError(f"{name} must be an aware datetime, not a naive one")
