"""What curvature costs: every operation in units of the gradients of all texts, beside other ways to the same numbers, with errors.

    python benchmarks/curvature.py [--device cuda] [--peer PYTHON] [--out benchmarks/curvature.json]

Time is wall clock on all cores, the least of several interleaved repeats, as a ratio to the gradient's in the same run: leave
the machine alone meanwhile. FLOPs and bytes are counted, not estimated. `--peer` names the interpreter of an environment that
has curvlinops (see curvlinops_peer.py).
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from operator import matmul
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from unlearn_lib import load_model, load_task
from unlearn_lib.curvature import (
    KFAC,
    Block,
    ConjugateGradients,
    Diagonal,
    EmpiricalFisher,
    GaussNewton,
    Hessian,
    Kronecker,
    Recursion,
    Solver,
    Woodbury,
    batch_gradient,
    invert,
    solve,
)
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.solvers.recursion import full_recursion
from unlearn_lib.curvature.vector import Vector, flatten, unflatten
from unlearn_lib.data.batches import encode, make_batches

REPEATS = 3
SEQUENCES, TOKENS = 16, 64
WIDTH, LAYERS, VOCABULARY = 256, 4, 2048
ALGEBRA = (64, 1_000_000)
"""The terms and the parameters of the linear algebra alone."""
TRAINED_TEXTS, MOST_STEPS = 16, 100
"""The records that preconditioners are compared on, and the steps that conjugate gradients may take there."""
DAMPING = 1e-2
Row = dict[str, Any]


def opt(device: str) -> tuple[Any, dict[str, Tensor]]:
    """An OPT of 3.7 million parameters with random weights, and 16 sequences of 64 tokens."""
    from transformers import AutoModelForCausalLM, OPTConfig

    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=4 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=4, max_position_embeddings=128, dropout=0.0, attention_dropout=0.0, activation_function="gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().to(device)
    ids = torch.randint(5, VOCABULARY, (SEQUENCES, TOKENS)).to(device)
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(rows: dict[str, Callable[[], Any]], device: str, unit: str, repeats: int = REPEATS) -> dict[str, Row]:
    """FLOPs, seconds and peak bytes of every function, and its result; as ratios to the one called `unit`."""
    found: dict[str, Row] = {}
    for name, function in rows.items():
        function()  # what is prepared once is prepared here
        with Meter() as meter:
            found[name] = {"value": function(), "flops": meter.flops, "bytes": meter.peak, "seconds": float("inf")}
    for _ in range(repeats):
        for name, function in rows.items():
            start = now(device)
            function()
            found[name]["seconds"] = min(found[name]["seconds"], now(device) - start)
    base = found[unit]
    for row in found.values():
        row.update({f"{key}_ratio": row[key] / base[key] if base[key] else None for key in ("flops", "seconds", "bytes")})
    return found


def error(value: Any, reference: Any) -> float | None:
    a, b = (flatten(x) if isinstance(x, dict) else x for x in (value, reference))
    return float((a.double() - b.double()).norm() / b.double().norm())


def products(model: Any, batch: dict[str, Tensor], v: Vector, device: str) -> list[Row]:
    """Products with each operator, plain and linearized."""
    wide, memory = {name: t.double() for name, t in v.items()}, {}
    makes: dict[str, Callable[..., Any]] = {"Fisher": EmpiricalFisher, "Gauss-Newton": GaussNewton, "Hessian": Hessian}
    rows: dict[str, Callable[[], Any]] = {"gradient": lambda: batch_gradient(model, batch)[1]}
    F64 = EmpiricalFisher(model, [batch], precision="float64")
    references: dict[str, Any] = {"gradient": F64.adjoint(torch.full((SEQUENCES,), 1 / SEQUENCES))}
    F = EmpiricalFisher(model, [batch])
    rows["G v, forward mode"] = lambda: F.project(v)
    rows["G'c, one backward pass"] = lambda: F.adjoint(torch.ones(SEQUENCES))
    rows["Gram matrix and G v, captured"] = lambda: F.gradients().gram(v)[0]
    references["G v, forward mode"] = F64.project(wide)
    references["G'c, one backward pass"] = F64.adjoint(torch.ones(SEQUENCES))
    references["Gram matrix and G v, captured"] = F64.gradients().gram()[0]
    for name, make in makes.items():
        operator, exact = make(model, [batch]), make(model, [batch], precision="float64") @ wide
        with Meter() as meter:
            kept = operator.linearize()
            kept @ v
        memory[f"{name} product, linearized"] = meter.live
        rows[f"{name} product"] = partial(matmul, operator, v)
        rows[f"{name} product, linearized"] = partial(matmul, kept, v)
        references[f"{name} product"] = references[f"{name} product, linearized"] = exact
    kfac = KFAC(model, [batch])
    rows["KFAC, built (EK-FAC)"] = lambda: KFAC(model, [batch]).eigen()
    rows["KFAC inverse, applied"] = lambda: solve(kfac, v, Kronecker(DAMPING)).value
    found = measure(rows, device, "gradient")
    for name, live in memory.items():
        found[name]["kept_ratio"] = live / found["gradient"]["bytes"]
    return [_row(name, r, error(r["value"], references[name]) if name in references else None) for name, r in found.items()]


def solves(model: Any, batch: dict[str, Tensor], v: Vector, device: str) -> list[Row]:
    """(F + damping I)^-1 v, from nothing to a verified answer, by every way to it."""
    F, F64 = (EmpiricalFisher(model, [batch], precision=p) for p in ("float32", "float64"))
    exact = solve(F64, {name: t.double() for name, t in v.items()}, Woodbury(DAMPING)).value
    ways: dict[str, Solver] = {
        "woodbury (default)": Woodbury(DAMPING), "woodbury, keep gradients": Woodbury(DAMPING, keep="gradients"),
        "woodbury, keep nothing": Woodbury(DAMPING, keep="nothing"), "woodbury, refined": Woodbury(DAMPING),
        "recursion, eq. 7-8": Recursion(DAMPING), "cg": ConjugateGradients(DAMPING),
        "cg, linearized": ConjugateGradients(DAMPING, linearize=True), "block 48": Block(DAMPING), "diagonal": Diagonal(DAMPING),
    }  # fmt: skip
    rows: dict[str, Callable[[], Any]] = {"gradient": lambda: batch_gradient(model, batch)[1]}
    for name, solver in ways.items():
        tolerance = 1e-9 if name == "woodbury, refined" else None
        rows[name] = partial(solve, F, v, solver, tolerance=tolerance, throw=False)
    rows["M-FAC form: stored gradients, LU"] = lambda: mfac(F.gradients(keep="gradients"), v, DAMPING)
    table = []
    for name, r in measure(rows, device, "gradient").items():
        value = r["value"]
        same_system = name not in ("gradient", "block 48", "diagonal")
        solved = getattr(value, "value", value)
        extra = {"residual": value.residual, "iterations": value.iterations} if hasattr(value, "residual") else {}
        table.append({**_row(name, r, error(solved, exact) if same_system else None), **extra})
    return table


def mfac(gradients: Any, v: Vector, damping: float) -> Vector:
    """M-FAC's static form by formula: all gradients stored, their Gram matrix, an LU solve."""
    return unflatten(mfac_algebra(gradients.matrix(), flatten(v), damping), v)


def mfac_algebra(g_nP: Tensor, v_P: Tensor, damping: float) -> Tensor:
    K_nn = g_nP @ g_nP.T
    K_nn.diagonal().add_(len(g_nP) * damping)
    found: Tensor = (v_P - torch.linalg.solve(K_nn, g_nP @ v_P) @ g_nP) / damping
    return found


def algebra(n: int, P: int, device: str) -> list[Row]:
    """The linear algebra alone, on the same stored n x P matrix: the Gram form of `woodbury` and the paper's recursion."""
    from unlearn_lib.curvature.solvers.recursion import _apply as apply_recursion
    from unlearn_lib.curvature.solvers.woodbury import _coefficients

    generator = torch.Generator().manual_seed(0)
    g_nP = torch.randn(n, P, generator=generator).mul_(P**-0.5 * torch.logspace(0, 2, n).unsqueeze(1)).to(device)
    v_P = torch.randn(P, generator=generator).to(device) * P**-0.5 + g_nP.mean(0)
    damping = float(g_nP[-1].double().square().sum()) / n / 600

    def gram_form() -> Tensor:
        K_nn, w_n = torch.zeros(n, n, dtype=torch.float64, device=device), torch.zeros(n, dtype=torch.float64, device=device)
        for start in range(0, P, 1 << 15):  # short sums in float32, long ones in float64, as SequenceGradients.gram
            g_nc = g_nP[:, start : start + (1 << 15)]
            K_nn += g_nc @ g_nc.T
            w_n += g_nc @ v_P[start : start + (1 << 15)]
        s_n, U_nn = torch.linalg.eigh(K_nn)
        c_n = U_nn @ (_coefficients(s_n.clamp_min(0), damping, -1.0) * (U_nn.T @ w_n))
        return torch.addmv(v_P, g_nP.T, c_n.float(), beta=1 / damping)

    def recursion() -> Tensor:
        return apply_recursion(*full_recursion(g_nP, damping), v_P, damping)

    exact = mfac_algebra(g_nP.double(), v_P.double(), damping)
    rows = {
        "Gram form (woodbury)": gram_form,
        "recursion, eq. 7-8": recursion,
        "M-FAC form": lambda: mfac_algebra(g_nP, v_P, damping),
    }
    return [
        _row(name, r, error(r["value"], exact))
        for name, r in measure(rows, device, "Gram form (woodbury)", 5 * REPEATS).items()
    ]


def preconditioners(device: str) -> list[Row]:
    """CG on the Gauss-Newton matrix and the Hessian of a trained model, with and without help, to a residual of 1e-2."""
    model, tokenizer = load_model("nano/opt-s", device=device)
    train = load_task("arc_easy", source="nano", seed=0).train.select(range(TRAINED_TEXTS))
    batches = make_batches(encode(list(train), tokenizer, 256).examples, TRAINED_TEXTS, model.device)
    F, table = EmpiricalFisher(model, batches), []
    v = F.adjoint(torch.full((len(train),), 1 / len(train)))
    for make, damping in ((GaussNewton, 1e-1), (GaussNewton, 1e-2), (Hessian, 10.0)):
        operator = make(model, batches).linearize()
        helpers: dict[str, Any] = {
            "none": lambda d: None,
            "Fisher (woodbury)": lambda d: invert(F, Woodbury(d, keep="gradients")),
            "K-FAC, 4 draws": lambda d: invert(KFAC(model, batches, samples=4), Kronecker(d)),
        }
        for name, helper in helpers.items():
            start = now(device)
            with Meter() as meter:
                solver = ConjugateGradients(damping, preconditioner=helper(damping), max_steps=MOST_STEPS)
                s = solve(operator, v, solver, tolerance=1e-2, throw=False)
            table.append(
                {
                    "operator": f"{make.__name__} + {damping:g} I", "preconditioner": name, "steps": s.iterations, "residual": s.residual,
                    "reason": s.reason.name, "gradients": meter.flops / operator.gradient_flops, "seconds": now(device) - start,
                }
            )  # fmt: skip
    return table


def _row(name: str, r: Row, wrong: float | None) -> Row:
    return {
        "operation": name,
        "gradients_by_flops": r["flops_ratio"],
        "gradients_by_time": r["seconds_ratio"],
        "memory_of_gradients": r["bytes_ratio"],
        "kept_memory": r.get("kept_ratio"),
        "seconds": r["seconds"],
        "error_against_float64": wrong,
    }


def peer(python: str, model: Any, batch: dict[str, Tensor], v: Vector) -> list[Row]:
    """The same products by curvlinops, in the environment of another interpreter."""
    from safetensors.torch import save_file

    wide = {name: t.double() for name, t in v.items()}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        save_file({key: t.cpu().clone() for key, t in batch.items()}, f"{folder}/batch.safetensors")
        save_file({name: t.cpu().contiguous() for name, t in v.items()}, f"{folder}/vector.safetensors")
        for name, make in {"gauss_newton": GaussNewton, "hessian": Hessian}.items():
            exact = make(model, [batch], precision="float64") @ wide
            save_file({key: t.cpu().contiguous() for key, t in exact.items()}, f"{folder}/{name}.safetensors")
        script = Path(__file__).with_name("curvlinops_peer.py")
        done = subprocess.run([python, str(script), folder], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise click.ClickException(f"curvlinops in {python} failed: {done.stderr.strip().splitlines()[-1]}")
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return rows


def environment(device: str) -> Row:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads ({platform.machine()})",
        "python": platform.python_version(), "torch": torch.__version__, "unlearn_lib": version("unlearn_lib"),
        "system": platform.system(), "format": "float32, eager attention",
    }  # fmt: skip


def show(title: str, rows: list[Row]) -> None:
    import pandas as pd

    click.echo(f"\n{title}\n" + pd.DataFrame(rows).to_string(index=False, float_format=lambda x: f"{x:.3g}"))


@click.command(help=__doc__)
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--peer", "python", default=None, help="interpreter of an environment with curvlinops")
@click.option("--out", default=Path(__file__).with_name("curvature.json"), show_default=True, type=click.Path(path_type=Path))
def main(device: str, python: str | None, out: Path) -> None:
    """Run all parts, print the tables, write one JSON."""
    model, batch = opt(device)
    gradient = batch_gradient(model, batch)[1]
    generator = torch.Generator().manual_seed(1)
    v = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in gradient.items()}
    problem = f"OPT, 3.7 M parameters, {SEQUENCES} sequences of {TOKENS} tokens"
    report: dict[str, Any] = {"environment": environment(device), "problem": problem}
    report["algebra_n64_P1e6"] = algebra(*ALGEBRA, device)
    show("Linear algebra alone, n = 64, P = 1e6, in units of the Gram form", report["algebra_n64_P1e6"])
    report["products"] = products(model, batch, v, device)
    show("Products, in gradients", report["products"])
    report["solves"] = solves(model, batch, gradient, device)
    show(f"(Fisher + {DAMPING:g} I)^-1 gradient, verified, in gradients", report["solves"])
    report["preconditioners"] = preconditioners(device)
    show("CG on nano/opt-s, 16 ARC records, to a residual of 1e-2", report["preconditioners"])
    if python:
        report["curvlinops"] = peer(python, model, batch, v)
        show("curvlinops, same products, in its own gradients", report["curvlinops"])
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    click.echo(f"\nwritten: {out}")


if __name__ == "__main__":
    main()
