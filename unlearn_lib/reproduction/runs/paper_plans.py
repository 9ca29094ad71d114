"""What the profile `paper` needs, planned from the shapes of its models: memory, gradients, hours, disk. Nothing of it was run.

`python -m unlearn_lib.reproduction.runs.paper_plans` plans it all anew (minutes) and writes results/plans.json, which the notebook shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from unlearn_lib.curvature import EmpiricalFisher
from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.files import write_text
from unlearn_lib.methods import METHODS
from unlearn_lib.methods.base import Inputs
from unlearn_lib.methods.plan import MethodPlan, model_bytes
from unlearn_lib.models.load import load_model
from unlearn_lib.models.shapes import load_shape
from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.checkout import project_root
from unlearn_lib.reproduction.runs.bench import method_name
from unlearn_lib.reproduction.runs.compared import COMPARED
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.options import options
from unlearn_lib.reproduction.runs.profiles import PAPER
from unlearn_lib.reproduction.runs.record import STRICT

GIB = 2**30
TOKENS = 96
"""Tokens of a text, assumed: the plans were made without the data."""
PlannedMethod = TypedDict("PlannedMethod", {"method": str, "gradients": int, "memory (GiB)": float})
"""What one cycle of a method takes: gradients of single texts, and GPU memory in all."""
ModelPlan = TypedDict(
    "ModelPlan",
    {
        "parameters (M)": float,
        "weights (GiB)": float,
        "kept by a run (GiB)": float,
        "seeds": int,
        "gradients": float,
        "gradient_flops": int | float,
        "methods": list[PlannedMethod],
    },
)
"""What the utility tables take for one model."""
for _part in (PlannedMethod, ModelPlan):  # names with spaces leave no room for a decorator
    with_config(STRICT)(_part)


@with_config(STRICT)
class Plans(TypedDict):
    """What the plans assume, and what they say of each model."""

    tokens: int
    batch_size: int
    passes: dict[str, int]
    models: dict[str, ModelPlan]


SCHEMA = TypeAdapter(Plans)
KEPT = 3
"""Models that a bench keeps on the GPU beside the one under work: the original, one retrained for each cycle."""


def texts(number: int, tokens: int) -> list[Example]:
    """So many texts of so many tokens, without contents."""
    return [Example((5,) * tokens, (5,) * tokens)] * number


def planned(model: Any, options: Mapping[str, Any], label: str, size: int, tokens: int) -> MethodPlan:
    """What one cycle of a method takes on a training set of that size."""
    cycle = PAPER.cycle_size
    unseen = texts(PAPER.holdout_size - PAPER.measured, tokens)
    inputs = Inputs(
        texts(cycle, tokens), texts(size - cycle, tokens), lambda: model, 0, holdout=unseen, batch_size=PAPER.batch_size
    )
    return METHODS[method_name(label)].from_options(options).plan(model, inputs)


def disk(name: str) -> tuple[float, float, float]:
    """Millions of parameters; GiB of the weights in float32, which is the most that a download holds; GiB that an interrupted run
    keeps: three trained models, one of them with the optimiser's two moments."""
    parameters = sum(p.numel() for p in load_shape(name).model.parameters())
    weights = 4 * parameters / GIB
    return parameters / 1e6, weights, 5 * weights


def memory(name: str, tokens: int = TOKENS, task: str = "mathqa") -> list[PlannedMethod]:
    """What each method of the utility tables takes: gradients of single texts in one cycle, and GiB of GPU memory in all, that is with
    the models and predictions that a bench keeps, for texts of so many tokens."""
    model = load_shape(name).model
    predictions = 2 * 3 * COMPARED * tokens * model.config.vocab_size * 4
    kept = KEPT * model_bytes(model) + predictions
    rows: list[PlannedMethod] = []
    for label, given in options(PAPER.family_and_size(name)[1], PAPER).items():
        if label != ORIGINAL:
            found = planned(model, given, label, PAPER.train_sizes[task], tokens)
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
        number += paper.EPOCHS * n
        for label, given in options(size, PAPER).items():
            if label != ORIGINAL:
                number += 2 * planned(small, given, label, n, 32).gradient_evaluations
    return number


def gradient_flops(name: str, tokens: int = TOKENS) -> float:
    """FLOPs of the gradient of one text of so many tokens, counted in a rehearsal."""
    model = load_shape(name).model
    return EmpiricalFisher(model, make_batches(texts(1, tokens), 1, model.device)).gradient_flops


def plans() -> Plans:
    """All of it, by model. Takes minutes."""
    of_size = {size: gradients(size) for size in "sml"}
    found: dict[str, ModelPlan] = {}
    for name in PAPER.models.values():
        size = PAPER.family_and_size(name)[1]
        parameters, weights, kept = disk(name)
        found[name] = {
            "parameters (M)": parameters,
            "weights (GiB)": weights,
            "kept by a run (GiB)": kept,
            "seeds": len(PAPER.seeds[size]),
            "gradients": of_size[size],
            "gradient_flops": gradient_flops(name),
            "methods": memory(name),
        }
    return {"tokens": TOKENS, "batch_size": PAPER.batch_size, "passes": dict(PAPER.passes), "models": found}


def path(root: Path) -> Path:
    """Where the committed plans lie."""
    return root / "results" / "plans.json"


def read(root: Path) -> Plans:
    """The committed plans.

    Raises:
        InputError: The file was edited or damaged.
    """
    place = path(root)
    try:
        return SCHEMA.validate_python(json.loads(place.read_text(encoding="utf-8")))
    except ValueError as error:  # no JSON, or other fields or types than planned
        raise InputError(f"{place} holds no plans ({error}); make them anew with python -m {__spec__.name}") from error


if __name__ == "__main__":
    write_text(path(project_root()), json.dumps(plans(), indent=1) + "\n")
