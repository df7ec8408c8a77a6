"""The error for a wrong command line."""

from __future__ import annotations


class MisuseError(Exception):
    """The command line is wrong; the message is for the user."""
