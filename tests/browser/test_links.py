"""Links, anchors and sizes of the built book, read from its files."""

from __future__ import annotations

from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from conftest import HTML, pages

MOST_BYTES = 2_000_000


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed((HTML / path).read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value for name, value in attrs if value is not None}
        if "id" in has:
            self.anchors.add(has["id"])
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        if tag == "img" and "src" in has:
            self.images.append(has["src"])
        if (tag in ("img", "script") and "src" in has) or (tag == "link" and has.get("rel") == "stylesheet"):
            self.loaded.append(has.get("src") or has["href"])


@cache
def read(path: str) -> Page:
    return Page(path)


@cache
def there(path: str) -> bool:
    return (HTML / path).exists()


def broken(path: str) -> list[str]:
    found = []
    for link in read(path).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = ((HTML / path).parent / unquote(parts.path) if parts.path else HTML / path).resolve()
        name = target.relative_to(HTML.resolve()).as_posix()
        anchor = unquote(parts.fragment) if target.suffix == ".html" else ""
        if not there(name) or (anchor and anchor not in read(name).anchors):
            found.append(link)
    return found


@pytest.mark.parametrize("path", pages())
def test_links_inside_the_book_lead_somewhere(path: str) -> None:
    assert broken(path) == []


@pytest.mark.parametrize("path", pages())
def test_a_page_with_its_pictures_is_small(path: str) -> None:
    images = {name.partition("?")[0] for name in read(path).images if not urlsplit(name).scheme}
    files = [(HTML / path).parent / unquote(name) for name in images]
    size = (HTML / path).stat().st_size + sum(file.stat().st_size for file in files)
    assert size <= MOST_BYTES


@pytest.mark.parametrize("path", pages())
def test_nothing_is_loaded_from_elsewhere(path: str) -> None:
    assert [address for address in read(path).loaded if urlsplit(address).netloc] == []
