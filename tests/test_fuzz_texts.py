"""Whatever a file of texts holds, it is read, or refused in one sentence: no other error, no partial result, no memory without end."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest
from fuzz import NAMES, fuzz, inputs, json_texts, memory, outcome, spoiled
from hypothesis import strategies as st

from unlearn_lib.data.files import read_rows, write_rows
from unlearn_lib.data.given import rows_of

# everything UTF-8 can say, with a weight on what readers trip over
TEXTS = st.text(max_size=30) | st.text(alphabet="a ,;\"'\n\r\t\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x00\ufeff\\", max_size=12)
FULL = TEXTS.filter(str.strip)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": FULL}), min_size=1, max_size=3
)
ROWS = st.lists(
    st.fixed_dictionaries({"text": FULL})
    | st.fixed_dictionaries({"prompt": TEXTS, "completion": FULL})
    | st.fixed_dictionaries({"messages": MESSAGES}),
    min_size=1,
    max_size=5,
)


def read_or_refused(path: Path) -> Callable[[bytes], None]:
    again = path.with_name("again.jsonl")

    def check(content: bytes) -> None:
        path.write_bytes(content)
        rows, refusal = outcome(lambda: read_rows(path))
        if refusal is not None:
            assert refusal.startswith(str(path))
        else:
            assert rows
            again.write_bytes(write_rows(rows).encode())
            assert read_rows(again) == rows

    return check


def as_csv(columns: tuple[str, ...], rows: list[tuple[str, ...]], end: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([columns, *rows])
    return out.getvalue().encode()


@inputs()
def test_rows_written_are_the_rows_read(number: int, tmp_path: Path) -> None:
    def check(rows: list[dict[str, Any]]) -> None:
        (tmp_path / "a.jsonl").write_bytes(write_rows(rows).encode())
        assert read_rows(tmp_path / "a.jsonl") == rows == rows_of(rows)

    fuzz(number, ROWS, check)


@inputs()
def test_a_table_written_by_the_csv_module_is_read_to_the_character(number: int, tmp_path: Path) -> None:
    def check(given: tuple[list[tuple[str, str]], str]) -> None:
        pairs, end = given
        (tmp_path / "a.csv").write_bytes(as_csv(("completion", "prompt"), pairs, end))
        assert read_rows(tmp_path / "a.csv") == [{"prompt": prompt, "completion": completion} for completion, prompt in pairs]

    fuzz(number, st.tuples(st.lists(st.tuples(FULL, TEXTS), min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"])), check)


@inputs()
def test_json_of_any_kind(number: int, tmp_path: Path) -> None:
    lines = st.lists(json_texts(NAMES), max_size=3).map(lambda values: "\n".join(values).encode("utf-8", "surrogatepass"))
    with memory(2048):
        fuzz(number, spoiled(lines), read_or_refused(tmp_path / "a.jsonl"))


@inputs()
def test_spoiled_lines_of_json(number: int, tmp_path: Path) -> None:
    with memory(2048):
        for suffix in (".jsonl", ".json"):
            lines = ROWS.map(lambda rows: write_rows(rows).encode())
            fuzz(number // 2, spoiled(lines), read_or_refused(tmp_path / f"a{suffix}"))


@inputs()
def test_spoiled_tables_of_csv(number: int, tmp_path: Path) -> None:
    tables = st.builds(
        as_csv,
        st.sampled_from([("text", "id"), ("prompt", "completion"), ("text", "text"), ("a", "b")]),
        st.lists(st.tuples(FULL, TEXTS), max_size=4),
        st.sampled_from(["\n", "\r\n", "\r"]),
    )
    with memory(2048):
        fuzz(number, spoiled(tables, [b",", b'""', b'"\n', b";"]), read_or_refused(tmp_path / "a.csv"))


def parquet_files() -> list[bytes]:
    """Small ones of many kinds: types, compressions, encodings, row groups, nested, without rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"text {i} \u2028" for i in range(20)]
    messages = [[{"role": "user", "content": text, "name": None}] for text in texts]
    found = []
    for columns, options in (
        ({"text": texts, "id": list(range(20))}, {"compression": "none"}),
        ({"text": texts}, {"compression": "zstd", "row_group_size": 7}),
        ({"prompt": texts, "completion": texts}, {"compression": "snappy", "use_dictionary": False}),
        ({"prompt": texts, "completion": [None, *texts[1:]]}, {"column_encoding": "DELTA_BYTE_ARRAY", "use_dictionary": False}),
        ({"messages": messages}, {"compression": "gzip", "data_page_version": "2.0"}),
        ({"text": pa.array(texts).dictionary_encode()}, {"compression": "brotli"}),
        ({"text": pa.array([], pa.string())}, {}),
        ({"text": [1.5] * 20}, {"use_byte_stream_split": True, "use_dictionary": False}),
    ):
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out, **options)
        found.append(out.getvalue())
    return found


@inputs()
def test_spoiled_parquet(number: int, tmp_path: Path) -> None:
    files = parquet_files()
    with memory(4096):
        fuzz(
            number,
            spoiled(st.sampled_from(files), [b"PAR1", b"\xff\xff\xff\x7f", b"\x80" * 9 + b"\x01"]),
            read_or_refused(tmp_path / "a.parquet"),
        )


@inputs()
def test_python_data_of_any_kind(number: int) -> None:
    leaves = (
        st.sampled_from([None, True, float("nan"), b"bytes"])
        | st.sampled_from(["enormous"]).map(lambda _: 10**5000)
        | st.integers()
        | st.text(st.characters(), max_size=8)  # also halves of surrogate pairs
    )
    anything = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(NAMES) | st.integers() | st.booleans().map(lambda _: 10**5000), inner, max_size=4)
            | st.tuples(inner)
            | st.frozensets(st.integers(), max_size=2)
        ),
        max_leaves=10,
    )
    messages = st.lists(st.fixed_dictionaries({"role": anything, "content": anything}), max_size=2)

    def check(data: Any) -> None:
        rows, _ = outcome(lambda: rows_of(data, "forget"))
        assert rows_of(rows) == rows

    fuzz(
        number,
        anything | st.lists(anything, max_size=3) | st.lists(st.fixed_dictionaries({"messages": messages}), max_size=2),
        check,
    )


@inputs(few=30, many=1000)
def test_the_command_line_says_one_sentence(number: int, tmp_path: Path) -> None:
    from unlearn_lib.command.cli import main

    files = st.sampled_from([".jsonl", ".csv", ".parquet"]).flatmap(
        lambda suffix: st.tuples(
            st.just(suffix), spoiled(st.sampled_from([b'{"text": "a"}\n{"tex', b'text\n"a', *parquet_files()[:2]]))
        )
    )
    runner = click.testing.CliRunner()

    def check(given: tuple[str, bytes]) -> None:
        suffix, content = given
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        # the model is looked for after the texts were read
        options = {"model": tmp_path / "none", "forget": path, "out": tmp_path / "out", "method": "gradient-ascent"}
        result = runner.invoke(main, ["run", *(f"--{name}={value}" for name, value in options.items())])
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit)
        assert result.stderr.startswith("unlearn: ")
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()

    fuzz(number, files, check)


def test_the_fixed_set_finds_what_it_is_for(tmp_path: Path) -> None:
    """A reader that does what the library's did is caught: lines by `splitlines`."""

    def lines(rows: list[dict[str, Any]]) -> None:
        assert len(write_rows(rows).splitlines()) == len(rows)

    with pytest.raises(AssertionError):
        fuzz(200, ROWS, lines)
