"""UNDIAL against its formula: the teacher's odds of a token to forget are e^-beta times what they were."""

import math
from typing import Any

import pytest
import torch
from free_logits import IGNORED, FreeLogits, drawn, step
from test_first_order import FORGET, RETAIN, assert_same, gradient, mean_nll, one_step, token_log_probs
from torch import Tensor

from unlearn_lib import unlearn
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import collate, encode
from unlearn_lib.errors import InputError
from unlearn_lib.methods import UNDIAL, choose


def all_log_probs(model: Any, rows: list[dict[str, str]], tokenizer: Any) -> list[tuple[Tensor, Tensor]]:
    """For every text `(log-probabilities [S, V], the tokens that they predict [S])`, one text at a time."""
    found = []
    for row in rows:
        batch = collate(encode([row], tokenizer, 256).examples)
        with KeepFloat64():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        found.append((logits[0, :-1].log_softmax(-1), batch["labels"][0, 1:]))
    return found


def taught(log_p_SV: Tensor, labels_S: Tensor, beta: float) -> Tensor:
    """What the teacher predicts, from probabilities alone: q(y) = e^-beta p(y) / (1 - (1 - e^-beta) p(y)), the others rescaled."""
    p_SV = log_p_SV.detach().exp()
    own_S1 = p_SV.gather(-1, labels_S[:, None])
    q_SV = p_SV.scatter(-1, labels_S[:, None], math.exp(-beta) * own_S1)
    return q_SV / (1 - (1 - math.exp(-beta)) * own_S1)


def test_one_step_is_the_gradient_of_the_cross_entropy(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = tiny()
    terms = [
        -(taught(log_p, labels, 2.0) * log_p).sum(-1).mean() for log_p, labels in all_log_probs(model, texts[FORGET], tokenizer)
    ]
    retain = mean_nll(token_log_probs(model, texts[RETAIN], tokenizer))
    found = one_step(tiny, tokenizer, texts, "undial", beta=2.0, retain_weight=0.5)
    assert_same(found, gradient(torch.stack(terms).mean() + 0.5 * retain, model))


def test_the_teacher_is_the_original_at_every_step(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model, original = tiny(), all_log_probs(tiny(), texts[FORGET], tokenizer)
    for _ in range(2):
        now = all_log_probs(model, texts[FORGET], tokenizer)
        terms = [
            -(taught(before, labels, 3.0) * log_p).sum(-1).mean()
            for (before, labels), (log_p, _) in zip(original, now, strict=True)
        ]
        g = gradient(torch.stack(terms).mean(), model)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p -= 0.05 * g[name]
    options: dict[str, Any] = {"method": "undial", "optimizer": "sgd", "learning_rate": 0.05, "epochs": 2, "beta": 3.0}
    found = dict(unlearn(tiny(), tokenizer, forget=texts[FORGET], **options).model.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p, rtol=1e-7, atol=1e-9)


def test_with_beta_zero_the_model_is_its_own_teacher(tiny: Any, tokenizer: Any, texts: Any) -> None:
    found = one_step(tiny, tokenizer, texts, "undial", beta=0.0)
    assert max(float(g.abs().max()) for g in found.values()) < 1e-10
    assert max(float(g.abs().max()) for g in one_step(tiny, tokenizer, texts, "undial", beta=1.0).values()) > 1e-5


def test_by_hand() -> None:
    """Two words, p(y) = 3/4, beta = log 3: the teacher is at one half, and the gradient of the logits is p - q."""
    model = FreeLogits(torch.tensor([[[3.0, 1.0], [0.0, 0.0]]], dtype=torch.float64).log().nan_to_num(neginf=0.0))
    method, here = UNDIAL(beta=math.log(3)), step([[1, 0]], model)
    loss = method.forget_loss(model, here)
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    loss.backward()
    torch.testing.assert_close(model.logits.grad[0, 0], torch.tensor([0.25, -0.25], dtype=torch.float64))


def test_the_minimum_is_the_teacher() -> None:
    original, labels = drawn(2, 4, 5), [[0, 3, 1, 4], [2, 2, 0, IGNORED]]
    lowered = original.logits.detach().clone()
    for row, text in enumerate(labels):
        for place, label in enumerate(text[1:]):
            if label != IGNORED:
                lowered[row, place, label] -= 10
    model = FreeLogits(lowered + 7)  # a constant that no probability shows
    UNDIAL().forget_loss(model, step(labels, original)).backward()
    assert model.logits.grad.abs().max() < 1e-12


def test_what_is_not_scored_does_not_matter() -> None:
    original, model = drawn(1, 4, 5), drawn(1, 4, 5, seed=1)
    here = step([[IGNORED, IGNORED, 2, IGNORED]], original)
    loss = UNDIAL().forget_loss(model, here)
    with torch.no_grad():
        for each in (original, model):
            each.logits[:, [0, 2, 3]] = 5.0  # the row before the scored token is row 1
    torch.testing.assert_close(UNDIAL().forget_loss(model, here), loss)
    alone = step([[0, 2]], FreeLogits(original.logits[:, 1:3]))
    torch.testing.assert_close(UNDIAL().forget_loss(FreeLogits(model.logits[:, 1:3]), alone), loss)


def test_retained_texts_are_needed_with_a_retain_term_only(tiny: Any, tokenizer: Any, texts: Any) -> None:
    assert choose("undial", {}, []).required() == ()
    with pytest.raises(InputError, match="needs retain"):
        choose("undial", {"retain_weight": 1.0}, [])
    assert choose("undial", {"stop": "calibrate"}, ["retain", "holdout"]).required() == ("holdout", "retain")
    without = unlearn(tiny(), tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method="undial", epochs=1)
    assert without.cost.gradient_evaluations == 4


@pytest.mark.parametrize("size", [1, 3])
def test_texts_that_go_through_the_model_in_parts_are_one_step(size: int, tiny: Any, tokenizer: Any, texts: Any) -> None:
    options: dict[str, Any] = {"method": "undial", "optimizer": "sgd", "learning_rate": 0.05, "epochs": 1}
    whole, parts = (unlearn(tiny(), tokenizer, forget=texts[FORGET], batch_size=n, **options).model for n in (8, size))
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q)
