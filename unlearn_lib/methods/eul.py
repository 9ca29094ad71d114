r"""EUL, efficient unlearning by layers of its own (Chen and Yang 2023, arXiv 2310.20150).

Bottleneck layers are put after the attention and the feed-forward blocks of the model, which is frozen; they alone are trained. With p
the model as it was (the teacher: its layers are left out) and q the model with its layers (the student),

    L      = L_KL + lambda L_TASK + gamma L_LM
    L_KL   = alpha mean_{D+} KL(p, q) - mean_{D-} KL(p, q)
    L_TASK = mean_{D+} NLL_q          L_LM = - mean_{D-} NLL_q

The paper prints sums over the sets. Here every mean is over the texts of the step's batch, and of a text over its scored tokens, so
that the weights mean the same whatever the sizes and lengths. Both terms on D- are raised, and neither has an upper bound.

The paper handles several requests, each with layers of its own, by one least-squares fusion: see `unlearn_lib.methods.fusion`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unlearn_lib.losses import Batch, sequence_means, token_logits, token_nll
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.descent import DescentMethod, Step
from unlearn_lib.methods.plan import MethodPlan
from unlearn_lib.metrics.divergence import log_probs, of_logits, sequence_divergences
from unlearn_lib.models.bottlenecks import Shape, asleep
from unlearn_lib.models.unlearning_layers import add_stage
from unlearn_lib.ranks import text_by_text


class EUL(DescentMethod):
    """Layers that are trained to disagree with the model on D-, and to agree with it on D+. The weights of the model stay as they are.

    No code of the paper's authors is public. What its text leaves open is an option here, with a default of ours: learning_rate,
    divergence, cap, bottleneck, activation, after and layer_seed. The factors of the terms are those of a reimplementation by others.

    The result is the model with its layers as modules: they have a nonlinearity inside and cannot be folded into the weights.
    `save_model` writes the layers and the name of the model that they are for, see `unlearn_lib.models.unlearning_layers`. Whoever has
    the result can take the layers out, and then has the original model, which still knows D-. A model that has unlearning layers
    already gets further ones after them, and is the teacher with those that it had.

    Options:
        learning_rate: The learning rate of the optimiser.
        retain_weight: The factor of the divergence on D+, alpha.
        task_weight: The factor of the loss on D+, lambda.
        ascent_weight: The factor of the loss on D-, which is raised, gamma.
        divergence: "forward", KL(original, model), or "reverse", KL(model, original); in both terms of L_KL.
        cap: A text of D- whose divergence is at this many nats a token counts in neither term any further; None for no such bound.
        bottleneck: Units inside a layer.
        activation: The nonlinearity inside a layer: "relu", "gelu" or "silu".
        after: Which blocks have layers: "both", "attention" or "feed-forward".
        layer_seed: Seeds the layers' first values. Layers of several requests that are to be fused need the same.
    """

    name: ClassVar[str] = "eul"
    source: ClassVar[str] = "Chen and Yang 2023 (arXiv 2310.20150)"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    remedy: ClassVar[str] = "lower learning_rate="

    learning_rate: float = Field(1e-3, gt=0)
    retain_weight: float = Field(0.8, ge=0)
    task_weight: float = Field(1.0, ge=0)
    ascent_weight: float = Field(0.2, ge=0)
    divergence: Literal["forward", "reverse"] = "forward"
    cap: float | None = Field(None, gt=0)
    bottleneck: int = Field(64, ge=1)
    activation: Literal["relu", "gelu", "silu"] = "relu"
    after: Literal["both", "attention", "feed-forward"] = "both"
    layer_seed: int = 0

    @property
    def rate(self) -> float:
        return self.learning_rate

    def looked_up(self, forget: int, retain: int) -> int:
        return forget + retain

    def loss(self, model: Any, step: Step) -> Tensor:
        assert step.retain is not None

        def kept(batch: Batch) -> Tensor:
            kl_B, nll_B = self._terms(model, batch)
            return self.retain_weight * kl_B + self.task_weight * nll_B

        def forgotten(batch: Batch) -> Tensor:
            kl_B, nll_B = self._terms(model, batch)
            forgotten_B = kl_B + self.ascent_weight * nll_B
            if self.cap is None:
                return forgotten_B
            return torch.where(kl_B < self.cap, forgotten_B, forgotten_B.detach())

        return text_by_text(kept, step.retain).mean() - text_by_text(forgotten, step.forget).mean()

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        self._give_layers(model)
        outcome = super().run(model, inputs)
        outcome.warnings.append(
            "the weights under the layers are the given model's and know what was forgotten; whoever takes the layers off has it back"
        )
        return outcome

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        planned = _sharing(model)
        self._give_layers(planned)
        found = super().plan(planned, inputs)
        V = model.get_input_embeddings().weight.shape[0]
        scored = sum(batch["labels"].numel() for batch in self.largest_step(planned, self.split(inputs)[0]))
        teacher = scored * V * max(4, model.dtype.itemsize)  # its predictions for both batches of a step
        return replace(found, peak_memory_bytes=found.peak_memory_bytes + teacher)

    def _give_layers(self, model: Any) -> None:
        """Freeze the model, and put new layers into it, which alone are trained."""
        model.requires_grad_(False)
        add_stage(
            model,
            Shape(bottleneck=self.bottleneck, activation=self.activation, after=self.after, seed=self.layer_seed),
        )

    def _terms(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """`([B], [B])`: for every text its divergence from the teacher, and its loss."""
        with torch.no_grad(), asleep(model):
            teacher_BSV = log_probs(model, batch)
        logits_BTV = token_logits(model, batch)
        student_BSV = of_logits(logits_BTV)
        pair = (teacher_BSV, student_BSV) if self.divergence == "forward" else (student_BSV, teacher_BSV)
        return sequence_divergences(*pair, batch), sequence_means(*token_nll(logits_BTV, batch["labels"]))


def _sharing(model: Any) -> Any:
    """A copy of a model's modules on the same weights, so that layers can be put into it. Takes no memory to speak of."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, memo | {id(tensor): tensor for tensor in model.buffers()})
