"""What the site needs beside the pages in docs/: README, and the files that pages link to."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LANGUAGES = {".json": "json", ".py": "python", ".service": "ini", ".yaml": "yaml", ".yml": "yaml"}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that stand beside docs/, and each file that a page links to, twice.

    Once as it is, to download, and once as a page, to read.
    """
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    linked = {
        target
        for file in files.documentation_pages()
        for target in map(follow(file.src_uri), LINK.findall(file.content_string))
        if target and (ROOT / target).is_file() and target not in PAGES
    }
    for target in sorted(linked):
        text = (ROOT / target).read_text("utf-8")
        language = LANGUAGES.get(Path(target).suffix, "text")
        name = posixpath.basename(target)
        # A longer fence than any in the file.
        shown = f"# {target}\n\n[Download](raw/{name})\n\n`````{language}\n{text}`````\n"
        files.append(File.generated(config, f"source/{target}.md", content=shown))
        raw = f"source/{posixpath.dirname(target)}/raw/{name}"
        files.append(File.generated(config, raw, content=text))
    return files


def follow(page: str) -> object:
    """Return a function that says which file outside docs/ a link of ``page`` leads to, or ""."""
    here = posixpath.dirname(f"docs/{page}")

    def target_of(link: str) -> str:
        if "://" in link or link.startswith("#"):
            return ""
        path = posixpath.normpath(posixpath.join(here, link.partition("#")[0]))
        return "" if path.startswith(("docs/", "..")) else path

    return target_of


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to the site that are written for the repository or for PyPI."""
    source = page.file.src_uri
    original = {new: old for old, new in PAGES.items()}.get(source, f"docs/{source}")

    def point(match: re.Match[str]) -> str:
        link, anchor, fragment = match[1].partition("#")
        site = config.site_url or ""
        if link.startswith(site):
            target = link.removeprefix(site).rstrip("/")
            target = next(
                uri
                for uri in (f"{target}.md", f"{target}/index.md", "index.md")
                if files.get_file_from_path(uri.lstrip("/"))
            ).lstrip("/")
        elif "://" in link or not link:
            return match[0]
        else:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(original), link))
            if path in PAGES:
                target = PAGES[path]
            elif path.startswith("docs/"):
                target = path.removeprefix("docs/")
            else:
                target = f"source/{path}.md"
        relative = os.path.relpath(target, posixpath.dirname(source) or ".")
        return f"]({relative}{anchor}{fragment})"

    markdown = markdown.replace("```python fragment", "```python")
    return LINK.sub(point, markdown)
