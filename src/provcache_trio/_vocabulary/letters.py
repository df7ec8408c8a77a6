"""Why an entry became a dead letter, in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protocols import DeadLetter


def why(letter: DeadLetter[Any]) -> str:
    """Return why the store refused an entry: names, and the reason if it is known."""
    facts = {
        "SQLSTATE": letter.sqlstate,
        "constraint": letter.constraint,
        "field": letter.field,
    }
    named = [letter.error_class, *(f"{name} {known}" for name, known in facts.items() if known)]
    reason = f": {letter.reason}" if letter.reason else ""
    return f"{', '.join(named)}{reason}"
