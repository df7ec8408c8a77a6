"""How commands write numbers and names."""

from __future__ import annotations

from provcache_trio._vocabulary.plurals import counted

__all__ = ["counted", "duration", "printable", "size"]


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped.

    File names come from RECORD files, and so from strangers.
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
