"""The page for people, as one document that needs nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Page(NamedTuple):
    """The document, and the only policy under which it works."""

    html: bytes
    content_security_policy: str


@cache
def load_page() -> Page:
    """Put the page together from the package's files, once."""
    directory = files(__name__)
    html, style, *scripts = (
        directory.joinpath(name).read_text("utf-8")
        for name in ("page.html", "page.css", "charts.js", "page.js")
    )
    script = "".join(scripts)
    html = html.replace("{{style}}", style).replace("{{script}}", script)
    # Nothing but these two very texts is run or applied, whatever gets into the page.
    policy = (
        "default-src 'none'",
        f"script-src '{_hash_of(script)}'",
        f"style-src '{_hash_of(style)}'",
        "connect-src 'self'",
        "img-src data:",  # the icon in the tab, which shows the state
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return Page(html.encode(), "; ".join(policy))


def _hash_of(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
