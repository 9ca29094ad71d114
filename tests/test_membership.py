"""Scores of membership by hand, against the published definitions, and on a model that knows some texts by heart."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from unlearn_lib.data.batches import encode, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.losses import sequence_losses
from unlearn_lib.metrics.likelihood import TokenScores, score_texts
from unlearn_lib.metrics.membership import (
    attack,
    gradient_norms,
    loss_score,
    min_k,
    min_k_plus_plus,
    reference_score,
    zlib_score,
)

Rows = Sequence[dict[str, str]]


def scores(*nll: float, mean: float = 0.0, std: float = 1.0) -> TokenScores:
    nll_T = torch.tensor(nll, dtype=torch.float64)
    return TokenScores(nll_T, nll_T < 0.5, torch.full_like(nll_T, mean), torch.full_like(nll_T, std))


def test_loss_and_reference() -> None:
    texts, reference = [scores(1.0, 2.0, 6.0), scores(0.5)], [scores(4.0, 4.0), scores(0.25)]
    assert loss_score(texts).tolist() == [-3.0, -0.5]
    assert reference_score(texts, reference).tolist() == [1.0, -0.25]
    with pytest.raises(InputError, match="2 texts and the reference model of 1"):
        reference_score(texts, reference[:1])


def test_zlib() -> None:
    """Of two texts with the same loss the one that says less is the less surprising."""
    texts = ["ä" * 200, "Many words of quite different letters, 1234567890"]
    found = zlib_score([scores(2.0), scores(2.0)], texts)
    assert found.tolist() == [-2.0 / len(zlib.compress(text.encode("utf-8"))) for text in texts]
    assert found[0] < found[1] < 0
    with pytest.raises(InputError, match="2 scores for 1 texts"):
        zlib_score([scores(2.0), scores(2.0)], texts[:1])


def test_min_k() -> None:
    """The least likely tokens, wherever they stand; at least one."""
    text = scores(1.0, 9.0, 2.0, 3.0, 5.0)
    assert min_k([text, scores(4.0)], k=0.4).tolist() == [-7.0, -4.0]
    assert min_k([text], k=0.39).tolist() == [-9.0]
    assert min_k([text], k=1e-9).tolist() == [-9.0]
    assert min_k([text], k=1.0).tolist() == loss_score([text]).tolist()
    assert min_k([text]).tolist() == [-9.0]


def test_a_share_of_whole_tokens_is_not_lost_to_rounding() -> None:
    """0.7 of 90 tokens are 63, although 0.7 * 90 is a little less in floating point."""
    text = scores(*[1.0] * 27, *[2.0] * 62, 3.0)
    assert min_k([text], k=0.7).item() == pytest.approx(-(62 * 2 + 3) / 63)


@pytest.mark.parametrize("measure", [min_k, min_k_plus_plus])
def test_min_k_refuses(measure: Any) -> None:
    for k in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            measure([scores(1.0)], k)
    with pytest.raises(InputError, match="no texts"):
        measure([])


def test_min_k_plus_plus() -> None:
    """The tokens are chosen after they are standardised, not before."""
    text = TokenScores(
        torch.tensor([8.0, 2.0]), torch.tensor([False, False]), torch.tensor([-8.5, -1.0]), torch.tensor([0.25, 0.5])
    )
    # z = (-8 + 8.5) / .25 = 2 and (-2 + 1) / .5 = -2
    assert min_k_plus_plus([text], k=0.5).tolist() == [-2.0]
    assert min_k_plus_plus([text], k=1.0).tolist() == [0.0]


def test_min_k_plus_plus_is_as_published(tiny: Any, tokenizer: Any, texts: Rows) -> None:
    """mu and sigma^2 = E (log p)^2 - mu^2 over the vocabulary, the tokens sorted, the first int(k T) of them taken."""
    model = tiny("opt")
    examples = encode(texts[:6], tokenizer, 40).examples
    expected = []
    for example in examples:
        ids = torch.tensor([example.input_ids])
        log_p = model(ids).logits[0, :-1].log_softmax(-1)
        mu = (log_p.exp() * log_p).sum(-1)
        sigma = (log_p.exp() * log_p.square()).sum(-1) - mu.square()
        z = (log_p.gather(1, ids[0, 1:, None])[:, 0] - mu) / sigma.sqrt()
        expected.append(z.sort().values[: int(0.3 * len(z))].mean().item())
    assert min_k_plus_plus(score_texts(model, examples), k=0.3).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_gradient_norms(family: str, tiny: Any, tokenizer: Any, texts: Rows) -> None:
    """One vector over all parameters that are trained, tied ones counted once."""
    model = tiny(family).train()
    next(p for name, p in model.named_parameters() if name.endswith("fc1.weight") or "c_fc.weight" in name).requires_grad_(
        False
    )
    chosen = [p for p in model.parameters() if p.requires_grad]
    examples = encode(texts[:5], tokenizer, 24).examples
    model.eval()
    expected = []
    for example in examples:
        (batch,) = make_batches([example], 1)
        gradient = torch.autograd.grad(sequence_losses(model, batch)[0], chosen)
        expected.append(-torch.cat([g.flatten() for g in gradient]).norm().item())
    model.train()
    found = gradient_norms(model, make_batches(examples, 2))
    assert found.tolist() == pytest.approx(expected, rel=1e-6)  # transformers' attention has a float32 softmax here
    assert gradient_norms(model, make_batches(examples, 5)).tolist() == pytest.approx(found.tolist(), rel=1e-9)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_gradient_norms_refuse(tiny: Any) -> None:
    with pytest.raises(InputError, match="no texts"):
        gradient_norms(tiny("opt"), [])


def test_tiny_gradients_have_a_norm(tiny: Any, tokenizer: Any, texts: Rows) -> None:
    """Squares of gradients below 1e-23 are zero in float32; the norm is not."""

    class Faint(torch.nn.Module):
        """The model with logits that hardly depend on the weights."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, **inputs: Any) -> Any:
            found = self.model(**inputs)
            found.logits = found.logits * 1e-30
            return found

        @property
        def device(self) -> torch.device:
            return torch.device("cpu")

    batches = make_batches(encode(texts[:2], tokenizer, 16).examples, 2)
    model = tiny("opt", dtype=torch.float32)
    found = gradient_norms(Faint(model), batches)
    assert found.tolist() == pytest.approx((gradient_norms(Faint(model.double()), batches)).tolist(), rel=1e-3)
    assert (found < 0).all()


def test_every_score_recognises_what_is_known_by_heart(memorised: Any, tokenizer: Any, texts: Rows) -> None:
    """Members have the HIGHER scores: 24 texts that were trained on against 16 that were not."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    fresh = AutoModelForCausalLM.from_config(memorised.config).eval()
    examples = encode(texts, tokenizer, 64).examples
    found = score_texts(memorised, examples)
    all_scores = {
        "loss": loss_score(found),
        "zlib": zlib_score(found, [row["text"] for row in texts]),
        "min-k": min_k(found),
        "min-k++": min_k_plus_plus(found),
        "reference": reference_score(found, score_texts(fresh, examples)),
        "gradient": gradient_norms(memorised, make_batches(examples, 8)),
    }
    aucs = {name: attack(n[:24], n[24:], fprs=(0.1,)).auc for name, n in all_scores.items()}
    assert min(aucs.values()) > 0.95, aucs
    before = loss_score(score_texts(fresh, examples))
    assert 0.2 < attack(before[:24], before[24:]).auc < 0.8
