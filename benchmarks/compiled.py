"""Whether torch.compile pays for curvature: a gradient, a Fisher product and a Gauss-Newton product in forward mode, plain and compiled.

    python benchmarks/compiled.py [--repeats 3] [--out benchmarks/compiled.json]

It needs a C++ compiler. Seconds are those of one thread and of the compiler that it starts, processor time, so that other programs
change little, and stand in the record as ratios to the plain gradient of the same run; plain and compiled calls take turns, and the
least counts. In the committed record a compiled call saves from a fiftieth to two fifths of a plain one, and compiling, which one shape
of batches and one set of parameters need anew, pays after 650 to 6,700 calls, while a method makes tens. On the nano model the error
against float64 becomes a few hundred times as large. Per-sequence gradients, which are captured by watching the model run, are wrong
under torch.compile, and nothing but a comparison with a plain gradient shows it (`captured_error`). So the library has no option for it.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import curvature
import torch
from torch import Tensor

from unlearn_lib import load_model, load_task
from unlearn_lib.curvature import EmpiricalFisher, GaussNewton
from unlearn_lib.curvature.capture import capture
from unlearn_lib.curvature.gauss_newton import softmax_hessian
from unlearn_lib.curvature.risk import token_weights
from unlearn_lib.curvature.uses import as_matrix, materialise
from unlearn_lib.curvature.vector import Vector, flatten
from unlearn_lib.data.batches import encode, make_batches
from unlearn_lib.environment import provenance
from unlearn_lib.losses import Batch, sequence_means, token_logits, token_nll

TEXTS = 16
BACKEND = "inductor"
Row = dict[str, Any]
Function = Callable[[Vector, Vector], Vector]


def seconds() -> float:
    """Processor seconds of this process and of the compilers that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def losses_of(model: Any, batch: Batch) -> Callable[[Vector], Tensor]:
    def losses(params: Vector) -> Tensor:
        return sequence_means(*token_nll(token_logits(model, batch, params), batch["labels"]))

    return losses


def operations(model: Any, batch: Batch) -> dict[str, Function]:
    """What the operators of the library do, as pure functions of the parameters and a vector, which a compiler can follow."""
    n, losses = len(batch["labels"]), losses_of(model, batch)

    def logits(params: Vector) -> Tensor:
        return token_logits(model, batch, params)

    def gradient(params: Vector, _: Vector) -> Vector:
        found: Vector = torch.func.grad(lambda p: losses(p).mean())(params)
        return found

    def fisher(params: Vector, v: Vector) -> Vector:
        c_n = torch.func.jvp(losses, (params,), (v,))[1] / n
        found: Vector = torch.func.vjp(losses, params)[1](c_n)[0]
        return found

    def gauss_newton(params: Vector, v: Vector) -> Vector:
        z_BTV, pullback = torch.func.vjp(logits, params)  # type: ignore[misc]
        u_BTV = torch.func.jvp(logits, (params,), (v,))[1]
        weights_BS = token_weights(z_BTV, batch, n).to(z_BTV)
        h_BSV = softmax_hessian(z_BTV[:, :-1].softmax(-1), u_BTV[:, :-1], weights_BS)
        found: Vector = pullback(torch.nn.functional.pad(h_BSV, (0, 0, 0, 1)))[0]
        return found

    return {"gradient": gradient, "Fisher product": fisher, "Gauss-Newton product": gauss_newton}


def exact(model: Any, batch: Batch, v: Vector) -> dict[str, Vector]:
    """The same in float64, by the library's operators."""
    F, G = (kind(model, [batch], precision="float64") for kind in (EmpiricalFisher, GaussNewton))
    wide = {name: tensor.double() for name, tensor in v.items()}
    return {
        "gradient": F.adjoint(torch.full((F.sequences,), 1 / F.sequences)),
        "Fisher product": F @ wide,
        "Gauss-Newton product": G @ wide,
    }


def error(found: Vector, reference: Vector) -> float:
    a, b = flatten({name: found[name].double() for name in reference}), flatten(reference)
    return float((a - b).norm() / b.norm())


def compared(model: Any, batch: Batch, repeats: int) -> list[Row]:
    """A row for every operation; times in plain gradients."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    v = {name: torch.randn(p.shape, generator=generator) for name, p in params.items()}
    references, rows = exact(model, batch, v), list[Row]()
    for name, function in operations(model, batch).items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled, least = (
            torch.compile(function, dynamic=False, backend=BACKEND),
            {"plain": float("inf"), "compiled": float("inf")},
        )
        with torch.no_grad():
            plain_value, start = function(params, v), seconds()
            compiled_value, first = compiled(params, v), seconds() - start
            for _ in range(repeats):
                for kind, call in (("plain", function), ("compiled", compiled)):
                    start = seconds()
                    call(params, v)
                    least[kind] = min(least[kind], seconds() - start)
        saved = least["plain"] - least["compiled"]
        rows.append(
            {
                "operation": name, **least, "compiling": first - least["compiled"],
                "pays_after_calls": None if saved <= 0 else (first - least["compiled"]) / saved,
                "plain_error": error(plain_value, references[name]), "compiled_error": error(compiled_value, references[name]),
                "graph_breaks": sum(torch._dynamo.utils.counters["graph_break"].values()),
            }
        )  # fmt: skip
    unit = rows[0]["plain"]
    for row in rows:
        row.update({key: row[key] / unit for key in ("plain", "compiled", "compiling")})
    return rows


def captured_error(model: Any, batch: Batch) -> float:
    """How far the gradients of sequences are from the true ones that are captured while a compiled model runs: no error is raised."""
    F = EmpiricalFisher(model, [batch])
    B, T = batch["input_ids"].shape
    torch._dynamo.reset()
    # what the trace hides from a watcher, it hides whatever is made of the trace
    _, uses = capture(torch.compile(losses_of(model, batch), backend="eager"), F.params, F.fixed, (B, T))
    found = [materialise(of, 0, len(as_matrix(F.params[name]))).flatten(1) for name, of in uses.items()]
    true_nP = F.gradients().matrix().double()
    return float((torch.cat(found, dim=1).double() - true_nP).norm() / true_nP.norm())


def cases() -> dict[str, tuple[Any, Batch]]:
    """The OPT of benchmarks/curvature.py, and a nano model on records of ARC."""
    model, batch = curvature.opt("cpu")
    nano, tokenizer = load_model("nano/opt-s", device="cpu")
    rows = list(load_task("arc_easy", source="nano", seed=0).train.select(range(TEXTS)))
    return {
        "OPT, random weights": (model, batch),
        "nano/opt-s": (nano, make_batches(encode(rows, tokenizer, 256).examples, TEXTS)[0]),
    }


@click.command(help=__doc__)
@click.option("--repeats", default=3, show_default=True)
@click.option("--out", default=Path(__file__).with_name("compiled.json"), show_default=True, type=click.Path(path_type=Path))
def main(repeats: int, out: Path) -> None:
    """Measure all cases and write one JSON."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: Row = {"environment": provenance(), "models": {}}
    with (
        tempfile.TemporaryDirectory() as cache,  # so that nothing has been compiled before
        torch._inductor.utils.fresh_cache(dir=cache),
        torch._inductor.config.patch(compile_threads=1),
    ):
        for name, (model, batch) in cases().items():
            table = compared(model, batch, repeats)
            found["models"][name] = {
                "parameters": sum(p.numel() for p in model.parameters()),
                "tokens": list(batch["input_ids"].shape),
                "operations": table,
                "captured_error": captured_error(model, batch),
            }
            curvature.show(f"{name}, in plain gradients", table)
            click.echo(f"captured under torch.compile: relative error {found['models'][name]['captured_error']:.2g}")
    torch.set_num_threads(threads)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
