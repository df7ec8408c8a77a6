"""How keys are written for people: in the log, in dead letters, and on a command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, cast

import msgspec

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


def key_text(key: object) -> str:
    """Return a key as ``--key`` of a command takes it.

    A str is itself, and so is what JSON writes as a str; other keys are JSON, or else their repr.
    Lone surrogates are escaped.
    """
    text = key if isinstance(key, str) else _json_or_repr(key)
    return text.encode("utf-8", "backslashreplace").decode()


def shown_key(key: object) -> str:
    """Return the text of a key for a message, whatever its class raises."""
    try:
        return key_text(key)
    except Exception:  # noqa: BLE001  # see above
        return f"<{type(key).__qualname__} that can't be shown>"


def _json_or_repr(key: object) -> str:
    try:
        plain: object = msgspec.to_builtins(_in_utc(key))
        return plain if isinstance(plain, str) else _encode(plain).decode()
    except Exception:  # noqa: BLE001  # msgspec does not know its type, or its class raised
        return repr(key)


def _in_utc(key: object) -> object:
    """Return a key with its moments in UTC, so that equal keys have equal texts."""
    if isinstance(key, datetime) and key.tzinfo is not None:
        return key.astimezone(UTC)
    if isinstance(key, tuple):
        return tuple(map(_in_utc, cast("tuple[object, ...]", key)))
    return key
