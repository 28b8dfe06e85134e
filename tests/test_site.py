"""The site of docs/ is built strictly, its links lead somewhere, and reading it asks no server."""

import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urldefrag, urlparse

import pytest

from tests.support.browser import browser, needs_chromium
from tests.test_docs import DOCS, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]
"""Not that they must not run beside others: the site is built once, not by each process."""

LOADED: Final = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}
"""What a browser asks for by itself; a link that is followed is not."""
NOT_ASKED: Final = {"canonical", "next", "prev", "alternate"}


class Page(HTMLParser):
    """What one page of the site loads, leads to and can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.loads: list[str] = []
        self.leads_to: list[str] = []
        self.ids = {"", "__toc", "__search"}
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if LOADED.get(tag) in given and not NOT_ASKED & set(given.get("rel", "").split()):
            self.loads.append(given[LOADED[tag]])
        if tag == "a" and "href" in given:
            self.leads_to.append(given["href"])


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The site, built from a copy, so that nothing of it lies in the tree."""
    here = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, here / "docs")
    shutil.copy(ROOT / ".zensical.toml", here)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "-f", ".zensical.toml", "--strict"],
        cwd=here,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Page(path) for path in sorted((here / "site").rglob("*.html"))}


def target(page: Page, link: str) -> tuple[Path, str]:
    """The file that a link leads to, and the anchor in it."""
    path, anchor = urldefrag(link)
    file = Path(os.path.normpath(page.path.parent / unquote(path))) if path else page.path
    return (file / "index.html" if file.is_dir() else file), unquote(anchor)


def test_each_page_of_the_documentation_is_a_page_of_the_site(site: dict[Path, Page]) -> None:
    assert len(site) >= len(list(DOCS.rglob("*.md")))


def test_every_link_leads_to_a_page_and_an_anchor(site: dict[Path, Page]) -> None:
    broken = []
    for page in site.values():
        if page.path.name == "404.html":
            continue  # its links begin with a slash: it is shown under any address
        for link in {*page.leads_to, *page.loads}:
            if urlparse(link).scheme:
                continue
            file, anchor = target(page, link)
            if not file.exists() or (file in site and anchor not in site[file].ids):
                broken.append(f"{page.path.parent.name}: {link}")
    assert broken == []


def test_reading_it_asks_no_server(site: dict[Path, Page]) -> None:
    asked = {
        f"{page.path.parent.name}: {link}"
        for page in site.values()
        for link in page.loads
        if urlparse(link).scheme not in {"", "data"} or link.startswith("//")
    }
    assert asked == set()
    (styles, *_) = {path for page in site for path in page.parent.rglob("main.*.css")}
    assert "url(http" not in styles.read_text("utf-8")


@needs_chromium
def test_a_browser_asks_no_server(site: dict[Path, Page]) -> None:
    """Scripts run there, which could ask what no page says: the first page, and one with blocks."""
    root = next(iter(site)).parent
    with browser() as running:
        page = running.page()
        for name in ("index.html", "tutorial/index.html", "reference/api/index.html"):
            page.open((root / name).as_uri())
            page.wait_until("document.querySelector('h1') !== null")
        outside = [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert page.requests
    assert outside == []
