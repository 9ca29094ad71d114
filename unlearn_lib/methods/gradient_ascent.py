r"""Gradient ascent, the paper's algorithm 1: theta += l * grad L(batch) for the batches of D-; and as Jang et al. 2023 run it,
through Adam, pass after pass, until the model knows the texts no better than unseen ones."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from unlearn_lib.losses import sequence_losses
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.descent import DescentMethod, Step
from unlearn_lib.metrics.memorisation import extraction_likelihood, memorisation_accuracy, right_tokens


class GradientAscent(DescentMethod):
    """Steps uphill on the forget loss.

    Options:
        step: l, the length factor of the gradient, or Adam's learning rate (paper: 5e-5, "the learning rate").
        optimizer: "sgd" takes the raw gradient, as algorithm 1 is printed; "adam" hands the negated loss to Adam, as the code of
            Jang et al. does, on whose evaluation the paper builds. The paper does not say which it used.
        forget_batch_size: Sequences in one batch of D-; the default is all of them, one step a pass (the paper does not say).
        epochs: Passes over D- (paper: one); the most that are made with another `stop`.
        stop: "epochs"; "calibrate"; or "memorisation": after the first pass at which both memorisation accuracy and the
            extraction likelihood EL_n are at or below their mean over held-out texts (Jang et al.).
        n: The length of the n-grams in EL_n, with stop="memorisation".
    """

    name: ClassVar[str] = "gradient-ascent"
    source: ClassVar[str] = "algorithm 1 of arXiv 2403.10557; Jang et al. 2023 (arXiv 2210.01504)"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"step": 5e-5, "optimizer": "sgd"},
        "jang": {"step": 5e-5, "optimizer": "adam", "epochs": 20, "stop": "memorisation"},
    }

    step: float = Field(5e-5, gt=0)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    epochs: int = Field(1, ge=1)
    forget_batch_size: int | None = Field(None, ge=1)
    stop: Literal["epochs", "calibrate", "memorisation"] = "epochs"  # type: ignore[assignment]
    n: int = Field(10, ge=1)

    @property
    def rate(self) -> float:
        return self.step

    def required(self) -> tuple[str, ...]:
        return ("holdout",) if self.stop == "memorisation" else super().required()

    def loss(self, model: Any, step: Step) -> Tensor:
        return -sequence_losses(model, step.forget).mean()

    def prepare(self, model: Any, inputs: Inputs, outcome: Outcome) -> None:
        if self.stop == "memorisation":
            outcome.details["accuracy_of_unseen"] = memorisation_accuracy(right_tokens(model, inputs.holdout))
            outcome.details["likelihood_of_unseen"] = extraction_likelihood(model, inputs.holdout, self.n)

    def finished(self, model: Any, inputs: Inputs, outcome: Outcome) -> bool:
        if self.stop != "memorisation":
            return False
        accuracy = memorisation_accuracy(right_tokens(model, inputs.forget))
        if accuracy > outcome.details["accuracy_of_unseen"]:
            return False  # the likelihood takes a generation at every position
        unseen: float = outcome.details["likelihood_of_unseen"]
        return extraction_likelihood(model, inputs.forget, self.n) <= unseen
