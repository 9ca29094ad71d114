"""A built book becomes one PDF with an outline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.book import printing

PAGE = "<html><body><main><h1>{title}<a class='headerlink'>#</a></h1><p>Words of {title}.</p></main></body></html>"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A checkout with a built book of three pages."""
    html = tmp_path / "build" / "_build" / "html" / "book"
    html.mkdir(parents=True)
    for name in ("intro", "one", "two"):
        (html / f"{name}.html").write_text(PAGE.format(title=f"Page {name}"))
    (tmp_path / "build" / "src").mkdir()
    toc = "root: book/intro\nparts:\n- caption: A part\n  chapters:\n  - file: book/one\n  - file: book/two\n    sections: []\n"
    (tmp_path / "build" / "src" / "_toc.yml").write_text(toc)
    return tmp_path


def test_parts_of_the_table_of_contents(book: Path) -> None:
    assert list(printing.parts(book / "build/src/_toc.yml")) == [("", ["book/intro"]), ("A part", ["book/one", "book/two"])]


def test_every_page_is_printed_under_its_part(book: Path) -> None:
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed here; pip install -e '.[pdf]'")
    if not any(shutil.which(name) for name in printing.BROWSERS):
        pytest.skip("there is no browser here that could print; on Debian: apt-get install chromium")
    said: list[str] = []
    made = pypdf.PdfReader(printing.print_book(book, book / "book.pdf", said.append))
    assert said == ["printed: book/intro", "printed: book/one", "printed: book/two"]
    first, part, below = made.outline
    assert (first.title, part.title, [one.title for one in below]) == ("Page intro", "A part", ["Page one", "Page two"])
    assert [made.get_destination_page_number(one) for one in below] == [1, 2]
    assert "Words of Page two." in made.pages[2].extract_text()


def test_without_a_book_nothing_is_printed(tmp_path: Path) -> None:
    pytest.importorskip("pypdf", reason="pypdf is not installed here; pip install -e '.[pdf]'")
    with pytest.raises(InputError, match="there is no built book to print; build it first with: unlearn book"):
        printing.print_book(tmp_path, tmp_path / "book.pdf")


def test_without_a_browser_nothing_is_printed(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypdf", reason="pypdf is not installed here; pip install -e '.[pdf]'")
    monkeypatch.setattr(printing.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="there is no browser here that could print"):
        printing.print_book(book, book / "book.pdf")
    assert not (book / "book.pdf").exists()
