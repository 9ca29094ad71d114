"""What K-FAC and its plan cost on models of real size, with random weights: seconds and memory by part, in gradients of as many texts.

    python benchmarks/scale.py [--texts 64] [--threads 2] [--out benchmarks/scale.json]

Gradients are taken before and after, in the same run. Seconds are wall clock on all threads, so leave the machine alone meanwhile;
processor seconds, which other programs change less, stand beside them. Bytes are counted, beyond the model. Of OPT-1.3B's shape two
layers are measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import torch

from unlearn_lib.curvature import KFAC, EmpiricalFisher, Kronecker, Woodbury, batch_gradient, plan, solve
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.moments import Moments
from unlearn_lib.data.batches import Example
from unlearn_lib.environment import provenance
from unlearn_lib.methods.base import Inputs
from unlearn_lib.methods.fisher_removal import FisherRemoval
from unlearn_lib.methods.kfac_newton import KFACNewton

TOKENS, BATCH = 64, 8
Seconds = dict[str, float]
Row = dict[str, Any]


SHAPES: dict[str, tuple[str, Row]] = {
    "llama-135m": ("LlamaConfig", {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "tie_word_embeddings": True,
    }),
    "opt-1.3b": ("OPTConfig", {
        "vocab_size": 50272, "hidden_size": 2048, "word_embed_proj_dim": 2048, "ffn_dim": 8192, "num_hidden_layers": 2,
        "num_attention_heads": 32, "dropout": 0.0, "attention_dropout": 0.0,
    }),
}  # fmt: skip


@contextmanager
def clocked(spent: dict[str, Seconds], part: str) -> Iterator[None]:
    """Adds what happens inside to the seconds of a part."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    found = spent.setdefault(part, {"seconds": 0.0, "processor_seconds": 0.0})
    found["seconds"] += time.perf_counter() - wall
    found["processor_seconds"] += time.process_time() - processor


def by_part(K: KFAC) -> tuple[dict[str, Seconds], int]:
    """`(seconds of the parts of a build, its peak bytes)`."""
    spent: dict[str, Seconds] = {}

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def inner(*args: Any) -> Any:
            with clocked(spent, part):
                return function(*args)

        return inner

    parts = [(Moments, "add", "moments"), (Moments, "eigen", "decompositions"), (KFAC, "_confirm", "comparison of one text")]
    with ExitStack() as stack, Meter() as meter:
        for owner, name, part in parts:
            stack.enter_context(patch.object(owner, name, timed(getattr(owner, name), part)))
        with clocked(spent, "build"):
            K.eigen()
    rest = {unit: 2 * value - sum(found[unit] for found in spent.values()) for unit, value in spent["build"].items()}
    return {"capture": rest, **spent}, meter.peak


def measure(shape: str, texts: int, layers: int | None) -> Row:
    import transformers

    kind, sizes = SHAPES[shape]
    sizes = {**sizes, "num_hidden_layers": layers or sizes["num_hidden_layers"]}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, kind)(**sizes), attn_implementation="eager"
    ).eval()
    ids = torch.randint(5, model.config.vocab_size, (texts, TOKENS))
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part), "labels": part} for part in ids.split(BATCH)]
    spent: dict[str, Seconds] = {}

    def gradients() -> None:
        with clocked(spent, "gradients"):
            for batch in batches:
                batch_gradient(model, batch)

    gradients()
    builds: dict[str, Row] = {}
    for positions in (1.0, 0.5):
        K = KFAC(model, batches, correction=False, positions=positions)
        parts, peak = by_part(K)
        foretold = plan(K, Kronecker(1.0))
        builds[f"positions={positions:g}"] = {"parts": parts, "bytes": peak, "planned_bytes": foretold.peak_memory_bytes}
    with clocked(spent, "application"), Meter() as meter:
        solve(K, {name: torch.ones_like(p) for name, p in K.params.items()}, Kronecker(1.0), tolerance=1.0, throw=False)
    del K
    gradients()
    gradient = {unit: value / 2 for unit, value in spent["gradients"].items()}
    for row in builds.values():
        for part in row["parts"].values():
            part["gradients_by_time"] = part["seconds"] / gradient["seconds"]
            part["gradients_by_processor_time"] = part["processor_seconds"] / gradient["processor_seconds"]
    numbers = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": sizes["num_hidden_layers"],
        "texts": texts,
        "tokens": TOKENS,
    }
    applied = {**spent["application"], "bytes": meter.peak}
    return {**numbers, "gradients": gradient, "builds": builds, "application": applied, "plans": plans(model, ids.tolist())}


def plans(model: Any, rows: list[list[int]]) -> dict[str, Seconds]:
    """The seconds of plans for texts of many lengths, a quarter of which are to be forgotten."""
    found: dict[str, Seconds] = {}
    texts = [Example(tuple(row[i % 16 :]), tuple(row[i % 16 :])) for i, row in enumerate(rows)]
    inputs = Inputs(texts[: len(texts) // 4], texts[len(texts) // 4 :], base=None, seed=0, holdout=texts[:1])
    with clocked(found, "fisher-removal"):
        FisherRemoval.from_options({"solver": "kfac"}).plan(model, inputs)
    with clocked(found, "kfac-newton without correction"):
        KFACNewton.from_options({"correction": False}).plan(model, inputs)
    with clocked(found, "woodbury"):
        plan(EmpiricalFisher(model, inputs.batches(texts, model.device)), Woodbury(1.0))
    return found


@click.command(help=__doc__)
@click.option("--shape", "shapes", multiple=True, default=list(SHAPES), show_default=True, type=click.Choice(list(SHAPES)))
@click.option("--texts", default=64, show_default=True, type=click.IntRange(4))
@click.option("--layers", default=None, type=int, help="instead of the shape's own")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1))
@click.option("--out", default=Path(__file__).with_name("scale.json"), show_default=True, type=click.Path(path_type=Path))
def main(shapes: tuple[str, ...], texts: int, layers: int | None, threads: int, out: Path) -> None:
    """Measure all shapes, print what comes out, write one JSON."""
    torch.set_num_threads(threads)
    report: Row = {"environment": provenance()}
    for shape in shapes:
        report[shape] = measure(shape, texts, layers)
        click.echo(json.dumps({shape: report[shape]}, indent=1))
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
