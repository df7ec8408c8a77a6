"""Checks the site as it was built: every link and anchor leads somewhere, and nothing is loaded from elsewhere.

``python -m tests.site FOLDER``, which ``nox -s docs`` runs. It needs nothing but Python.
"""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What a browser fetches by itself, by tag; of <link>, all but what it only knows about.
LOADED: Final = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
ONLY_NAMED: Final = {"canonical", "next", "prev", "edit", "alternate"}
IN_STYLES: Final = re.compile(r"""(?:url\(|@import\s)\s*["']?([^"')\s]+)""")


class Link(NamedTuple):
    """Where a page points to, and whether a browser goes there without being asked."""

    target: str
    is_loaded: bool


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(Link(values["href"], is_loaded=False))
        elif tag in LOADED and LOADED[tag] in values:
            named = set(values.get("rel", "").split()) & ONLY_NAMED
            self.links.append(Link(values[LOADED[tag]], is_loaded=not named))


class Site:
    """A folder of pages that was built for ``address``."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self._pages = {
            path.relative_to(folder).as_posix(): Page(path.read_text("utf-8"))
            for path in sorted(folder.rglob("*.html"))
        }

    def problems(self) -> Iterator[str]:
        """Yield a line for each link that leads nowhere, and each file from elsewhere."""
        for name, page in self._pages.items():
            for link in page.links:
                if problem := self.problem_of(link, name):
                    yield f"{name}: {link.target}: {problem}"
        for path in sorted(self._folder.rglob("*.css")):
            for target in IN_STYLES.findall(path.read_text("utf-8")):
                if "//" in target and not target.startswith("data:"):
                    yield f"{path.relative_to(self._folder)}: {target}: loaded from elsewhere"

    def problem_of(self, link: Link, page: str = "index.html") -> str | None:
        """Say what is wrong with a link that stands on ``page``, or return None."""
        target, anchor = urldefrag(link.target)
        if target.startswith(self._address):
            target = f"/{target.removeprefix(self._address)}"
        if urlsplit(target).scheme or target.startswith("//"):
            return "loaded from elsewhere" if link.is_loaded else None
        path = self.path_of(unquote(target), page)
        if not (self._folder / path).is_file():
            return "there is no such page"
        if anchor and path in self._pages and unquote(anchor) not in self._pages[path].anchors:
            return "the page has no such anchor"
        return None

    def path_of(self, target: str, page: str) -> str:
        """Return the file that a server answers with."""
        if not target:
            return page
        folder = "" if target.startswith("/") else posixpath.dirname(page)
        path = posixpath.normpath(posixpath.join(folder, target.lstrip("/")))
        return posixpath.normpath(f"{path}/index.html") if target.endswith(("/", ".")) else path
