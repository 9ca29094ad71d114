"""The paper's sizes on one card: OPT-125M and OPT-1.3B with random weights, a step of Fisher Removal by every solver.

    python benchmarks/one_card.py [--device cuda] [--shape opt-125m] [--out benchmarks/one_card.json]

Each step is planned first, and the memory that the plan foretells stands beside the peak that torch has allocated on the card beyond the
model. Seconds stand beside those of the gradients of as many texts, in the same run, each after a first call that does not count. What
was measured is written after every step.
With `--device cpu` the growth of the process is measured instead; small shapes can be given as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from cluster import random_model, random_texts, step

from unlearn_lib.curvature import EmpiricalFisher, mean_gradient
from unlearn_lib.environment import provenance
from unlearn_lib.unlearning.cost import Watch

SHAPES: dict[str, dict[str, int]] = {
    "opt-125m": {"hidden_size": 768, "ffn_dim": 3072, "layers": 12, "vocab_size": 50272, "texts": 256, "tokens": 128},
    "opt-1.3b": {"hidden_size": 2048, "ffn_dim": 8192, "layers": 24, "vocab_size": 50272, "texts": 128, "tokens": 128},
}
"""A half of the texts is forgotten, the other half makes the curvature."""
KFAC_LAYERS = 4
"""Of the larger shape; each of its layers takes two eigendecompositions of matrices with 8,192 rows."""
Row = dict[str, Any]


def steps_of(sizes: dict[str, int]) -> dict[str, tuple[dict[str, Any], int]]:
    """Options of a step, and how many of the last layers are changed, by name."""
    layers = sizes["layers"]
    last = layers if sizes["hidden_size"] < 1024 else KFAC_LAYERS
    return {
        "the whole Fisher by Woodbury": ({"solver": "woodbury", "damping": 1e-2}, layers),
        "blocks of 48": ({"solver": "block"}, layers),
        f"K-FAC, the last {last} layers" if last < layers else "K-FAC": ({"solver": "kfac"}, last),
    }


def gradients(sizes: dict[str, int], device: str) -> Row:
    """The gradient of the mean loss of a half of the texts, and their Gram matrix: seconds and memory."""
    model, ids = random_model(sizes).to(device), random_texts(sizes)[: sizes["texts"] // 2].to(device)
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part), "labels": part} for part in ids.split(4)]
    F = EmpiricalFisher(model, batches)
    found: Row = {"texts": len(ids), "parameters": sum(p.numel() for p in model.parameters())}
    operations: dict[str, Callable[[], Any]] = {
        "gradient": lambda: mean_gradient(model, batches),
        "gram": lambda: F.gradients().gram(),
    }
    for name, operation in operations.items():
        operation()
        with Watch(torch.device(device)) as watch:
            operation()
        found[name] = {"seconds": watch.seconds, "measured_bytes": watch.peak_memory_bytes}
    return found


def measured(sizes: dict[str, int], device: str) -> Iterator[Row]:
    """All rows of a shape, with one more step each time; what does not fit says so."""
    found: Row = {"sizes": sizes, "gradients": gradients(sizes, device), "steps": {}}
    for name, (options, layers) in steps_of(sizes).items():
        _free()
        try:
            row = step(sizes, options, layers, device)
        except torch.OutOfMemoryError:
            row = {"refused": "out of memory"}
        found["steps"][name] = {**row, "commit": provenance()["commit"]}
        click.echo(json.dumps({name: row}))
        yield found
    _free()


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@click.command(help=__doc__)
@click.option("--device", default="cuda", show_default=True)
@click.option("--shape", "shapes", multiple=True, default=list(SHAPES), show_default=True, help="A name, or sizes as JSON.")
@click.option("--out", default=Path(__file__).with_name("one_card.json"), show_default=True, type=click.Path(path_type=Path))
def main(device: str, shapes: tuple[str, ...], out: Path) -> None:
    """Measure the shapes, and write one JSON."""
    report: Row = {"environment": provenance(), "shapes": {}}
    for shape in shapes:
        for found in measured(SHAPES[shape] if shape in SHAPES else json.loads(shape), device):
            report["shapes"][shape] = found
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
