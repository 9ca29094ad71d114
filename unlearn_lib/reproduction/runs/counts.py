"""What a method's cost grows with, counted: gradients of single texts (Table 6), memory and FLOPs over block widths and terms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from unlearn_lib.curvature import Block, EmpiricalFisher, solve
from unlearn_lib.curvature.blocks import to_blocks
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.recursion import BlockRecursion
from unlearn_lib.data.batches import context_length, encode, make_batches
from unlearn_lib.data.tasks import load_task
from unlearn_lib.models.load import load_model
from unlearn_lib.unlearning.unlearn import unlearn

METHODS: dict[str, dict[str, Any]] = {
    "retrain": {"epochs": 5, "train_batch_size": 8},
    "finetune": {"epochs": 1, "train_batch_size": 8},
    "gradient-ascent": {"preset": "paper", "step": 1e-3},
    "fisher-removal": {"preset": "paper", "step": 1e-3, "retain_batch_size": 1, "width": 1},
    "fisher-forgetting": {"preset": "paper", "retain_batch_size": 1, "width": 1},
}
FISHER = ("fisher-removal", "fisher-forgetting")
OTHERS = ("retrain", "finetune", "gradient-ascent")


def growth(
    settings: Sequence[tuple[int, int, int]],
    model_name: str = "nano/opt-s",
    batch: int | None = None,
    seed: int = 0,
    methods: Sequence[str] = tuple(METHODS),
) -> pd.DataFrame:
    """Gradient evaluations of the paper's methods for several (t, r, m): texts to remove, texts that remain, Fisher terms.

    The samples to remove come in batches of `batch` texts (None: all in one), each of which has its own Fisher, as in algorithms 2
    and 3. Blocks have a width of one: what they cost is not counted here, and the number of gradients does not depend on it.
    """
    model, tokenizer = load_model(model_name, device="cpu")
    task = load_task(
        "arc_easy", seed=seed, sizes={"train": max(t + r for t, r, _ in settings), "test": 1, "holdout": 1, "reference": 1}
    )
    rows = []
    for t, r, m in settings:
        for method in methods:
            options = METHODS[method]
            own = {**options, "terms": m} if method.startswith("fisher") else options
            split: dict[str, Any] = {} if method in ("retrain", "finetune") else {"forget_batch_size": batch or t}
            result = unlearn(
                model,
                tokenizer,
                forget=task.train.select(range(t)),
                retain=task.train.select(range(t, t + r)),
                base=model,
                method=method,
                max_length=32,
                long_texts="cut",  # one gradient for a text
                **own,
                **split,
            )
            rows.append({"method": method, "t": t, "r": r, "m": m, "gradients": round(result.cost.gradient_evaluations)})
    return pd.DataFrame(rows)


def sweep(texts: Sequence[int], terms: Sequence[int], batch: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Gradient evaluations of the Fisher methods over all pairs of t in `texts` and m in `terms`, a text in a term; see `growth`."""
    settings = [(t, max(terms), m) for t in texts for m in terms]
    return growth(settings, batch=batch, seed=seed, methods=FISHER)


def block_costs(settings: list[tuple[int, int]], model_name: str = "nano/opt-s", seed: int = 0) -> pd.DataFrame:
    """Memory and time of the two ways to the inverse of the same Fisher blocks, for several (B, m).

    The paper's recursion keeps all inverses, B numbers for each of the P weights, and takes one gradient after the other (here
    random ones: what it costs does not depend on them, and taking them is not counted). Streamed blocks keep the activations of
    the m texts, form a few blocks at a time and solve them; their cost includes the gradients.

    Returns:
        `MiB`: the peak of live tensors beyond model and data, counted; `B P numbers (MiB)`: the inverses alone, by formula;
        `GFLOP`: of matrix products, counted; `seconds`: wall clock here.
    """
    model, tokenizer = load_model(model_name, device="cpu")
    most = max(terms for _, terms in settings)
    task = load_task("arc_easy", seed=seed, sizes={"train": most, "test": 1, "holdout": 1, "reference": 1})
    examples = encode(task.train, tokenizer, context_length(model, tokenizer)).examples
    rows = []
    for width, terms in settings:
        F = EmpiricalFisher(model, make_batches(examples[:terms], 32))
        generator = torch.Generator().manual_seed(seed)
        v = {name: torch.randn(p.shape, generator=generator) for name, p in F.params.items()}
        formula = {"width": width, "terms": terms, "B P numbers (MiB)": 4 * width * F.size / 2**20}

        start = time.perf_counter()
        with Meter() as meter:
            v_KB = to_blocks(v, width)
            recursion = BlockRecursion(len(v_KB), width, 1.0, terms, v_KB)
            for _ in range(terms):
                recursion.add(torch.randn(v_KB.shape, generator=generator))
            recursion.apply(v_KB)
        rows.append({"way": "recursion", **formula, **_spent(meter.peak, meter.flops, start)})
        del recursion

        start = time.perf_counter()
        found = solve(F, v, Block(1.0, width=width))
        rows.append(
            {
                "way": "streamed",
                **formula,
                **_spent(found.peak_memory_bytes, found.gradient_evaluations / F.sequences * F.gradient_flops, start),
            }
        )
    return pd.DataFrame(rows)


def _spent(peak: int, flops: float, start: float) -> dict[str, float]:
    return {"MiB": peak / 2**20, "GFLOP": flops / 1e9, "seconds": time.perf_counter() - start}
