"""Data sets as Python gives them, and the length that texts are cut to: one door, and one sentence for what does not pass it."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset

from unlearn_lib import InputError, text_losses, train, unlearn
from unlearn_lib.data.batches import context_length, sequence_length
from unlearn_lib.data.files import write_rows
from unlearn_lib.data.given import rows_of
from unlearn_lib.training.loop import TrainingConfig

TEXTS = ["A map of Tarn.", "The mill at Keld\u2028and its wheel."]
ROWS = [{"text": text} for text in TEXTS]


def stream() -> Iterator[dict[str, str]]:
    yield from ROWS


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        tuple(ROWS),
        TEXTS,
        stream(),
        iter(TEXTS),
        np.array(TEXTS),
        pd.DataFrame({"text": TEXTS, "id": [1, 2]}),
        pd.Series(TEXTS, index=[4, 7]),
        Dataset.from_list([row | {"id": 3} for row in ROWS]),
        IterableDataset.from_generator(stream),
        Dataset.from_list(ROWS).data.table,
        [{"text": np.str_(text), "prompt": None, "label": math.nan} for text in TEXTS],
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_is_plain_is_taken(data: Any) -> None:
    found = rows_of(data)
    assert found == ROWS
    assert all(type(row["text"]) is str for row in found)


def test_messages_of_a_table_are_lists_again(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert rows_of(pd.read_parquet(tmp_path / "a.parquet")) == rows_of(Dataset.from_list(rows)) == rows


def test_a_path_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(write_rows(ROWS), encoding="utf-8")
    assert rows_of(tmp_path / "a.jsonl") == rows_of(str(tmp_path / "a.jsonl")) == ROWS
    with pytest.raises(InputError, match="there is no such file"):
        rows_of(str(tmp_path / "b.jsonl"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS)),
            r"has several splits \(train, test\); .*data\['train'\]",
        ),
        ({"train": IterableDataset.from_generator(stream)}, r"has several splits \(train\)"),
        ({"text": TEXTS}, r"is one dict \(text\); give a list of rows"),
        (ROWS[0], r"is one dict \(text\); give a list of rows"),
        ("A single text.", "is a single string"),
        (None, "is a NoneType"),
        (b"bytes", "is a bytes"),
        ({"A", "B"}, "is a set, which has no order"),
        (5, "is a int; give"),
        ([ROWS[0], None], "forget row 1 each row must be an object"),
        ([["a"]], "forget row 0 each row must be an object"),
        ([{"content": "a", "id": 1}], "forget row 0 needs the column 'text', .* it has: content, id"),
        ([ROWS[0], {"text": 5.0}], r"forget row 1 needs the column 'text', .* it has: text \(a number\)"),
        (pd.DataFrame({"text": ["a", None]}), "forget row 1 needs the column 'text'"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "two columns have the same name"),
        (["a", " \n"], "forget row 1 column 'text' is empty"),
        (["a\ud83d"], "forget row 0 column 'text' holds half of a surrogate pair"),
        ([{"messages": [{"role": "user", "content": {"a": "b"}}]}], "forget row 0 message 1 has a 'content' that is"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_rest_is_refused_in_one_sentence(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        rows_of(data, "forget")
    assert "\n" not in str(caught.value)


def test_a_stream_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearn_lib.data.given.LARGEST", 4 << 20)
    with pytest.raises(InputError, match="more than 4 MiB of text in its first 5 rows, or no end"):
        rows_of({"text": "a" * (1 << 20)} for _ in iter(int, 1))


def test_every_call_takes_them(tiny: Any, tokenizer: Any) -> None:
    model = tiny("neo")
    expected = text_losses(model, tokenizer, ROWS)
    for data in (TEXTS, pd.DataFrame(ROWS), iter(ROWS)):
        assert torch.equal(text_losses(model, tokenizer, data), expected)
    trained = [copy.deepcopy(model) for _ in range(2)]
    config = TrainingConfig(1, 1e-3, 1)
    assert train(trained[0], tokenizer, ROWS, config) == train(trained[1], tokenizer, iter(TEXTS), config)
    results = [
        unlearn(model, tokenizer, forget=forget, retain=retain, method="gradient-difference")
        for forget, retain in ((ROWS[:1], ROWS[1:]), (iter(TEXTS[:1]), pd.DataFrame(ROWS[1:])))
    ]
    for one, other in zip(*(result.model.parameters() for result in results), strict=True):
        assert torch.equal(one, other)
    for call in (text_losses, train):
        with pytest.raises(InputError, match="is one dict"):
            call(model, tokenizer, {"text": TEXTS})
    with pytest.raises(InputError, match="the retain set has several splits"):
        unlearn(model, tokenizer, forget=TEXTS, retain=DatasetDict(a=Dataset.from_list(ROWS)), method="gradient-difference")
    with pytest.raises(InputError, match="empty"):
        text_losses(model, tokenizer, [])


@pytest.mark.parametrize("length", [-5, 0, 1, 257, 1.5, True, "64"])
def test_a_length_out_of_range_is_refused_with_the_range(length: Any, tiny: Any, tokenizer: Any) -> None:
    model = tiny("opt")
    assert (
        sequence_length(model, tokenizer) == context_length(model, tokenizer) == sequence_length(model, tokenizer, 256) == 256
    )
    calls = (
        lambda: text_losses(model, tokenizer, TEXTS, max_length=length),
        lambda: train(model, tokenizer, TEXTS, max_length=length),
        lambda: unlearn(model, tokenizer, forget=TEXTS, method="gradient-ascent", max_length=length),
    )
    for call in calls:
        with pytest.raises(InputError, match=r"max_length is a number of tokens, at least 2 and at most 256, .*; got "):
            call()
