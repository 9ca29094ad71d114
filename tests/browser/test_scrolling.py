"""What is wider than a phone scrolls and shows that it does; on a desktop a line of code fits. And the slides."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import HTML
from test_pages import FORMULAS, OVERFLOW, opened

WIDE = ("notebooks/ch05_newton.html", "notebooks/ch07_inverting.html", "notebooks/table03_arc.html", "book/reading_times.html")
SLIDES = sorted(path.name for path in (HTML / "_static" / "course").glob("*.html"))
# what scrolls sideways in the text, except what is folded away
SCROLLING = """() => [...document.querySelectorAll(
        "main mjx-container[display=true], main .cell_output .text_html, main .pst-scrollable-table-container, main div.highlight pre")]
    .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
    .map(e => [e.tagName, getComputedStyle(e).overflowX, (getComputedStyle(e).backgroundImage.match(/gradient/g) || []).length])"""
CLIPPED = """longest => [...document.querySelectorAll("main div.cell_input pre")]
    .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
    .filter(e => Math.max(...e.textContent.split("\\n").map(line => line.length)) <= longest)
    .map(e => e.textContent.slice(0, 80))"""


@pytest.mark.parametrize("path", WIDE)
def test_a_phone_shows_where_it_goes_on(path: str, address: str, page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    opened(page, f"{address}/{path}")
    found = page.evaluate(SCROLLING)
    assert found
    for tag, overflow, gradients in found:
        assert overflow == "auto", tag
        assert gradients == 4, tag


@pytest.mark.parametrize("path", [path for path in WIDE if path.startswith("notebooks")])
def test_a_line_of_code_fits_on_a_desktop(path: str, address: str, page: Any) -> None:
    opened(page, f"{address}/{path}")
    assert page.evaluate(CLIPPED, 88) == []


@pytest.mark.parametrize("path", ["notebooks/ch05_newton.html"])
def test_parameters_are_folded_under_their_label(path: str, address: str, page: Any) -> None:
    opened(page, f"{address}/{path}")
    fold = page.locator("div.tag_parameters details").first
    assert not fold.evaluate("e => e.open")
    assert "Show the parameters" in fold.locator("summary").inner_text()


@pytest.mark.parametrize("name", SLIDES)
def test_slides(name: str, address: str, page: Any) -> None:
    opened(page, f"{address}/_static/course/{name}")
    assert page.evaluate(FORMULAS) == []
    assert page.evaluate("() => document.querySelectorAll('mjx-merror').length") == 0
    text = page.locator("main").inner_text()
    assert "\\(" not in text
    assert "\\[" not in text
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(OVERFLOW) == [], width
    page.set_viewport_size({"width": 1280, "height": 800})
    page.evaluate("() => scrollTo(0, 0)")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => Math.abs(document.querySelector('#s2').getBoundingClientRect().top) < 2")
    assert page.complaints == []
