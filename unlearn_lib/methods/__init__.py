"""The unlearning methods, one file each; `METHODS` maps a method's name to its class."""

from unlearn_lib.methods.base import Inputs, Method, Outcome
from unlearn_lib.methods.fisher_forgetting import FisherForgetting
from unlearn_lib.methods.fisher_removal import FisherRemoval
from unlearn_lib.methods.gradient_ascent import GradientAscent
from unlearn_lib.methods.gradient_difference import GradientDifference
from unlearn_lib.methods.kfac_newton import KFACNewton
from unlearn_lib.methods.newton import Newton
from unlearn_lib.methods.npo import NPO, SimNPO
from unlearn_lib.methods.retrain import Finetune, Retrain
from unlearn_lib.methods.woodbury_newton import WoodburyNewton

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Retrain,
        Finetune,
        GradientAscent,
        GradientDifference,
        NPO,
        SimNPO,
        FisherRemoval,
        FisherForgetting,
        Newton,
        KFACNewton,
        WoodburyNewton,
    )
}

__all__ = [
    "METHODS",
    "NPO",
    "Finetune",
    "FisherForgetting",
    "FisherRemoval",
    "GradientAscent",
    "GradientDifference",
    "Inputs",
    "KFACNewton",
    "Method",
    "Newton",
    "Outcome",
    "Retrain",
    "SimNPO",
    "WoodburyNewton",
]
