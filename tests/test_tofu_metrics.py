"""TOFU's measures by hand, and against the numbers that its authors published."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import gmean, hmean
from torch import Tensor

from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.tofu import (
    COMPONENTS,
    Mean,
    forget_quality,
    model_utility,
    normalised_probability,
    probability,
    rouge_l_recall,
    truth_ratio,
    truth_ratio_forget,
    truth_ratio_true,
)

LOG2 = math.log(2)


def test_truth_ratio_by_hand() -> None:
    """Wrong answers of probability 1/2 and 1/8, a paraphrase of 1/2: the means are 1/4 and 5/16."""
    wrong, paraphrase = torch.tensor([[LOG2, 3 * LOG2]]), torch.tensor([LOG2])
    assert truth_ratio(wrong, paraphrase).tolist() == pytest.approx([1 / 2])
    assert truth_ratio(wrong, paraphrase, "arithmetic").tolist() == pytest.approx([5 / 8])


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_truth_ratio_of_unequally_many_wrong_answers(mean: Mean) -> None:
    """Each question as if it were alone, whatever their order; the means are those of scipy and torch."""
    wrong = [[0.5, 2.0, 1.0], [3.0], [0.1, 0.2]]
    truth = [1.0, 0.3, 0.7]
    found = truth_ratio(wrong, truth, mean)
    of = gmean if mean == "geometric" else lambda p: p.mean()
    by_hand = [
        float(of(torch.tensor(w).neg().exp().double().numpy())) / math.exp(-t) for w, t in zip(wrong, truth, strict=True)
    ]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-6)
    assert truth_ratio(wrong[::-1], truth[::-1], mean).tolist() == found.flip(0).tolist()
    assert [truth_ratio([w], [t], mean).item() for w, t in zip(wrong, truth, strict=True)] == found.tolist()
    assert truth_ratio([[5.0, 4.0, *w] for w in wrong], truth, mean).lt(found).all(), "less likely wrong answers lower it"


def test_the_two_means_agree_where_all_wrong_answers_are_equally_likely() -> None:
    wrong, truth = torch.full((4, 5), 1.7), torch.rand(4)
    assert torch.allclose(truth_ratio(wrong, truth), truth_ratio(wrong, truth, "arithmetic"))
    assert truth_ratio(wrong[:, :1], truth).tolist() == pytest.approx((truth - 1.7).exp().tolist())


def test_ratios_of_a_model_that_diverged_do_not_underflow() -> None:
    """All probabilities are 0 in float64; their ratio is e."""
    for mean in ("geometric", "arithmetic"):
        assert truth_ratio([[2000.0, 2000.0]], [2001.0], mean).tolist() == pytest.approx([math.e])
    assert normalised_probability([2000.0], [[2000.0, 2000.0]]).tolist() == pytest.approx([1 / 3])


def test_aggregates_by_hand() -> None:
    ratios = torch.tensor([0.25, 1.0, 2.0])
    assert truth_ratio_forget(ratios) == pytest.approx((1 / 4 + 1 + 1 / 2) / 3)
    assert truth_ratio_true(ratios) == pytest.approx((3 / 4 + 0 + 0) / 3)
    assert truth_ratio_forget(1 / ratios) == truth_ratio_forget(ratios)
    extremes = torch.tensor([0.0, math.inf])
    assert (truth_ratio_forget(extremes), truth_ratio_true(extremes)) == (0.0, 0.5)


def test_probabilities_by_hand() -> None:
    assert probability([0.0, LOG2]).tolist() == pytest.approx([1.0, 0.5])
    assert normalised_probability([LOG2], [[LOG2, 2 * LOG2]]).tolist() == pytest.approx([(1 / 2) / (1 / 2 + 1 / 2 + 1 / 4)])
    losses = torch.rand(3, 5)
    expected = (-losses.double()).softmax(-1)[:, 0]
    assert torch.allclose(normalised_probability(losses[:, 0], losses[:, 1:]), expected)


def test_a_known_answer_has_a_low_ratio_and_a_high_probability() -> None:
    known, wrong = [0.1, 0.2], [[3.0, 4.0], [5.0, 3.0]]
    assert truth_ratio(wrong, known).lt(0.1).all()
    assert truth_ratio_true(truth_ratio(wrong, known)) > 0.9 > 0.1 > truth_ratio_forget(truth_ratio(wrong, known))
    assert normalised_probability(known, wrong).gt(0.9).all()


def test_rouge_is_stemmed_and_counts_the_truth() -> None:
    assert rouge_l_recall("He writes short novels in Tarn", "writing a novel") == pytest.approx(2 / 3)


def test_forget_quality_of_disjoint_samples_is_its_floor() -> None:
    for n, m in [(5, 5), (3, 7), (40, 40), (1, 1), (300, 400)]:
        found = forget_quality(torch.rand(n), 2 + torch.rand(m))
        assert (found.D, found.n, found.m) == (1.0, n, m)
        assert found.floor == 2 / math.comb(n + m, n)
        assert found.p == pytest.approx(found.floor, rel=1e-6)
    assert forget_quality(torch.rand(400), 2 + torch.rand(400)).floor == pytest.approx(1.06e-239, rel=0.01)


def test_forget_quality_of_a_model_with_itself_is_one_and_has_no_direction() -> None:
    ratios, others = torch.rand(30), torch.rand(20) ** 2
    assert (forget_quality(ratios, ratios.flip(0)).p, forget_quality(ratios, ratios).D) == (1.0, 0.0)
    one, other = forget_quality(ratios, others), forget_quality(others, ratios)
    assert (one.p, one.D, one.floor) == pytest.approx((other.p, other.D, other.floor))
    assert forget_quality(ratios.log().exp2(), others.log().exp2()).p == pytest.approx(one.p), "only the order counts"


def test_utility_is_the_harmonic_mean_of_nine() -> None:
    values = torch.linspace(0.1, 1.0, 9, dtype=torch.float64).tolist()
    components = dict(zip(COMPONENTS, values, strict=True))
    assert model_utility(components) == pytest.approx(float(hmean(values)))
    assert model_utility(dict(reversed(components.items()))) == model_utility(components)
    assert model_utility(dict.fromkeys(COMPONENTS, 0.25)) == pytest.approx(0.25)
    assert model_utility({**components, "world_facts_rouge": 0.0}) == 0.0


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan, math.inf])
def test_utility_of_what_is_no_share_is_refused(value: float) -> None:
    components = dict.fromkeys(COMPONENTS, 0.5)
    with pytest.raises(InputError, match="'retain_rouge' of the model utility is a mean of shares"):
        model_utility({**components, "retain_rouge": value})
    with pytest.raises(InputError, match="'world_facts_truth_ratio' is missing"):
        model_utility(dict.fromkeys(COMPONENTS[:-1], 0.5))
    with pytest.raises(
        InputError, match="unknown component of the model utility 'forget_rouge'; choose one of: retain_probability"
    ):
        model_utility({**components, "forget_rouge": 0.5})


def test_bad_losses_and_ratios_are_refused() -> None:
    with pytest.raises(InputError, match="unknown mean of the truth ratio 'harmonic'; choose one of: geometric, arithmetic"):
        truth_ratio([[1.0]], [1.0], "harmonic")
    with pytest.raises(InputError, match="true answers to 2 questions and wrong answers to 1"):
        truth_ratio([[1.0]], [1.0, 2.0])
    with pytest.raises(InputError, match=r"wrong answers to question 1 have the shape \(0,\)"):
        truth_ratio([[1.0], []], [1.0, 2.0])
    with pytest.raises(InputError, match=r"true answers have the shape \(0,\)"):
        probability([])
    with pytest.raises(NumericsError, match="true answers number 1 is not finite"):
        normalised_probability([0.0, math.nan], [[1.0], [1.0]])
    with pytest.raises(NumericsError, match="wrong answers to question 0 number 1 is not finite"):
        truth_ratio([[1.0, math.inf]], [1.0])
    with pytest.raises(NumericsError, match="truth ratio 1 is not a number"):
        truth_ratio_true(torch.tensor([1.0, math.nan]))
    with pytest.raises(InputError, match="never below 0"):
        forget_quality(torch.tensor([0.5]), torch.tensor([-0.5]))
    with pytest.raises(InputError, match="at least one ratio"):
        forget_quality(torch.tensor([]), torch.tensor([0.5]))


def test_published_losses_of_three_real_authors() -> None:
    """From the logs of locuslab/tofu (MIT), Llama-2-7B that was trained on all of TOFU: losses of the true answer and of three wrong
    ones to the first questions on real authors, and what the authors' own code made of them."""
    true = [4.10915184, 3.83794284, 3.85877919]
    wrong = [
        [6.05654907, 3.38015556, 6.85803938],
        [2.95750213, 5.30612993, 7.0972724],
        [4.28970242, 4.16980267, 3.9188621],
    ]
    theirs = [1.18773449, 1.30310819, 1.2012567]
    assert (-normalised_probability(true, wrong).log()).tolist() == pytest.approx(theirs, abs=1e-6)


@pytest.fixture(scope="module")
def logs() -> Any:
    """The authors' logs of Llama-2-7B, trained on everything (`full`) and on the retained authors alone (`retain90`)."""
    folder = os.environ.get("UNLEARN_TOFU_LOGS")
    if not folder:
        pytest.skip("UNLEARN_TOFU_LOGS names no folder with the logs of locuslab/tofu (llama2-7b.json)")
    return json.loads((Path(folder) / "llama2-7b.json").read_text())


def log_ratios(log: Any, mean: Mean) -> Tensor:
    return truth_ratio(log["average_perturb_loss"], log["avg_paraphrased_loss"], mean)


def log_utility(logs: Any, mean: Mean) -> float:
    names = {"retain": "eval_log", "real_authors": "eval_real_author_wo_options", "world_facts": "eval_real_world_wo_options"}
    components = {}
    for part, name in names.items():
        log = logs[name]
        true, wrong = log["avg_gt_loss"], log["average_perturb_loss"]
        found = probability(true) if part == "retain" else normalised_probability(true, wrong)
        components[f"{part}_probability"] = found.mean().item()
        components[f"{part}_rouge"] = sum(log["rougeL_recall"]) / len(log["rougeL_recall"])
        components[f"{part}_truth_ratio"] = truth_ratio_true(log_ratios(log, mean))
    return model_utility(components)


@pytest.mark.parametrize(
    ("mean", "full", "retain90", "p", "distance"),
    [("geometric", 0.622677, 0.613745, 1.834e-21, 0.39667), ("arithmetic", 0.585886, 0.575240, 6.032e-23, 0.41000)],
)
def test_utility_and_forget_quality_of_the_published_logs(
    logs: Any, mean: Mean, full: float, retain90: float, p: float, distance: float
) -> None:
    assert log_utility(logs["full"], mean) == pytest.approx(full, abs=5e-7)
    assert log_utility(logs["retain90"], mean) == pytest.approx(retain90, abs=5e-7)
    ratios = {name: log_ratios(logs[name]["eval_log_forget"], mean) for name in ("full", "retain90")}
    found = forget_quality(ratios["full"], ratios["retain90"])
    assert found.p == pytest.approx(p, rel=5e-4)
    assert (found.D, found.n, found.m) == (pytest.approx(distance, abs=5e-6), 300, 300)
    assert forget_quality(ratios["full"], ratios["full"]).p == 1.0
