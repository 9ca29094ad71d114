"""What the profile `paper` would take, as tables of the committed plans (`runs.paper_plans`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from unlearn_lib.reproduction import paper

if TYPE_CHECKING:  # planning needs torch, and its tables do not
    from unlearn_lib.reproduction.runs.paper_plans import Plans


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
