"""The unlearning methods, one file each; `METHODS` maps a method's name to its class."""

from unlearn_lib.methods.base import Inputs, Method, Outcome
from unlearn_lib.methods.fisher_forgetting import FisherForgetting
from unlearn_lib.methods.fisher_removal import FisherRemoval
from unlearn_lib.methods.gradient_ascent import GradientAscent
from unlearn_lib.methods.retrain import Finetune, Retrain

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Retrain, Finetune, GradientAscent, FisherRemoval, FisherForgetting)
}

__all__ = [
    "METHODS",
    "Finetune",
    "FisherForgetting",
    "FisherRemoval",
    "GradientAscent",
    "Inputs",
    "Method",
    "Outcome",
    "Retrain",
]
