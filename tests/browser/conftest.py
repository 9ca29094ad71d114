"""The built book and a browser. `make pages` builds the one; the other is any Chromium or Chrome on this machine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

HTML = Path(__file__).parents[2] / "build" / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# the page is all there is: none of the browser's own services, which look for a network at every start
SWITCHES = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-gpu",
]


def pages() -> list[str]:
    """The pages of the book, by their path; none where it was not built."""
    found = sorted(path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html"))
    return [path for path in found if not path.startswith(("_static", "_modules")) and path != "index.html"]


def different() -> list[str]:
    """The pages without those that are made of one template: of these only the first two."""
    made = [path for path in pages() if path.startswith("book/made/")]
    return [path for path in pages() if path not in made[2:]]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless browser, driven by playwright."""
    if not HTML.exists():
        pytest.skip("there is no built book; build it first: make book")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"there is no browser here (looked for {', '.join(BROWSERS)}); on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=[*SWITCHES, "--no-sandbox"])
        yield running
        running.close()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The book behind a web server, as readers have it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(HTML))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty page in a browser that knows nothing of the pages before. What goes wrong on it is in `page.complaints`."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce")
    context.set_default_timeout(30_000)
    found = context.new_page()
    found.complaints = []
    found.on("console", lambda line: found.complaints.append(line.text) if line.type == "error" else None)
    found.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.on("requestfailed", lambda request: found.complaints.append(f"not loaded: {request.url}"))
    yield found
    context.close()
