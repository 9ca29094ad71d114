from typing import Any

import pytest
import torch

from unlearn_lib.data.batches import Example, collate, encode, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, evaluate, loss_function, sequence_losses, token_nll


def test_token_nll_by_hand() -> None:
    # two positions predict two labels over a vocabulary of 2
    logits = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [9.0, 9.0]]])
    nll, scored = token_nll(logits, torch.tensor([[0, 1, 0]]))
    expected = [torch.log(torch.tensor(2.0)), torch.log(torch.exp(torch.tensor(1.0)) + torch.exp(torch.tensor(3.0))) - 1]
    torch.testing.assert_close(nll[0], torch.stack(expected))
    assert scored.all()


def test_minus_100_is_not_scored_and_never_an_index() -> None:
    nll, scored = token_nll(torch.zeros(1, 4, 3), torch.tensor([[1, IGNORED, 2, IGNORED]]))
    assert scored.tolist() == [[False, True, False]]
    torch.testing.assert_close(nll, torch.tensor([[0.0, torch.log(torch.tensor(3.0)), 0.0]]))


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_loss_is_transformers_own(family: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny(family)
    example = encode(texts[:1], tokenizer, 256).examples[0]
    batch = collate([example])
    own = model(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss
    # (transformers computes its loss in float32 whatever the model's format)
    torch.testing.assert_close(sequence_losses(model, batch)[0].float(), own)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_padding_order_and_split_do_not_matter(family: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, examples = tiny(family), encode(texts, tokenizer, 256).examples
    one_by_one = evaluate(model, make_batches(examples, 1))
    torch.testing.assert_close(evaluate(model, make_batches(examples, 7)), one_by_one, rtol=1e-9, atol=0)
    torch.testing.assert_close(evaluate(model, make_batches(examples[::-1], 40)).flip(0), one_by_one, rtol=1e-9, atol=0)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_functional_form_is_the_same(family: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, batch = tiny(family), collate(encode(texts[:3], tokenizer, 256).examples)
    losses = loss_function(model)(dict(model.named_parameters()), batch)
    torch.testing.assert_close(losses, sequence_losses(model, batch), rtol=0, atol=0)


def test_every_text_ends_with_eos_and_is_fully_scored(tokenizer: Any) -> None:
    example = encode([{"text": "A map."}], tokenizer, 256).examples[0]
    assert example.input_ids[-1] == tokenizer.eos_token_id
    assert example.labels == example.input_ids


def test_only_the_completion_is_scored(tokenizer: Any) -> None:
    example = encode([{"prompt": "It was", "completion": " Ana"}], tokenizer, 256).examples[0]
    given = len(tokenizer("It was")["input_ids"])
    assert example.labels[:given] == (IGNORED,) * given
    assert tokenizer.decode(example.labels[given:]) == " Ana<|endoftext|>"


def test_long_texts_are_cut_and_counted(tokenizer: Any) -> None:
    encoded = encode([{"text": "map " * 50}, {"text": "map"}], tokenizer, 12)
    assert encoded.cut == 1
    assert [len(example.input_ids) for example in encoded.examples] == [12, len(tokenizer("map")["input_ids"]) + 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"txt": "a"}, "row 0 needs the column 'text'"),
        ({"prompt": "a b c", "completion": "d"}, "row 0 has nothing to score within 2 tokens"),
        ({"text": ""}, "row 0 has nothing to score"),
    ],
)
def test_unusable_rows_are_named(row: dict[str, str], message: str, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=message):
        encode([row], tokenizer, 2)


def test_padding_is_told_by_mask_not_by_id() -> None:
    batch = collate([Example((5, 0, 7), (5, 0, 7)), Example((5, 1), (5, 1))])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[5, 0, 7], [5, 1, IGNORED]]


def test_position_ids_of_a_batch_are_obeyed(tiny: Any) -> None:
    """Padding on the left with the positions that the text would have without it changes no loss."""
    model = tiny("neo")
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    padded = {
        "input_ids": torch.tensor([[0, 0, 5, 6, 7, 8]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1]]),
        "labels": torch.tensor([[-100, -100, -100, 6, 7, 8]]),
        "position_ids": torch.tensor([[0, 0, 0, 1, 2, 3]]),
    }
    expected = sequence_losses(model, plain)
    torch.testing.assert_close(sequence_losses(model, padded), expected, rtol=1e-12, atol=0)
    params = dict(model.named_parameters())
    torch.testing.assert_close(loss_function(model)(params, padded), expected, rtol=1e-12, atol=0)
    del padded["position_ids"]
    assert (sequence_losses(model, padded) - expected).abs() > 1e-3
