r"""MemFlex (Tian et al. 2024, arXiv 2407.01920): find out where D- is stored, and unlearn there alone.

    g_F, g_R         mean gradients of D- and D+, of texts in which a share of the scored tokens is replaced by random ones
    located          the parameter tensors with  cos(g_F, g_R) < mu  and  mean |g_F| > sigma
    L                -gamma mean NLL(D-) + alpha mean NLL(D+),   lowered over the located tensors; all others stay as they are

A tensor in which both gradients point the same way holds what the two sets share, and one with a small g_F hardly matters to D-.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from unlearn_lib.curvature.gradient import mean_gradient, trainable
from unlearn_lib.curvature.vector import Vector, numbers
from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.corruption import Corruption, replaceable
from unlearn_lib.methods.gradient_difference import GradientDifference
from unlearn_lib.methods.plan import MethodPlan, backward_bytes, vector_bytes

NAMED = 20
"""The most tensors whose names are written down."""


class MemFlex(GradientDifference):
    """Gradient difference on the parameter tensors that the two gradients locate.

    What is located are tensors among those that require a gradient: the weights of a model, or the matrices of its adapter.
    The gradients are those of the authors' code. It replaces tokens in the texts, so that a random one is both a label and part of
    what the labels after it are predicted from. Here special tokens are neither replaced nor drawn.

    Options:
        mu: Tensors with a cosine below this are located; 1 admits all (authors' code: 0.92).
        sigma: Tensors whose entries of g_F have a mean absolute value above this are located; 0 admits all (authors' code: 6e-4,
            for the adapter of a model of 7e9 weights).
        scale: What mu and sigma are: "value", or "quantile", shares of the tensors: with mu=0.5 and sigma=0.5 those in the lower
            half of the cosines and in the upper half of the sizes. Quantiles need no knowledge of the model's scale.
        corrupted: The share of a text's scored tokens that are replaced by random ones in the gradients that locate (authors'
            code: draws for half of them, of which some fall on the same token); 0 takes the texts as they are, 1 replaces all.
        copies: How often each text enters these gradients, each time with other random tokens (authors' code: 3).
        located_on: Texts of D+ in g_R at most, drawn from the seed; None for all of them, as in the authors' code.
        learning_rate: The learning rate of the optimiser (authors' code: 3e-4).
        epochs: Passes over D- (authors' code: 2); with stop="calibrate" the most that are made.
        forget_batch_size: Sequences of D- in a step (authors' code: 16); None for all of them.
        retain_batch_size: Sequences of D+ in a step.
    """

    name: ClassVar[str] = "memflex"
    source: ClassVar[str] = "Tian et al. 2024 (arXiv 2407.01920)"

    learning_rate: float = Field(3e-4, gt=0)
    epochs: int = Field(2, ge=1)
    forget_batch_size: int | None = Field(16, ge=1)
    retain_batch_size: int = Field(16, ge=1)
    mu: float = Field(0.92, gt=-1, le=1)
    sigma: float = Field(6e-4, ge=0)
    scale: Literal["value", "quantile"] = "value"
    corrupted: float = Field(0.5, ge=0, le=1)
    copies: int = Field(3, ge=1)
    located_on: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _quantiles(self) -> Self:
        if self.scale == "quantile" and not (self.mu > 0 and self.sigma < 1):
            raise ValueError(
                f"with scale='quantile' mu and sigma are shares of the tensors, 0 < mu <= 1 and 0 <= sigma < 1, "
                f"got mu={self.mu:g} and sigma={self.sigma:g}"
            )
        return self

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        steps, (used, _) = super().plan(model, inputs), self.split(inputs)
        texts = self.copies * (len(used.forget) + len(self._retained(used)))
        batches = inputs.batches([*used.forget, *self._retained(used)], model.device)
        memory = backward_bytes(model, batches) + 4 * vector_bytes(model)  # two gradients, and two parts of the one under way
        return MethodPlan(
            steps.gradient_evaluations + texts,
            max(steps.peak_memory_bytes, memory),
            f"{steps.detail}, after {texts:,} gradients that locate the tensors",
        )

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        params = list(trainable(model).values())
        try:
            return super().run(model, inputs)
        finally:
            for p in params:
                p.requires_grad_(True)

    def prepare(self, model: Any, inputs: Inputs, outcome: Outcome) -> None:
        """Locate, and freeze the other tensors: what is trained from here on are those that require a gradient."""
        params = trainable(model)
        corruption = Corruption(self.corrupted, replaceable(model, inputs.tokenizer), inputs.seed)

        def gradient(texts: Sequence[Example]) -> Vector:
            drawn = [corruption.of(text) for _ in range(self.copies) for text in texts]
            outcome.gradient_evaluations += len(drawn)
            return mean_gradient(model, inputs.batches(drawn, model.device))[1]

        kept = self._located(gradient(inputs.forget), gradient(self._retained(inputs)), outcome)
        for name, p in params.items():
            p.requires_grad_(name in kept)

    def _retained(self, inputs: Inputs) -> list[Example]:
        return inputs.some_retain(len(inputs.retain) if self.located_on is None else self.located_on)

    def _located(self, forget: Vector, retain: Vector, outcome: Outcome) -> set[str]:
        """The names of the tensors that both criteria admit.

        Raises:
            InputError: There are none.
        """
        cosine, size = cosines(forget, retain), sizes(forget)
        most = self.mu if self.scale == "value" else _quantile(cosine.values(), self.mu)
        least = self.sigma if self.scale == "value" else _quantile(size.values(), self.sigma)
        apart = {name for name, value in cosine.items() if value < most or self.mu == 1}
        large = {name for name, value in size.items() if value > least or self.sigma == 0}
        kept = [name for name in forget if name in apart & large]
        if not kept:
            raise InputError(
                f"no tensor is located: of {len(forget)} tensors, {len(apart)} have a cosine below mu ({most:.3g}; the cosines lie between "
                f"{min(cosine.values()):.3g} and {max(cosine.values()):.3g}) and {len(large)} a mean absolute gradient above sigma "
                f"({least:.3g}; they lie between {min(size.values()):.3g} and {max(size.values()):.3g}), and none has both; raise mu, "
                "lower sigma, or give both as shares of the tensors with scale='quantile'"
            )
        outcome.details["located"] = {
            "tensors": len(kept),
            "of": len(forget),
            "parameters": sum(forget[name].numel() for name in kept),
            "below_mu": len(apart),
            "above_sigma": len(large),
            "names": kept[:NAMED],
        }
        return set(kept)


def cosines(one: Vector, other: Vector) -> dict[str, float]:
    """The cosine between the two gradients of every tensor; 0 where one of them is zero."""
    inner = numbers((one[name].double() * other[name].double()).sum() for name in one)
    lengths = [numbers(torch.linalg.vector_norm(g[name], dtype=torch.float64) for name in one) for g in (one, other)]
    return {name: dot / (a * b) if a * b else 0.0 for name, dot, a, b in zip(one, inner, *lengths, strict=True)}


def sizes(gradient: Vector) -> dict[str, float]:
    """The mean absolute value of the entries of every tensor."""
    return dict(zip(gradient, numbers(g.double().abs().mean() for g in gradient.values()), strict=True))


def _quantile(values: Iterable[float], share: float) -> float:
    return float(torch.quantile(torch.tensor(list(values), dtype=torch.float64), share))
