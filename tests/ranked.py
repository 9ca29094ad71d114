"""What several processes compute together: `python ranked.py OUT WHAT`, alone or under torchrun, writes OUT, a safetensors file.

WHAT is "curvature" or "more curvature", or "methods" or "more methods" with a number format, as in "methods-float32"; what begins
with "more" is left to the night. Every process computes all cases; the first one writes, after the others have said that theirs are
the same to the last bit.
"""

import copy
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import tiny_models
import torch
from certified import suited
from dense import batched, build, examples
from safetensors.torch import save_file
from test_resume import OPTIONS, STARTS_ANEW
from torch import Tensor

from unlearn_lib import TrainingConfig, load_model, train, unlearn
from unlearn_lib.curvature import GaussNewton, Hessian, mean_gradient, solve
from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.kfac import KFAC
from unlearn_lib.curvature.solvers.block import Block
from unlearn_lib.curvature.solvers.cg import ConjugateGradients
from unlearn_lib.curvature.solvers.dense import Dense
from unlearn_lib.curvature.solvers.diagonal import Diagonal
from unlearn_lib.curvature.solvers.kfac import Kronecker
from unlearn_lib.curvature.solvers.recursion import Recursion
from unlearn_lib.curvature.solvers.woodbury import Woodbury
from unlearn_lib.curvature.vector import flatten
from unlearn_lib.losses import evaluate
from unlearn_lib.methods.bartlett import bartlett_diagonal
from unlearn_lib.models import nano
from unlearn_lib.ranks import alone, data_parallel, ranks
from unlearn_lib.training.private import PrivacyConfig, train_private
from unlearn_lib.training.sisa import train_sisa

SIZES = {"uneven": (2, 3), "short": (1,)}
"""Sequences in each batch; of one sequence other processes have none."""
FORMATS = {"float64": torch.float64, "float32": torch.float32}

Found = dict[str, Tensor]


FIRST = (("opt", "float64", "uneven"), ("opt", "float64", "short"), ("opt", "float32", "uneven"))
SETTINGS = {
    "curvature": FIRST,
    "more curvature": tuple(one for one in product(("opt", "llama"), FORMATS, SIZES) if one not in FIRST),
}
"""The family, the number format and the batches."""


def curvature(which: str, device: str = "cpu") -> Found:
    """Every operator and solver, on models of a few hundred parameters, in the settings of that name."""
    found: Found = {}
    for family, form, kind in SETTINGS[which]:
        model = build(family, dtype=FORMATS[form]).to(device)
        batches = [{key: t.to(device) for key, t in batch.items()} for batch in batched(examples(), SIZES[kind])]
        for name, tensor in [*_operators(model, batches), *_solves(model, batches)]:
            found[f"{family}/{form}/{kind}/{name}"] = tensor.cpu()
    return found


SHORTER: dict[str, dict[str, Any]] = {
    **{name: {"steps": 2} for name in ("fisher-removal", "newton", "kfac-newton")},
    "constrained-newton": {"steps": 2, "approach": 1},
}
"""The second step is computed from what the processes made of the first; more of them show nothing new."""
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "newton, limited": ("newton", {"step": "limited", "steps": 1}),
    "fisher-removal, recursion": (
        "fisher-removal",
        {"solver": "recursion", "damping": 1.0, "step": 0.1, "retain_batch_size": 4, "width": 16},
    ),
    # with this goal no step's promise is near the twentieth of the gap from which its slope counts. With 7.5 the fifth step promises
    # .04999 or .05001 of the gap in float32, by the number of processes, and the steps after it go different ways
    "constrained-newton, budget": (
        "constrained-newton",
        {"budget": 1500, "target_loss": 7.4, "retain_limit": None},
    ),
    "gradient-ascent, jang": ("gradient-ascent", {"preset": "jang", "step": 1e-3, "epochs": 2, "n": 3}),
    "rmu, relative": ("rmu", {"epochs": 2, "learning_rate": 1e-3, "relative": True, "retain_weight": 1.0}),
}
"""Ways through the methods that `OPTIONS` does not take."""
CASES = {
    "methods": {name: (name, options | SHORTER.get(name, {})) for name, options in OPTIONS.items()}
    | {name: (name, {}) for name in STARTS_ANEW},
    "more methods": MORE,
}
"""What is run of the methods: the method and its options, by a label."""


def _vector(like: Any, seed: int = 3) -> Tensor:
    P = sum(p.numel() for p in like.params.values())
    return torch.randn(P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like.device, like.dtype)


def _operators(model: Any, batches: list[Any]) -> Iterator[tuple[str, Tensor]]:
    yield "losses", evaluate(model, batches)
    loss, gradient = mean_gradient(model, batches)
    yield "gradient", flatten(gradient)
    yield "loss", torch.tensor(loss)
    yield "bartlett", flatten(bartlett_diagonal(model, batches, seed=5))
    for kind in (EmpiricalFisher, GaussNewton, Hessian):
        A = kind(model, batches)
        v = _vector(A)
        yield f"{kind.__name__} v", A @ v
        yield f"{kind.__name__} v, linearized", A.linearize() @ v
        yield f"{kind.__name__} G v", A.project(A.own_form(v))
        yield f"{kind.__name__} G^T c", flatten(A.adjoint(torch.linspace(-1, 1, A.sequences, dtype=A.dtype, device=A.device)))
    yield "Gauss-Newton matrix", GaussNewton(model, batches).as_matrix()
    F = EmpiricalFisher(model, batches)
    yield "Fisher matrix", F.as_matrix()
    yield "Fisher diagonal", F.diagonal()
    # short blocks of columns, so that each process has some; by products of factors or by blocks, whichever is cheaper
    for keep, passes in (("activations", 1), ("gradients", 1), ("nothing", 3)):
        G = F.gradients(keep=keep, passes=passes, chunk=1)
        K_nn, w_n = G.gram(F.own_form(_vector(F)))
        assert w_n is not None
        yield f"Gram, {keep}", K_nn
        yield f"G v, {keep}", w_n
        yield f"norms, {keep}", G.norms()
        yield f"G, {keep}", G.matrix()
        assert G.check() < 1e-3
    for correction in (True, False):
        for positions in (1.0, 0.7):
            K = KFAC(model, batches, correction=correction, positions=positions, samples=2, seed=1)
            yield f"K-FAC, correction {correction}, positions {positions}", K @ _vector(K)
    K = KFAC(model, batches, max_side=5)
    yield "K-FAC, long sides", K.diagonal()
    K = KFAC(model, batches, params="*norm*")
    yield "K-FAC, norms alone", K.diagonal()
    assert len(K.left_out) == len(K.params)


def _solves(model: Any, batches: list[Any]) -> Iterator[tuple[str, Tensor]]:
    F = EmpiricalFisher(model, batches)
    v = _vector(F, seed=4)
    solvers = [
        Woodbury(damping=0.1),
        Woodbury(damping=0.1, keep="gradients", chunk=1),
        Woodbury(damping=0.1, keep="nothing", passes=2),
        Block(damping=0.1, width=5, chunk=1),
        Block(damping=0.1, width=5, keep="nothing", passes=2),
        Diagonal(damping=0.1),
        Dense(damping=0.1),
        Recursion(damping=0.1),
        Recursion(damping=0.1, width=5),
        ConjugateGradients(damping=0.1),
    ]
    for number, solver in enumerate(solvers):
        solution = solve(F, v, solver)
        yield f"solve {number}, {solver.label}", solution.value
        if isinstance(solver, ConjugateGradients) and v.dtype == torch.float32:
            # at the usual 3e-5 rounding decides which step is the last; the residual of the fifth, .006, is well within 1e-2
            solution = solve(F, v, solver, tolerance=1e-2)
        yield f"cost of solve {number}, {solver.label}", torch.tensor(solution.gradient_evaluations)
    # stopped at the usual residual of 1e-10, two solutions are as far apart as each is from the true one: up to 1.5e-12
    near = {"tolerance": 1e-13} if v.dtype == torch.float64 else {}
    solver = ConjugateGradients(damping=0.5, linearize=True)
    yield "solve a Gauss-Newton system", solve(GaussNewton(model, batches), v, solver, **near).value
    K = KFAC(model, batches)
    yield "solve by K-FAC", solve(K, v, Kronecker(damping=0.1)).value
    K = KFAC(model, batches, correction=False)
    yield "solve by K-FAC's factors", solve(K, v, Kronecker(damping=0.1, factored=True)).value


def methods(which: str, form: str) -> Found:
    """The methods of that name, on models of ten thousand parameters."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nano.RECIPE.tokenizer)
    rows = [{"text": row["text"][:60]} for row in tiny_models.passages()]
    parts = {"forget": rows[:5], "retain": rows[5:16], "holdout": rows[16:21]}
    found: Found = {}
    model = tiny_models.build("opt", FORMATS[form])
    for label, (method, options) in CASES[which].items():
        given = copy.deepcopy(suited(method, model, tokenizer, rows[:16]))
        result = unlearn(given, tokenizer, **parts, base=copy.deepcopy(model), method=method, seed=3, batch_size=4, **options)
        found[f"{label}/weights"] = flatten(dict(result.model.named_parameters())).detach()
        found[f"{label}/losses"] = torch.cat(list(result.losses_after.values()))
        found[f"{label}/cost"] = torch.tensor([result.cost.gradient_evaluations, result.cost.forward_evaluations])
    return found


def trainings(form: str, folder: Path) -> Found:
    """An ensemble that forgets, and both trainings, of such models."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nano.RECIPE.tokenizer)
    rows = [{"text": row["text"][:60]} for row in tiny_models.passages()]
    found: Found = {}
    model = tiny_models.build("opt", FORMATS[form])
    if ranks().first:  # which writes, as transformers does in the first process alone
        settings: dict[str, Any] = {"shards": 2, "slices": 2, "config": TrainingConfig(1, 1e-3, batch_size=4), "seed": 1}
        with alone():
            train_sisa(model, tokenizer, rows[:9], **settings, folder=folder)
    ranks().wait()
    ensemble, _ = load_model(folder, device="cpu", dtype=form)
    result = unlearn(ensemble, tokenizer, forget=rows[:2], method="sisa", seed=3)
    found["sisa/weights"] = flatten(dict(result.model.named_parameters())).detach()
    trained = copy.deepcopy(model)
    train(trained, tokenizer, rows[:9], TrainingConfig(2, 1e-3, batch_size=4), seed=1)
    found["train/weights"] = flatten(dict(trained.named_parameters())).detach()
    train_private(trained, tokenizer, rows[:9], PrivacyConfig(epochs=2, batch_size=4, noise_multiplier=0.5), seed=1)
    found["train_private/weights"] = flatten(dict(trained.named_parameters())).detach()
    return found


def same_everywhere(found: Found) -> None:
    """Refuse answers that differ between the processes."""
    together = ranks()
    for name, tensor in found.items():
        own = tensor.clone()
        assert torch.equal(own, together.spread(tensor.clone(), 0)), name


if __name__ == "__main__":
    out, what = sys.argv[1:]
    torch.set_num_threads(1)
    with data_parallel("cpu") as together:
        which, _, form = what.partition("-")
        found = methods(which, form) if form else curvature(which)
        if which == "methods":
            found |= trainings(form, Path(out).with_suffix(".ensemble"))
        same_everywhere(found)
        if together.first:
            save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)
