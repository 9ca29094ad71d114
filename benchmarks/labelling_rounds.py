"""Rounds of labelling, and what they come to, for the benchmark labelling.py; see there for the design."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from labelling_annotator import Annotator, demonstrations
from labelling_pool import Floats, Labels, Pool, Setting

from unlearn_lib.audit.labelling import choose
from unlearn_lib.audit.reweighting import leak_probabilities, learnt_weights

STEPS = (1, 100)
"""By how many steps weights are learnt where that is compared."""
BY_LOSS = "loss"
"""The policy that needs no classifier: the text with the lowest loss under the model first."""


@dataclass(frozen=True)
class Auditor:
    """Who labels, how strongly the classifier is held at zero, and whether its labels are reweighted, by so many steps."""

    annotator: Annotator
    ridge: float
    reweighted: bool = False
    steps: int = 100


@dataclass(frozen=True)
class Plan:
    """How many labels are spent, how often everything is drawn anew, and the settings of the annotators that are measured alone."""

    trusted: int = 20
    each: int = 20
    rounds: int = 9
    draws: int = 8
    trusted_sizes: tuple[int, ...] = (20, 60, 100)
    noisy: int = 180
    ridges: tuple[float, ...] = (1.0, 10.0, 100.0)
    noises: tuple[float, ...] = (0.2, 0.35)
    shown: tuple[int, ...] = (0, 1, 3, 5)
    asked: int = 120
    texts: Setting = field(default_factory=Setting)


@dataclass(frozen=True, eq=False)
class Case:
    """A pool and a held-out one, their features scaled by the mean and the deviation of the pool."""

    pool: Pool
    held_out: Pool
    features_ND: Floats
    held_out_MD: Floats

    @classmethod
    def of(cls, pool: Pool, held_out: Pool) -> Case:
        mean_D, deviation_D = pool.embedding_ND.mean(0), pool.embedding_ND.std(0)
        deviation_D = np.where(deviation_D > 0, deviation_D, 1.0)
        return cls(pool, held_out, *((of.embedding_ND - mean_D) / deviation_D for of in (pool, held_out)))


def audit(case: Case, policy: str, auditor: Auditor, plan: Plan, draw: int) -> list[dict[str, float]]:
    """What is known after the trusted labels and after every round."""
    leaks_N, features_ND = case.pool.leaks_N, case.features_ND
    labelled = choose("random", features_ND, np.zeros(len(leaks_N)), (), plan.trusted, seed=draw)
    trusted, said = list(labelled), [bool(leaks_N[i]) for i in labelled]
    read_N = auditor.annotator.read(leaks_N, draw)
    found = []
    for number in range(plan.rounds + 1):
        judged_N, judged_M = judge(case, labelled, said, auditor, plan.trusted)
        found.append(measured(case, labelled, said, judged_N, judged_M))
        if number < plan.rounds:
            known = policy != BY_LOSS
            score_N = judged_N if known else -case.pool.loss_N
            new = choose(policy if known else "likely", features_ND, score_N, labelled, plan.each, seed=1000 * draw + number)  # type: ignore[arg-type]
            for text in new:
                demos = demonstrations(features_ND, text, trusted, auditor.annotator.k, "nearest", draw)
                said.append(auditor.annotator.answer(bool(read_N[text]), [bool(leaks_N[i]) for i in demos]))
            labelled = labelled + new
    return found


def judge(case: Case, labelled: Sequence[int], said: Sequence[bool], auditor: Auditor, first: int) -> tuple[Floats, Floats]:
    """How probably the texts of the pool and the held-out ones leak, by a classifier on all labels, the first of which are trusted."""
    features_ND, labels_N = case.features_ND[list(labelled)], np.array(said)
    weights_N = np.ones(len(labels_N))
    if auditor.reweighted and len(labels_N) > first:
        weights_N[first:] = learnt_weights(
            features_ND[first:], labels_N[first:], features_ND[:first], labels_N[:first], steps=auditor.steps
        )
    everything = np.concatenate([case.features_ND, case.held_out_MD])
    judged = leak_probabilities(features_ND, labels_N, weights_N, everything, ridge=auditor.ridge)
    return judged[: len(case.features_ND)], judged[len(case.features_ND) :]


def measured(case: Case, labelled: Sequence[int], said: Sequence[bool], judged_N: Floats, judged_M: Floats) -> dict[str, float]:
    """Of all leaks of the pool the share that was labelled, and that was called a leak as well; how well the classifier ranks."""
    leaks_N = case.pool.leaks_N
    chosen = np.array(labelled)
    rest = np.setdiff1d(np.arange(len(leaks_N)), chosen)
    true_n, said_n = leaks_N[chosen], np.array(said)
    return {
        "labels": float(len(chosen)),
        "found": float(true_n.sum() / leaks_N.sum()),
        "recognised": float((true_n & said_n).sum() / leaks_N.sum()),
        "alarms": float((~true_n & said_n).sum()),
        "wrong": float((true_n != said_n).mean()),
        "rest_rate": float(leaks_N[rest].mean()),
        "rest_precision": precision(leaks_N[rest], judged_N[rest]),
        "precision": precision(case.held_out.leaks_N, judged_M),
        "recall": recall(case.held_out.leaks_N, judged_M),
    }


def precision(leaks_N: Labels, score_N: Floats) -> float:
    """Average precision, ties in the mean as scikit-learn has them; without any leak 0."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(leaks_N, score_N)) if leaks_N.any() else 0.0


def recall(leaks_N: Labels, score_N: Floats) -> float:
    """The share of the leaks among as many texts with the highest scores as there are leaks."""
    top = np.argsort(-score_N, kind="stable")[: int(leaks_N.sum())]
    return float(leaks_N[top].mean())


def reweighting(case: Case, plan: Plan, trusted: int, draw: int) -> dict[str, float]:
    """Random noisy labels beside so many trusted ones: the average precision on held-out texts by what is made of them, and the mean
    weight that labels get after one step and after all, of right labels and of wrong ones."""
    leaks_N = case.pool.leaks_N
    chosen = choose("random", case.features_ND, np.zeros(len(leaks_N)), (), trusted + plan.noisy, seed=draw)
    said_N = Annotator(plan.noises[0]).read(leaks_N, draw)[chosen]
    said_N[:trusted] = leaks_N[chosen][:trusted]
    right_N = (said_N == leaks_N[chosen])[trusted:]
    none = Annotator(0.0)
    found = {"trusted alone": _precision_of(case, chosen[:trusted], said_N[:trusted], Auditor(none, 1.0), trusted)}
    for ridge in plan.ridges:
        found[f"alike, ridge {ridge:g}"] = _precision_of(case, chosen, said_N, Auditor(none, ridge), trusted)
        for steps in STEPS:
            auditor = Auditor(none, ridge, True, steps)
            found[f"reweighted by {steps}, ridge {ridge:g}"] = _precision_of(case, chosen, said_N, auditor, trusted)
    found["exact, ridge 1"] = _precision_of(case, chosen, leaks_N[chosen], Auditor(none, 1.0), trusted)
    features_ND = case.features_ND[chosen]
    for steps in STEPS:
        weights_N = learnt_weights(
            features_ND[trusted:], said_N[trusted:], features_ND[:trusted], said_N[:trusted], steps=steps
        )
        found |= {f"right, {steps}": float(weights_N[right_N].mean()), f"wrong, {steps}": float(weights_N[~right_N].mean())}
    return found


def _precision_of(case: Case, chosen: Sequence[int], said_N: Labels, auditor: Auditor, trusted: int) -> float:
    return precision(case.held_out.leaks_N, judge(case, chosen, said_N.tolist(), auditor, trusted)[1])


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The means of all numbers over the draws."""
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
