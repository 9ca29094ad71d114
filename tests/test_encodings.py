"""Every file of text is opened as UTF-8, by name: the locale's encoding is another one on some machines."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def left_to_the_locale(source: str) -> list[int]:
    """The lines that open a text file, or read a process, without saying the encoding (as ruff's PLW1514, which is no stable rule)."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        keywords = {word.arg: word.value for word in call.keywords}
        own = (
            call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
        )
        if "encoding" in keywords or None in keywords:
            continue
        if own in ("read_text", "write_text"):
            # the library's own write_text(path, text) is always UTF-8
            bad = isinstance(call.func, ast.Attribute)
        elif own in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile"):
            binary = own.endswith("TemporaryFile")  # their default
            modes = [arg.value for arg in (*call.args, keywords.get("mode")) if isinstance(arg, ast.Constant)]
            text = [mode for mode in modes if isinstance(mode, str) and set(mode) <= set("rwaxbt+")]
            of_another = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in (
                "os",
                "tokenize",
                "tarfile",
                "zipfile",
            )
            bad = not of_another and not (any("b" in mode for mode in text) or (binary and not text))
        else:
            bad = "text" in keywords and own in ("run", "Popen", "check_output")
        if bad:
            found.append(call.lineno)
    return found


def test_what_is_found() -> None:
    lines = [
        "open('a')",
        "open('a', 'rb')",
        "Path('a').read_text()",
        "path.open('w')",
        "path.open('wb')",
        "open('a', encoding='utf-8')",
        "write_text(path, text)",
        "subprocess.run([], text=True)",
        "os.open('a', 0)",
    ]
    assert left_to_the_locale("\n".join(lines)) == [1, 3, 4, 8]


@pytest.mark.parametrize("folder", ["unlearn_lib", "benchmarks"])
def test_no_text_file_is_left_to_the_locale(folder: str) -> None:
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (lines := left_to_the_locale(path.read_text(encoding="utf-8")))
    }
    assert found == {}
