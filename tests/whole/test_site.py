"""The site leads where it says; ``nox -s docs`` builds it and checks the built pages the same way."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import TYPE_CHECKING

import pytest

import provcache_trio

from tests.site import Site
from tests.support.programs import ROOT
from tests.support.site import SITE, anchors_of, find_addresses

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.two_pythons

# Pages that are made of files beside docs/.
BESIDE = {"": "README.md"} | {
    name: f"{name.upper()}.md" for name in ("changelog", "contributing", "security")
}


def test_every_address_of_the_site_that_we_print_is_that_of_a_page_and_a_heading() -> None:
    found = list(find_addresses())
    assert {path for path, _ in found} >= {"README.md", "pyproject.toml", "ops/alerts.yml"}
    for path, address in found:
        name, _, anchor = address.removeprefix(SITE).partition("#")
        name = name.rstrip("/")
        choices = [ROOT / BESIDE[name]] if name in BESIDE else []
        choices += [ROOT / "docs" / f"{name}.md", ROOT / "docs" / name / "index.md"]
        [page] = [one for one in choices if one.is_file()]
        assert not anchor or anchor in anchors_of(page), (path, address)
        assert address.endswith("/") or anchor, (path, address)


def test_the_reference_has_an_entry_for_every_public_name_and_for_no_other() -> None:
    listed = [
        name
        for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
    ]
    modules = [
        importlib.import_module(f"provcache_trio.{module.name}")
        for module in pkgutil.iter_modules(provcache_trio.__path__)
        if not module.name.startswith("_")
    ]
    public = [
        f"{module.__name__}.{name}"
        for module in (provcache_trio, *modules)
        for name in module.__all__
    ]
    assert sorted(listed) == sorted(public)


def made(folder: Path, **pages: str) -> Site:
    for name, text in pages.items():
        path = folder / name.removeprefix("home") / "index.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return Site(folder, "https://site.example/docs/")


def test_links_that_lead_somewhere_are_no_problem(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text(".a { background: url(data:image/svg+xml,//) }", "utf-8")
    site = made(
        tmp_path,
        a='<h1 id="top"></h1><a href="../b/#here">b</a><a href="#top">up</a>'
        '<a href="https://site.example/docs/b/#here">b</a><a href="https://other.example">o</a>'
        '<link rel="stylesheet" href="/style.css"><link rel="canonical" href="https://x.example">',
        b='<h2 id="here"></h2><a href="..">home</a><a href="../style.css">raw</a>',
        home='<a href="a/">a</a>',
    )
    assert list(site.problems()) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<a href="../none/">', "../none/: there is no such page"),
        ('<a href="#none">', "#none: the page has no such anchor"),
        ('<a href="https://site.example/docs/x/">', "/x/: there is no such page"),
        ('<img src="pixel.png">', "pixel.png: there is no such page"),
        ('<script src="https://cdn.example/a.js">', "a.js: loaded from elsewhere"),
        ('<link rel="preconnect" href="//fonts.example">', "fonts.example: loaded from elsewhere"),
    ],
)
def test_a_link_to_nothing_and_a_file_from_elsewhere_are_named(
    tmp_path: Path, text: str, problem: str
) -> None:
    [found] = made(tmp_path, a=text).problems()
    assert found.startswith("a/index.html: ")
    assert found.endswith(problem)


def test_a_style_from_elsewhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text('@import "https://fonts.example/a.css";', "utf-8")
    assert list(made(tmp_path).problems()) == [
        "style.css: https://fonts.example/a.css: loaded from elsewhere"
    ]
