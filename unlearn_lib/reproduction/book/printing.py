"""The built book as one PDF: a headless browser prints every page, and the pages are joined under an outline of the book's parts."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.files import new_file
from unlearn_lib.progress import Say

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
READY = """async () => {
    document.querySelectorAll("img[loading=lazy]").forEach(image => image.loading = "eager");
    if (window.MathJax) await MathJax.startup.promise;
    await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
}"""
# the text without what surrounds it on a screen, and without the code that is folded there
STYLE = """
.bd-header, .bd-header-article, .bd-sidebar-primary, .bd-sidebar-secondary, .prev-next-footer, .bd-footer, .headerlink, #jb-print-docs-body,
details.above-input { display: none !important; }
.bd-article-container, .bd-page-width { max-width: none !important; }
div.highlight pre { white-space: pre-wrap !important; font-size: 8pt !important; background: #f5f5f5 !important; }
table { font-size: 8pt; }
.cell_output .text_html, .pst-scrollable-table-container { overflow: visible !important; background: none !important; }
mjx-container[display="true"] { overflow: visible !important; background: none !important; font-size: 88% !important; }
html { font-size: 11pt; }
"""


def print_book(root: Path, target: Path, report: Say = print) -> Path:
    """Print the book of the checkout at `root`, which has to be built before, to one PDF; returns its path.

    Args:
        root: The checkout.
        target: The file to write.
        report: Is told of every page.

    Raises:
        InputError: The book is not built, or there is no browser, playwright or pypdf here.
    """
    try:
        from playwright.sync_api import sync_playwright
        from pypdf import PdfReader, PdfWriter
    except ImportError as error:
        raise InputError(f"{error.name} is missing; install the extra: pip install -e '.[pdf]'") from error

    html = root / "build" / "_build" / "html"
    if not html.is_dir():
        raise InputError("there is no built book to print; build it first with: unlearn book")
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise InputError(
            f"there is no browser here that could print (looked for {', '.join(BROWSERS)}); on Debian: apt-get install chromium"
        )
    writer = PdfWriter()
    writer.add_metadata({"/Title": "Second-order machine unlearning", "/Author": "The unlearn_lib developers"})
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=list(SWITCHES))
        page = running.new_page(color_scheme="light")
        for part, files in parts(root / "build" / "src" / "_toc.yml"):
            above: Any = None
            for file in files:
                title, printed = _printed(page, html / f"{file}.html")
                at = len(writer.pages)
                writer.append(PdfReader(io.BytesIO(printed)), import_outline=False)
                above = above or (writer.add_outline_item(title=part, page_number=at) if part else None)
                writer.add_outline_item(title=title, page_number=at, parent=above)
                report(f"printed: {file}")
        running.close()
    writer.compress_identical_objects()
    with new_file(target) as temporary:
        writer.write(temporary)
    return target


def parts(toc: Path) -> Iterator[tuple[str, list[str]]]:
    """(caption, pages) of every part of a book's table of contents; the first page comes without a caption, and what stands below a page
    is left out."""
    import yaml

    content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    yield "", [content["root"]]
    for part in content["parts"]:
        yield part["caption"], [chapter["file"] for chapter in part["chapters"]]


def _printed(page: Any, path: Path) -> tuple[str, bytes]:
    """The title of a page of HTML, and the page as PDF."""
    page.goto(path.as_uri())
    page.evaluate(READY)
    page.add_style_tag(content=STYLE)
    title = page.locator("h1").first.evaluate(
        "e => [...e.childNodes].filter(n => n.className != 'headerlink').map(n => n.textContent).join('')"
    )
    margin = {"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"}
    number = '<div style="font-size:8pt;width:100%;text-align:center">Second-order machine unlearning</div>'
    return title.strip(), page.pdf(
        format="A4",
        margin=margin,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=number,
    )
