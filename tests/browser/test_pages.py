"""Every page of the built book as a reader has it, without a network: wide and narrow, light and dark."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import HTML, different, pages

WIDTHS = (1280, 390)
DARK = {
    f"{name}.html" for name in ("book/intro", "book/api", "book/verdicts", "notebooks/ch08_damping", "notebooks/table03_arc")
}
# Elements that stick out of the window, with what they are; what scrolls on its own may be wider than the window.
OVERFLOW = """() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width + 1) return [];
    const scrolls = element => {
        for (let e = element.parentElement; e; e = e.parentElement)
            if (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX)) return true;
        return false;
    };
    return [...document.querySelectorAll("main *")]
        .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e))
        .slice(0, 3).map(e => e.outerHTML.slice(0, 120)).concat(`${document.documentElement.scrollWidth} > ${width}`);
}"""
# an image without a description gets its file name for one
IMAGES = """() => [...document.images]
    .filter(image => !image.complete || !image.naturalWidth || !image.alt.includes(" "))
    .map(image => image.outerHTML.slice(0, 200))"""
FORMULAS = """() => [...document.querySelectorAll(".math")].filter(e => !e.querySelector("mjx-container") || e.querySelector("mjx-merror"))
    .map(e => e.textContent.slice(0, 100))"""


# Half a minute of checking a page becomes seconds without more of the same: long tables and code, and MathJax's own elements.
MORE_OF_THE_SAME = """() => {
    document.querySelectorAll("tbody tr:nth-child(n+9), mjx-container").forEach(e => e.remove());
    [...document.querySelectorAll("div.highlight")].slice(4).forEach(e => e.remove());
}"""


def opened(page: Any, url: str) -> None:
    page.goto(url)
    page.evaluate("() => window.MathJax ? MathJax.startup.promise.then(() => null) : null")
    # images below the window are loaded when they are scrolled to
    page.evaluate("() => document.querySelectorAll('img[loading=lazy]').forEach(image => image.loading = 'eager')")
    page.wait_for_function("() => [...document.images].every(image => image.complete)")


def coloured(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(f"() => document.documentElement.dataset.theme === '{scheme}'")


DIFFERENT = different()
ALL = [path if path in DIFFERENT else pytest.param(path, marks=pytest.mark.nightly) for path in pages()]
"""Every page; of those that are made of one template all but two by night."""


@pytest.mark.parametrize("path", ALL)
def test_page(path: str, address: str, page: Any) -> None:
    """Formulas are drawn, images are there and described, nothing sticks out, and axe-core finds nothing serious."""
    opened(page, f"{address}/{path}")
    assert page.evaluate(FORMULAS) == []
    assert page.evaluate(IMAGES) == []
    for scheme in ("light", "dark"):
        coloured(page, scheme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(OVERFLOW) == [], (scheme, width)
    assert page.complaints == []
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.evaluate(MORE_OF_THE_SAME)
    # the colours of the dark scheme are the same on all pages, so there a few are enough
    for scheme in ("light", "dark") if path in DARK else ("light",):
        coloured(page, scheme)
        assert serious(page) == [], scheme


def serious(page: Any) -> list[tuple[str, str]]:
    """What axe-core finds serious or critical on a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]


def test_from_a_folder(page: Any) -> None:
    """Unpacked from a zip, without a server: formulas are drawn and the search works."""
    opened(page, (HTML / "book" / "intro.html").as_uri())
    assert page.evaluate(FORMULAS) == []
    assert page.locator("mjx-container").count() > 0
    page.goto((HTML / "search.html").as_uri() + "?q=damping")
    page.wait_for_selector("#search-results li")


def test_search(address: str, page: Any) -> None:
    page.goto(f"{address}/search.html?q=damping")
    page.wait_for_selector("#search-results li")
    titles = page.locator("#search-results li a").all_text_contents()
    assert any("damping" in title.lower() for title in titles)
    assert page.complaints == []


def test_keyboard(address: str, page: Any) -> None:
    """The first stop of the tab key is the link past the navigation."""
    opened(page, f"{address}/book/intro.html")
    page.keyboard.press("Tab")
    assert "skip" in page.evaluate("() => document.activeElement.textContent").lower()


def test_sliders(address: str, page: Any) -> None:
    """The knobs of the chapter on damping move with the arrow keys and say what they found."""
    opened(page, f"{address}/notebooks/ch08_damping.html")
    said = [page.locator("#ch08-say").text_content()]
    for knob in ("#ch08-d", "#ch08-l"):
        page.locator(knob).focus()
        page.keyboard.press("ArrowRight")
        said.append(page.locator("#ch08-say").text_content())
    assert len(set(said)) == 3
    assert all("damage ratio" in words for words in said)


def test_without_scripts_the_sliders_leave_a_table(address: str, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    found = context.new_page()
    found.goto(f"{address}/notebooks/ch08_damping.html")
    assert found.locator("#ch08 noscript table tr").count() > 5
    context.close()
