"""The look at the outcome: a sentence where it is bad, by hand and on real runs, and none where it is good."""

from typing import Any

import pytest
import torch

from unlearn_lib import TrainingConfig, train, unlearn
from unlearn_lib.errors import NumericsError
from unlearn_lib.metrics.indistinguishable import loss_attack_auc, over_erased
from unlearn_lib.models import nano
from unlearn_lib.unlearning.outcome import look, refuse_divergence


def sets(forget: float, retain: float | None, holdout: float | None, n: int = 20) -> dict[str, torch.Tensor]:
    """n losses of each set around a mean, spread a little."""
    spread = torch.linspace(-0.1, 0.1, n)
    means = {"forget": forget, "retain": retain, "holdout": holdout}
    return {name: mean + spread for name, mean in means.items() if mean is not None}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # all is well: forgotten as far as held-out texts, what is retained has hardly suffered
        (sets(0.5, 0.5, 2.0), sets(2.0, 0.6, 2.05), []),
        (sets(0.5, 0.5, None), sets(2.0, 0.7, None), []),
        (sets(0.5, None, None), sets(2.0, None, None), []),
        # retrained, on texts that the model had never learnt
        (sets(2.0, 2.0, 2.0), sets(2.0, 1.9, 2.0), []),
        # retained texts past the held-out ones, on the way there, and without any
        (sets(0.16, 0.16, 1.5), sets(1.5, 3.4, 3.5), ["the retained texts are lost: their loss rose from 0.160 to 3.400, past the 1.500"]),
        (sets(0.5, 0.5, 2.5), sets(2.5, 1.7, 2.6), ["suffered: their loss rose from 0.500 to 1.700, 60 % of the way to the 2.500"]),
        (sets(0.5, 0.5, None), sets(2.5, 1.7, None), ["suffered: their loss rose by 1.200 (from 0.500 to 1.700), that of the forget"]),
        (sets(0.5, 0.5, 2.5), sets(1.0, 0.8, 2.6), ["suffered: their loss rose by 0.300 (from 0.500 to 0.800), that of the forget"]),
        (sets(0.5, 0.5, 2.5), sets(0.62, 0.58, 2.6), []),
        # forget losses above the held-out ones
        (sets(0.5, 0.5, 2.0), sets(5.0, 0.5, 2.0), ["over-erased: the loss attack's AUC is 0.000 (before: 1.000)"]),
        # as many texts as cannot tell, and texts that were harder to begin with
        (sets(0.5, 0.5, 2.0, 2), sets(5.0, 0.5, 2.0, 2), []),
        (sets(2.5, 0.5, 2.0), sets(3.5, 0.5, 2.0), []),
        # nothing happened
        (sets(0.5, 0.5, 2.0), sets(0.55, 0.5, 2.0), ["the forget loss went from 0.5 to 0.55; held-out texts have 2.000"]),
        (sets(0.5, 0.5, None), sets(0.505, 0.5, None), ["hardly anything was forgotten: the forget loss went from 0.5 to 0.505"]),
        (sets(0.5, None, 2.0), sets(0.4, None, 2.0), ["hardly anything was forgotten"]),
    ],
)  # fmt: skip
def test_a_sentence_for_every_bad_outcome_alone(before: Any, after: Any, expected: list[str]) -> None:
    found = look(before, after)
    assert len(found) == len(expected), found
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True)), found


def test_what_the_method_said_is_not_said_again() -> None:
    before, after = sets(0.5, 0.5, 2.0), sets(0.5, 0.5, 2.0)
    assert look(before, after, ["forgetting_incomplete: the limit binds"]) == []
    assert look(before, after, ["nothing was done: every step made it worse"]) == []
    assert len(look(before, after, ["3 retain texts are exact duplicates"])) == 1


@pytest.mark.parametrize(("forget", "holdout", "p"), [([5.0, 6.0], [1.0, 2.0, 3.0], 1 / 10), ([2.5], [1.0, 2.0, 3.0], 1 / 2)])
def test_the_chance_is_counted_by_hand(forget: list[float], holdout: list[float], p: float) -> None:
    """Of the 10 ways to pick two of five ranks one is the highest two; of four ranks one has two at or above the third."""
    assert over_erased(torch.tensor(forget), torch.tensor(holdout)) == pytest.approx(p)


def test_equal_sets_are_rarely_called_over_erased() -> None:
    """At most as often as the chance that is allowed says, for numbers of texts from 3 to 50."""
    generator = torch.Generator().manual_seed(0)
    for n, m in ((3, 50), (8, 8), (50, 20)):
        found = 0
        for _ in range(400):
            forget, holdout = torch.randn(n, generator=generator), torch.randn(m, generator=generator)
            before = {"forget": forget - 9, "holdout": holdout}
            after = {"forget": forget, "holdout": holdout}
            assert loss_attack_auc(before["forget"], holdout) == 1.0
            found += len(look(before, after))
        assert found <= 0.01 * 400 + 3 * (0.01 * 400) ** 0.5


def test_losses_that_are_not_finite_are_refused() -> None:
    model = torch.nn.Linear(2, 2)
    refuse_divergence(model, {"forget": torch.tensor([1.0, 2e9])}, "lower step=")
    for bad in (torch.nan, torch.inf, 1e10):
        with pytest.raises(NumericsError, match=r"the method diverged: a forget loss is .* nats a token; lower step="):
            refuse_divergence(model, {"retain": torch.ones(2), "forget": torch.tensor([1.0, bad])}, "lower step=")
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="its weights are not finite; lower step="):
        refuse_divergence(model, {}, "lower step=")


@pytest.fixture(scope="module")
def memorised(tokenizer: Any, texts: list[dict[str, str]]) -> dict[str, Any]:
    """A small model that knows 16 short texts, of which three are to go, by heart."""
    from transformers import AutoModelForCausalLM

    short = [{"text": row["text"][:30]} for row in texts]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 1, 2, 0.0, 0, ""))).eval()
    train(model, tokenizer, short[:16], TrainingConfig(30, 1e-2))
    return {"model": model, "tokenizer": tokenizer, "forget": short[:3], "retain": short[3:16], "holdout": short[16:28]}


def rises(result: Any) -> dict[str, float]:
    return {name: float((result.losses_after[name] - n).mean()) for name, n in result.losses_before.items()}


def test_a_good_outcome_has_nothing_to_say(memorised: dict[str, Any]) -> None:
    result = unlearn(**memorised)
    assert result.warnings == []
    gap = float(result.losses_before["holdout"].mean() - result.losses_before["forget"].mean())
    assert gap > 3.0
    assert rises(result)["forget"] > 0.8 * gap
    assert rises(result)["retain"] < 0.06 * gap


def test_newtons_defaults_forget_without_a_collapse(memorised: dict[str, Any]) -> None:
    """To the goal, or to where the limit on the retain loss binds."""
    result = unlearn(**memorised, method="newton")
    assert (result.config["step"], result.config["steps"]) == ("calibrate", 4)
    assert rises(result)["forget"] > 1.0
    assert rises(result)["retain"] < 0.2 * rises(result)["forget"]
    assert [warning for warning in result.warnings if not warning.startswith("forgetting_incomplete")] == []


def test_newton_without_held_out_texts_stops_where_it_starts_to_hurt(memorised: dict[str, Any]) -> None:
    result = unlearn(**{**memorised, "holdout": None}, method="newton")
    assert result.config["step"] == "limited"
    assert rises(result)["forget"] > 0.5
    assert rises(result)["retain"] < 0.2 * rises(result)["forget"]
    assert result.warnings == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "newton", "step": 1.0, "damping": 1e-4, "max_steps": 50}, "the retained texts are lost"),
        ({"method": "newton", "step": 1.0, "damping": 1e-3}, "the retained texts have suffered"),
        ({"method": "gradient-ascent", "optimizer": "adam", "step": 3e-3, "epochs": 30}, "over-erased"),
        ({"method": "gradient-ascent", "step": 1e-6}, "hardly anything was forgotten"),
    ],
)
def test_bad_runs_are_called_bad(options: dict[str, Any], sentence: str, memorised: dict[str, Any]) -> None:
    assert any(sentence in warning for warning in unlearn(**memorised, **options).warnings)
