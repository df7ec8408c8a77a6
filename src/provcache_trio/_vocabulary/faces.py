"""The public names of a package whose modules define them."""

from __future__ import annotations

from typing import cast

from msgspec import Struct


def show_public_names(face: dict[str, object]) -> None:
    """Make tracebacks show the public names in ``face``, a module's globals, as that module's.

    Structs keep their own module, through which msgspec resolves annotations.
    """
    for name in cast("list[str]", face["__all__"]):
        offered = face[name]
        if isinstance(offered, type) and not issubclass(offered, Struct):
            offered.__module__ = cast("str", face["__name__"])
