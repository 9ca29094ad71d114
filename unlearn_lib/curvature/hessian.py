r"""The Hessian of the mean loss: H v = (1/n) sum_i grad^2 l_i v, exactly.

Forward over reverse, `jvp` of a `vjp`: the one composition that is right on LayerNorm in torch 2.13 and light on memory
(`jvp(jacrev)` and `grad(jvp)` are silently wrong there). Where an operation of the model has no
forward derivative of its backward (SiLU: Llama, Qwen), double backward does the same; `mode` says which one is in use.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp

from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.vector import Vector, total
from unlearn_lib.losses import Batch


class Hessian(EmpiricalRisk):
    """The Hessian of (1/n) sum_i l_i. Symmetric, in general indefinite. A product costs 3 gradients."""

    mode = "forward-over-reverse"

    def mv(self, v: Vector) -> Vector:
        return total(self._product(batch, v) for batch in self.batches)

    def _product(self, batch: Batch, v: Vector) -> Vector:
        if self.mode == "forward-over-reverse":
            try:
                return self._forward_over_reverse(batch, v)
            except NotImplementedError:  # forward AD of a backward that has none; noticed at the first product
                self.mode = "double backward"
        return self._double_backward(batch, v)

    def linearize(self) -> Operator:
        from unlearn_lib.curvature.linearized import LinearizedHessian

        return LinearizedHessian(self)

    def _mean(self, batch: Batch) -> Any:
        losses = self.losses(batch)
        return lambda params: losses(params).sum() / self.sequences

    def _forward_over_reverse(self, batch: Batch, v: Vector) -> Vector:
        mean = self._mean(batch)

        def gradient(params: Vector) -> Vector:
            value, pullback, *_ = vjp(mean, params)
            result: Vector = pullback(torch.ones_like(value))[0]
            return result

        with torch.no_grad():  # without it the pullback keeps a graph of its own: 70 % more memory
            product: Vector = jvp(gradient, (self.params,), (v,))[1]
        return product

    def _double_backward(self, batch: Batch, v: Vector) -> Vector:
        params = {name: p.detach().requires_grad_() for name, p in self.params.items()}
        tensors = list(params.values())
        with torch.enable_grad():
            first = torch.autograd.grad(self._mean(batch)(params), tensors, create_graph=True, materialize_grads=True)
            inner: Tensor = sum(((g * v[name]).sum() for name, g in zip(params, first, strict=True)), start=torch.zeros(()))
        second = torch.autograd.grad(inner, tensors, materialize_grads=True)
        return dict(zip(params, second, strict=True))
