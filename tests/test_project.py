"""What the project promises about itself: pins, files, no machine-specific text."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from unlearn_lib import __version__

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIRED = ("torch", "transformers", "datasets", "jupyter-book", "matplotlib", "seaborn", "papermill", "pytest", "nbval")


def tracked() -> list[Path]:
    try:
        out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in out.split("\0") if name and (ROOT / name).is_file()]


def requirements() -> list[str]:
    extras = PYPROJECT["project"]["optional-dependencies"]
    return [*PYPROJECT["project"]["dependencies"], *(line for extra in extras.values() for line in extra)]


def test_constraints_pin_everything_that_is_required_without_hosts_or_local_builds() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {
        name.lower().replace("_", "-"): version
        for name, version in (line.split("==") for line in lines if line and not line.startswith("#"))
    }
    assert pins["torch"] == "2.13.0"
    assert "://" not in "".join(lines)
    assert not [version for version in pins.values() if "+" in version]
    for requirement in requirements():
        name = re.split(r"[<>=\[ ]", requirement)[0]
        if name != "unlearn_lib":
            assert name.lower().replace("_", "-") in pins, name
    assert set(REQUIRED) <= set(pins)
    assert pins["jupyter-book"].startswith("1.")
    assert pins["sphinx-book-theme"].startswith("1.1.")


def test_bounds_that_matter_are_in_pyproject() -> None:
    assert {"jupyter-book>=1.0.4,<2", "sphinx-book-theme<1.2"} <= set(requirements())


def test_environment_installs_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]


def test_versions_agree() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_and_readme_name_the_same_commands() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    for command in ("make book", "make test"):
        assert command in readme
        assert command in ci


def test_no_pickle_and_no_path_of_a_machine() -> None:
    bad_suffixes = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy"}
    for path in tracked():
        assert path.suffix not in bad_suffixes, path
        if path.suffix in {".py", ".md", ".toml", ".yml", ".txt", ".cfg", ".json", ".ipynb", ".cff", ""} and path != Path(
            __file__
        ):
            text = path.read_text()
            assert not re.search(r"(?<![\w.])/(home|root|work|Users)/\w", text), path
            assert "trust_remote_code=True" not in text, path
