"""The public names of a package whose modules define them, and the extra that it needs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Generator

_PACKAGE = __name__.partition(".")[0]


@contextmanager
def needing_extra(extra: str, module: str) -> Generator[None]:
    """Import within this what needs ``module``, which the extra ``extra`` installs.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the extra. Whatever else is
            missing, such as a part of an installed module, is reported as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModuleNotFoundError(
            f"{_PACKAGE}.{extra} needs {module}: pip install 'provcache-trio[{extra}]'", name=module
        ) from None


def show_public_names(face: dict[str, object]) -> None:
    """Make tracebacks show the public names in ``face``, a module's globals, as that module's.

    Structs keep their own module, through which msgspec resolves annotations.
    """
    for name in cast("list[str]", face["__all__"]):
        offered = face[name]
        if isinstance(offered, type) and not issubclass(offered, Struct):
            offered.__module__ = cast("str", face["__name__"])
