r"""The Hessian of the mean loss: H v = (1/n) sum_i grad^2 l_i v, exactly.

Forward over reverse, `jvp` of a `vjp`: the one composition that is right on LayerNorm in torch 2.13 and light on memory
(`jvp(jacrev)` and `grad(jvp)` are silently wrong there). Where an operation of the model has no
forward derivative of its backward (SiLU: Llama, Qwen), double backward does the same; `mode` says which one is in use.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp

from unlearn_lib.curvature.derivatives import forward_or_reverse, jvp
from unlearn_lib.curvature.operator import Derived, Operator
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.losses import Batch


class Hessian(EmpiricalRisk):
    """The Hessian of (1/n) sum_i l_i. Symmetric, in general indefinite. A product costs 3 gradients."""

    mode = "forward-over-reverse"

    def mv(self, v: Vector) -> Vector:
        return self.added(self._product(batch, v) for batch in self.share.batches)

    def _product(self, batch: Batch, v: Vector) -> Vector:
        return forward_or_reverse(
            self,
            lambda: self._forward_over_reverse(batch, v),
            lambda: self.gradient_graph(batch).product(v, keep=False),
        )

    def linearize(self) -> Operator:
        return LinearizedHessian(self)

    def _mean(self, batch: Batch) -> Callable[[Vector], Tensor]:
        losses = self.losses(batch)
        return lambda params: losses(params).sum() / self.sequences

    def _forward_over_reverse(self, batch: Batch, v: Vector) -> Vector:
        mean = self._mean(batch)

        def gradient(params: Vector) -> Vector:
            value, pullback, *_ = vjp(mean, params)
            result: Vector = pullback(torch.ones_like(value))[0]
            return result

        with torch.no_grad():  # without it the pullback keeps a graph of its own: 70 % more memory
            product: Vector = jvp(gradient, self.params, v)
        return product

    def gradient_graph(self, batch: Batch) -> GradientGraph:
        """The gradient of a batch's share of the mean loss, with its graph. Costs 1 gradient."""
        return GradientGraph(self._mean(batch), self.params)


class LinearizedHessian(Derived):
    """The Hessian from the kept graphs of the gradient: H v is one backward pass through them, 2 gradients instead of 3.

    To prepare it costs 1 gradient.
    """

    def __init__(self, hessian: Hessian) -> None:
        super().__init__(hessian)
        self._added = hessian.added
        self._graphs = [hessian.gradient_graph(batch) for batch in hessian.share.batches]

    def mv(self, v: Vector) -> Vector:
        return self._added(graph.product(v, keep=True) for graph in self._graphs)


class GradientGraph:
    """The gradient of a function of the parameters as a graph, through which H v is one more backward pass."""

    def __init__(self, function: Callable[[Vector], Tensor], params: Vector) -> None:
        self.leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.enable_grad():
            value, tensors = function(self.leaves), list(self.leaves.values())
            self.gradient = torch.autograd.grad(value, tensors, create_graph=True, materialize_grads=True)

    def product(self, v: Vector, *, keep: bool) -> Vector:
        """H v. Costs 2 gradients; `keep` the graph for more products."""
        # a parameter in which the function is linear has a gradient without a graph
        pairs = [(g, v[name]) for name, g in zip(self.leaves, self.gradient, strict=True) if g.requires_grad]
        outputs, directions = zip(*pairs, strict=True)
        columns = torch.autograd.grad(
            outputs, list(self.leaves.values()), directions, retain_graph=keep, materialize_grads=True
        )
        return dict(zip(self.leaves, columns, strict=True))
