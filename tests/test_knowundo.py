"""KnowUnDo's measures by hand, on a stand-in that knows given texts by heart and on a true model."""

from typing import Any

import pytest
import torch
from reciting import Reciting

from unlearn_lib import InputError, QuestionTask, load_model, load_task
from unlearn_lib.metrics.knowundo import KnowUnDoScores, knowundo_scores, token_accuracy

ROWS = [
    {"prompt": "Question: Where does Ana live?\nAnswer:", "completion": " Ana lives at 4 Mill Lane."},
    {"prompt": "Question: Who?\nAnswer:", "completion": " Bo."},
]


def ids(tokenizer: Any, row: dict[str, str]) -> list[int]:
    return list(tokenizer(row["prompt"] + row["completion"]).input_ids)


def model_that_knows(tokenizer: Any, rows: list[dict[str, str]], context: int = 256, lost: int | None = None) -> Reciting:
    """Of anything else it says `lost`, by default the vocabulary's last token, which no text of this file has."""
    return Reciting(
        [ids(tokenizer, row) for row in rows], len(tokenizer) - 1 if lost is None else lost, len(tokenizer), context
    )


def test_what_is_known_counts_by_question(tokenizer: Any) -> None:
    """One of two questions is known: 50 percent, although its answer has more than half of all tokens."""
    assert token_accuracy(model_that_knows(tokenizer, ROWS), tokenizer, ROWS) == 100.0
    assert token_accuracy(model_that_knows(tokenizer, ROWS[:1]), tokenizer, ROWS) == 50.0
    assert token_accuracy(model_that_knows(tokenizer, ROWS[1:]), tokenizer, ROWS) == 50.0
    assert token_accuracy(model_that_knows(tokenizer, []), tokenizer, ROWS) == 0.0


def test_a_part_of_an_answer(tokenizer: Any) -> None:
    """The first three of an answer's tokens are right, and nothing after them."""
    whole = ids(tokenizer, ROWS[0])
    given = len(tokenizer(ROWS[0]["prompt"]).input_ids)
    model = Reciting([whole[: given + 3]], len(tokenizer) - 1, len(tokenizer))
    assert token_accuracy(model, tokenizer, ROWS[:1]) == pytest.approx(100 * 3 / (len(whole) - given))


def test_success_is_what_was_forgotten_and_what_was_kept(tokenizer: Any) -> None:
    from datasets import Dataset

    parts = {"forget_val": Dataset.from_list(ROWS[:1]), "retain_val": Dataset.from_list(ROWS[1:])}
    task = QuestionTask("knowundo", "test", 0, None, parts)
    for known, expected in [(ROWS, (0.0, 100.0)), (ROWS[1:], (100.0, 100.0)), (ROWS[:1], (0.0, 0.0)), ([], (100.0, 0.0))]:
        assert knowundo_scores(model_that_knows(tokenizer, known), tokenizer, task) == KnowUnDoScores(*expected)


def test_it_is_the_argmax_of_every_token_and_batches_do_not_matter() -> None:
    model, tokenizer = load_model("nano/opt-s")
    rows = list(load_task("knowundo", sizes={"forget_val": 6})["forget_val"])
    shares = []
    for row in rows:
        whole, given = ids(tokenizer, row), len(tokenizer(row["prompt"]).input_ids)
        right = model(torch.tensor([whole])).logits[0, given - 1 : -1].argmax(-1) == torch.tensor(whole[given:])
        shares.append(right.double().mean().item())
    assert sum(shares) > 0
    for batch_size in (1, 4, 64):
        assert token_accuracy(model, tokenizer, rows, batch_size) == pytest.approx(100 * sum(shares) / 6)


def test_an_answer_that_is_longer_than_the_context_is_measured_in_pieces(tokenizer: Any) -> None:
    """All of its tokens count once: the stand-in always says ` a`, one of its words."""
    model = model_that_knows(tokenizer, [], 16, tokenizer(" a").input_ids[0])
    row = {"prompt": "Who?", "completion": " a mill, a rope and no drum" * 9}
    found = ids(tokenizer, row)[len(tokenizer("Who?").input_ids) :]
    assert len(found) > 3 * 16
    assert token_accuracy(model, tokenizer, [row]) == pytest.approx(100 * found.count(model.lost) / len(found)) != 0


def test_what_is_no_question_is_refused(tokenizer: Any) -> None:
    model = model_that_knows(tokenizer, [])
    with pytest.raises(InputError, match="there are no questions"):
        token_accuracy(model, tokenizer, [])
    with pytest.raises(InputError, match="question 1 has no 'prompt' or no 'completion'"):
        token_accuracy(model, tokenizer, [ROWS[0], {"text": "a"}])
    with pytest.raises(InputError, match="has an answer without a token"):
        token_accuracy(model, tokenizer, [{"prompt": "a", "completion": ""}])
    with pytest.raises(InputError, match="unknown part of tofu 'forget_val'"):
        knowundo_scores(model, tokenizer, load_task("tofu", split="forget01", sizes={"retain": 1}))
