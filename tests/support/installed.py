"""Makes directories such as site-packages, with distributions as an installer leaves them."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def listed(content: bytes, algorithm: str = "sha256") -> str:
    """Return a hash as RECORD lists it."""
    digest = hashlib.new(algorithm, content).digest()
    return f"{algorithm}={base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def install(
    site: Path, label: str, files: Mapping[str, bytes], *more_lines: str, newline: str = "\r\n"
) -> Path:
    """Install ``files`` and a RECORD that lists them, itself, and ``more_lines``."""
    metadata = site / f"{label}.dist-info"
    metadata.mkdir(parents=True)
    lines: list[str] = []
    for name, content in files.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        lines.append(f"{name},{listed(content)},{len(content)}")
    record = metadata / "RECORD"
    lines += [*more_lines, f"{label}.dist-info/RECORD,,", ""]
    record.write_bytes(newline.join(lines).encode())
    return record
