import math
from typing import Any

import pytest
import torch

from unlearn_lib.data.batches import Example, encode, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.losses import evaluate
from unlearn_lib.metrics import exposure, exposures
from unlearn_lib.metrics.exposure import prefix_losses


def test_ranks_by_hand() -> None:
    references = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(4, -1)
    # below all: rank 1; a tie counts against the sample: rank 3; between: rank 4; above all: rank 5
    nats = exposure(torch.tensor([0.5, 2.0, 3.5, 9.0]), references)
    expected = [math.log(4 / rank) for rank in (1, 3, 4, 5)]
    torch.testing.assert_close(nats, torch.tensor(expected, dtype=torch.float64))


def test_prefixes_of_long_texts_are_scored_like_short_texts(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, examples = tiny(), encode(texts[-4:], tokenizer, 256).examples
    losses = prefix_losses(model, examples, batch_size=3)
    for length in (2, 9, 20):
        short = [Example(e.input_ids[:length], e.input_ids[:length]) for e in examples]
        torch.testing.assert_close(losses[:, length - 2], evaluate(model, make_batches(short, 1)))
    assert torch.isnan(losses[0, len(examples[0].input_ids) - 1 :]).all()


def test_exposures_against_direct_evaluation(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny()
    samples, references = encode(texts[:5], tokenizer, 256).examples, encode(texts[25:], tokenizer, 256).examples
    found = exposures(model, samples, references)
    for sample, nats, bits in zip(samples, found.nats_n, found.bits_n, strict=True):
        ids = sample.input_ids[:-1]  # without the end-of-text token
        own = evaluate(model, make_batches([Example(ids, ids)], 1))
        cut = [Example(r.input_ids[: len(ids)], r.input_ids[: len(ids)]) for r in references]
        rank = 1 + sum(loss <= own for loss in evaluate(model, make_batches(cut, 1)))
        assert nats.item() == pytest.approx(math.log(len(references) / rank))
        assert bits.item() == pytest.approx(math.log2(len(references) / rank))
    assert found.maximum == math.log(len(references))


def test_of_a_prompt_and_completion_only_the_completion_counts(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """A completion of m tokens against the first m scored tokens of every reference, each given its own prompt."""
    model = tiny()
    rows = [
        {"prompt": row["text"][:n], "completion": row["text"][n : n + 9]} for n, row in zip((5, 30, 12), texts, strict=False)
    ]
    others = [{"prompt": row["text"][:n], "completion": row["text"][n : n + 40]} for n, row in enumerate(texts[20:30], 5)]
    samples, references = encode(rows, tokenizer, 256).examples, encode([*others, *texts[30:]], tokenizer, 256).examples
    whole = evaluate(model, make_batches(samples, 2))
    for losses, sample, loss in zip(prefix_losses(model, samples), samples, whole, strict=True):
        prompt = sample.labels.count(-100)
        assert losses[len(sample.input_ids) - 2].item() == pytest.approx(loss.item())
        assert torch.isnan(losses[: prompt - 1]).all()
        assert torch.isfinite(losses[prompt - 1 : len(sample.input_ids) - 1]).all()
    found = exposures(model, samples, references)
    for sample, nats in zip(samples, found.nats_n, strict=True):
        m = sum(label != -100 for label in sample.labels) - 1  # without the end-of-text token
        own = evaluate(model, make_batches([Example(sample.input_ids[:-1], sample.labels[:-1])], 1))
        cut = []
        for r in references:
            end = [i for i, label in enumerate(r.labels) if i and label != -100][m - 1] + 1
            cut.append(Example(r.input_ids[:end], r.labels[:end]))
        rank = 1 + sum(loss <= own for loss in evaluate(model, make_batches(cut, 1)))
        assert nats.item() == pytest.approx(math.log(len(references) / rank))


def test_one_token_says_nothing(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """Of a text of one token nothing is scored: it ties with every reference. A completion of one token is a measurement."""
    model, references = tiny(), encode(texts[25:], tokenizer, 256).examples
    end = tokenizer.eos_token_id
    one, two = Example((5, end), (5, end)), Example((5, 6, end), (5, 6, end))
    answer = Example((7, 5, 6, end), (-100, -100, 6, end))
    nothing = pytest.approx(math.log(len(references) / (len(references) + 1)))
    assert exposures(model, [one], references).nats_n.tolist() == [nothing]
    together = exposures(model, [one, two, answer], references)
    assert together.nats_n[0].item() == nothing
    assert together.nats_n[1:].tolist() == [exposures(model, [sample], references).nats_n.item() for sample in (two, answer)]


def test_too_short_references_are_refused(tiny: Any, tokenizer: Any) -> None:
    long, short = (encode([{"text": text}], tokenizer, 256).examples for text in ("a map of Tarn and Keld", "a"))
    with pytest.raises(InputError, match="use longer references"):
        exposures(tiny(), long, short)
