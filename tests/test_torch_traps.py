"""Faults of torch that this library works around.

Each test holds as long as the fault is there: where one fails, torch has been mended and the workaround that its message names can go.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacrev, jvp, vjp

Params = dict[str, Tensor]


def layer_norm_case() -> tuple[Callable[[Params], Tensor], Params, Params, Params]:
    """A function of a LayerNorm's input and weight, a point, a direction, and the Hessian product by central differences."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x = draw(6, 8)

    def f(p: Params) -> Tensor:
        return (F.layer_norm(x * p["input"], (8,), p["weight"], p["bias"]) ** 3).sum()

    p, v = ({"input": draw(6, 8), "weight": draw(8), "bias": draw(8)} for _ in range(2))
    up, down = (grad(f)({name: p[name] + sign * 1e-5 * v[name] for name in p}) for sign in (1, -1))
    return f, p, v, {name: (up[name] - down[name]) / 2e-5 for name in p}


def errors(product: Params, reference: Params) -> dict[str, float]:
    return {name: float((product[name] - reference[name]).norm() / reference[name].norm()) for name in reference}


def test_the_composition_in_use_is_right_on_layer_norm() -> None:
    f, p, v, reference = layer_norm_case()

    def gradient(q: Params) -> Params:
        value, pullback, *_ = vjp(f, q)
        result: Params = pullback(torch.ones_like(value))[0]
        return result

    with torch.no_grad():
        assert max(errors(jvp(gradient, (p,), (v,))[1], reference).values()) < 1e-7


def test_forward_over_jacrev_is_wrong_on_layer_norms_weight() -> None:
    f, p, v, reference = layer_norm_case()
    wrong = errors(jvp(jacrev(f), (p,), (v,))[1], reference)
    assert wrong["weight"] > 0.1, "jvp(jacrev) is right again: the warning in curvature/hessian.py can go"
    assert wrong["input"] < 1e-7


def test_reverse_over_forward_is_wrong_on_layer_norms_input() -> None:
    f, p, v, reference = layer_norm_case()
    wrong = errors(grad(lambda q: jvp(f, (q,), (v,))[1])(p), reference)
    assert wrong["input"] > 0.1, "grad(jvp) is right again: the warning in curvature/hessian.py can go"
    assert wrong["weight"] < 1e-7


def test_silu_backward_has_no_forward_derivative() -> None:
    x = torch.randn(3, dtype=torch.float64)

    def derivative(y: Tensor) -> Any:
        return vjp(F.silu, y)[1](torch.ones_like(y))[0]

    # with gradients enabled torch takes another formula, which has one, and keeps a graph that no one needs
    second = jvp(derivative, (x,), (torch.ones_like(x),))[1]
    s = x.sigmoid()
    torch.testing.assert_close(second, s * (1 - s) * (2 + x * (1 - 2 * s)))
    with torch.no_grad(), pytest.raises(NotImplementedError, match="silu_backward"):  # else Hessian needs no double backward
        jvp(derivative, (x,), (torch.ones_like(x),))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel of the CPU")
@pytest.mark.parametrize("order", ["double backward", "forward"])
def test_fused_attention_lacks_derivatives(order: str) -> None:
    q = torch.randn(1, 2, 4, 8, requires_grad=True)

    def attention(t: Tensor) -> Any:
        return F.scaled_dot_product_attention(t, t, t, is_causal=True)

    def derivative() -> None:
        if order == "forward":
            jvp(attention, (q.detach(),), (torch.ones_like(q),))
        else:
            (first,) = torch.autograd.grad(attention(q).square().sum(), q, create_graph=True)
            torch.autograd.grad(first.sum(), q)

    # else eager attention is no longer needed: forward for products with Gauss-Newton and Fisher, double backward for the Hessian
    with pytest.raises((RuntimeError, NotImplementedError), match="scaled_dot_product_flash_attention_for_cpu"):
        derivative()
