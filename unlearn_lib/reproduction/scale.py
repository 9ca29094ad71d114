"""What the profile `paper` needs, planned from the shapes of its models: memory, gradients, hours, disk. Nothing of it was run.

`python -m unlearn_lib.reproduction.scale` plans it all anew (minutes) and writes results/plans.json, which the notebook shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from unlearn_lib.curvature import EmpiricalFisher
from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.files import write_text
from unlearn_lib.methods import METHODS
from unlearn_lib.methods.base import Inputs
from unlearn_lib.methods.plan import MethodPlan, model_bytes
from unlearn_lib.models.load import load_model
from unlearn_lib.models.shapes import load_shape
from unlearn_lib.reproduction import paper, settings
from unlearn_lib.reproduction.bench import COMPARED
from unlearn_lib.reproduction.inventory import project_root
from unlearn_lib.reproduction.profiles import PAPER
from unlearn_lib.reproduction.scenarios import ORIGINAL, method_name

GIB = 2**30
TOKENS = 96
"""Of a text, assumed: the plans were made without the data."""
KEPT = 3
"""Models that a bench keeps on the GPU beside the one under work: the original, one retrained for each cycle."""


def texts(number: int, tokens: int) -> list[Example]:
    """So many texts of so many tokens, without contents."""
    return [Example((5,) * tokens, (5,) * tokens)] * number


def needs(model: Any, options: Mapping[str, Any], label: str, size: int, tokens: int) -> MethodPlan:
    """Of one cycle of a method on a training set of that size."""
    cycle = PAPER.cycle_size
    unseen = texts(PAPER.holdout_size - PAPER.measured, tokens)
    inputs = Inputs(
        texts(cycle, tokens), texts(size - cycle, tokens), lambda: model, 0, holdout=unseen, batch_size=PAPER.batch_size
    )
    return METHODS[method_name(label)].from_options(options).plan(model, inputs)


def disk(name: str) -> dict[str, float]:
    """Millions of parameters; GiB of the weights in float32, which is the most that a download holds; GiB that an interrupted run
    keeps: three trained models, one of them with the optimiser's two moments."""
    parameters = sum(p.numel() for p in load_shape(name).model.parameters())
    weights = 4 * parameters / GIB
    return {"parameters (M)": parameters / 1e6, "weights (GiB)": weights, "kept by a run (GiB)": 5 * weights}


def memory(name: str, tokens: int = TOKENS, task: str = "mathqa") -> list[dict[str, Any]]:
    """For each method of the utility tables: gradients of single texts in one cycle, and GiB of GPU memory in all, that is with the
    models and predictions that a bench keeps, for texts of so many tokens."""
    model = load_shape(name).model
    predictions = 2 * 3 * COMPARED * tokens * model.config.vocab_size * 4
    kept = KEPT * model_bytes(model) + predictions
    rows = []
    for label, options in settings.options(PAPER.family_and_size(name)[1], PAPER).items():
        if label != ORIGINAL:
            found = needs(model, options, label, PAPER.train_sizes[task], tokens)
            rows.append(
                {
                    "method": label,
                    "gradients": round(found.gradient_evaluations),
                    "memory (GiB)": (kept + found.peak_memory_bytes) / GIB,
                }
            )
    return rows


def gradients(size: str) -> float:
    """Gradients of single texts that the utility tables take for one model and seed: all tasks and methods, two cycles.

    Counted by the plans of a small model; they depend on a model's size by the passes only, but for those of the calibrated method,
    which are few.
    """
    small, number = load_model("nano/opt-s", device="cpu")[0], 0.0
    for n in PAPER.train_sizes.values():
        number += settings.EPOCHS * n
        for label, options in settings.options(size, PAPER).items():
            if label != ORIGINAL:
                number += 2 * needs(small, options, label, n, 32).gradient_evaluations
    return number


def gradient_flops(name: str, tokens: int = TOKENS) -> float:
    """FLOPs of the gradient of one text of so many tokens, counted in a rehearsal."""
    model = load_shape(name).model
    return EmpiricalFisher(model, make_batches(texts(1, tokens), 1, model.device)).gradient_flops


def plans() -> dict[str, Any]:
    """All of it, by model. Minutes."""
    of_size = {size: gradients(size) for size in "sml"}
    found = {}
    for name in PAPER.models.values():
        size = PAPER.family_and_size(name)[1]
        found[name] = {
            **disk(name),
            "seeds": len(PAPER.seeds[size]),
            "gradients": of_size[size],
            "gradient_flops": gradient_flops(name),
            "methods": memory(name),
        }
    return {"tokens": TOKENS, "batch_size": PAPER.batch_size, "passes": dict(PAPER.passes), "models": found}


def path(root: Path) -> Path:
    """Of the committed plans."""
    return root / "results" / "plans.json"


def models(found: Mapping[str, Any], flops_per_second: float) -> pd.DataFrame:
    """`plans` as a table of the models: parameters, disk, and hours of the utility tables, their gradients alone, at so many FLOPs a
    second."""
    rows = []
    for name, plan in found["models"].items():
        total = plan["seeds"] * plan["gradients"]
        rows.append(
            {
                "model": name,
                **{key: plan[key] for key in ("parameters (M)", "weights (GiB)", "kept by a run (GiB)", "seeds")},
                "gradients (M)": total / 1e6,
                "hours": total * plan["gradient_flops"] / flops_per_second / 3600,
            }
        )
    return pd.DataFrame(rows).set_index("model")


def methods(found: Mapping[str, Any], column: str) -> pd.DataFrame:
    """`plans` as a table of the methods: `memory (GiB)` or `gradients` of one cycle on MathQA, a column for each model."""
    table = pd.DataFrame([{"model": name, **row} for name, plan in found["models"].items() for row in plan["methods"]])
    return table.assign(method=table.method.map(paper.METHODS)).pivot_table(
        index="method", columns="model", values=column, sort=False
    )


if __name__ == "__main__":
    write_text(path(project_root()), json.dumps(plans(), indent=1) + "\n")
