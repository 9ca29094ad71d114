"""Verbatim and knowledge memorisation: by hand, of a model that knows texts by heart, and what is read and written on the way."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from unlearn_lib.errors import InputError
from unlearn_lib.metrics import muse_text
from unlearn_lib.metrics.muse_text import knowledge_memorisation, verbatim_memorisation

Rows = list[dict[str, str]]


def halves(texts: Sequence[dict[str, str]]) -> Rows:
    return [{"prompt": row["text"][:40], "completion": row["text"][40:]} for row in texts]


class Says:
    """Stands in for the greedy continuations: writes what it is told to, and keeps what it was given."""

    def __init__(self, tokenizer: Any, *answers: str) -> None:
        self.tokenizer, self.answers, self.prompts = tokenizer, answers, []  # type: ignore[var-annotated]

    def __call__(self, model: Any, prompts: Any, n: int, **_: Any) -> list[tuple[int, ...]]:
        self.prompts = [self.tokenizer.decode(prompt) for prompt in prompts]
        return [tuple(self.tokenizer(answer)["input_ids"][:n]) for answer in self.answers]


def test_what_is_known_by_heart_comes_back(memorised: Any, tokenizer: Any, texts: Rows) -> None:
    known, unknown = (verbatim_memorisation(memorised, tokenizer, halves(rows)) for rows in (texts[:6], texts[30:36]))
    assert known.shape == (6,)
    assert known.dtype == torch.float64
    assert known.mean() > 0.75
    assert unknown.mean() < 0.5
    alone = [verbatim_memorisation(memorised, tokenizer, [row], batch_size=1).item() for row in halves(texts[:6])]
    assert known.tolist() == alone


def test_the_f1_by_hand(memorised: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of "the key of Tarn" and "the old key" two words agree in order: recall 2/4, precision 2/3, F1 4/7."""
    says = Says(tokenizer, " the old key", " in Keld")
    monkeypatch.setattr(muse_text, "greedy_continuations", says)
    rows = [{"prompt": "He had", "completion": " the key of Tarn"}, {"prompt": "She had", "completion": " nothing"}]
    assert verbatim_memorisation(memorised, tokenizer, rows).tolist() == [pytest.approx(4 / 7), 0.0]
    assert says.prompts == ["He had", "She had"]
    assert knowledge_memorisation(memorised, tokenizer, rows).tolist() == [pytest.approx(4 / 7), 0.0]


def test_only_the_first_tokens_of_the_truth_count(memorised: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"prompt": "He had", "completion": " the key and the map of Tarn"}
    monkeypatch.setattr(muse_text, "greedy_continuations", Says(tokenizer, " the key"))
    two = len(tokenizer(" the key")["input_ids"])
    assert verbatim_memorisation(memorised, tokenizer, [row], n=two).item() == 1.0
    assert verbatim_memorisation(memorised, tokenizer, [row]).item() == pytest.approx(2 * 2 / (2 + 7))


def test_examples_stand_in_front_and_answers_end(memorised: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"Question: Who is {name}?\nAnswer:", "completion": " a judge"} for name in ("Ana", "Bram", "Cleo")]
    shots = [{"prompt": "Question: Where?\nAnswer:", "completion": " in Tarn"}]
    says = Says(tokenizer, " a judge\n\nand more words", " a judge\nQuestion: Who", " a judge of Keld")
    monkeypatch.setattr(muse_text, "greedy_continuations", says)
    found = knowledge_memorisation(memorised, tokenizer, rows, shots)
    assert says.prompts[0] == "Question: Where?\nAnswer: in Tarn\n\nQuestion: Who is Ana?\nAnswer:"
    assert found.tolist() == [1.0, 1.0, pytest.approx(2 * 2 / (2 + 4))]


def test_of_long_prompts_the_end_is_read(memorised: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    says = Says(tokenizer, " a")
    monkeypatch.setattr(muse_text, "greedy_continuations", says)
    knowledge_memorisation(memorised, tokenizer, [{"prompt": "word " * 400 + "the end", "completion": " a"}], n=200)
    assert says.prompts[0].endswith("word the end")
    assert len(tokenizer(says.prompts[0])["input_ids"]) == 256 - 200


@pytest.mark.parametrize(
    ("rows", "n", "message"),
    [
        ([], 8, "there are no rows to measure"),
        ([{"text": "no prompt"}], 8, "row 0 has no prompt"),
        ([{"prompt": "a", "completion": " b"}, {"prompt": "", "completion": "c"}], 8, "row 1 has no prompt"),
        ([{"prompt": "a", "completion": " b"}], 0, "at least 1"),
        ([{"prompt": "a", "completion": " b"}], 256, "leaves room for a prompt"),
        ([{"prompt": "a", "completion": " --"}], 8, "answer"),
    ],
)
def test_what_cannot_be_measured_is_refused(memorised: Any, tokenizer: Any, rows: Rows, n: int, message: str) -> None:
    for measure in (verbatim_memorisation, knowledge_memorisation):
        with pytest.raises(InputError, match=message):
            measure(memorised, tokenizer, rows, n=n)
