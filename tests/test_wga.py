"""Weighted gradient ascent against its formula, written out again here."""

from typing import Any

import pytest
import torch
from free_logits import IGNORED, FreeLogits, drawn, step
from test_first_order import FORGET, RETAIN, assert_same, gradient, mean_nll, one_step, token_log_probs

from unlearn_lib import unlearn
from unlearn_lib.methods import WGA


def test_one_step_is_the_gradient_of_the_weighted_loss(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model, beta = tiny(), 0.7
    weighted = [(text.detach().exp() ** beta * text).mean() for text in token_log_probs(model, texts[FORGET], tokenizer)]
    retain = mean_nll(token_log_probs(model, texts[RETAIN], tokenizer))
    expected = gradient(0.5 * torch.stack(weighted).mean() + 2 * retain, model)
    found = one_step(tiny, tokenizer, texts, "wga", beta=beta, forget_weight=0.5, retain_weight=2.0)
    assert_same(found, expected)


def test_with_beta_zero_it_is_gradient_difference(tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    sets = {"forget": texts[FORGET], "retain": texts[RETAIN], "learning_rate": 1e-3}
    found = unlearn(tiny(), tokenizer, **sets, method="wga", beta=0).model
    assert fingerprint(found) == fingerprint(unlearn(tiny(), tokenizer, **sets, method="gradient-difference").model)
    assert fingerprint(found) != fingerprint(unlearn(tiny(), tokenizer, **sets, method="wga").model)


def test_the_gradient_by_hand() -> None:
    """With beta = 1 the logit of the token itself is pushed down by p (1 - p) over the number of tokens: not where p is 0."""
    p = torch.tensor([0.8, 0.2, 1e-12, 0.5], dtype=torch.float64)
    logits = torch.stack([p, 1 - p], -1).log()[None]
    model = FreeLogits(torch.cat([logits, torch.zeros_like(logits[:, :1])], 1))  # the last row predicts nothing
    loss = WGA().forget_loss(model, step([[1, 0, 0, 0, IGNORED]]))
    assert loss.item() == pytest.approx(-(p * -p.log())[:3].mean())  # the fourth is not scored
    loss.backward()
    pushed = (p * (1 - p) / 3)[:3]
    torch.testing.assert_close(model.logits.grad[0, :3, 0], pushed)
    torch.testing.assert_close(model.logits.grad[0, :3, 1], -pushed)
    assert not model.logits.grad[0, 3:].any()


def test_every_text_counts_alike() -> None:
    model = drawn(2, 4, 3)
    both = WGA().forget_loss(model, step([[0, 1, 2, 0], [0, 2, IGNORED, IGNORED]]))
    one = WGA().forget_loss(FreeLogits(model.logits[:1]), step([[0, 1, 2, 0]]))
    other = WGA().forget_loss(FreeLogits(model.logits[1:, :2]), step([[0, 2]]))
    torch.testing.assert_close(both, (one + other) / 2)
