"""Installed distributions, and their files compared with their RECORD.

``importlib.metadata`` can't be used: from Python 3.12 on ``Distribution.files`` leaves out missing
files, and ``read_text`` changes the line ends of the RECORD, and so its hash.
"""

from __future__ import annotations

import base64
import csv
import enum
import hashlib
import io
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# In bytes; a stop waits for one block.
_BLOCK: Final = 1 << 20


class Outcome(enum.StrEnum):
    """The result for one line of a RECORD.

    Attributes:
        MATCH: the file has the hash that is listed.
        MISMATCH: it has another one.
        MISSING: there is no such file.
        UNLISTED: the file exists, and RECORD lists no hash for it, as for itself.
        UNREADABLE: it exists, but can't be read, or is not a regular file.
        UNSUPPORTED: this Python can't compute the kind of hash that is listed.
    """

    MATCH = "match"
    MISMATCH = "mismatch"
    MISSING = "missing"
    UNLISTED = "unlisted"
    UNREADABLE = "unreadable"
    UNSUPPORTED = "unsupported"


GOOD: Final = (Outcome.MATCH, Outcome.UNLISTED)


class RecordLine(msgspec.Struct, frozen=True):
    """A line of a RECORD.

    Attributes:
        path: the path as written there: relative to ``Distribution.base``, or absolute.
        listed: the listed hash, such as ``sha256=`` and base64, or None.
    """

    path: str
    listed: str | None


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """An installed distribution that has a RECORD.

    Attributes:
        name: its name, as the installer spelled it.
        version: its version.
        base: the directory that paths in RECORD are relative to.
        record_hash: SHA-256 of the RECORD file, in hex.
        lines: the lines of the RECORD that can be read.
        bad_lines: the number of lines that can't be read.
    """

    name: str
    version: str
    base: Path
    record_hash: str
    lines: tuple[RecordLine, ...]
    bad_lines: int

    @property
    def label(self) -> str:
        """Name and version in one word."""
        return f"{self.name}-{self.version}"


class Skipped(msgspec.Struct, frozen=True):
    """A distribution, or a part of one, that was not verified, and why."""

    what: str
    reason: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a RECORD, compared with the file.

    Attributes:
        line: the line.
        outcome: see ``Outcome``.
        found: the file's hash, in the form and of the kind that RECORD lists; None if there is
            nothing to compare.
        content_hash: SHA-256 of the file's content in hex, or None if it could not be read.
        size: the number of bytes read.
    """

    line: RecordLine
    outcome: Outcome
    found: str | None = None
    content_hash: str | None = None
    size: int = 0


def find_distributions(places: Iterable[Path]) -> tuple[list[Distribution], list[Skipped]]:
    """Find the distributions in directories such as ``site-packages``.

    Blocks, as it reads directories and RECORD files.

    Args:
        places: directories; one that can't be listed counts as empty.

    Returns:
        The distributions with a RECORD, and what is skipped.
    """
    distributions: list[Distribution] = []
    skipped: list[Skipped] = []
    for place in places:
        for metadata in sorted(_metadata_in(place)):
            record, reason = _read(metadata)
            if record is not None:
                distribution = _make_distribution(metadata, record)
                distributions.append(distribution)
                if bad := distribution.bad_lines:
                    reason = f"{bad} lines of RECORD can't be read"
            if reason:
                skipped.append(Skipped(metadata.stem, reason))
    return distributions, skipped


def _read(metadata: Path) -> tuple[bytes | None, str]:
    """Return the RECORD of a distribution, or None with the reason."""
    if metadata.suffix != ".dist-info":
        return None, f"{metadata.suffix[1:]} has no RECORD with hashes"
    try:
        return (metadata / "RECORD").read_bytes(), ""
    except FileNotFoundError:
        return None, "has no RECORD"
    except OSError as error:
        return None, f"RECORD can't be read ({type(error).__name__})"


def _metadata_in(place: Path) -> list[Path]:
    kinds = {".dist-info", ".egg-info"}
    try:
        return [path for path in place.iterdir() if path.suffix in kinds]
    except OSError:
        return []


def _make_distribution(metadata: Path, record: bytes) -> Distribution:
    # The directory's name is fixed by the specification of installed projects; METADATA may
    # be missing or broken.
    name, _, version = metadata.stem.partition("-")
    lines, bad_lines = read_record(record)
    return Distribution(
        name=name,
        version=version,
        base=metadata.parent,
        record_hash=hashlib.sha256(record).hexdigest(),
        lines=tuple(lines),
        bad_lines=bad_lines,
    )


def read_record(record: bytes) -> tuple[list[RecordLine], int]:
    """Read the lines of a RECORD file.

    Returns:
        The lines, and the number of bad lines: those without three columns, or without a path.
    """
    # surrogateescape: a file name that is not UTF-8 still finds its file.
    text = record.decode("utf-8-sig", "surrogateescape")
    lines: list[RecordLine] = []
    bad_lines = 0
    # Each line on its own, so that a stray quotation mark spoils one line only.
    for line in io.StringIO(text, newline=None):
        if not line.strip():
            continue
        try:
            path, listed, _size = next(csv.reader([line.rstrip("\n")]))
        except (ValueError, csv.Error):
            path = listed = ""
        if not path or "\0" in path:
            bad_lines += 1
        else:
            lines.append(RecordLine(path, listed or None))
    return lines, bad_lines


def verify(base: Path, line: RecordLine, may_go_on: Callable[[], object]) -> Finding:
    """Compare one file with its line of the RECORD.

    Blocks, as it reads the file. Returns a verdict whatever the RECORD says and the file is.

    Args:
        base: see ``Distribution``.
        line: the line.
        may_go_on: called before each block of the file; its exception ends the reading.
    """
    path = base / line.path
    try:
        # Reading a pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            return Finding(line=line, outcome=Outcome.UNREADABLE)
        with path.open("rb", buffering=0) as file:
            return _compare(file, line, may_go_on)
    except (FileNotFoundError, NotADirectoryError):
        return Finding(line=line, outcome=Outcome.MISSING)
    except (OSError, ValueError):
        # ValueError: it can't be the name of a file.
        return Finding(line=line, outcome=Outcome.UNREADABLE)


def _compare(file: io.FileIO, line: RecordLine, may_go_on: Callable[[], object]) -> Finding:
    algorithm, _, value = (line.listed or "sha256").partition("=")
    supported = _can_compute(algorithm)
    content = listed = hashlib.sha256()
    hashes = [content]
    if supported and algorithm != "sha256":
        listed = hashlib.new(algorithm, usedforsecurity=False)
        hashes.append(listed)
    size = 0
    may_go_on()
    while block := file.read(_BLOCK):
        size += len(block)
        for each in hashes:
            each.update(block)
        may_go_on()
    digest = base64.urlsafe_b64encode(listed.digest()).decode().rstrip("=")
    if line.listed is None:
        outcome = Outcome.UNLISTED
    elif not supported:
        outcome = Outcome.UNSUPPORTED
    else:
        outcome = Outcome.MATCH if digest == value.rstrip("=") else Outcome.MISMATCH
    return Finding(
        line=line,
        outcome=outcome,
        found=f"{algorithm}={digest}" if line.listed and supported else None,
        content_hash=content.hexdigest(),
        size=size,
    )


def _can_compute(algorithm: str) -> bool:
    try:
        # SHAKE has no size.
        return hashlib.new(algorithm, usedforsecurity=False).digest_size > 0
    except ValueError:
        # The algorithm is unknown, or switched off.
        return False
