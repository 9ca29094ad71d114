"""Links, anchors and sizes of the built book, read from its files."""

from __future__ import annotations

from functools import cache
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from conftest import HTML, pages

MOST_BYTES = 2_000_000


@cache
def soup(path: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / path).read_text(), "html.parser")


@cache
def anchors(path: str) -> frozenset[str]:
    return frozenset(str(element["id"]) for element in soup(path).find_all(id=True))


def broken(path: str) -> list[str]:
    found = []
    for link in soup(path).find_all("a", href=True):
        parts = urlsplit(str(link["href"]))
        if parts.scheme or parts.netloc:
            continue
        target = (HTML / path).parent / unquote(parts.path) if parts.path else HTML / path
        if not target.exists():
            found.append(str(link["href"]))
        elif parts.fragment and target.suffix == ".html":
            name = target.resolve().relative_to(HTML.resolve()).as_posix()
            if unquote(parts.fragment) not in anchors(name):
                found.append(str(link["href"]))
    return found


@pytest.mark.parametrize("path", pages())
def test_links_inside_the_book_lead_somewhere(path: str) -> None:
    assert broken(path) == []


@pytest.mark.parametrize("path", pages())
def test_a_page_with_its_pictures_is_small(path: str) -> None:
    images = {str(image["src"]).partition("?")[0] for image in soup(path).find_all("img", src=True)}
    files = [(HTML / path).parent / unquote(name) for name in images if not urlsplit(name).scheme]
    size = (HTML / path).stat().st_size + sum(file.stat().st_size for file in files)
    assert size <= MOST_BYTES


@pytest.mark.parametrize("path", pages())
def test_nothing_is_loaded_from_elsewhere(path: str) -> None:
    loaded = [*soup(path).find_all("script", src=True), *soup(path).find_all("img", src=True)]
    addresses = [str(element["src"]) for element in loaded]
    addresses += [str(element["href"]) for element in soup(path).find_all("link", rel="stylesheet", href=True)]
    assert [address for address in addresses if urlsplit(address).netloc] == []
