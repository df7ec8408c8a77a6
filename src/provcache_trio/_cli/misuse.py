"""A command that was called wrongly."""

from __future__ import annotations


class MisuseError(Exception):
    """A command was called wrongly; the message is for the user."""
