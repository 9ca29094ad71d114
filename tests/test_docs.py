"""What the README tells a reader to run, runs."""

import re
from pathlib import Path

import pytest

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
