"""Where a URL points. A URL may hold a password, so no message quotes one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ._stores import SqliteTarget

if TYPE_CHECKING:
    from ._stores import ReadableTarget


class MisuseError(Exception):
    """A command was called wrongly; the message is for the user."""


def target_of(url: str) -> ReadableTarget:
    """Return the store that ``url`` names.

    Args:
        url: ``sqlite:PATH``; what comes after the colon is taken as it stands.

    Raises:
        MisuseError: it names none that is known.
    """
    scheme, _, rest = url.partition(":")
    if scheme in {"postgres", "postgresql"}:
        raise MisuseError("this version can't use PostgreSQL, only sqlite:PATH")
    if scheme != "sqlite" or not rest:
        raise MisuseError("a store is named by a URL: sqlite:PATH")
    if rest.startswith("//"):
        # Elsewhere, sqlite:///name is a file in this directory; to us it would be one in /.
        raise MisuseError("sqlite: is followed by the path alone, as in sqlite:cache.db")
    return SqliteTarget(Path(rest))


def without_secrets(text: str) -> str:
    """Return ``text`` up to the first thing that may hold a password."""
    return re.sub(r"(?is)(://|password=).*", r"\1...", text)
