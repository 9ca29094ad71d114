"""A user's files: formats, and errors that name the line."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from unlearn_lib.data.files import read_rows, write_rows
from unlearn_lib.errors import InputError
from unlearn_lib.files import new_folder, write_text

ROWS = [{"text": "One, two."}, {"text": 'Drei, "vier" \u2013 f\u00fcnf.'}]


def test_three_formats(tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "a.jsonl").write_text(write_rows(ROWS), encoding="utf-8")
    pd.DataFrame(ROWS).assign(other=1).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame(ROWS).assign(other=1).to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert read_rows(tmp_path / name) == ROWS


def test_prompts_and_messages(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "completion": " A"}, {"messages": [{"role": "user", "content": "Hello"}]}]
    (tmp_path / "a.jsonl").write_text(write_rows(rows))
    assert read_rows(tmp_path / "a.jsonl") == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": "b"', ":2: not valid JSON"),
        (
            '{"text": "a"}\n\n{"txt": "b"}',
            ":3: needs the column 'text', or 'prompt' and 'completion', as strings, or 'messages'; it has: txt",
        ),
        ('{"text": 5}', ":1: needs the column 'text'"),
        ('{"text": "  "}', ":1: column 'text' is empty; remove the row"),
        ('["a"]', ":1: each row must be an object"),
        ("", ": the file has no rows"),
    ],
)
def test_bad_lines(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}')
    (tmp_path / "a.parquet").write_bytes(b"nothing of the kind")
    for name, message in (
        ("none.jsonl", "there is no such file"),
        ("a.txt", "must end in .jsonl, .csv or .parquet"),
        ("a.jsonl", "not UTF-8 text"),
        ("a.parquet", "not a Parquet file"),
    ):
        with pytest.raises(InputError, match=message):
            read_rows(tmp_path / name)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def fill(path: Path, error: type[BaseException] | None = None) -> None:
    with new_folder(path) as folder:
        (folder / "a").write_text("x")
        if error is not None:
            raise error


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()  # an empty one may be there
    fill(tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "x"
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        fill(tmp_path / "out")


def test_messages_go_through_the_chat_template(tokenizer: Any) -> None:
    import copy

    from unlearn_lib.data.batches import encode

    rows = [{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]}]
    with pytest.raises(InputError, match="no chat template"):
        encode(rows, tokenizer, 64)
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ eos_token }}"
    (example,) = encode(rows, chatty, 64).examples
    assert tokenizer.decode(example.input_ids[:-1]) == "user: Hello\nassistant: Good day\n"
    assert example.input_ids[-1] == tokenizer.eos_token_id
    assert example.input_ids.count(tokenizer.eos_token_id) == 1
