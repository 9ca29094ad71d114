r"""RMU, representation misdirection for unlearning (Li et al. 2024, arXiv 2403.03218).

    L = gamma mean || h_theta(x_F) - c u ||^2 / d  +  alpha mean || h_theta(x_R) - h_original(x_R) ||^2 / d

h is the state behind one layer, `[d]` at every token, u one random unit vector (uniform on [0, 1) in every coordinate, then
normalised). Only the weights with which the MLPs of this layer and the two before it end are trained. The layer is the source's 7 of
32, counted from 0, at the same relative depth: 7 / 32 of the model's number of layers, rounded.

The length c = 6.5 is the source's for a model of width 4,096. States of other models have other lengths. With `relative` c is a
multiple of the length that the original's state has at the same token, as in adaptive RMU (Dang et al. 2024, arXiv 2408.06223).

The weight alpha = 1200 is the source's, too. It is too much for a small model, in which the states of retained texts cannot be kept so
closely while others move: in two layers of width 32, with h behind the second and a learning rate of 0.03, the forget loss was after
400 steps what it had been. With alpha = 1 it came to that of unseen texts in 317.

The means are over dimensions, tokens and texts; every text counts alike. (The source's code averages over all tokens of a batch, and
over its padding.) Tokens are those from which a scored one is predicted, or, as in the source, all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from unlearn_lib.curvature import trainable
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, Batch, sequence_means, token_logits
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.descent import RetainTerm, Step
from unlearn_lib.methods.plan import MethodPlan
from unlearn_lib.models.layers import down_projection, reading
from unlearn_lib.ranks import text_by_text

DEPTH = 7 / 32


class RMU(RetainTerm):
    """Steers the hidden states of the texts to forget to one random direction, and keeps those of the retained texts.

    Options:
        learning_rate: The learning rate of the optimiser (source: 5e-5).
        forget_batch_size: Sequences of D- in a step; None for all of them (source: 4, in 80 to 150 steps).
        retain_batch_size: Sequences of D+ in a step (source: 4).
        retain_weight: The factor of the term that holds on to D+, alpha (source: 1200 with c = 6.5).
        retain_loss: "states" (keep the original's states of D+; the source), "nll" (go on training on D+) or "kl" (keep the original's
            predictions on D+).
        steering: c, the length of what the states are steered to (source: 6.5).
        relative: Whether c is a multiple of the length of the original's state at the same token (adaptive RMU).
        layer: The layer, from 0, behind which the states are taken; None for 7/32 of the layers, rounded (source: 7 of 32).
        trained_layers: In how many layers weights are trained, of which this one is the last (source: 3).
        tokens: "scored" (those from which a scored token is predicted) or "all" (the source).
    """

    name: ClassVar[str] = "rmu"
    source: ClassVar[str] = "Li et al. 2024 (arXiv 2403.03218)"

    learning_rate: float = Field(5e-5, gt=0)
    forget_batch_size: int | None = Field(4, ge=1)
    retain_batch_size: int = Field(4, ge=1)
    retain_weight: float = Field(1200.0, ge=0)
    retain_loss: Literal["states", "nll", "kl"] = "states"  # type: ignore[assignment]
    steering: float = Field(6.5, gt=0)
    relative: bool = False
    layer: int | None = Field(None, ge=0)
    trained_layers: int = Field(3, ge=1)
    tokens: Literal["scored", "all"] = "scored"

    @property
    def forgets_by_original(self) -> bool:
        return self.relative

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        chosen = self._trained(model)
        with _only(model, chosen):
            found = super().plan(model, inputs)
        return replace(found, detail=f"{found.detail} on {len(chosen)} weights up to layer {self._layer(model)}")

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        with _only(model, self._trained(model)):
            return super().run(model, inputs)

    def prepare(self, model: Any, inputs: Inputs, outcome: Outcome) -> None:
        outcome.details |= {"layer": self._layer(model), "trained": list(trainable(model))}

    def forget_loss(self, model: Any, step: Step) -> Tensor:
        def distances(batch: Batch) -> Tensor:
            state_BTd = self._state(model, batch)
            u_d = unit_vector(state_BTd.shape[-1], step.seed).to(state_BTd)
            if not self.relative:
                return self._distances(state_BTd, self.steering * u_d, batch)
            with torch.no_grad():
                length_BT1 = self._state(step.original, batch).norm(dim=-1, keepdim=True)
            return self._distances(state_BTd, self.steering * length_BT1 * u_d, batch)

        return text_by_text(distances, step.forget).mean()

    def kept(self, model: Any, retain: Batch, original: Any) -> Tensor:
        if self.retain_loss != "states":
            return super().kept(model, retain, original)

        def distances(batch: Batch) -> Tensor:
            with torch.no_grad():
                before_BTd = self._state(original, batch)
            return self._distances(self._state(model, batch), before_BTd, batch)

        return text_by_text(distances, retain).mean()

    def _distances(self, state_BTd: Tensor, goal_BTd: Tensor, batch: Batch) -> Tensor:
        """`[B]`: the mean over a text's tokens and dimensions of the squared difference."""
        counts_BT = batch["attention_mask"] > 0
        if self.tokens == "scored":
            counts_BT = batch["labels"].roll(-1, 1) != IGNORED
            counts_BT[:, -1] = False
        squared_BT = (state_BTd - goal_BTd).square().mean(-1)
        return sequence_means(squared_BT.masked_fill(~counts_BT, 0.0), counts_BT)

    def _state(self, model: Any, batch: Batch) -> Tensor:
        """`[B, T, d]`: the state behind the layer. Cost: a forward pass."""
        with reading(model).states() as states:
            token_logits(model, batch)
        behind_BTd: Tensor = states[self._layer(model) + 1]
        return behind_BTd

    def _layer(self, model: Any) -> int:
        """The layer whose states are steered, from 0."""
        number = len(reading(model).layers)
        if self.layer is None:
            return round(DEPTH * number)
        if self.layer >= number:
            raise InputError(
                f"option layer of rmu is {self.layer}, and this model has {number} layers; give one from 0 to {number - 1}"
            )
        return self.layer

    def _trained(self, model: Any) -> list[str]:
        """The names of the weights that are trained: of matrices alone, as the source's model has no biases."""
        last = self._layer(model)
        layers = reading(model).layers[max(0, last - self.trained_layers + 1) : last + 1]
        ends = {id(p) for layer in layers for p in down_projection(layer).parameters() if p.ndim > 1}
        found = [name for name, p in trainable(model).items() if id(p) in ends]
        if not found:
            raise InputError(
                f"rmu trains the weights with which the MLPs of the layers up to {last} end, and none of them requires a gradient; call "
                "requires_grad_(True) on them, or give the adapter these modules as targets"
            )
        return found


def unit_vector(d: int, seed: int) -> Tensor:
    """`[d]`, float64: a random direction with no negative coordinate, as in the source."""
    u_d: Tensor = torch.rand(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u_d /= u_d.norm()
    return u_d


@contextmanager
def _only(model: Any, names: list[str]) -> Iterator[None]:
    """Inside, no other parameters require a gradient."""
    others = [p for name, p in trainable(model).items() if name not in names]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)
