"""Every operator against a dense float64 matrix built another way: plain reverse-mode loops, no forward mode, no vmap."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from dense import FAMILIES, Dense, batched, build, examples, loss_of, relative
from torch import Tensor

from unlearn_lib.curvature import EmpiricalFisher, GaussNewton, Hessian, named_solver, solve
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.vector import flatten, unflatten
from unlearn_lib.data.batches import Example, collate
from unlearn_lib.errors import InputError

OPERATORS: dict[str, tuple[type, Callable[[Dense], Tensor]]] = {
    "hessian": (Hessian, Dense.hessian),
    "gauss-newton": (GaussNewton, Dense.gauss_newton),
    "fisher": (EmpiricalFisher, Dense.fisher),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_operator_is_the_dense_matrix(family: str, name: str) -> None:
    model, sequences = build(family), examples()
    make, reference = OPERATORS[name]
    expected = reference(Dense(model, sequences))
    operator = make(model, batched(sequences, (3, 2)))
    V = torch.randn(operator.size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.stack([operator @ column for column in V.T], dim=1)
    assert relative(found, expected @ V) < 1e-9
    if name == "hessian":  # SiLU has no forward derivative of its backward
        assert operator.mode == ("double backward" if family in ("llama", "qwen2") else "forward-over-reverse")
    products = V.T @ found
    assert relative(products, products.T) < 1e-9
    if name != "hessian":
        assert (products.diagonal() >= 0).all()
        assert torch.linalg.eigvalsh(expected).min() > -1e-9


def test_without_the_float64_softmax_the_answer_is_still_right_to_1e_6(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = build("opt"), batched(examples(), (5,))
    v = torch.randn(EmpiricalFisher(model, batches).size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = {name: make(model, batches) @ v for name, (make, _) in OPERATORS.items()}
    monkeypatch.setattr("unlearn_lib.curvature.precision.KeepFloat64", nullcontext)
    for name, (make, _) in OPERATORS.items():
        assert 1e-12 < relative(make(model, batches) @ v, exact[name]) < 1e-6


@pytest.mark.parametrize("name", OPERATORS)
def test_untied_weights(name: str) -> None:
    model, sequences = build("opt", tied=False), examples()
    make, reference = OPERATORS[name]
    operator = make(model, batched(sequences, (5,)))
    v = torch.randn(operator.size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert relative(operator @ v, reference(Dense(model, sequences)) @ v) < 1e-9


@pytest.mark.parametrize("name", OPERATORS)
def test_padding_batch_split_and_order_do_not_matter(name: str) -> None:
    model, sequences = build("gpt-neo"), examples()
    make, _ = OPERATORS[name]
    one = make(model, batched(sequences, (1, 1, 1, 1, 1)))
    v = torch.randn(one.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for other in (make(model, batched(sequences, (5,))), make(model, batched(sequences[::-1], (2, 3)))):
        assert relative(other @ v, one @ v) < 1e-9


@pytest.mark.parametrize("solver", ["woodbury", "block", "diagonal", "recursion"])
def test_solves_with_the_fisher_do_not_depend_on_the_batches(solver: str) -> None:
    model, sequences = build("llama"), examples()
    one = EmpiricalFisher(model, batched(sequences, (5,)))
    v = torch.randn(one.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    chosen = named_solver(solver, 1e-3)
    expected = solve(one, v, chosen).value
    for sizes in ((1, 1, 1, 1, 1), (2, 3)):
        assert relative(solve(EmpiricalFisher(model, batched(sequences, sizes)), v, chosen).value, expected) < 1e-9


def test_the_three_matrices_differ() -> None:
    model, sequences = build("opt"), examples()
    dense = Dense(model, sequences)
    H, G, F = dense.hessian(), dense.gauss_newton(), dense.fisher()
    assert torch.linalg.eigvalsh(H).min() < -1e-3, (
        "the Hessian is indefinite here, so an operator that returned it as GGN would be seen"
    )
    assert relative(G, H) > 0.1
    assert relative(F, G) > 0.1
    # and the per-sequence Fisher is neither the per-token one nor the batch mean's
    mean = dense.gradients().mean(0)
    assert relative(mean.outer(mean), F) > 0.1
    tokens = []
    for s in sequences:
        for t in range(1, len(s.labels)):
            if s.labels[t] != -100:
                labels = tuple(label if i == t else -100 for i, label in enumerate(s.labels))
                tokens.append(dense.gradient(loss_of(model, Example(s.input_ids, labels), dense.params)))
    per_token = torch.stack(tokens).T @ torch.stack(tokens) / len(tokens)
    assert relative(per_token, F) > 0.1


def test_adjoint_identity_and_gradients() -> None:
    model, sequences = build("gpt2"), examples()
    F = EmpiricalFisher(model, batched(sequences, (2, 3)))
    G = Dense(model, sequences).gradients()
    generator = torch.Generator().manual_seed(4)
    v, c = (
        torch.randn(F.size, dtype=torch.float64, generator=generator),
        torch.randn(5, dtype=torch.float64, generator=generator),
    )
    assert relative(F.project(unflatten(v, F.params)), G @ v) < 1e-9
    assert relative(flatten(F.adjoint(c)), G.T @ c) < 1e-9


@pytest.mark.parametrize("name", OPERATORS)
def test_a_subset_of_parameters_is_a_block_of_the_matrix(name: str) -> None:
    model, sequences = build("opt"), examples()
    make, reference = OPERATORS[name]
    operator = make(model, batched(sequences, (5,)), params=["*fc1*", "*layer_norm*"])
    names = list(dict(model.named_parameters()))
    assert operator.params.keys() == {n for n in names if "fc1" in n or "layer_norm" in n}
    chosen = torch.cat([torch.full((p.numel(),), n in operator.params) for n, p in model.named_parameters()])
    block = reference(Dense(model, sequences))[chosen][:, chosen]
    assert relative(operator.as_matrix(), block) < 1e-9
    assert relative(operator.diagonal(), block.diagonal()) < 1e-9
    assert operator.trace() == pytest.approx(float(block.trace()), rel=1e-9)


def test_form_follows_form_and_algebra() -> None:
    model, sequences = build("opt"), examples()
    F, G = (make(model, batched(sequences, (5,)), params="*fc1*") for make in (EmpiricalFisher, GaussNewton))
    v = torch.randn(F.size, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    as_dict = F @ unflatten(v, F.params)
    assert as_dict.keys() == F.params.keys()
    torch.testing.assert_close(flatten(as_dict), F @ v)
    torch.testing.assert_close((2 * F + G * 0.5) @ v, 2 * (F @ v) + 0.5 * (G @ v))
    torch.testing.assert_close((2 * F + G).diagonal(), 2 * F.diagonal() + G.diagonal())


def test_finite_differences_agree_with_the_hessian() -> None:
    model, sequences = build("opt"), examples()
    H = Hessian(model, batched(sequences, (5,)))
    dense = Dense(model, sequences)
    v = torch.randn(H.size, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    v /= v.norm()
    gradients = []
    for sign in (1, -1):
        step = unflatten(sign * 1e-4 * v, H.params)
        moved = {name: (p + step[name]).detach().requires_grad_() for name, p in H.params.items()}
        dense.params = moved
        gradients.append(dense.gradient(torch.stack([loss_of(model, s, moved) for s in sequences]).mean()))
    assert relative((gradients[0] - gradients[1]) / 2e-4, H @ v) < 1e-3


def test_curvature_is_never_below_float32_and_the_model_is_left_alone() -> None:
    model, sequences = build("opt", dtype=torch.bfloat16), examples()
    model.train()
    before = [p.detach().clone() for p in model.parameters()]
    for make, _ in OPERATORS.values():
        operator = make(model, batched(sequences, (5,)))
        assert {p.dtype for p in operator.params.values()} == {torch.float32}
        assert (operator @ torch.ones(operator.size)).dtype == torch.float32
        wide = make(model, batched(sequences, (5,)), precision="float64")
        assert relative((operator @ torch.ones(operator.size)).double(), wide @ torch.ones(wide.size)) < 1e-4
    assert model.training
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, b: (m, []), "there are no sequences"),
        (lambda m, b: (m, [{**b, "labels": torch.full_like(b["labels"], -100)}]), "sequence 0 of batch 0 has no scored token"),
        (lambda m, b: (m.half(), [b]), "is float16, whose range is too narrow"),
    ],
)
def test_unusable_input_is_refused_before_any_work(change: Any, message: str) -> None:
    model, batches = change(build("opt"), collate(examples()))
    with pytest.raises(InputError, match=message):
        EmpiricalFisher(model, batches)


def test_other_refusals() -> None:
    model, batches = build("opt"), batched(examples(), (5,))
    with pytest.raises(InputError, match=r"no parameter matches '\*lora\*'"):
        Hessian(model, batches, params="*lora*")
    with pytest.raises(InputError, match="unknown precision 'float16'; choose float32 or float64"):
        Hessian(model, batches, precision="float16")
    F = EmpiricalFisher(model, batches)
    with pytest.raises(InputError, match=r"has shape \(\d+,\), got \(3,\)"):
        F @ torch.ones(3)
    with pytest.raises(InputError, match="names are not the operator's"):
        F @ {"x": torch.ones(3)}
    with pytest.raises(InputError, match="different parameters cannot be added"):
        F + EmpiricalFisher(model, batches, params="*fc1*")
    model.config._attn_implementation = "sdpa"
    with pytest.raises(InputError, match="curvature needs attn_implementation='eager'"):
        EmpiricalFisher(model, batches)


def test_a_parameter_without_gradient_is_refused() -> None:
    model = build("opt")
    model.unused = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match=r"parameter unused \(1 in all\) has no gradient: .* leave it out with params="):
        Hessian(model, batched(examples(), (5,)))
    assert "unused" not in EmpiricalFisher(model, batched(examples(), (5,)), params="model.*").params


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("family", ["opt", "gpt-neo", "llama"])
def test_linearized_operators_are_the_same_and_cheaper(family: str, name: str) -> None:
    model, batches = build(family), batched(examples(), (3, 2))
    operator = OPERATORS[name][0](model, batches)
    kept = operator.linearize()
    v = torch.randn(operator.size, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    assert relative(kept @ v, operator @ v) < 1e-9
    both, whole = (2 * operator + operator).linearize(), 3 * (operator @ v)
    assert relative(both @ v, whole) < 1e-9
    cost = {}
    for key, matrix in {"plain": operator, "kept": kept}.items():
        with Meter() as meter:
            matrix @ v
        cost[key] = meter.flops / operator.gradient_flops
    plain, linearized = {"hessian": (3, 2), "gauss-newton": (2, 4 / 3), "fisher": (2, 2 / 3)}[name]
    assert cost["plain"] == pytest.approx(plain, rel=1e-6)
    assert cost["kept"] == pytest.approx(linearized, rel=1e-6) if name != "fisher" else cost["kept"] < linearized


def test_a_gradient_is_three_forward_passes() -> None:
    model, batches = build("gpt-neo"), batched(examples(), (3, 2))
    F = EmpiricalFisher(model, batches)
    with Meter() as meter:
        F.adjoint(torch.ones(5))
    assert meter.flops == F.gradient_flops
