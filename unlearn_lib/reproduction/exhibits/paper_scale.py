"""What the profile `paper` would take, as tables of the committed plans (`runs.paper_plans`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from unlearn_lib.reproduction import paper

if TYPE_CHECKING:  # planning needs torch, and its tables do not
    from unlearn_lib.reproduction.runs.paper_plans import Plans
    from unlearn_lib.reproduction.runs.profile import Profile


def models(found: Plans, flops_per_second: float) -> pd.DataFrame:
    """`plans` as a table of the models: parameters, disk, and hours of the utility tables, their gradients alone, at so many FLOPs a
    second."""
    rows = []
    for name, plan in found["models"].items():
        total = plan["seeds"] * plan["gradients"]
        rows.append(
            {
                "model": name,
                **{
                    name: value
                    for name, value in plan.items()
                    if name in ("parameters (M)", "weights (GiB)", "kept by a run (GiB)", "seeds")
                },
                "gradients (M)": total / 1e6,
                "hours": total * plan["gradient_flops"] / flops_per_second / 3600,
            }
        )
    return pd.DataFrame(rows).set_index("model")


def methods(found: Plans, column: str) -> pd.DataFrame:
    """`plans` as a table of the methods: `memory (GiB)` or `gradients` of one cycle on MathQA, a column for each model."""
    table = pd.DataFrame([{"model": name, **row} for name, plan in found["models"].items() for row in plan["methods"]])
    return table.assign(method=table.method.map(paper.METHODS)).pivot_table(
        index="method", columns="model", values=column, sort=False
    )


def of_retraining(label: str, profile: Profile) -> pd.DataFrame:
    """The gradients of one cycle of a method as a share of retraining's, by task and by size of the model.

    The plans are those of a small model with the options of each size, because gradients of this method depend on the size by the
    passes only (see `paper_plans.gradients`).

    Args:
        label: A method of the utility tables whose gradients are not counted in activations, such as "fisher-removal".
        profile: The profile `paper`, or one like it.
    """
    from unlearn_lib.models.load import load_model
    from unlearn_lib.reproduction.runs.options import options
    from unlearn_lib.reproduction.runs.paper_plans import planned

    model, sizes = load_model("nano/opt-s", device="cpu")[0], profile.train_sizes

    def gradients(name: str, size: str, number: int) -> float:
        return planned(model, options(size, profile)[name], name, number, 32).gradient_evaluations

    retraining = {task: gradients("retrain", "s", number) for task, number in sizes.items()}
    shares = {
        weights: {paper.TASKS[task]: gradients(label, size, number) / retraining[task] for task, number in sizes.items()}
        for size, weights in paper.SIZES.items()
    }
    return pd.DataFrame(shares).rename_axis(index="task", columns="weights")
