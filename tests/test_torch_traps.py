"""Faults of torch that this library works around, and its global states that the library leaves.

Each test of a fault holds as long as the fault is there: where one fails, torch has been mended and the workaround that its
message names can go.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import batched, build, examples
from torch import Tensor
from torch.func import grad, jacrev, jvp, vjp

from unlearn_lib import text_losses, unlearn
from unlearn_lib.curvature import (
    KFAC,
    Auto,
    EmpiricalFisher,
    GaussNewton,
    Hessian,
    SequenceGradients,
    Woodbury,
    invert,
    named_solver,
    solve,
)
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.errors import InputError

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


def results(make: type[Operator], model: Any) -> dict[str, Tensor]:
    """All that an operator answers, as flat tensors."""
    operator: Any = make(model, batched(examples(), (3, 2)))
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))
    found = {"product": operator @ v, "mv": flat(operator.mv(operator.own_form(v))), "kept": operator.linearize() @ v}
    if make is not Hessian:
        found["solution"] = solve(operator, v, Auto(1.0)).value
        found["preconditioner"] = invert(operator, Auto(1.0)) @ v
    if make is EmpiricalFisher:
        gradients = SequenceGradients(operator)
        found |= {
            "matrix": gradients.matrix(),
            "gram": gradients.gram(operator.own_form(v))[0],
            "diagonal": operator.diagonal(),
        }
        found |= {"project": operator.project(operator.own_form(v)), "adjoint": flat(operator.adjoint(torch.ones(5)))}
        found |= {solver: solve(operator, v, named_solver(solver, 0.1)).value for solver in ("block", "diagonal", "recursion")}
        found["nothing kept"] = solve(operator, v, Woodbury(0.1, keep="nothing")).value
    if make is KFAC:
        found["diagonal"] = operator.diagonal()
    return found


def flat(v: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in v.values()])


@pytest.mark.parametrize(
    ("family", "make"), [("gpt2", Hessian), ("llama", GaussNewton), ("gpt2", EmpiricalFisher), ("llama", KFAC)]
)
def test_autocast_around_curvature_is_left(family: str, make: type[Operator]) -> None:
    model = build(family, dtype=torch.float32)
    expected = results(make, model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results(make, model)
        assert torch.is_autocast_enabled("cpu")
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_autocast_around_unlearning_and_text_losses_is_left(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny("opt", dtype=torch.float32)

    def run(method: str, **options: Any) -> tuple[Tensor, Tensor]:
        retain = {} if method == "gradient-ascent" else {"retain": texts[4:8]}
        result = unlearn(model, tokenizer, forget=texts[:2], method=method, **retain, **options)
        return flat(dict(result.model.named_parameters())).detach(), text_losses(result.model, tokenizer, texts[:3])

    for method, options in (("gradient-ascent", {"step": 0.1}), ("woodbury-newton", {"step": 0.1})):
        expected = run(method, **options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = run(method, **options)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), method


def test_every_module_keeps_its_own_training_mode() -> None:
    model = build("gpt2", dtype=torch.float32)
    model.train()
    model.transformer.h[0].attn.eval()
    model.transformer.ln_f.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    v = None
    for make in (Hessian, GaussNewton, EmpiricalFisher, KFAC):
        operator: Any = make(model, batched(examples(), (3, 2)))
        v = torch.ones(operator.size)
        # dropout is off while curvature is measured, wherever it was on
        assert torch.equal(operator @ v, operator @ v)
        assert [module.training for module in model.modules()] == before
    model.eval()
    evaluating = EmpiricalFisher(model, batched(examples(), (3, 2))) @ v
    assert torch.equal(EmpiricalFisher(model.train(), batched(examples(), (3, 2))) @ v, evaluating)


def test_modes_come_back_after_an_error() -> None:
    model = build("opt").train()
    model.lm_head.eval()
    model.model.decoder.layers[0].fc1.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        EmpiricalFisher(model, batched(examples(), (5,)))
    assert model.training
    assert not model.lm_head.training


@pytest.mark.parametrize("make", [Hessian, GaussNewton, EmpiricalFisher, KFAC])
def test_what_cannot_be_differentiated_is_refused_in_a_sentence(make: Any) -> None:
    model, batches = build("opt"), batched(examples(), (5,))
    operator = make(model, batches)
    with torch.inference_mode():
        with pytest.raises(InputError, match=r"torch.inference_mode\(\) forbids; call it outside of that block"):
            make(model, batches)
        with pytest.raises(InputError, match=r"torch.inference_mode\(\) forbids; call it outside of that block"):
            solve(operator, torch.ones(operator.size), Auto(10.0))
        made = build("opt")
    with pytest.raises(InputError, match=r"was made inside torch.inference_mode\(\).*load the model outside"):
        make(made, batches)
    model.requires_grad_(False)
    with pytest.raises(InputError, match=r"all parameters of the model are frozen .*; unfreeze some .* or name the parameters"):
        make(model, batches)
    assert make(model, batches, params="*fc1*").size > 0
