r"""Gradient ascent, the paper's algorithm 1: theta += l * grad L(batch) for the batches of D-; and as Jang et al. 2023 run it,
through Adam, pass after pass, until the model knows the texts no better than unseen ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError
from unlearn_lib.losses import sequence_losses
from unlearn_lib.methods.base import INCOMPLETE, NOTHING, Inputs, Outcome
from unlearn_lib.methods.descent import DescentMethod, Step
from unlearn_lib.metrics.memorisation import extraction_likelihood, generations, memorisation_accuracy, right_tokens


class GradientAscent(DescentMethod):
    """Steps uphill on the forget loss.

    Options:
        step: l, the length factor of the gradient, or Adam's learning rate (paper: 5e-5, "the learning rate").
        optimizer: "sgd" takes the raw gradient, as algorithm 1 is printed; "adam" hands the negated loss to Adam, as the code of
            Jang et al. does, on whose evaluation the paper builds. The paper does not say which it used.
        forget_batch_size: Sequences in one batch of D-; the default is all of them, one step a pass (the paper does not say).
        epochs: Passes over D- (paper: one); the most that are made with another `stop`.
        stop: "epochs"; "calibrate"; or "memorisation": after the first pass at which both memorisation accuracy and the
            extraction likelihood EL_n are at or below their mean over held-out texts (Jang et al.); none is made where they are
            before.
        n: The length of the n-grams in EL_n, with stop="memorisation" (Jang et al.: 10).
        unseen_accuracy, unseen_likelihood: The two values to come down to, with stop="memorisation"; None for what the given model has
            on held-out texts. For requests that follow each other, those of the original model (Jang et al.: numbers per model, such as
            0.2994 and 0.0499 for GPT-Neo 125M).
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
    unseen_accuracy: float | None = Field(None, ge=0, le=1)
    unseen_likelihood: float | None = Field(None, ge=0, le=1)

    @property
    def rate(self) -> float:
        return self.step

    def required(self) -> tuple[str, ...]:
        if self.stop != "memorisation":
            return super().required()
        return ("holdout",) if None in (self.unseen_accuracy, self.unseen_likelihood) else ()

    def loss(self, model: Any, step: Step) -> Tensor:
        return -sequence_losses(model, step.forget).mean()

    def prepare(self, model: Any, inputs: Inputs, outcome: Outcome) -> None:
        if self.stop != "memorisation":
            return
        if not generations(inputs.forget, self.n):
            raise InputError(
                f"EL_{self.n} needs texts of more than {self.n} tokens, and no text to forget has as many; lower n, or stop by another rule"
            )
        accuracy, likelihood = self.unseen_accuracy, self.unseen_likelihood
        outcome.details |= {
            "accuracy_of_unseen": self._accuracy(model, inputs.holdout, inputs) if accuracy is None else accuracy,
            "likelihood_of_unseen": self._likelihood(model, inputs.holdout, inputs) if likelihood is None else likelihood,
        }

    def done_already(self, model: Any, inputs: Inputs, outcome: Outcome) -> bool:
        if self.stop != "memorisation" or not self.finished(model, inputs, outcome):
            return False
        outcome.warnings.append(f"{NOTHING}: the texts to forget are known by heart no better than unseen texts already")
        return True

    def finished(self, model: Any, inputs: Inputs, outcome: Outcome) -> bool:
        if self.stop != "memorisation":
            return False
        details = outcome.details
        details |= {"accuracy": self._accuracy(model, inputs.forget, inputs), "likelihood": None}
        if details["accuracy"] > details["accuracy_of_unseen"]:
            return False  # the likelihood takes a generation at every position
        details["likelihood"] = self._likelihood(model, inputs.forget, inputs)
        return bool(details["likelihood"] <= details["likelihood_of_unseen"])

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome = super().run(model, inputs)
        if self.stop == "memorisation":
            outcome.warnings += _still_known(outcome.details, self.epochs, self.n)
        return outcome

    def _accuracy(self, model: Any, texts: Sequence[Example], inputs: Inputs) -> float:
        inputs.passes.forward += len(texts)
        return memorisation_accuracy(right_tokens(model, texts))

    def _likelihood(self, model: Any, texts: Sequence[Example], inputs: Inputs) -> float:
        inputs.passes.forward += generations(texts, self.n)
        return extraction_likelihood(model, texts, self.n)


def _still_known(details: dict[str, Any], epochs: int, n: int) -> list[str]:
    """The sentence on what the last pass left known, if anything."""
    names = (("accuracy", "memorisation accuracy"), ("likelihood", f"EL_{n}"))
    pairs = [(label, details[name], details[f"{name}_of_unseen"]) for name, label in names if details[name] is not None]
    above = [
        f"{label} is {value:.3f} and that of unseen texts {unseen:.3f}" for label, value, unseen in pairs if value > unseen
    ]
    return [f"{INCOMPLETE}: after {epochs} passes the {' and the '.join(above)}"] if above else []
