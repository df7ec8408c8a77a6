"""The names under which a package offers what its modules define."""

from __future__ import annotations

from typing import cast

from msgspec import Struct


def show_public_names(face: dict[str, object]) -> None:
    """Make tracebacks show what ``face``, a module's globals, offers under the module's own name.

    Structs keep theirs, because msgspec resolves annotations through it.
    """
    for name in cast("list[str]", face["__all__"]):
        offered = face[name]
        if isinstance(offered, type) and not issubclass(offered, Struct):
            offered.__module__ = cast("str", face["__name__"])
