r"""Delta-unlearning (Huang et al. 2024, arXiv 2404.11045): a small model learns what to add to the logits of a large one.

    logits_theta = l_M + a (l_theta - l_o)                      M the given model, o a small one, theta = o at the start

    ascent                 - mean NLL_theta(D-)
    gradient-difference    - gamma mean NLL_theta(D-) + alpha mean NLL_theta(D+)
    kl                     - gamma mean NLL_theta(D-) + alpha mean KL(p_M, p_theta)(D+)
    npo                    gamma NPO(theta, reference M)(D-) + alpha mean NLL_theta(D+)

with p_theta = softmax(logits_theta). M is a black box that gives logits: it is asked once for each text of a step, without a gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from unlearn_lib.curvature.uses import place_of
from unlearn_lib.data.batches import positions
from unlearn_lib.errors import InputError
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.descent import DescentMethod, Step
from unlearn_lib.methods.gradient_ascent import GradientAscent
from unlearn_lib.methods.gradient_difference import GradientDifference
from unlearn_lib.methods.npo import NPO
from unlearn_lib.methods.plan import MethodPlan, model_bytes
from unlearn_lib.models.suited import check_same_vocabulary

if TYPE_CHECKING:
    from unlearn_lib.models.offset import OffsetForCausalLM

LOGITS = 2
"""Logits of a step that are kept beside what a gradient of the small model takes: those of the large model, and the sum."""


class DeltaUnlearning(DescentMethod):
    """A first-order method on the logits of the given model plus those that a small model learns to add.

    The result is an `OffsetForCausalLM`, which holds the given model as it is: whoever has that, or its folder, has all that it knew.
    The gradient evaluations are gradients of the small model, and the forward evaluations passes of the large one. Those of the frozen
    small model are not counted. No working code is public; what the paper leaves open is an option.

    Options:
        small: The small model, a name or folder for `load_model`, with the tokens of the given model; it has to be given.
        scale: The factor a of the offset, while it is learnt and afterwards.
        objective: What the optimiser lowers: "ascent", "gradient-difference", "kl" (which keeps the large model's predictions on D+) or
            "npo" (with the large model as its reference).
        learning_rate: The learning rate of the optimiser.
        forget_weight: The factor of the term that forgets, gamma; "ascent" has none.
        retain_weight: The factor of the term that holds on to D+, alpha; "ascent" has none.
        beta: Inverse temperature of "npo" (NPO's paper: 0.1).
    """

    name: ClassVar[str] = "delta-unlearning"
    source: ClassVar[str] = "Huang et al. 2024 (arXiv 2404.11045)"
    remedy: ClassVar[str] = "lower learning_rate="

    small: str | None = None
    scale: float = Field(1.0, gt=0)
    objective: Literal["ascent", "gradient-difference", "kl", "npo"] = "gradient-difference"
    learning_rate: float = Field(1e-5, gt=0)
    forget_weight: float = Field(1.0, gt=0)
    retain_weight: float = Field(1.0, ge=0)
    beta: float = Field(0.1, gt=0)

    @model_validator(mode="after")
    def _has_a_small_model(self) -> Self:
        if not self.small:
            raise ValueError("it learns an offset with a small model; give its name or folder with small=")
        return self

    @property
    def rate(self) -> float:
        return self.learning_rate

    @property
    def uses_retain(self) -> bool:
        return self.objective != "ascent"

    def required(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*(["retain"] if self.uses_retain else []), *super().required()]))

    def looked_up(self, forget: int, retain: int) -> int:
        return forget + retain

    @property
    def inner(self) -> DescentMethod:
        """The method whose loss is taken on the summed logits."""
        if self.objective == "ascent":
            return GradientAscent.from_options({})
        weights = {"forget_weight": self.forget_weight, "retain_weight": self.retain_weight}
        if self.objective == "npo":
            return NPO.from_options({**weights, "beta": self.beta})
        return GradientDifference.from_options({**weights, "retain_loss": "kl" if self.objective == "kl" else "nll"})

    def loss(self, model: Any, step: Step) -> Tensor:
        large = _AskedOnce(model.large)

        def summed(**inputs: Any) -> Any:
            return model(**inputs, large_logits=large(**inputs).logits)

        return self.inner.loss(summed, replace(step, original=large))

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        from unlearn_lib.models.load import load_model
        from unlearn_lib.models.offset import OffsetForCausalLM

        # what is narrower than float32 is worked on in float32
        dtype = "float64" if model.dtype == torch.float64 else "float32"
        reference, tokenizer = load_model(str(self.small), device=str(model.device), dtype=dtype)
        self._check(model, reference, tokenizer, inputs)
        summed: OffsetForCausalLM = OffsetForCausalLM(model, copy.deepcopy(reference), reference, self.scale)
        outcome = super().run(summed, inputs)
        outcome.warnings.append(
            "the large model is the given one and knows what was forgotten; whoever has it, or asks it without the offset, has it back"
        )
        return outcome

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        from unlearn_lib.models.shapes import load_for_plan

        found = load_for_plan(str(self.small), device=str(model.device))
        small = found.model.double() if model.dtype == torch.float64 else found.model
        self._check(model, small, found.tokenizer, inputs)
        needs = super().plan(small, inputs)  # of the small model
        step = self.largest_step(small, self.split(inputs)[0])
        row = small.get_input_embeddings().weight.shape[0] * small.dtype.itemsize
        logits = LOGITS * row * sum(batch["input_ids"].numel() for batch in step)
        memory = needs.peak_memory_bytes + logits + model_bytes(model) + model_bytes(small)
        return MethodPlan(needs.gradient_evaluations, memory, f"{needs.detail} of {self.small}")

    def _check(self, model: Any, small: Any, tokenizer: Any, inputs: Inputs) -> None:
        check_same_vocabulary(model, inputs.tokenizer, small, tokenizer)
        longest = max(len(example.input_ids) for example in (*inputs.forget, *inputs.retain, *inputs.holdout))
        if positions(small) < longest:
            raise InputError(
                f"the small model {self.small} takes at most {positions(small)} tokens, and the longest text has {longest}; give "
                f"max_length={positions(small)}, or another small model"
            )


class _AskedOnce:
    """A black box that is asked once for every batch of a step, and remembers what it said."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.said: dict[Hashable, Any] = {}

    @torch.no_grad()
    def __call__(self, **inputs: Any) -> Any:
        key = place_of(inputs["input_ids"])  # the step holds its batches, so that no other tensor is there
        if key not in self.said:
            self.said[key] = self.model(**inputs)
        return self.said[key]
