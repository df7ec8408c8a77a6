"""Numbers and their nouns, as people read them."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, such as ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def counted_entries(count: int) -> str:
    """Return ``1 entry``, or ``2,000 entries``."""
    return counted(count, "entry", "entries")
