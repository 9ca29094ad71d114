"""What is known of texts, and the share of it that an attack brings back, by hand."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_lib.attacks.knowledge import Knowledge, best, knowledge
from unlearn_lib.attacks.recovered import Recovered, compared
from unlearn_lib.data.batches import Example, encode
from unlearn_lib.errors import InputError


class Counting(torch.nn.Module):
    """After token t it predicts t + 1 with weight 9 beside 49 of 1, or with all the same while it is in training."""

    device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = torch.nn.functional.one_hot((input_ids + 1) % 50, 50).double() * torch.tensor(9.0).log()
        return SimpleNamespace(logits=logits * (not self.training))


def text(*ids: int, row: int | None = None, scored_from: int = 0) -> Example:
    return Example(ids, tuple(-100 if i < scored_from else token for i, token in enumerate(ids)), row)


def test_what_is_known_by_hand() -> None:
    model = Counting().train()
    found = knowledge(model, [text(1, 2, 3, 9, 10, 11), text(1, 5, 9)])
    assert model.training
    right, wrong = torch.log(torch.tensor([58 / 9, 58.0], dtype=torch.float64)).tolist()
    assert found.loss_n.tolist() == pytest.approx([(4 * right + wrong) / 5, wrong])
    assert found.accuracy_n.tolist() == [4 / 5, 0.0]
    assert found.strength_n.tolist() == pytest.approx([2 / 6, 0.0])  # the shortest prefix that goes on by itself: 4 of 6 tokens
    assert found.extracted_n.tolist() == [0.0, 0.0]  # after two of five predictions comes the wrong one
    assert found.loss == pytest.approx((4 * right + wrong) / 10 + wrong / 2)
    assert found.measures == {"accuracy": 0.4, "strength": pytest.approx(1 / 6), "extracted": 0.0}
    assert knowledge(model, [text(1, 2, 3, 9, 10, 11)], prefix=0.6).extracted_n.tolist() == [1.0]
    assert knowledge(model, [text(9, 1, 2, 3, scored_from=2)], prefix=0.0).extracted_n.tolist() == [1.0]
    with pytest.raises(InputError, match="there are none"):
        knowledge(model, [])


def test_the_pieces_of_a_long_text_are_one_text() -> None:
    """Four scored tokens in the one piece, one in the other: the mean is over the five."""
    whole, pieces = [text(1, 2, 3, 9, 10, 11, row=3)], [text(1, 2, 3, 9, 10, row=3), text(9, 10, 11, row=3, scored_from=2)]
    one, other = knowledge(Counting(), whole), knowledge(Counting(), pieces)
    assert len(one.loss_n) == len(other.loss_n) == 1
    for field in dataclasses.fields(Knowledge):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name))


def test_batches_do_not_matter(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, examples = tiny("neo"), encode(texts[:7], tokenizer, 20, long_texts="split").examples
    one, other = (knowledge(model, examples, batch_size=size) for size in (1, 5))
    assert len(one.loss_n) == 7 < len(examples)
    for field in dataclasses.fields(Knowledge):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=1e-6, atol=1e-9)


def test_it_takes_one_pass() -> None:
    model, calls = Counting(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    knowledge(model, [text(1, 2, 3)] * 5, batch_size=2)
    assert len(calls) == 3


def test_the_best_of_several_is_taken_text_by_text() -> None:
    rows = [[1.0, 4.0], [2.0, 3.0]]
    one, other = (Knowledge(*(torch.tensor(row) for _ in range(4))) for row in rows)
    found = best([one, other])
    assert found.loss_n.tolist() == [1.0, 3.0]
    assert found.accuracy_n.tolist() == found.strength_n.tolist() == found.extracted_n.tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("before", "after", "known", "share"),
    [
        (5.0, 5.0, 1.0, 0.0),
        (5.0, 4.0, 1.0, 0.25),
        (5.0, 1.0, 1.0, 1.0),
        (5.0, 0.0, 1.0, 1.25),  # better than the original
        (5.0, 7.0, 1.0, -0.5),  # the attack did harm
        (5.0, float("inf"), 1.0, float("-inf")),
        (5.0, 4.0, None, None),
        (1.0, 0.5, 1.0, None),
        (1.0, 0.5, 2.0, None),
        (5.0, 4.0, float("nan"), None),
    ],
)
def test_share(before: float, after: float, known: float | None, share: float | None) -> None:
    assert Recovered("an attack", {}, before, after, known).share == share


def test_a_result_holds_before_and_after_and_is_json() -> None:
    before, after = knowledge(Counting(), [text(1, 5, 9)]), knowledge(Counting(), [text(1, 2, 3)])
    found = Recovered("an attack", {"bits": 4}, **compared(before, after))
    assert found.before > found.after
    assert found.measures == {"accuracy": (0.0, 1.0), "strength": (0.0, pytest.approx(2 / 3)), "extracted": (0.0, 1.0)}
    assert json.loads(json.dumps(dataclasses.asdict(found)))["setting"] == {"bits": 4}
