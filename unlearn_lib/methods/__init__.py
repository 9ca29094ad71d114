"""The unlearning methods, one file each; `METHODS` maps a method's name to its class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from unlearn_lib.errors import InputError, unknown
from unlearn_lib.methods.base import Inputs, Method, Outcome
from unlearn_lib.methods.certified_newton import CertifiedNewton
from unlearn_lib.methods.constrained_newton import ConstrainedNewton
from unlearn_lib.methods.delta_unlearning import DeltaUnlearning
from unlearn_lib.methods.dpo import DPO
from unlearn_lib.methods.eul import EUL
from unlearn_lib.methods.fisher_forgetting import FisherForgetting
from unlearn_lib.methods.fisher_removal import FisherRemoval
from unlearn_lib.methods.gradient_ascent import GradientAscent
from unlearn_lib.methods.gradient_difference import GradientDifference
from unlearn_lib.methods.kfac_newton import KFACNewton
from unlearn_lib.methods.memflex import MemFlex
from unlearn_lib.methods.newton import Newton
from unlearn_lib.methods.npo import NPO, SimNPO
from unlearn_lib.methods.retrain import Finetune, Retrain
from unlearn_lib.methods.rmu import RMU
from unlearn_lib.methods.sisa import Sisa
from unlearn_lib.methods.sophia import Sophia
from unlearn_lib.methods.task_vector import TaskVector
from unlearn_lib.methods.undial import UNDIAL
from unlearn_lib.methods.wga import WGA
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
        ConstrainedNewton,
        FisherRemoval,
        FisherForgetting,
        Newton,
        KFACNewton,
        WoodburyNewton,
        WGA,
        UNDIAL,
        DPO,
        RMU,
        MemFlex,
        Sisa,
        Sophia,
        TaskVector,
        EUL,
        CertifiedNewton,
        DeltaUnlearning,
    )
}

NEEDS: Mapping[str, str] = {
    "retain": "the texts that the model should keep",
    "holdout": (
        "texts of the same kind that the model was never trained on, which say how far to go (or set the forget loss to "
        "reach yourself: target_loss=NUMBER, or with a method that has a step its length: step=NUMBER)"
    ),
    "base": "the checkpoint from before training on the data, as a folder or a name",
}


def choose(name: str, options: Mapping[str, Any], given: Collection[str]) -> Method:
    """The method of that name with these options, if `given` (names among "retain", "holdout", "base") holds all that it needs.

    Raises:
        InputError: Unknown method or option, a bad value, or a missing input.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    method = METHODS[name].from_options(options)
    for need in method.required():
        if need not in given:
            raise InputError(f"method {name!r} with these options needs {need}: {NEEDS[need]}")
    return method


__all__ = [
    "DPO",
    "EUL",
    "METHODS",
    "NPO",
    "RMU",
    "UNDIAL",
    "WGA",
    "CertifiedNewton",
    "ConstrainedNewton",
    "DeltaUnlearning",
    "Finetune",
    "FisherForgetting",
    "FisherRemoval",
    "GradientAscent",
    "GradientDifference",
    "Inputs",
    "KFACNewton",
    "MemFlex",
    "Method",
    "Newton",
    "Outcome",
    "Retrain",
    "SimNPO",
    "Sisa",
    "Sophia",
    "TaskVector",
    "WoodburyNewton",
    "choose",
]
