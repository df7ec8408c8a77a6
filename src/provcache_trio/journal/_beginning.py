"""The beginning of a journal file, which shows whether it is ours, and of which version."""

from __future__ import annotations

import msgspec

from provcache_trio._vocabulary.errors import JournalError

from ._records import FIRST_FORMAT, FORMAT, Beginning, read_beginning


def checked_beginning(path: str, data: bytes) -> tuple[Beginning, int, bool]:
    """Return the beginning in the first bytes of a file, if it is a journal of ours."""
    found = read_beginning(data)
    if found is None:
        raise JournalError(
            f"{path} is no journal, or its beginning is damaged; it was left as it is. "
            "Name another file, or move this one away"
        )
    payload, end, sound = found
    try:
        number: int = msgspec.json.decode(payload)["format"]
    except Exception:  # noqa: BLE001  # whatever is in there
        number = 0
    if number == FIRST_FORMAT:
        raise JournalError(
            f"journal {path} was written by version 0.1, which has another format. Let "
            "version 0.1 replay it (it is done once `provcache journal status` counts 0 "
            "entries), or move it away"
        )
    if number != FORMAT:
        raise JournalError(
            f"journal {path} has format version {number}, and this program knows "
            f"{FORMAT} only. Use the program that wrote it, or move the file away"
        )
    return msgspec.json.decode(payload, type=Beginning), end, sound
