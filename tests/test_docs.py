"""What the README tells a reader to run, runs."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from unlearn_lib import save_model
from unlearn_lib.command.cli import main
from unlearn_lib.data.files import write_rows

ROOT = Path(__file__).parents[1]
FRAGMENTS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_code_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in FRAGMENTS:  # one after the other, as a reader would
        exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "unlearned" / "model.safetensors").exists()
    assert names["step"].converged  # type: ignore[attr-defined]


def test_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in re.findall(r"make (\w+)", readme))


def prose() -> list[tuple[str, str]]:
    """(file, Markdown) of everything a reader reads."""
    files = [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md")]
    found = [(path.name, path.read_text()) for path in files]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        found.append((path.name, "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")))
    return found


def test_python_in_prose_is_run() -> None:
    """Code stands in the cells of the notebooks, which are executed. Fragments in prose are run by the tests of this file."""
    assert [name for name, text in prose() if "```python" in text] == ["README.md", "private_data.md", "cluster.ipynb"]


def test_code_of_the_page_on_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    """In one process, where it does what it does in several."""
    monkeypatch.chdir(tmp_path)
    save_model(tiny("opt", torch.float32), tokenizer, tmp_path / "my-model")
    short = [{"text": row["text"][:60]} for row in texts]
    for name, rows in (("forget", short[:3]), ("retain", short[3:12]), ("unseen", short[12:18])):
        Path(f"{name}.jsonl").write_text(write_rows(rows), encoding="utf-8")
    notebook = json.loads((ROOT / "notebooks/cluster.ipynb").read_text(encoding="utf-8"))
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(code, "cluster.ipynb", "exec"), {})
    assert (tmp_path / "unlearned" / "config.json").is_file()


def test_code_of_the_page_on_private_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, file, column in (("transcriptions", "mtsamples.csv", "transcription"), ("mails", "emails.csv", "message")):
        (tmp_path / "my" / folder).mkdir(parents=True)
        texts = [f"From: a\nSubject: lunch {i}\n\nNote {i}. {'word ' * 60}" for i in range(60)]
        pd.DataFrame({column: texts}).to_csv(tmp_path / "my" / folder / file)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "book/private_data.md").read_text(), flags=re.DOTALL)
    exec(compile(code, "private_data.md", "exec"), {})


def test_commands_in_prose_have_these_options() -> None:
    seen = 0
    for name, text in prose():
        fences = "".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL))
        lines = [
            *re.findall(r"`(unlearn [a-z]+[^`]*)`", text),
            *re.findall(r"^\s*(unlearn [a-z]+.*)$", fences, flags=re.MULTILINE),
        ]
        for line in lines:
            words = line.split("  ")[0].split()
            assert words[1] in main.commands, (name, line)
            options = {option for parameter in main.commands[words[1]].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, (name, line)
            seen += 1
    assert seen > 10
