import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from unlearn_lib.command.cli import main
from unlearn_lib.methods import METHODS
from unlearn_lib.reproduction.inventory import ITEMS


def invoke(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_methods() -> None:
    code, out, _ = invoke("methods", "--json")
    assert code == 0
    assert [row["name"] for row in json.loads(out)] == list(METHODS)
    code, out, _ = invoke("methods")
    assert "fisher-removal: algorithm 2 of arXiv 2403.10557, needs retain" in out


def test_list_has_one_line_for_each_id() -> None:
    code, out, _ = invoke("reproduce", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(ITEMS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reproduce"], "name what to reproduce"),
        (["reproduce", "fig99"], "unknown table or figure 'fig99'; choose one of: five_minutes, ch01, ch02"),
        (["reproduce", "fig05", "-p", "sed=1"], "unknown parameter 'sed' of fig05_cycles.ipynb; choose one of: profile, seed"),
        (["reproduce", "fig05", "-p", "seed"], "a parameter is given as key=value, got 'seed'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], message: str) -> None:
    code, out, err = invoke(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"unlearn: {message}")
    assert err.count("\n") == 1


def test_help_is_fast_because_torch_is_not_imported() -> None:
    code = "import sys; from unlearn_lib.command.cli import main; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
