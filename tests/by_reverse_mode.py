"""What the operators must give, by plain reverse mode over single, unpadded sequences, for any model, in float64.

The reference has no forward mode, no vmap, no capture and no padding: gradients of each sequence alone, the rows of its
Jacobian one by one, and double backward.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from dense import batched, relative
from torch import Tensor

from unlearn_lib.curvature import Auto, ConjugateGradients, EmpiricalFisher, GaussNewton, Hessian, Woodbury, plan, solve
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import Example
from unlearn_lib.losses import Batch

VOCABULARY = 11


def examples() -> list[Example]:
    """Sequences of unequal length, longer than every window and chunk; one with an unscored prompt."""
    generator = torch.Generator().manual_seed(5)
    ids = [tuple(torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()) for length in (7, 3, 5)]
    return [Example(ids[0], ids[0]), Example(ids[1], ids[1]), Example(ids[2], (-100, -100, *ids[2][2:]))]


@contextmanager
def eager_experts(model: Any) -> Iterator[None]:
    """transformers' default expert kernels have no float64."""
    before = model.get_experts_implementation()
    model.set_experts_implementation("eager")
    yield
    model.set_experts_implementation(before)


def logits_of(model: Any, example: Example, params: dict[str, Tensor]) -> Tensor:
    """`[T, V]` of one sequence; `[T + 1, V]` where virtual tokens stand before it, the last of which predicts its first token."""
    ids = torch.tensor([example.input_ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with KeepFloat64():
        z_TV: Tensor = torch.func.functional_call(model, params, kwargs=inputs).logits[0]
    return z_TV[-len(example.input_ids) - 1 :]


def predictions(z_TV: Tensor, example: Example) -> list[tuple[Tensor, int]]:
    """The logits and the label of every scored token."""
    labels = example.labels[len(example.labels) - len(z_TV) + 1 :]
    return [(z_V, label) for z_V, label in zip(z_TV[:-1], labels, strict=True) if label != -100]


def loss_of(z_TV: Tensor, example: Example) -> Tensor:
    return torch.stack([-z_V.log_softmax(-1)[label] for z_V, label in predictions(z_TV, example)]).mean()


class Reference:
    """Losses, per-sequence gradients, and products of the Gauss-Newton matrix and the Hessian with one vector, by definition."""

    def __init__(self, model: Any, sequences: list[Example]) -> None:
        with eager_experts(model):
            everything = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
            logits = [logits_of(model, s, everything) for s in sequences]
        losses = [loss_of(z_TV, s) for z_TV, s in zip(logits, sequences, strict=True)]
        leaves = list(everything.values())
        found = [torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True) for loss in losses]
        # without what no loss depends on: cross-attention where there is no encoder, a pooler
        self.names = [name for k, name in enumerate(everything) if any(g[k] is not None for g in found)]
        self.leaves = [everything[name] for name in self.names]
        self.losses_n = torch.stack(losses).detach()
        self.gradients_nP = torch.stack([self._grad(loss) for loss in losses])
        self.v = torch.randn(self.gradients_nP.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        self.hessian_v = self._grad(self._grad(torch.stack(losses).mean(), create_graph=True) @ self.v)
        self.gauss_newton_v = torch.stack(
            [self._gauss_newton(z_TV, s) for z_TV, s in zip(logits, sequences, strict=True)]
        ).mean(0)

    def _grad(self, value: Tensor, **options: Any) -> Tensor:
        grads = torch.autograd.grad(value, self.leaves, retain_graph=True, materialize_grads=True, **options)
        return torch.cat([g.reshape(-1) for g in grads])

    def _gauss_newton(self, z_TV: Tensor, example: Example) -> Tensor:
        total = torch.zeros_like(self.v)
        for z_V, _ in predictions(z_TV, example):
            J_VP = torch.stack([self._grad(entry) for entry in z_V])
            p_V = z_V.detach().softmax(-1)
            total += J_VP.T @ ((p_V.diag() - p_V.outer(p_V)) @ (J_VP @ self.v)) / len(predictions(z_TV, example))
        return total


def errors(model: Any, sequences: list[Example] | None = None) -> dict[str, float]:
    """The relative error of everything that curvature is measured with, over a padded batch and one sequence alone."""
    sequences = sequences or examples()
    reference, batches = Reference(model, sequences), batched(sequences, (2, len(sequences) - 2))
    v, G = reference.v, reference.gradients_nP
    F, GN, H = (make(model, batches, params=reference.names) for make in (EmpiricalFisher, GaussNewton, Hessian))
    losses_n = torch.cat([F.losses(batch)(F.params).detach() for batch in batches])
    return {
        "losses": relative(losses_n, reference.losses_n),
        "gradients": relative(F.gradients().matrix(), G),
        "gradients in two passes": relative(F.gradients(keep="nothing", passes=2).matrix(), G),
        "fisher": relative(F @ v, G.T @ (G @ v) / len(G)),
        "gauss-newton": relative(GN @ v, reference.gauss_newton_v),
        "kept gauss-newton": relative(GN.linearize() @ v, reference.gauss_newton_v),
        "hessian": relative(H @ v, reference.hessian_v),
        "kept hessian": relative(H.linearize() @ v, reference.hessian_v),
    }


def assert_plans_know_the_cost(model: Any, batches: list[Batch], *, woodbury: float, cg: float) -> None:
    """Planned gradients against those that a solve counts, within these shares of them."""
    v = torch.ones(EmpiricalFisher(model, batches).size, dtype=torch.float64)
    planned = plan(EmpiricalFisher(model, batches), Woodbury(1.0)).gradient_evaluations
    assert planned == pytest.approx(solve(EmpiricalFisher(model, batches), v, Auto(1.0)).gradient_evaluations, rel=woodbury)
    for make in (GaussNewton, Hessian):
        solver = ConjugateGradients(100.0, max_steps=2, linearize=True)
        real = solve(make(model, batches), v, solver, tolerance=1e-15, throw=False)
        assert plan(make(model, batches), solver).gradient_evaluations == pytest.approx(real.gradient_evaluations, rel=cg)
