"""``provcache journal status``: what a journal holds, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from provcache_trio import JournalError, StoreMisconfiguredError
from provcache_trio._cli.text import counted, printable
from provcache_trio._disk.owner_lock import is_owned
from provcache_trio.journal import SetAside, count_set_aside
from provcache_trio.journal._disk import Disk
from provcache_trio.journal._file import JournalFile

if TYPE_CHECKING:
    from pathlib import Path

    from provcache_trio._cli.entries import Entries

_NOTHING: Final = SetAside(entries=0, entry_types=(), damaged_bytes=0)


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The contents and the state of a journal.

    Attributes:
        entries: the number of entries to replay.
        bytes: the size of the file.
        entry_type: the type of the entries.
        in_use: whether a process has it open.
        missing: the missing records, as ranges of first and last number.
        damaged_bytes: the number of bytes that are not records.
        unfinished_bytes: those at the end, where a crash cuts a record off.
        set_aside: what is kept beside it because no program could use it.
    """

    entries: int
    bytes: int
    entry_type: str
    in_use: bool
    missing: list[tuple[int, int]]
    damaged_bytes: int
    unfinished_bytes: int
    set_aside: SetAside

    @property
    def intact(self) -> bool:
        """Whether the file lacks nothing except a last record that a crash cut off."""
        return not self.missing and self.damaged_bytes == self.unfinished_bytes

    @property
    def sound(self) -> bool:
        """Whether it is intact, and no entry is set aside."""
        return self.intact and not self.set_aside.entries


def inspect_journal(path: Path) -> Inspection:
    """Inspect a journal, which another process may own; change nothing.

    Raises:
        JournalError: it can't be read; the message names the file.
    """
    where = str(path.absolute())
    file = JournalFile(where, entry_type=None, disk=Disk(), read_only=True)
    try:
        findings = file.open()
    finally:
        file.close()
    return Inspection(
        entries=findings.entries,
        bytes=file.size,
        entry_type=file.entry_type,
        in_use=_is_in_use(where),
        missing=findings.missing,
        damaged_bytes=findings.damaged_bytes,
        unfinished_bytes=findings.unfinished_bytes,
        set_aside=count_set_aside(path),
    )


def check_type(path: Path, found: Inspection, entries: Entries) -> None:
    """Raise JournalError unless a journal holds such entries."""
    if found.entry_type not in {entries.type_name, *entries.aliases}:
        wanted = entries.name if entries.table is None else entries.type_name
        raise JournalError(
            f"journal {path} holds entries of type {found.entry_type}, and this command is for "
            f"{wanted}: --table MODULE:NAME names the table of other entries, and --alias a name "
            "that their class had before. Or the program that "
            "wrote it replays them when it next opens it, by open_journal with that entry_type="
        )


def _is_in_use(path: str) -> bool:
    try:
        return is_owned(f"{path}.lock")
    except StoreMisconfiguredError as error:
        raise JournalError(f"whether journal {path} is in use can't be told: {error}") from None


def as_text(found: Inspection) -> list[str]:
    """Return what was found as lines for people."""
    lines = [
        f"entries   {found.entries:>15,}  of type {printable(found.entry_type)}",
        f"bytes     {found.bytes:>15,}",
        f"in use    {'yes' if found.in_use else 'no':>15}",
    ]
    for first, last in found.missing:
        lines.append(f"missing   {f'{first} to {last}':>15}  (numbers of records)")
    if found.damaged_bytes:
        lines.append(
            f"damaged   {found.damaged_bytes:>15,}  bytes, {found.unfinished_bytes:,} of them at "
            "the end, where a crash cuts a record off"
        )
    if found.set_aside != _NOTHING:
        lines.append(f"set aside {found.set_aside.entries:>15,}  {as_words(found.set_aside)}")
    return lines


def as_words(aside: SetAside) -> str:
    """Describe what was set aside, except the number of entries."""
    noun = "entry" if aside.entries == 1 else "entries"
    types = f" of type {' and '.join(map(printable, aside.entry_types))}" if aside.entries else ""
    return f"{noun}{types}, and {counted(aside.damaged_bytes, 'damaged byte')}"
