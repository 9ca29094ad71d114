"""The measures of an audit that follow from what models say of the texts, each with its interval and number of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from unlearn_lib.audit.observe import Observed
from unlearn_lib.audit.schema import Measure
from unlearn_lib.audit.texts import Texts
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.likelihood import TokenScores
from unlearn_lib.metrics.membership import attack, loss_score, min_k, min_k_plus_plus, reference_score, zlib_score
from unlearn_lib.metrics.memorisation import extracted, extraction_strength
from unlearn_lib.metrics.muse import privleak_of

RESAMPLES, CONFIDENCE = 1000, 0.95
NUMBERS = 1 << 20
"""Values that are resampled at once, 8 MiB of them."""
AGAINST = "forget against holdout"
NEIGHBOURS = "retain against holdout"


def mean(family: str, name: str, role: str, texts: str, values_n: Tensor, unit: str, seed: int = 0) -> Measure:
    """The mean of one number a text, with its bootstrap interval (percentiles; none for a single text)."""
    values = values_n.double()
    n = len(values)
    low = high = None
    if n > 1:
        tail = (1 - CONFIDENCE) / 2
        low, high = _resampled(values, seed).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Measure(
        family=family, name=name, role=role, texts=texts, value=float(values.mean()), low=low, high=high, n=n, unit=unit
    )


def _resampled(values_n: Tensor, seed: int) -> Tensor:
    """`[RESAMPLES]`: the means of resamples, which are drawn a few at a time, so that memory does not grow with their number."""
    generator, n = torch.Generator().manual_seed(seed), len(values_n)
    most = max(1, NUMBERS // n)
    numbers = [min(most, RESAMPLES - start) for start in range(0, RESAMPLES, most)]
    return torch.cat([values_n[torch.randint(n, (R, n), generator=generator)].mean(1) for R in numbers])


def knowledge(role: str, observed: Observed) -> Iterator[Measure]:
    """How well a model knows the texts of each set: loss, token accuracy, extraction strength, exact completion of the second half."""
    for name in observed.scores:
        right = observed.right(name)
        accuracy = torch.stack([right_T.double().mean() for right_T in right])
        yield mean("knowledge", "loss", role, name, observed.losses(name), "nats")
        yield mean("knowledge", "memorisation accuracy", role, name, accuracy, "share")
        yield mean("knowledge", "extraction strength", role, name, extraction_strength(right), "share")
        yield mean("knowledge", "greedy extraction", role, name, extracted(right).double(), "share")


def membership(role: str, observed: Observed, texts: Texts, base: Observed | None) -> Iterator[Measure]:
    """How well attacks on membership tell forget texts, and by the loss retained ones, from held-out ones.

    Raises:
        InputError: There are no held-out texts.
    """
    if "holdout" not in observed.scores:
        raise InputError("attacks on membership compare with texts that were never trained on; give them with --holdout")
    for name, scores in _attacks(observed, texts, base).items():
        yield from attacked(role, name, AGAINST, scores["forget"], scores["holdout"])
    if "retain" in observed.scores:
        yield from attacked(
            role, "loss", NEIGHBOURS, loss_score(observed.scores["retain"]), loss_score(observed.scores["holdout"])
        )


def attacked(role: str, name: str, texts: str, members_n: Tensor, others_m: Tensor) -> Iterator[Measure]:
    """AUC and true positive rates of one attack; a rate that so few held-out texts cannot resolve is left out."""
    found = attack(members_n, others_m, confidence=CONFIDENCE, resamples=RESAMPLES)
    n, m = sorted((found.n, found.m))
    low, high = found.auc_interval
    yield Measure(
        family="membership", name=f"AUC, {name}", role=role, texts=texts, value=found.auc, low=low, high=high, n=n, m=m
    )
    for rate, tpr in found.tpr.items():
        interval = found.tpr_interval[rate]
        if tpr is not None and interval is not None:
            label = f"TPR at {100 * rate:g} % FPR, {name}"
            low, high = interval
            yield Measure(
                family="membership", name=label, role=role, texts=texts, value=tpr, low=low, high=high, n=n, m=m, unit="share"
            )


def _attacks(observed: Observed, texts: Texts, base: Observed | None) -> Mapping[str, Mapping[str, Tensor]]:
    sets = ("forget", "holdout")
    scores: Mapping[str, Sequence[TokenScores]] = observed.scores
    found = {
        "loss": {name: loss_score(scores[name]) for name in sets},
        "zlib": {name: zlib_score(scores[name], texts.scored[name]) for name in sets},
        "min-k 20 %": {name: min_k(scores[name], 0.2) for name in sets},
        "min-k++ 20 %": {name: min_k_plus_plus(scores[name], 0.2) for name in sets},
    }
    if base is not None:
        found["reference model"] = {name: reference_score(scores[name], base.scores[name]) for name in sets}
    return found


def leak(observed: Observed, retrained: Observed) -> Iterator[Measure]:
    """MUSE's PrivLeak: how the attack by Min-40 % does, beside how it does on the retrained model; 0 is like retraining, about -100
    not unlearned, above 0 over-unlearned.

    Raises:
        InputError: There are no held-out texts.
    """
    if "holdout" not in observed.scores:
        raise InputError("PrivLeak compares with texts that were never trained on; give them with --holdout")
    value = privleak_of(
        observed.scores["forget"], observed.scores["holdout"], retrained.scores["forget"], retrained.scores["holdout"]
    )
    n, m = sorted(len(observed.scores[name]) for name in ("forget", "holdout"))
    yield Measure(family="membership", name="PrivLeak", role="audited", texts=AGAINST, value=value, n=n, m=m, unit="%")
