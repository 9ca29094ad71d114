"""What the profile `paper` needs, planned from the shapes of its models: memory, gradients, hours, disk. Nothing of it was run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from unlearn_lib.curvature import EmpiricalFisher
from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.methods import METHODS
from unlearn_lib.methods.base import Inputs
from unlearn_lib.methods.needs import Needs, model_bytes
from unlearn_lib.models import load_model
from unlearn_lib.reproduction import paper, settings
from unlearn_lib.reproduction.bench import COMPARED
from unlearn_lib.reproduction.profiles import PAPER
from unlearn_lib.reproduction.scenarios import ORIGINAL, method_name
from unlearn_lib.shapes import load_shape

GIB = 2**30
KEPT = 4
"""Models that a bench keeps beside the one under work: the base model, the original, one retrained for each cycle."""


def texts(number: int, tokens: int) -> list[Example]:
    """So many texts of so many tokens, without contents."""
    return [Example((5,) * tokens, (5,) * tokens)] * number


def needs(model: Any, options: Mapping[str, Any], label: str, size: int, tokens: int) -> Needs:
    """Of one cycle of a method on a training set of that size."""
    cycle = PAPER.cycle_size
    unseen = texts(PAPER.holdout_size - PAPER.measured, tokens)
    inputs = Inputs(
        texts(cycle, tokens), texts(size - cycle, tokens), lambda: model, 0, holdout=unseen, batch_size=PAPER.batch_size
    )
    return METHODS[method_name(label)].from_options(options).plan(model, inputs)


def models() -> pd.DataFrame:
    """A row for each model: parameters (millions), GiB of its weights in float32, and of disk: the download, at most, and what
    an interrupted run keeps (three trained models, one of them with the optimiser's two moments)."""
    rows = []
    for label, name in PAPER.models.items():
        weights = 4 * sum(p.numel() for p in load_shape(name).model.parameters()) / GIB
        rows.append(
            {
                "model": name,
                "label": label,
                "parameters (M)": round(weights * GIB / 4e6),
                "weights (GiB)": weights,
                "download (GiB)": weights,
                "kept while running (GiB)": 5 * weights,
            }
        )
    return pd.DataFrame(rows).set_index("model")


def by_method(name: str, tokens: int, task: str = "mathqa") -> pd.DataFrame:
    """A row for each method of the utility tables: gradients of single texts in one cycle, and GiB of memory in all, that is with the
    models and predictions that a bench keeps, for texts of so many tokens."""
    model = load_shape(name).model
    size = PAPER.family_and_size(name)[1]
    predictions = 2 * 3 * COMPARED * tokens * model.config.vocab_size * 4
    kept = KEPT * model_bytes(model) + predictions
    rows = []
    for label, options in settings.options(size, PAPER).items():
        if label == ORIGINAL:
            continue
        found = needs(model, options, label, PAPER.train_sizes[task], tokens)
        rows.append(
            {
                "model": name,
                "method": paper.METHODS[label],
                "gradients": round(found.gradient_evaluations),
                "memory in all (GiB)": (kept + found.peak_memory_bytes) / GIB,
            }
        )
    return pd.DataFrame(rows)


def gradient_flops(name: str, tokens: int) -> float:
    """FLOPs of the gradient of one text of so many tokens, counted in a rehearsal."""
    model = load_shape(name).model
    return EmpiricalFisher(model, make_batches(texts(1, tokens), 1, model.device)).gradient_flops


def hours(tokens: int, flops_per_second: float) -> pd.DataFrame:
    """Hours of the utility tables (all tasks, seeds and methods, two cycles) for each model, its gradients alone.

    Gradients are counted by the plans of a small model; they depend on a model's size by the passes only, but for those of the
    calibrated method, which are few.
    """
    small = load_model("nano/opt-s", device="cpu")[0]
    rows = []
    for label, name in PAPER.models.items():
        size, number = label.split("-")[1], 0.0
        for task in PAPER.train_sizes:
            n = PAPER.train_sizes[task]
            for method, options in settings.options(size, PAPER).items():
                if method == ORIGINAL:
                    number += settings.EPOCHS * n
                else:
                    number += 2 * needs(small, options, method, n, 32).gradient_evaluations
        per_second = flops_per_second / gradient_flops(name, tokens)
        seeds = len(PAPER.seeds[size])
        rows.append(
            {
                "model": name,
                "seeds": seeds,
                "gradients (millions)": seeds * number / 1e6,
                "hours": seeds * number / per_second / 3600,
            }
        )
    return pd.DataFrame(rows).set_index("model")
