"""Past one process: what several of them share, what they send each other, and one step of a model of 354 million parameters.

    python benchmarks/cluster.py [--processes 1 --processes 2 --processes 4] [--out benchmarks/cluster.json]

The table of shares counts, on the CPU with gloo: FLOPs of the process that has most of them, the peak of its tensors, and the bytes that
it hands over to be sent; and how far its answer is from that of one process. The steps compare the memory that is planned with that by
which the process grows. Counts do not depend on what else the machine does; the seconds of the steps do. With only some steps asked for,
the records of the others are kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import torch
import torch.distributed as dist
from torch import Tensor

from unlearn_lib.curvature import KFAC, Block, EmpiricalFisher, GaussNewton, Kronecker, Woodbury, invert, mean_gradient
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.vector import Vector, flatten
from unlearn_lib.data.batches import Example
from unlearn_lib.environment import provenance
from unlearn_lib.methods.base import Inputs
from unlearn_lib.methods.fisher_removal import FisherRemoval
from unlearn_lib.methods.plan import model_bytes
from unlearn_lib.ranks import data_parallel
from unlearn_lib.unlearning.cost import Watch

SHARED = {"hidden_size": 128, "ffn_dim": 512, "layers": 4, "vocab_size": 8192, "texts": 16, "tokens": 64}
"""The model and the texts of the table of shares."""
LARGE = {"hidden_size": 1024, "ffn_dim": 4096, "layers": 24, "vocab_size": 50272, "texts": 16, "tokens": 64}
"""Those of the steps: OPT's shape between 125M and 1.3B."""
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Asks the C library to give freed memory back at once, so that what a process holds is what its tensors hold."""
STEPS: dict[str, tuple[dict[str, Any], int, dict[str, str]]] = {
    "blocks of 48, all layers": ({"solver": "block"}, 24, RETURNED),
    "blocks of 48, all layers, freed memory kept": ({"solver": "block"}, 24, {}),
    "blocks of 48, the last 2 layers": ({"solver": "block"}, 2, RETURNED),
    "K-FAC, the last 2 layers": ({"solver": "kfac"}, 2, RETURNED),
}
"""Options of a step, how many of the last layers are changed, and what is asked of the C library."""
Row = dict[str, Any]


def random_model(sizes: dict[str, int]) -> Any:
    """OPT of this shape with random weights."""
    import transformers

    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["hidden_size"],
        word_embed_proj_dim=sizes["hidden_size"],
        ffn_dim=sizes["ffn_dim"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=max(1, sizes["hidden_size"] // 64),
        max_position_embeddings=max(64, sizes["tokens"]),
        dropout=0.0,
        attention_dropout=0.0,
    )
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def random_texts(sizes: dict[str, int]) -> Tensor:
    """`[texts, tokens]`"""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(5, sizes["vocab_size"], (sizes["texts"], sizes["tokens"]), generator=generator)


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """The bytes of the tensors that are handed over to be sent inside, one number for each call."""
    sent: list[int] = []

    def counting(call: Callable[..., Any], place: int) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            sent.append(args[place].numel() * args[place].element_size())
            return call(*args, **kwargs)

        return inner

    with (
        patch.object(dist, "all_reduce", counting(dist.all_reduce, 0)),
        patch.object(dist, "broadcast", counting(dist.broadcast, 0)),
        patch.object(dist, "all_to_all_single", counting(dist.all_to_all_single, 1)),
    ):
        yield sent


def operations(sizes: dict[str, int]) -> dict[str, Callable[[], Tensor | Vector]]:
    """What is shared, by name; each gives an answer that all processes should agree on."""
    model, ids = random_model(sizes), random_texts(sizes)
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part), "labels": part} for part in ids.split(4)]
    F = EmpiricalFisher(model, batches)
    F.gradients().check()
    generator = torch.Generator().manual_seed(2)
    v = {name: torch.randn(p.shape, generator=generator) for name, p in F.params.items()}
    return {
        "gradient": lambda: mean_gradient(model, batches)[1],
        "Gauss-Newton product": lambda: GaussNewton(model, batches).mv(v),
        "Gram matrix": lambda: F.gradients().gram()[0],
        "Fisher inverse by Woodbury": lambda: invert(F, Woodbury(damping=1e-2)).mv(v),
        "Fisher inverse by blocks of 48": lambda: invert(F, Block(damping=1e-2)).mv(v),
        "K-FAC, built and inverted": lambda: invert(KFAC(model, batches, correction=False), Kronecker(damping=1e-2)).mv(v),
    }


def share(sizes: dict[str, int], out: Path) -> None:
    """What a process of several does: every operation, measured; the first one writes."""
    torch.set_num_threads(1)
    with data_parallel("cpu") as together:
        found: dict[str, Row] = {}
        answers: dict[str, Tensor] = {}
        for name, operation in operations(sizes).items():
            together.wait()
            with counted_bytes() as sent, Meter() as meter:
                answer = operation()
            answers[name] = flatten(answer) if isinstance(answer, dict) else answer.flatten()
            said = together.told((meter.flops, meter.peak, sum(sent)))
            found[name] = {
                "flops_of_all": sum(flops for flops, _, _ in said),
                "flops_at_most": max(flops for flops, _, _ in said),
                "peak_bytes": max(peak for _, peak, _ in said),
                "sent_bytes": max(bytes_ for _, _, bytes_ in said),
            }
        if together.first:
            from safetensors.torch import save_file

            save_file(answers, out, {"found": json.dumps(found)})


def step(sizes: dict[str, int], options: dict[str, Any], layers: int, device: str = "cpu") -> Row:
    """One step of Fisher Removal on the last layers of a random model: planned, and measured."""
    model, ids = random_model(sizes).to(device), random_texts(sizes)
    kept = [f"layers.{number}." for number in range(sizes["layers"] - layers, sizes["layers"])]
    for name, p in model.named_parameters():
        p.requires_grad_(layers == sizes["layers"] or any(part in name for part in kept))
    texts = [Example(tuple(row), tuple(row)) for row in ids.tolist()]
    half = len(texts) // 2
    inputs = Inputs(texts[:half], tuple(texts[half:]), None, 0, batch_size=4)
    method = FisherRemoval.from_options({"step": 1e-4, "steps": 1, "terms": half, "relative_damping": 1e-2, **options})
    start = time.perf_counter()
    planned = method.plan(model, inputs)
    seconds = time.perf_counter() - start
    with torch.enable_grad(), Watch(torch.device(device)) as watch:
        outcome = method.run(model, inputs)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "changed": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "texts": half,
        "tokens": sizes["tokens"],
        "model_bytes": (own := model_bytes(model)),
        # a plan counts the copy that a method works on, and this one works on the model itself
        "planned_bytes": planned.peak_memory_bytes - own,
        "measured_bytes": watch.peak_memory_bytes,
        "planned_gradients": planned.gradient_evaluations,
        "counted_gradients": outcome.gradient_evaluations,
        "plan_seconds": seconds,
        "seconds": watch.seconds,
    }


def shares(sizes: dict[str, int], processes: int, folder: Path) -> tuple[dict[str, Row], dict[str, Tensor]]:
    """`(what was measured, the answers)` of so many processes."""
    from safetensors import safe_open

    out = folder / f"{processes}.safetensors"
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    _here([*several, __file__, "--worker", json.dumps({"sizes": sizes, "out": str(out)})])
    with safe_open(out, "pt") as file:
        return json.loads(file.metadata()["found"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _here(words: list[str], **more: str) -> str:
    """The output of a Python command with the modules of this one, and with more in its environment."""
    environment = {**os.environ, **more, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, *words], env=environment, check=True, stdout=subprocess.PIPE, encoding="utf-8"
    ).stdout


@click.command(help=__doc__)
@click.option("--processes", multiple=True, type=click.IntRange(1), default=(1, 2, 4), show_default=True)
@click.option("--shares/--no-shares", "with_shares", default=True, help="Whether the table of shares is measured anew.")
@click.option("--step", "steps", multiple=True, type=click.Choice(list(STEPS)), default=list(STEPS), show_default=True)
@click.option("--shared", default=json.dumps(SHARED), help="The sizes of the table of shares, as JSON.")
@click.option("--large", default=json.dumps(LARGE), help="The sizes of the steps, as JSON.")
@click.option("--out", default=Path(__file__).with_name("cluster.json"), show_default=True, type=click.Path(path_type=Path))
@click.option("--worker", hidden=True, help="What one process does, as JSON.")
def main(
    processes: tuple[int, ...],
    with_shares: bool,
    steps: tuple[str, ...],
    shared: str,
    large: str,
    out: Path,
    worker: str | None,
) -> None:
    """Measure all, each number of processes and each step in processes of their own, and write one JSON."""
    if worker is not None:
        order = json.loads(worker)
        if "out" in order:
            share(order["sizes"], Path(order["out"]))
        else:
            click.echo(json.dumps(step(order["sizes"], order["options"], order["layers"])))
        return
    sizes = json.loads(shared)
    known: Row = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"steps": {}}
    kept = {name: row for name, row in known["steps"].items() if name not in steps}
    report: Row = {"environment": provenance(), "sizes": sizes, "shares": {}, "steps": kept}
    if not with_shares:
        if known.get("sizes") != sizes:
            raise click.UsageError(f"{out} has no table of shares of these sizes; leave out --no-shares")
        report |= {name: known[name] for name in ("environment", "shares")}
    with tempfile.TemporaryDirectory() as folder:
        first: dict[str, Tensor] = {}
        for number in processes if with_shares else ():
            found, answers = shares(sizes, number, Path(folder))
            first = first or answers
            for name, row in found.items():
                row["difference"] = float((answers[name] - first[name]).norm() / first[name].norm())
            report["shares"][str(number)] = found
            click.echo(json.dumps({number: found}, indent=1))
    for name in steps:
        options, layers, asked = STEPS[name]
        row = json.loads(
            _here(
                [__file__, "--worker", json.dumps({"sizes": json.loads(large), "options": options, "layers": layers})],
                **asked,
            )
        )
        report["steps"][name] = row | {
            "environment": provenance(),
            "freed_memory": "given back" if asked else "kept by the C library",
        }
        click.echo(json.dumps({name: row}, indent=1))
    report["steps"] = {name: report["steps"][name] for name in STEPS if name in report["steps"]}
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
