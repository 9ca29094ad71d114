"""A look at what a method made of the model: whether it diverged, and sentences for outcomes that nobody wants.

Everything rests on the losses (nats a token) of three sets of texts before and after: those to forget, texts to retain, and
held-out texts that were never trained on. What the original model's loss is on held-out texts is what it says of texts it never saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.curvature.vector import all_finite
from unlearn_lib.data.batches import Example, Grouping, make_batches
from unlearn_lib.data.examples import text_means
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import diverged, evaluate
from unlearn_lib.methods.base import INCOMPLETE, NOTHING
from unlearn_lib.metrics.indistinguishable import loss_attack_auc, over_erased
from unlearn_lib.models.master_weights import master_weights

Losses = Mapping[str, Tensor]
Measure = Callable[[Any, Mapping[str, Sequence[Example]], int | Grouping], Losses]
"""What gives the losses of sets of texts under a model, as `losses_of` does."""

LOST = 0.5
"""Retained texts have suffered where they lost this share of what set them apart from held-out texts, or where their loss rose by
this share of the forget loss's rise (targeted methods stay below .3, blind ones are above .7), and by no trifle."""
TRIFLE = 0.05
"""A change that does not count, as a share of what sets texts that were trained on apart from held-out ones."""
UNSEEN = 0.01
"""The same without held-out texts: in nats, and as a share of the loss."""
AUC, CHANCE = 0.35, 0.01
"""Over-erased: the loss attack's AUC is below the first, and losses that cannot be told apart have one so low with less than the
second chance."""


def losses_of(model: Any, sets: Mapping[str, Sequence[Example]], batch_size: int | Grouping) -> dict[str, Tensor]:
    """The losses `[n]` of every set that is not empty, text by text (also of those in several pieces), on the CPU, computed in float32 at
    least. Cost: one forward pass over the sets."""
    with master_weights(model):
        return {
            name: text_means(evaluate(model, make_batches(examples, batch_size, model.device)), examples).cpu()
            for name, examples in sets.items()
            if len(examples)
        }


def refuse_divergence(model: Any, losses: Losses, remedy: str) -> None:
    """Refuse a model whose weights or losses are not finite.

    Raises:
        NumericsError: A weight or a loss is not finite, or a loss is so large that its digits say nothing.
    """
    if not all_finite(trainable(model).values()):
        raise NumericsError(f"the method diverged: its weights are not finite; {remedy}")
    if losses and diverged(torch.cat(list(losses.values()))):
        name, worst = max(
            ((name, float(losses_n.double().nan_to_num(torch.inf).max())) for name, losses_n in losses.items()),
            key=lambda found: found[1],
        )
        raise NumericsError(f"the method diverged: a {name} loss is {worst:.3g} nats a token; {remedy}")


def look(before: Losses, after: Losses, said: Sequence[str] = ()) -> list[str]:
    """Sentences for the user on what went wrong, none where all is well.

    Args:
        before, after: The losses `[n]` of the same texts under the original and the new model, by "forget", "retain" (those that
            were measured, see `Prepared.looked_at`) and "holdout"; the last two may be missing.
        said: What the method has said itself; that it stopped short is not said twice.
    """
    mean = {(when, name): fmean(n.tolist()) for when, all_n in enumerate((before, after)) for name, n in all_n.items()}
    return [*_retained(mean), *_over_erased(before, after), *_not_forgotten(mean, said)]


def _retained(mean: Mapping[tuple[int, str], float]) -> list[str]:
    if (0, "retain") not in mean:
        return []
    old, new, unseen = mean[0, "retain"], mean[1, "retain"], mean.get((0, "holdout"), math.inf)
    rise, forgot, known = new - old, mean[1, "forget"] - mean[0, "forget"], unseen - old
    if old < unseen <= new:
        return [
            f"the retained texts are lost: their loss rose from {old:.3f} to {new:.3f}, past the {unseen:.3f} that the original model has "
            "on held-out texts"
        ]
    if 0 < known < math.inf and rise > LOST * known:
        return [
            f"the retained texts have suffered: their loss rose from {old:.3f} to {new:.3f}, {100 * rise / known:.0f} % of the way to "
            f"the {unseen:.3f} of held-out texts"
        ]
    if rise > LOST * max(forgot, 0.0) and rise > _trifle(old, unseen):
        return [
            f"the retained texts have suffered: their loss rose by {rise:.3f} (from {old:.3f} to {new:.3f}), that of the forget texts by "
            f"{forgot:.3f}"
        ]
    return []


def _over_erased(before: Losses, after: Losses) -> list[str]:
    if "holdout" not in after:
        return []
    chance = over_erased(after["forget"], after["holdout"])
    auc, old = (loss_attack_auc(losses["forget"], losses["holdout"]) for losses in (after, before))
    if not (auc < AUC and chance < CHANCE and auc < old):
        return []
    return [
        f"over-erased: the loss attack's AUC is {auc:.3f} (before: {old:.3f}), far below one half; the losses of the "
        f"{len(after['forget'])} forget texts are above those of the {len(after['holdout'])} held-out ones (p = {chance:.1e}), which "
        "shows that they were removed"
    ]


def _not_forgotten(mean: Mapping[tuple[int, str], float], said: Sequence[str]) -> list[str]:
    if any(sentence.startswith((INCOMPLETE, NOTHING)) for sentence in said):
        return []
    old, new, unseen = mean[0, "forget"], mean[1, "forget"], mean.get((0, "holdout"), math.inf)
    if old >= unseen or new - old >= _trifle(old, unseen):
        return []
    rest = f"; held-out texts have {unseen:.3f}" if unseen < math.inf else ""
    return [f"hardly anything was forgotten: the forget loss went from {old:.4g} to {new:.4g}{rest}"]


def _trifle(loss: float, unseen: float) -> float:
    return TRIFLE * (unseen - loss) if loss < unseen < math.inf else UNSEEN * max(1.0, loss)
