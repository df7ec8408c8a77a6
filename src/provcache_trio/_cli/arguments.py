"""The meaning of arguments that need more than a type."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from .misuse import MisuseError
from .urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from cyclopts import Token

    from .stores import Target

_is_duration: Final = re.compile(r"(\d{1,9})([smhdw])").fullmatch
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def settle_hyphens(arguments: Sequence[str]) -> list[str]:
    """Return ``arguments`` with a file name after ``--`` changed so that it is not an option.

    ``input_file`` gets options and file names alike, but does not see a ``--``.
    """
    settled = list(arguments)
    if settled[:1] == ["ingest"] and "--" in settled:
        for index in range(settled.index("--") + 1, len(settled)):
            if settled[index].startswith("-") and settled[index] != "-":
                settled[index] = f"./{settled[index]}"
    return settled


def input_file(_: object, tokens: Sequence[Token]) -> Path:
    """Return the file that a token names; only ``-`` becomes ``Path("-")``.

    Raises:
        MisuseError: the token is an option.
    """
    name = tokens[0].value
    if name.startswith("-") and name != "-":
        raise MisuseError(f"Unknown option: {without_secrets(name)}")
    path = Path(name)
    # A path drops the ./ that distinguishes a file named - from standard input.
    return Path.cwd() / path if str(path).startswith("-") and name != "-" else path


def check_give_up_after(seconds: float) -> None:
    """Raise MisuseError unless ``seconds`` is above 0, as inf is."""
    # Written so that nan is refused, too.
    if not seconds > 0:
        raise MisuseError("--give-up-after is a number of seconds above 0, or inf")


def read_moment(option: str, text: str, now: datetime) -> datetime:
    """Return the moment that ``text`` means: a date, a date and time, or how long ago.

    Args:
        option: the option that it was given to.
        text: such as ``2026-11-25``, ``2026-11-25T12:00``, with an offset or else in UTC; or
            ``90s``, ``30m``, ``1h``, ``2d``, ``1w``.
        now: the moment from which a duration counts back.

    Raises:
        MisuseError: it is none of these.
    """
    try:
        if found := _is_duration(text):
            return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise MisuseError(
            f"{option} is a time such as 2026-11-25T12:00 (UTC), or a duration such as 90s, 1h, 2d"
        ) from None


def address_of(address: str | None) -> tuple[str, int] | None:
    """Return host and port of ``HOST:PORT``.

    Raises:
        MisuseError: ``address`` does not have that form.
    """
    if address is None:
        return None
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise MisuseError("--status is an address such as 127.0.0.1:9464")
    return host.strip("[]"), int(port)


def making_of(
    target: Target, max_bytes: str | None, replicas: int
) -> Callable[[], Awaitable[None]]:
    """Return a function that creates ``target`` as far as opening it does not.

    Raises:
        MisuseError: ``max_bytes`` is wrong, or missing, or not for this kind of store.
    """
    create = getattr(target, "create", None)
    if create is None:
        if max_bytes is not None:
            raise MisuseError("--max-bytes is for a stream")
        return trio.lowlevel.checkpoint
    from .stream import bytes_in  # noqa: PLC0415  # needs an extra

    if max_bytes is None:
        raise MisuseError("--max-bytes is missing: how large the stream may become, such as 10GB")
    try:
        size = bytes_in(max_bytes)
    except ValueError as error:
        raise MisuseError(str(error)) from None
    return partial(create, size, replicas)


def as_paths(names: Iterable[Path | str]) -> list[Path]:
    """Return the directories among ``names``, each once, in order."""
    return list(dict.fromkeys(path for path in map(Path, names) if is_directory(path)))


def is_directory(path: Path) -> bool:
    """Return whether ``path`` is a directory, and False if that can't be found out."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        # Its name is too long, or holds NUL.
        return False
