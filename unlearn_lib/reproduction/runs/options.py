"""The options of every method in a profile, and how its models are trained."""

from __future__ import annotations

from typing import Any

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.training.config import TrainingConfig

BATCH_SIZE = 8
"""Texts in a step of training, of the original models and of retraining."""


def training(size: str, profile: Profile = NANO) -> TrainingConfig:
    """How the original model of a size is fine-tuned; retraining does the same on less data."""
    return TrainingConfig(paper.EPOCHS, profile.learning_rate[size], BATCH_SIZE)


def options(size: str, profile: Profile = NANO) -> dict[str, dict[str, Any]]:
    """The methods of the utility tables with their options, for models of a size."""
    return methods(training(size, profile), profile.step_factor, profile.passes.get(size, 1))


def methods(training: TrainingConfig, factor: float, passes: int = 1) -> dict[str, dict[str, Any]]:
    """Every row of the tables with its options: for models trained so, the paper's step lengths times `factor`."""
    streamed = {"passes": passes} if passes > 1 else {}
    rate = {"learning_rate": training.learning_rate, "train_batch_size": training.batch_size}
    return {
        ORIGINAL: {},
        "retrain": {"epochs": training.epochs, **rate},
        "finetune": {"epochs": 1, **rate},
        "gradient-ascent": {"preset": "paper", "step": paper.ASCENT_STEP * factor},
        "gradient-ascent-adam": {"step": training.learning_rate, "optimizer": "adam"},
        "fisher-removal": {"preset": "paper", "step": paper.REMOVAL_STEP * factor, **streamed},
        "fisher-forgetting": {"preset": "paper", **streamed},
        "fisher-removal-calibrated": {"solver": "block", "step": "calibrate", "steps": 1, "terms": 256, **streamed},
    }
