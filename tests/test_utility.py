"""Perplexity and accuracy with their intervals: by hand, against plain loops, closed forms and how often an interval holds the truth."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import beta, binom

from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics import accuracy, text_losses
from unlearn_lib.metrics.accuracy import Questions
from unlearn_lib.metrics.likelihood import TokenScores
from unlearn_lib.metrics.utility import Accuracy, accuracy_interval, perplexity, perplexity_of, share_interval


def scores(*nlls: list[float]) -> list[TokenScores]:
    found = []
    for nll in nlls:
        nll_T = torch.tensor(nll, dtype=torch.float64)
        found.append(TokenScores(nll_T, nll_T == 0, nll_T, nll_T))
    return found


def test_every_token_weighs_the_same() -> None:
    """(3 * 1 + 1 * 5) / 4 = 2; the mean of the texts' losses would be (1 + 5) / 2 = 3."""
    found = perplexity_of(scores([1.0, 1.0, 1.0], [5.0]))
    assert (found.nll, found.tokens, found.texts) == (2.0, 4, 2)
    assert found.value == pytest.approx(math.exp(2))
    # both texts, in either order, or twice the same one
    assert found.interval == pytest.approx((math.exp(1), math.exp(5)))


def test_a_uniform_model_has_the_size_of_its_vocabulary(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny("opt")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    found = perplexity(model, tokenizer, texts[:3])
    assert found.value == pytest.approx(model.config.vocab_size, rel=1e-9)
    assert found.interval == pytest.approx((found.value, found.value), rel=1e-9)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_it_is_that_of_all_tokens_whatever_the_batches_and_pieces(
    family: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    model, rows = tiny(family), texts[:9]
    total, tokens = 0.0, 0
    for row in rows:
        ids = torch.tensor([[*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            log_probs = model(ids).logits[0, :-1].log_softmax(-1)
        total -= float(log_probs.gather(1, ids[0, 1:, None]).sum())
        tokens += ids.shape[1] - 1
    found = perplexity(model, tokenizer, rows, batch_size=4)
    assert (found.tokens, found.texts) == (tokens, 9)
    assert found.value == pytest.approx(math.exp(total / tokens), rel=1e-9)
    # what the texts' own losses say, weighted by their tokens
    lengths = torch.tensor([len(tokenizer(row["text"])["input_ids"]) for row in rows])
    assert found.nll == pytest.approx(float((text_losses(model, tokenizer, rows) * lengths).sum() / lengths.sum()), rel=1e-9)
    for other in (perplexity(model, tokenizer, rows, batch_size=1), perplexity(model, tokenizer, rows[::-1])):
        assert other.value == pytest.approx(found.value, rel=1e-9)
    # of texts in pieces every token is still scored once, and a text is resampled as a whole
    pieces = perplexity(model, tokenizer, rows, max_length=10)
    assert (pieces.tokens, pieces.texts) == (tokens, 9)


def test_the_interval_resamples_texts_and_not_tokens() -> None:
    """Of 64 texts that are 1 or 3 nats throughout, the mean has the standard error 1 / 8, however many tokens the texts have."""
    for tokens in (1, 50):
        found = perplexity_of(scores(*([1.0] * tokens, [3.0] * tokens) * 32), resamples=4000)
        assert found.interval is not None
        low, high = (math.log(bound) for bound in found.interval)
        assert (high - low) / 2 == pytest.approx(1.96 / 8, rel=0.06)
        assert low < found.nll < high


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Texts of random lengths, whose loss rises with their length, so that numerator and denominator vary together."""
    generator = torch.Generator().manual_seed(0)
    held, tries = 0, 200
    for _ in range(tries):
        lengths = torch.randint(1, 9, (40,), generator=generator)
        levels = lengths / 4 + torch.rand(40, generator=generator)
        found = perplexity_of(
            scores(*([level] * T for level, T in zip(levels.tolist(), lengths.tolist(), strict=True))), resamples=300
        )
        assert found.interval is not None
        # E[T (T / 4 + 1/2)] / E[T], of T from 1 to 8: (25.5 / 4 + 4.5 / 2) / 4.5
        held += found.interval[0] <= math.exp((25.5 / 4 + 2.25) / 4.5) <= found.interval[1]
    assert 0.9 < held / tries < 1.0


def test_resampling_is_by_its_seed_alone_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    given = scores(*([float(i % 7)] * (1 + i % 3) for i in range(50)))
    state = torch.random.get_rng_state()
    found = perplexity_of(given)
    assert torch.equal(state, torch.random.get_rng_state())
    assert perplexity_of(given) == found
    assert perplexity_of(given, seed=1).interval != found.interval
    monkeypatch.setattr("unlearn_lib.metrics.utility.NUMBERS", 170)  # three resamples at a time
    assert perplexity_of(given) == found
    wide, narrow = (perplexity_of(given, confidence=share).interval for share in (0.99, 0.5))
    assert wide is not None
    assert narrow is not None
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_edges_of_perplexity() -> None:
    one = perplexity_of(scores([2.0]))
    assert (one.value, one.interval, one.tokens) == (pytest.approx(math.exp(2)), None, 1)
    assert perplexity_of(scores([0.0], [0.0])).value == 1.0
    assert perplexity_of(scores([1e4], [1e4])).value == math.inf
    with pytest.raises(InputError, match="no texts"):
        perplexity_of([])
    with pytest.raises(InputError, match="the data set is empty"):
        perplexity(None, None, [])
    for bad in (math.inf, math.nan):
        with pytest.raises(NumericsError, match="text 1 is"):
            perplexity_of(scores([1.0], [1.0, bad]))
    with pytest.raises(InputError, match="confidence"):
        perplexity_of(scores([1.0]), confidence=1.0)
    with pytest.raises(InputError, match="at least one resample"):
        perplexity_of(scores([1.0], [2.0]), resamples=0)


def test_accuracy_interval_by_hand() -> None:
    """None of ten: (1 - high)^10 = 0.025; all of ten is its mirror image."""
    bound = 1 - 0.025**0.1
    assert accuracy_interval([False] * 10) == Accuracy(0.0, 0.0, pytest.approx(100 * bound), 10)
    assert accuracy_interval(torch.ones(10)) == Accuracy(100.0, pytest.approx(100 * (1 - bound)), 100.0, 10)
    assert accuracy_interval([True]).low == pytest.approx(2.5)
    found = accuracy_interval([True, False, True, True], confidence=0.9)
    assert found.value == 75.0
    assert (found.low, found.high) == pytest.approx((100 * beta.ppf(0.05, 3, 2), 100 * beta.ppf(0.95, 4, 1)))


def test_it_holds_the_truth_at_least_as_often_as_it_says() -> None:
    """For every accuracy, exactly: the sum of the chances of those numbers of right answers whose interval holds it."""
    n, confidence = 25, 0.95
    bounds = [share_interval(hits, n, confidence) for hits in range(n + 1)]
    for p in torch.linspace(0.005, 0.995, 100).tolist():
        held = sum(float(binom.pmf(hits, n, p)) for hits, (low, high) in enumerate(bounds) if low <= p <= high)
        assert held >= confidence


def test_right_answers_are_the_accuracy(tiny: Any, tokenizer: Any) -> None:
    model = tiny("opt")
    choices = [" moss", " a very long answer about honey", " it"]
    rows = [{"prompt": f"Question {i}:", "choices": choices, "label": i % 3} for i in range(7)]
    questions = Questions(rows, tokenizer, model.config.max_position_embeddings)
    right_n = questions.right(model)
    assert right_n.dtype == torch.bool
    # a question that is answered with another label is right where the label is changed to that one
    for i, row in enumerate(rows):
        others = [Questions([{**row, "label": label}], tokenizer, 64).right(model).item() for label in range(3)]
        assert sum(others) == 1
        assert others[row["label"]] == right_n[i].item()
    assert accuracy_interval(right_n).value == pytest.approx(accuracy(model, tokenizer, rows))


def test_accuracy_interval_refuses() -> None:
    for bad in ([], [[True]]):
        with pytest.raises(InputError, match="at least one question"):
            accuracy_interval(torch.tensor(bad))
    for bad in ([0.5, 1.0], [math.nan], [2]):
        with pytest.raises(InputError, match="right"):
            accuracy_interval(bad)
    for confidence in (0.0, 1.0, 95.0, math.nan):
        with pytest.raises(InputError, match="confidence"):
            accuracy_interval([True], confidence)
    for hits, of in ((-1, 3), (4, 3), (0, 0)):
        with pytest.raises(InputError, match="at least one trial"):
            share_interval(hits, of)
