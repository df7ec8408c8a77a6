"""Arguments that several entry points check alike."""

from __future__ import annotations

from datetime import datetime


def check_moment(now: object) -> None:
    """Return if ``now`` is an aware datetime.

    Raises:
        TypeError: it is no datetime.
        ValueError: it is naive.
    """
    if not isinstance(now, datetime):
        raise TypeError(f"now must be a datetime, not {type(now).__name__}")
    if now.utcoffset() is None:
        raise ValueError("now must be an aware datetime, not a naive one")


def check_limit(limit: object) -> None:
    """Return if ``limit`` is 1 to 2**63 - 1.

    Raises:
        TypeError: it is no int.
        ValueError: it is out of that range.
    """
    if type(limit) is not int:
        raise TypeError(f"limit must be an int, not {type(limit).__name__}")
    if not 1 <= limit < 2**63:
        raise ValueError("limit must be 1 to 2**63 - 1")


def check_bool(name: str, value: object) -> None:
    """Return if ``value``, the argument ``name``, is a bool.

    Raises:
        TypeError: it is not.
    """
    if type(value) is not bool:
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
