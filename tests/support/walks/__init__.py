"""A walk through every error of every entry point: each is made to happen, on the real thing.

``tests/whole/test_errors.py`` takes the walk, and compares it with the code and docs/errors.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

SECRET: Final = "s3cr3t"  # noqa: S105  # in entries, passwords and URLs; what no message may quote
HERE: Final = "HERE"  # stands for the directory of a test

Step: TypeAlias = "Callable[[Path], Awaitable[object] | object]"


class Walk(NamedTuple):
    """One way to an error.

    Attributes:
        entry: what is called: ``Class.method`` or a function, after its module if that is not
            the package itself.
        error: the class that it raises.
        about: what the message has to name.
        step: makes it happen; raises it.
    """

    entry: str
    error: type[BaseException]
    about: tuple[str, ...]
    step: Step


class CommandWalk(NamedTuple):
    """One way to an error of a command.

    Attributes:
        command: its words.
        status: with which it ends.
        about: what its last line has to name.
        words: its arguments; HERE stands for the directory of a test.
    """

    command: str
    status: int
    about: tuple[str, ...]
    words: tuple[str, ...]


WALKS: Final[list[Walk]] = []


def walk(entry: str, error: type[BaseException], *about: str) -> Callable[[Step], Step]:
    """Add a way to an error."""

    def add(step: Step) -> Step:
        WALKS.append(Walk(entry, error, about, step))
        return step

    return add


def calls(
    entry: str, error: type[BaseException], about: str, call: Callable[[], Any], *more: str
) -> None:
    """Add a call that fails without anything around it."""
    WALKS.append(Walk(entry, error, (about, *more), lambda _: call()))
