"""Makes Markdown of the one thing in our docstrings that is none: a colon twice before code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from griffe import Extension

if TYPE_CHECKING:
    from griffe import Object


class Colons(Extension):
    """Leave one of two colons at the end of a line, and none where they stand alone."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:  # noqa: ANN401  # griffe's own
        """Change the docstring of whatever has one."""
        if obj.docstring is not None:
            lines = obj.docstring.value.splitlines()
            lines = ["" if line.strip() == "::" else line for line in lines]
            lines = [line[:-1] if line.endswith("::") else line for line in lines]
            obj.docstring.value = "\n".join(lines)
