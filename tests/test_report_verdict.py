"""What a report's one forward pass gives, beside losses and predictions that are measured on their own; and the verdict made of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from unlearn_lib.audit.texts import Texts, of_sequences
from unlearn_lib.command.report import verdict as judging
from unlearn_lib.command.report.measure import Look, measured
from unlearn_lib.command.report.verdict import verdict
from unlearn_lib.data.batches import Example, Grouping, encode
from unlearn_lib.data.examples import by_text
from unlearn_lib.errors import NumericsError
from unlearn_lib.metrics.indistinguishable import loss_attack_auc
from unlearn_lib.metrics.memorisation import right_tokens
from unlearn_lib.unlearning.outcome import losses_of, refuse_divergence

Rows = list[dict[str, str]]


def looked_at(model: Any, texts: Texts) -> Any:
    look = Look(texts)
    look(model, texts.examples, 16)
    return look.observed


def sequences(rows: Rows, tokenizer: Any, **parts: slice) -> dict[str, list[Example]]:
    encoded = encode(rows, tokenizer, 24, long_texts="split")
    return {name: encoded.of(range(len(rows))[part]) for name, part in parts.items()}


def read(rows: Rows, tokenizer: Any, **parts: slice) -> Texts:
    chosen = rows[parts["forget"]]
    return of_sequences(sequences(rows, tokenizer, **parts), tokenizer, chosen)


def same_as_two_passes(model: Any, sets: dict[str, list[Example]], tokenizer: Any) -> None:
    look = Look(of_sequences(sets, tokenizer, []))
    found, grouping = look(model, sets, Grouping(3)), Grouping(3)
    for name, expected_n in losses_of(model, sets, grouping).items():
        torch.testing.assert_close(found[name], expected_n)
        torch.testing.assert_close(look.observed.losses(name), expected_n.double())
    pieces = right_tokens(model, sets["forget"])
    expected = [torch.cat([pieces[i] for i in group]) for group in by_text(sets["forget"])]
    right = look.observed.right("forget")
    assert all(torch.equal(one_S, other_S) for one_S, other_S in zip(right, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_one_pass_says_what_two_said(dtype: torch.dtype, tiny: Any, tokenizer: Any, texts: Rows) -> None:
    sets = sequences(texts, tokenizer, forget=slice(20, 25), retain=slice(0), holdout=slice(30, 34))
    assert len(by_text(sets["forget"])) < len(sets["forget"])
    same_as_two_passes(tiny(dtype=dtype), sets, tokenizer)


def test_the_first_token_is_not_counted_as_known_where_virtual_ones_predict_it(tiny: Any, tokenizer: Any, texts: Rows) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = peft.get_peft_model(tiny(dtype=torch.float32), config).eval()
    sets = sequences(texts, tokenizer, forget=slice(20, 25), holdout=slice(30, 34))
    same_as_two_passes(model, sets, tokenizer)


def test_a_loss_that_float32_cannot_tell_from_its_neighbours_is_divergence(tiny: Any, tokenizer: Any, texts: Rows) -> None:
    model, sets = tiny(dtype=torch.float32), sequences(texts, tokenizer, forget=slice(3))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e13)
    found = Look(of_sequences(sets, tokenizer, []))(model, sets, 8)
    assert found["forget"].dtype == torch.float32
    with pytest.raises(NumericsError, match="diverged"):
        refuse_divergence(model, found, "take smaller steps")


def test_the_metrics_of_a_model_that_knows_its_texts(memorised: Any, tokenizer: Any, texts: Rows) -> None:
    observed = looked_at(memorised, read(texts, tokenizer, forget=slice(5), holdout=slice(24, 40)))
    found = measured(observed)
    assert found.metrics["loss_attack_auc"] == loss_attack_auc(found.losses["forget"], found.losses["holdout"]) == 1.0
    shares = [float(right_S.double().mean()) for right_S in observed.right("forget")]
    assert found.metrics["memorisation_accuracy"] == pytest.approx(sum(shares) / 5)
    assert min(shares) > 0.5
    alone = measured(looked_at(memorised, read(texts, tokenizer, forget=slice(5))))
    assert alone.metrics == {**found.metrics, "loss_attack_auc": None}


def test_models_whose_verdict_is_known(memorised: Any, tokenizer: Any, texts: Rows) -> None:
    sets = read(texts, tokenizer, forget=slice(12), retain=slice(12, 24), holdout=slice(24, 40))
    broken = copy.deepcopy(memorised)
    with torch.no_grad():
        for p in broken.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) * 0.02)
    before = looked_at(memorised, sets)
    for model, outcome in ((memorised, "not forgotten"), (broken, "utility lost")):
        found, missing = verdict(before, looked_at(model, sets), sets)
        assert (found.outcome, missing) == (outcome, [])
    alone = read(texts, tokenizer, forget=slice(12))
    seen = looked_at(memorised, alone)
    found, missing = verdict(seen, seen, alone)
    assert (found.outcome, missing) == ("undecided", [])
    assert found.findings[0].says == "There are no held-out texts to compare with."


def test_a_measure_that_fails_ends_nothing_and_is_told(
    memorised: Any, tokenizer: Any, texts: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise NumericsError("a score is not finite")

    monkeypatch.setattr(judging, "membership", failing)
    sets = read(texts, tokenizer, forget=slice(12), holdout=slice(24, 40))
    seen = looked_at(memorised, sets)
    found, missing = verdict(seen, seen, sets)
    assert found.outcome == "not forgotten"  # it is known by heart
    assert missing == ["the verdict lacks a measure (attacks on membership): a score is not finite"]
