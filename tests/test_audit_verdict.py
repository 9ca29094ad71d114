"""The rules of the audit's verdict, each by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unlearn_lib.audit.schema import Curve, Measure
from unlearn_lib.audit.verdict import (
    AGAINST,
    NOTABLE,
    WAY_BACK,
    WORN,
    by_heart,
    comes_back,
    judge,
    kept,
    over_erased,
    stands_out,
)
from unlearn_lib.audit.verdict import Evidence as Given
from unlearn_lib.metrics.roc import attack


def measure(name: str, texts: str, value: float, role: str = "audited", width: float = 0.02, unit: str = "") -> Measure:
    return Measure(
        family="any", name=name, role=role, texts=texts, value=value, low=value - width, high=value + width, n=50, unit=unit
    )


def losses(role: str, forget: float, retain: float, holdout: float) -> list[Measure]:
    sets = {"forget": forget, "retain": retain, "holdout": holdout}
    return [measure("loss", name, value, role, unit="nats") for name, value in sets.items()]


def auc(value: float, role: str = "audited", width: float = 0.02, name: str = "loss") -> Measure:
    return measure(f"AUC, {name}", AGAINST, value, role, width)


def known(value: float, role: str = "audited") -> Measure:
    return measure("extraction strength", "forget", value, role)


ALIKE = [
    *losses("audited", 2.0, 0.5, 2.0),
    *losses("original", 0.5, 0.5, 2.0),
    *losses("retrained", 2.0, 0.5, 2.0),
    auc(0.5),
    auc(0.5, "retrained"),
    known(0.05),
    known(0.05, "retrained"),
]
CURVES = [
    Curve(role="audited", points=[(0, 2.0), (10, 1.5)]),
    Curve(role="retrained", points=[(0, 2.0), (10, 1.5)]),
]


def replaced(*measures: Measure) -> list[Measure]:
    """`ALIKE` with other values in place of its own."""
    keys = {(one.name, one.texts, one.role) for one in measures}
    return [*(one for one in ALIKE if (one.name, one.texts, one.role) not in keys), *measures]


@pytest.mark.parametrize(
    ("measures", "outcome"),
    [
        (ALIKE, "like retraining"),
        (replaced(auc(0.9)), "not forgotten"),
        (replaced(known(0.4)), "not forgotten"),
        (replaced(auc(0.1)), "over-erased"),
        (replaced(*losses("audited", 2.0, 1.6, 2.0)), "utility lost"),
        (replaced(*losses("audited", 2.0, 0.5, 3.1)), "utility lost"),
        # what is lost comes before what is not forgotten: such a model says little
        (replaced(*losses("audited", 9.0, 9.0, 9.0), auc(0.9)), "utility lost"),
        ([one for one in ALIKE if one.role != "retrained"] + [measure("extraction strength", "holdout", 0.05)], "forgotten"),
        (losses("audited", 2.0, 0.5, 2.0), "undecided"),
        (replaced(*losses("audited", 2.0, 0.8, 2.0)), "worn"),
        # what is worn and not forgotten is not forgotten
        (replaced(*losses("audited", 2.0, 0.8, 2.0), auc(0.9)), "not forgotten"),
    ],
)
def test_outcomes(measures: list[Measure], outcome: str) -> None:
    assert judge(measures, CURVES)[0] == outcome


def test_texts_that_come_back_are_hidden() -> None:
    faster = [Curve(role="audited", points=[(0, 2.0), (10, 0.6)]), CURVES[1]]
    outcome, verdict, findings = judge(ALIKE, faster)
    assert outcome == "hidden"
    assert "out of sight" in verdict
    assert "their loss falls to 0.60, and to 1.50 where the retrained model" in findings[-1].says
    slower = [Curve(role="audited", points=[(0, 2.0), (10, 1.45)]), CURVES[1]]
    assert judge(ALIKE, slower)[0] == "like retraining"


def test_a_start_that_was_lower_is_no_return() -> None:
    """The audited model begins .5 below the retrained one and stays so: training has brought nothing back."""
    ahead = [Curve(role="audited", points=[(0, 1.5), (10, 1.0)]), CURVES[1]]
    assert comes_back(Given(ALIKE, ahead)).answer == "good"


def test_shares_of_the_way_back_count_beside_those_of_the_control_alone() -> None:
    def share(value: float, role: str) -> Measure:
        return measure("rounding to 4 bits", "forget", value, role, unit=WAY_BACK)

    assert comes_back(Given([*ALIKE, share(0.6, "audited"), share(0.1, "retrained")], [])).answer == "bad"
    assert comes_back(Given([*ALIKE, share(0.6, "audited"), share(0.55, "retrained")], [])).answer == "good"
    assert comes_back(Given([*ALIKE, share(0.6, "audited")], [])).answer == "unclear"
    assert comes_back(Given([*ALIKE, share(0.05, "audited"), share(-2.0, "retrained")], [])).answer == "good"


def test_what_was_never_forgotten_cannot_come_back() -> None:
    found = comes_back(Given(replaced(*losses("audited", 0.5, 0.5, 2.0)), CURVES))
    assert (found.answer, found.says) == ("unclear", "Nothing was forgotten that could come back.")


@pytest.mark.parametrize(
    ("value", "width", "retrained", "answer"),
    [
        (0.7, 0.05, None, "bad"),
        (0.7, 0.25, None, "good"),  # the interval holds one half
        (0.5 + NOTABLE, 0.001, None, "good"),  # certain, and too small to matter
        (0.7, 0.05, 0.68, "good"),  # a retrained model tells them apart as well: the sets differ
        (0.9, 0.02, 0.68, "bad"),
    ],
)
def test_what_stands_out(value: float, width: float, retrained: float | None, answer: str) -> None:
    reference = [] if retrained is None else [auc(retrained, "retrained", 0.05)]
    assert stands_out(Given([auc(value, width=width), *reference], [])).answer == answer


@pytest.mark.parametrize(
    ("n", "m", "value", "answer"),
    [
        (1, 1000, 1.0, "unclear"),  # one text lies above all others in one of m + 1 cases, and above most of them often
        (2, 1000, 0.88, "unclear"),
        (2, 1000, 0.92, "bad"),
        (5, 1000, 0.74, "unclear"),
        (5, 1000, 0.77, "bad"),
        (5, 1000, 0.52, "good"),
        (50, 1000, 0.59, "bad"),
        (6, 16, 0.77, "unclear"),  # 1.96 times the root of 23 / 1152 is 0.277
        (6, 16, 0.78, "bad"),
        (2, 2, 1.0, "unclear"),  # one order of six is as good as this
        (6, None, 0.74, "bad"),  # with ever more others it is 1.96 times the root of 1 / 72, which is 0.231
        (6, None, 0.73, "unclear"),
    ],
)
def test_few_texts_stand_out_by_chance(n: int, m: int | None, value: float, answer: str) -> None:
    """The variance of an AUC that nothing moves is (n + m + 1) / (12 n m), with many others 1 / (12 n)."""
    few = auc(value, width=0.01).model_copy(update={"n": n, "m": m})
    found = stands_out(Given([few], []))
    assert found.answer == answer
    if answer == "unclear":
        assert found.says.startswith("One text is too few" if n == 1 else f"{n} texts are too few")
    assert (over_erased(Given([few.model_copy(update={"value": 1 - value, "high": 1 - value})], [])).answer == "bad") == (
        answer == "bad" and value > 0.65
    )


def test_texts_that_nothing_tells_apart_seldom_stand_out() -> None:
    """Scores of both kinds from one distribution, in sets of few texts: the rule errs about as often as it says."""
    drawn, generator = 150, torch.Generator().manual_seed(0)
    for sizes in ((1, 40), (2, 40), (4, 40), (16, 6), (8, 8)):
        answers = []
        for _ in range(drawn):
            scores = [torch.randn(size, generator=generator) for size in sizes]
            found = attack(scores[0], scores[1], fprs=(), resamples=50)
            low, high = found.auc_interval
            one = auc(found.auc).model_copy(update={"low": low, "high": high, "n": min(sizes), "m": max(sizes)})
            answers += [stands_out(Given([one], [])).answer, over_erased(Given([one], [])).answer]
        # of either rule 2.5 %, and the error of so few draws
        assert answers.count("bad") <= 0.09 * drawn


def test_one_text_says_nothing_of_what_is_known_by_heart() -> None:
    one = known(0.9).model_copy(update={"low": None, "high": None, "n": 1})
    found = by_heart(Given([one, measure("extraction strength", "holdout", 0.05)], []))
    assert (found.answer, found.says) == ("unclear", "One text is too few to tell; extraction strength 0.900.")


def test_the_best_attack_decides() -> None:
    found = stands_out(Given([auc(0.5), auc(0.8, name="min-k 20 %")], []))
    assert found.answer == "bad"
    assert found.says.startswith("Yes, attacks tell them apart (AUC): min-k 20 % 0.80")


def test_over_erasing_takes_a_difference_from_retraining() -> None:
    low: list[Any] = [auc(0.3, width=0.05)]
    assert over_erased(Given(low, [])).answer == "bad"
    assert over_erased(Given([*low, auc(0.3, "retrained")], [])).answer == "good"
    assert over_erased(Given([auc(0.3, width=0.3)], [])).answer == "good"
    by_gradients = over_erased(Given([auc(0.5), auc(0.1, name="gradient norm")], []))
    assert (by_gradients.answer, "gradient norm 0.10" in by_gradients.says) == ("bad", True)


def test_wear_is_between_good_and_lost() -> None:
    worth = 1.5
    for share, answer in ((0.5 * WORN, "good"), (2 * WORN, "unclear"), (0.6, "bad")):
        assert kept(Given(replaced(*losses("audited", 2.0, 0.5 + share * worth, 2.0)), [])).answer == answer


def test_without_another_model_retained_texts_are_compared_with_unseen_ones() -> None:
    lost, there = (measure("AUC, loss", "retain against holdout", value) for value in (0.5, 0.9))
    assert kept(Given([lost], [])).answer == "bad"
    assert kept(Given([there], [])).answer == "good"
    assert kept(Given([], [])).answer == "unclear"
