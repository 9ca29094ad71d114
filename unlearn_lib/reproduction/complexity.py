"""Table 6: what a method's cost grows with, counted in gradients of single texts."""

from __future__ import annotations

from typing import Any

import pandas as pd

from unlearn_lib.data.tasks import load_task
from unlearn_lib.models import load_model
from unlearn_lib.unlearning import unlearn

METHODS: dict[str, dict[str, Any]] = {
    "retrain": {"epochs": 5, "train_batch_size": 8},
    "finetune": {"epochs": 1, "train_batch_size": 8},
    "gradient-ascent": {"preset": "paper", "step": 1e-3},
    "fisher-removal": {"preset": "paper", "step": 1e-3, "retain_batch_size": 1},
    "fisher-forgetting": {"preset": "paper", "retain_batch_size": 1},
}


def growth(
    settings: list[tuple[int, int, int]], model_name: str = "nano/opt-s", batches: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Gradient evaluations of the paper's five methods for several (t, r, m): texts to remove, texts that remain, Fisher terms.

    The samples to remove come in `batches` batches, each of which has its own Fisher, as in algorithms 2 and 3.
    """
    model, tokenizer = load_model(model_name, device="cpu")
    task = load_task(
        "arc_easy", seed=seed, sizes={"train": max(t + r for t, r, _ in settings), "test": 1, "holdout": 1, "reference": 1}
    )
    rows = []
    for t, r, m in settings:
        for method, options in METHODS.items():
            own = {**options, "terms": m} if method.startswith("fisher") else options
            split: dict[str, Any] = {} if method in ("retrain", "finetune") else {"forget_batch_size": t // batches}
            result = unlearn(
                model,
                tokenizer,
                forget=task.train.select(range(t)),
                retain=task.train.select(range(t, t + r)),
                base=model,
                method=method,
                max_length=32,
                **own,
                **split,
            )
            rows.append({"method": method, "t": t, "r": r, "m": m, "gradients": round(result.cost.gradient_evaluations)})
    return pd.DataFrame(rows)
