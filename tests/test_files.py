"""A user's files: formats, and errors that name the line."""

import base64
import errno
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from unlearn_lib.data.files import checked_row, read_rows, row_sha256, write_rows
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


SEPARATORS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \x1f \x00"


def refused(path: Path, content: bytes | str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_rows(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def test_only_a_newline_ends_a_line_of_json(tmp_path: Path) -> None:
    """What Unicode and `str.splitlines` call line boundaries is content, escaped or not."""
    path, rows = tmp_path / "a.jsonl", [{"text": f"one{SEPARATORS}two\r\nthree\rfour"}, {"text": "next"}]
    path.write_bytes(write_rows(rows).encode())
    assert read_rows(path) == rows
    path.write_bytes('{"text": "one@two"}\r\n\r\n{"text": "next"}\r\n'.replace("@", SEPARATORS).encode())
    assert read_rows(path) == [{"text": f"one{SEPARATORS}two"}, {"text": "next"}]
    assert refused(path, '{"text": "a@b"}\r\n{"text"'.replace("@", SEPARATORS)).startswith(":2: not valid JSON")


def test_csv_keeps_every_character(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f'\ufeffid,text\r\n1,"one\r\ntwo\nthree\rfour, ""so"""\r\n2,a{SEPARATORS}b 5" c\r\n3,NA\r\n'.encode())
    assert read_rows(path) == [
        {"text": 'one\r\ntwo\nthree\rfour, "so"'},
        {"text": f'a{SEPARATORS}b 5" c'},
        {"text": "NA"},
    ]


def test_fields_of_any_length(tmp_path: Path) -> None:
    long = "word " * 60_000
    for name, content in (("a.csv", f"text\n{long}\nshort\n"), ("a.jsonl", write_rows([{"text": long}, {"text": "short"}]))):
        (tmp_path / name).write_text(content)
        assert read_rows(tmp_path / name) == [{"text": long}, {"text": "short"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text;label\na;1\n", ":1: its columns seem to be separated by semicolons"),
        ("label\ttext\n1\ta\n", ":1: its columns seem to be separated by tabs"),
        ("content,label\na,1\n", ":1: needs the column 'text', or 'prompt' and 'completion'; it has: content, label"),
        ("text,text\na,b\n", ":1: two columns have the same name"),
        ('text\n"one\ntwo"\n\nthree, four\n', ":5: 2 fields where the header names 1 columns"),
        ('id,text\n1,"a\r\n\r\nb"\r\n2\r\n', ":5: 1 fields where the header names 2"),
        ('text\na\n"never closed\nb\nc\n', ":3: a quote is opened in this row and never closed"),
        ('text\n"a\nb"\n"  "\n', ":4: column 'text' is empty"),
        (b"text\nab\ncd\xffe\n", ":3: not UTF-8 text (invalid start byte at byte 10)"),
        ("text\na\n".encode("utf-16"), ": not UTF-8 text but UTF-16"),
        ("text\n", ": the file has no rows"),
        ("\n\n", ": the file has no rows"),
        ("", ": the file has no rows"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(content: bytes | str, message: str, tmp_path: Path) -> None:
    assert refused(tmp_path / "a.csv", content).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "fine"}\n{"text": "a\\ud83d b"}', ":2: column 'text' holds half of a surrogate pair (U+D83D, character 2)"),
        ('{"prompt": "\\udc00", "completion": "a"}', ":1: column 'prompt' holds half of a surrogate pair"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', ":1: message 1 'content' holds half of a surrogate"),
        ('{"text": "a", "text": "b"}', ":1: the name 'text' stands twice"),
        ("[" * 100_000, ":1: lists and objects are nested too deeply"),
        ('{"text": "a", "n": ' + "[" * 100_000 + "]" * 100_000 + "}", ":1: lists and objects are nested too deeply"),
        ('{"messages": [{"role": "a", "content": "b", "c": ' + "[" * 60 + "]" * 60 + "}]}", ":1: message 1 'c' is nested more"),
        ('{"text": ' + "9" * 5000 + "}", ":1: a number has too many digits"),
        (
            '{"text": null}',
            ":1: needs the column 'text', or 'prompt' and 'completion', as strings, or 'messages'; it has: text (null)",
        ),
        (
            '{"text": ["a"], "id": 3}',
            ":1: needs the column 'text', or 'prompt' and 'completion', as strings, or 'messages'; it has: text (a list), id",
        ),
        ('{"prompt": "a", "completion": 1e999}', ":1: needs the column 'text'"),
        ('{"messages": [{"role": "user", "content": "a", "x": 1e999}]}', ":1: message 1 'x' holds inf"),
        ('{"messages": ["hello"]}', ":1: message 1 must be an object with a 'role'"),
        ('{"messages": [{"role": "user"}]}', ":1: message 1 has a 'content' that is null"),
        ('{"messages": []}', ":1: needs the column 'text'"),
        (b'{"text": "a"}\n{"text": "\xc3"}', ":2: not UTF-8 text (invalid continuation byte at byte 24)"),
        (b'\xef\xbb\xbf{"text": "\xff"}', ":1: not UTF-8 text (invalid start byte at byte 13)"),
        ('{"text": "a"}\n'.encode("utf-16"), ": not UTF-8 text but UTF-16"),
        (
            '{"\x1b[31m": 1}',
            ":1: needs the column 'text', or 'prompt' and 'completion', as strings, or 'messages'; it has: '\\x1b[31m'",
        ),
        ("\n \r\n\t\n", ": the file has no rows"),
    ],
)
def test_a_bad_line_of_json_is_refused_with_its_number(content: bytes | str, message: str, tmp_path: Path) -> None:
    assert refused(tmp_path / "a.jsonl", content).startswith(message)


def test_a_json_file_may_be_one_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\n" + json.dumps(ROWS, indent=1))
    assert read_rows(path) == ROWS
    path.write_text(write_rows(ROWS))
    assert read_rows(path) == ROWS
    assert refused(path, '[{"text": "a"},\n {"text": 5}]').startswith(", row 2: needs the column 'text'")
    assert refused(path, '[{"text": "a"},').startswith(": not valid JSON")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    os.mkfifo(tmp_path / "b.jsonl")
    for name, message in (("a.jsonl", "is a folder; give one file"), ("b.jsonl", "is a pipe or a device")):
        with pytest.raises(InputError, match=message):
            read_rows(tmp_path / name)
    with pytest.raises(InputError, match="is a pipe or a device"):
        read_rows("/dev/null")
    with pytest.raises(InputError, match="there is no such file"):
        read_rows(tmp_path / ("a" * 5000 + ".jsonl"))


def parquet(path: Path, **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


def test_bad_values_in_parquet(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "a.parquet"
    for column, message in (
        (pa.array(["a", None]), "row 2: needs the column 'text', .* it has: text \\(null\\)"),
        (pa.array([1, 2]), "row 1: needs .* it has: text \\(a number\\)"),
        (pa.array([["a"], ["b"]]), "row 1: needs .* it has: text \\(a list\\)"),
        (pa.array([b"a", b"b"]), "row 1: needs .* it has: text \\(bytes\\)"),
        (pa.array([b"a", b"\xff"]).view(pa.string()), "not a Parquet file that can be read"),
        (pa.array([{"a": "b"}]), "row 1: needs"),
        (pa.array([], pa.string()), "the file has no rows"),
    ):
        with pytest.raises(InputError, match=f"^{path}.*{message}"):
            read_rows(parquet(path, text=column))
    with pytest.raises(InputError, match=r"needs the column 'text', .*; it has: content"):
        read_rows(parquet(path, content=["a"]))


def test_messages_from_a_table_are_those_of_json(tmp_path: Path) -> None:
    """A table gives every message every key; those without a value are left out."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "c"}]
    (tmp_path / "a.jsonl").write_text(write_rows([{"messages": messages}]))
    expected = [{"messages": messages}]
    assert read_rows(parquet(tmp_path / "a.parquet", messages=[messages])) == read_rows(tmp_path / "a.jsonl") == expected


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", text=[f"text {i}" * 20 for i in range(50)])
    whole = path.read_bytes()
    for content in (
        whole[:-20],
        whole[: len(whole) // 2],
        whole[:30] + b"\xff" * 60 + whole[90:],
        b"PAR1" + b"\0" * 20 + b"PAR1",
    ):
        assert refused(path, content).startswith(": not a Parquet file that can be read")


def test_a_large_claim_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 500_000] * 600}), path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", never)
    with pytest.raises(InputError, match=r"say that they hold, 286 MiB; at most 256 MiB are read"):
        read_rows(path)


DAMAGED = (
    "c-jka3^EjD5WT=6`ioIVR0GIl6J?VzW6<C#Nv$YRuvB=|utEaDHUO~&1sNC^RxtT60VxeeE+C1J6XjztG~#1mFai<AAi@Mhn1Tp15Md4?EI@=M"
    "BOe2|U=M>KYp*0fYabBz1MvhPo(RN~fOs+xPXXeo7ThpP48g7$Vy<P8v@vCnU@K0}NX<<YWnmEIQDu@~D=5m(EhtfC@R0#32Mci}14VLDOEUBG"
    "pu%Drk}{GyY78=>Jd&zx43aQiqD*2MVw+gS?l7rw*x>cMqzo{G7(|&EY{dTm|6ebu#-IT-7s*5<OOZ@{!bG&OOPD3upvH<l;S$qO;}F}y3RED$"
    ";}{g=A8rNlw!{NQeGo8n1c5+D2=I1vEO&HDcXV@fOm}on2a7p5IXe1+7|xE4o?rn4?FeByxx)E=AwWYdfDBhRh+sL0bajM-e2`#Pl96F~l6#mz"
    "Vz_0gqoa!_$SFWYp&)yK_IrTb0d|)YOdl@uBEf>mxt1l#9)U0|V0i`!g@VMQ!qU_d-Q<D--Nd4z{Bnh|)S_Zw&?*?2=^5x5O6mY(6%?@|z~mSJ"
    "%y$6V&B_)"
)


def test_damage_that_ends_the_process_in_pyarrow_is_refused(tmp_path: Path) -> None:
    """Where statistics do not fit their column, pyarrow 26.0 throws what nothing catches, as soon as it is asked about the column."""
    path = tmp_path / "a.parquet"
    path.write_bytes(zlib.decompress(base64.b85decode(DAMAGED)))
    code = (
        "import sys; from unlearn_lib.data.files import read_rows\ntry: read_rows(sys.argv[1])\nexcept ValueError: sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 2


def test_a_small_file_that_unpacks_to_more_than_it_can_mean_is_refused(tmp_path: Path) -> None:
    """By what it says before anything is read; and where it says little, because a text stands there once and counts a million
    times, by what comes out."""
    import resource

    import pyarrow as pa

    said = parquet(tmp_path / "said.parquet", text=pa.array(["a" * 1_000_000] * 270))
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), ["a" * 50_000])
    silent = parquet(tmp_path / "silent.parquet", text=repeated)
    text_alone = parquet(tmp_path / "plain.parquet", text=pa.array(["a" * 50_000] * 6000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in (said, silent, text_alone):
        assert path.stat().st_size < 200_000
        with pytest.raises(InputError, match=r"bytes that hold, or say that they hold, [0-9,]+ MiB; at most"):
            read_rows(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024  # KiB; of 46 GiB


def test_a_text_is_what_is_scored_of_it() -> None:
    text = {"text": "One"}
    assert row_sha256(text) == row_sha256({"id": 7, "text": "One", "prompt": None})
    assert row_sha256(text) != row_sha256({"text": "One "})
    messages = [{"role": "user", "content": "a"}]
    assert row_sha256({"messages": messages}) == row_sha256({"messages": [messages[0] | {"name": None}], "source": "x"})
    assert checked_row({"id": 7, **text}, "row 3") == text
    with pytest.raises(InputError, match="row 3: needs the column 'text'"):
        checked_row({"id": 7}, "row 3")


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
