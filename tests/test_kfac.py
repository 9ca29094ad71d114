"""K-FAC and EK-FAC against the dense matrix of the same drawn labels, and against the Gauss-Newton matrix they estimate."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dense import FAMILIES, batched, build, examples, relative
from torch import Tensor

from unlearn_lib import unlearn
from unlearn_lib.curvature import KFAC, Auto, EmpiricalFisher, GaussNewton, Kronecker, solve
from unlearn_lib.curvature.kfac import draw_labels
from unlearn_lib.curvature.uses import materialise
from unlearn_lib.curvature.vector import flatten, unflatten
from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError, NumericsError


def blocks_of_the_draws(kfac: KFAC) -> dict[str, Tensor]:
    """For every parameter `[pq, pq]`: sum_i h_i h_i^T, from the gradients of the drawn labels written out."""
    result: dict[str, Tensor] = {}
    for uses, _ in kfac._draws():
        for name, found in uses.items():
            h = materialise(found, 0, kfac.params[name].shape[0]).flatten(1)
            result[name] = result.get(name, 0) + h.T @ h
    return result


def block_of(operator: Any, name: str) -> Tensor:
    """`[pq, pq]`: a parameter's block of an operator that is block diagonal."""
    zero = {other: torch.zeros_like(p) for other, p in operator.params.items()}
    size = operator.params[name].numel()
    columns = []
    for e in torch.eye(size, dtype=operator.dtype):
        product = operator @ {**zero, name: e.view(operator.params[name].shape)}
        assert all(float(product[other].norm()) == 0 for other in product if other != name)
        columns.append(product[name].flatten())
    return torch.stack(columns, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_ekfac_is_the_diagonal_in_its_eigenvectors_and_beats_kfac(family: str) -> None:
    model, batches = build(family), batched(examples(), (3, 2))
    corrected, plain = KFAC(model, batches), KFAC(model, batches, correction=False)
    better = []
    for name, M in blocks_of_the_draws(corrected).items():
        found = block_of(corrected, name)
        e = corrected.eigen()[name]
        p, q = e.values_pq.shape
        U = torch.kron(
            (e.left_pp if e.left_pp is not None else torch.eye(p, dtype=M.dtype)).contiguous(),
            (e.right_qq if e.right_qq is not None else torch.eye(q, dtype=M.dtype)).contiguous(),
        )
        assert relative(U.T @ U, torch.eye(p * q, dtype=M.dtype)) < 1e-12
        assert relative((U.T @ M @ U).diagonal(), e.values_pq.flatten()) < 1e-9, name
        assert relative(found, U @ e.values_pq.flatten().diag() @ U.T) < 1e-12, name
        better.append(float((found - M).norm()) <= float((block_of(plain, name) - M).norm()) * (1 + 1e-12))
    assert all(better)  # no other diagonal in these eigenvectors is nearer


def test_kfac_is_exact_where_its_assumption_holds() -> None:
    """One position in each sequence's loss, the same for all: each weight's gradient is one outer product with the same input."""
    model, batches = build("gpt-neox", tied=False), batched([Example((3, 5), (3, 5))], (1,))
    kfac = KFAC(model, batches, correction=False, samples=8)
    exact = blocks_of_the_draws(kfac)
    for name in kfac.params:
        if "weight" in name and name not in kfac.left_out:
            assert relative(block_of(kfac, name), exact[name]) < 1e-9, name


def test_expected_trace_is_gauss_newtons() -> None:
    model, batches = build("opt"), batched(examples(), (5,))
    assert KFAC(model, batches, samples=100).trace() == pytest.approx(GaussNewton(model, batches).trace(), rel=0.1)


def test_what_is_left_out_has_its_diagonal() -> None:
    model, batches = build("opt"), batched(examples(), (5,))
    kfac = KFAC(model, batches)
    left_out = {name for name in kfac.params if "norm" in name or "bias" in name}
    assert set(kfac.left_out) == left_out
    for name, M in blocks_of_the_draws(kfac).items():
        if name in left_out:
            assert relative(block_of(kfac, name), M.diagonal().diag()) < 1e-9
    # a side longer than max_side keeps the identity: rows of the vocabulary
    short = KFAC(model, batches, max_side=6)
    e = short.eigen()["model.decoder.embed_tokens.weight"]
    assert e.left_pp is None
    assert e.right_qq is not None


@pytest.mark.parametrize("correction", [True, False])
def test_inverse_and_powers(correction: bool) -> None:
    kfac = KFAC(build("gpt2"), batched(examples(), (3, 2)), correction=correction)
    A, v = kfac.as_matrix(), torch.randn(kfac.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    damped = A + 0.01 * torch.eye(len(A), dtype=A.dtype)
    solution = solve(kfac, v, Auto(0.01))
    assert relative(solution.value, torch.linalg.solve(damped, v)) < 1e-9
    assert solution.converged
    root = solve(kfac, v, Kronecker(0.01), exponent=-0.5).value
    assert relative(solve(kfac, root, Kronecker(0.01), exponent=-0.5).value, solution.value) < 1e-9
    assert relative(kfac.diagonal(), A.diagonal()) < 1e-12
    assert relative(A, A.T) < 1e-12
    assert torch.linalg.eigvalsh(A).min() > -1e-9
    as_dict = kfac @ unflatten(v, kfac.params)
    assert relative(flatten(as_dict), A @ v) < 1e-12


def test_padding_does_not_count_and_a_seed_repeats() -> None:
    model, (batch,) = build("opt"), batched(examples(), (5,))
    longer = {key: torch.nn.functional.pad(t, (0, 3), value=-100 if key == "labels" else 0) for key, t in batch.items()}

    def moments(b: Any) -> Tensor:
        """The inputs' side of one layer does not depend on the draw."""
        kfac = KFAC(model, [b], params="*fc1.weight")
        ((uses, heard_BT),) = kfac._draws()
        (use,) = uses["model.decoder.layers.0.fc1.weight"]
        inputs = use.tensors[1].flatten(0, 1)
        return inputs.T @ inputs / heard_BT.sum()

    assert relative(moments(longer), moments(batch)) < 1e-12
    one, two, other = (KFAC(model, [batch], seed=seed).diagonal() for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("correction", [True, False])
def test_how_the_texts_are_batched_does_not_matter(correction: bool, precision: str, bound: float) -> None:
    model, sequences = build("gpt-neo"), [*examples(), *examples()[::-1]]
    together, *others = (
        KFAC(model, batched(sequences, sizes), correction=correction, samples=2, precision=precision)
        for sizes in ((10,), (1,) * 10, (2,) * 5, (4, 4, 2), (3, 7))
    )
    v = torch.randn(together.size, generator=torch.Generator().manual_seed(0)).to(together.dtype)
    for other in others:
        assert relative(other @ v, together @ v) < bound
        assert relative(other.diagonal(), together.diagonal()) < bound


def test_labels_are_drawn_from_the_softmax_and_only_where_they_are_scored() -> None:
    z_SV = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z_SV[0, 4] = -torch.inf
    scored_S, generator = torch.tensor([True, False, True]), torch.Generator().manual_seed(1)
    drawn_nS = draw_labels(z_SV.expand(20_000, 3, 5), scored_S.expand(20_000, 3), generator)
    assert int(drawn_nS[:, 1].abs().sum()) == 0
    for s in (0, 2):
        frequencies_V = torch.bincount(drawn_nS[:, s], minlength=5) / 20_000
        # four standard errors of the most frequent label
        assert float((frequencies_V - z_SV[s].softmax(-1)).abs().max()) < 4 * 0.5 / 20_000**0.5


def test_unlearning_depends_on_the_seed_and_not_on_the_batch_size(
    tiny: Callable[..., Any], tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    """In float32, with tied embeddings and tokens that are as frequent as others: nearly equal eigenvalues."""
    model = tiny("gpt-neo", dtype=torch.float32)
    before = flatten(dict(model.named_parameters())).detach()

    def run(**options: Any) -> tuple[float, Tensor]:
        result = unlearn(
            model, tokenizer, forget=texts[:3], retain=texts[3:11], method="fisher-removal", step=1e-4, steps=2, **options
        )
        return result.details["damping"], flatten(dict(result.model.named_parameters())).detach() - before

    damping, moved = run()
    other_damping, other = run(batch_size=3)
    assert other_damping == pytest.approx(damping, rel=1e-6)
    assert relative(other, moved) < 1e-4
    assert run(seed=1)[0] != pytest.approx(damping, rel=1e-3)


def test_refusals() -> None:
    model, batches = build("opt"), batched(examples(), (5,))
    with pytest.raises(InputError, match="samples must be at least 1"):
        KFAC(model, batches, samples=0)
    model_ = build("opt")
    with torch.no_grad():
        model_.model.decoder.layers[0].fc1.weight.fill_(torch.nan)
    with pytest.raises(NumericsError, match="no labels to draw"):
        KFAC(model_, batches).eigen()
    with pytest.raises(InputError, match="kfac solver needs damping > 0"):
        solve(KFAC(model, batches), torch.ones(EmpiricalFisher(model, batches).size), Kronecker(0.0))


FACTORED = "*fc1.weight"


def factored_reference(kfac: KFAC, name: str, damping: float) -> Tensor:
    """`[pq, pq]`: (L + pi sqrt(lambda) I) (x) (R + sqrt(lambda) / pi I), from the moments of the drawn labels written out."""
    L, R, positions = 0.0, 0.0, 0.0
    for uses, heard_BT in kfac._draws():
        (use,) = uses[name]
        left, right = use.left_BTp.flatten(0, 1), use.right_BTq.flatten(0, 1)
        L, R, positions = L + left.T @ left, R + right.T @ right, positions + float(heard_BT.sum())
    R = R / positions
    pi = ((L.trace() / len(L)) / (R.trace() / len(R))) ** 0.5
    root = damping**0.5
    return torch.kron(L + pi * root * torch.eye(len(L), dtype=L.dtype), R + root / pi * torch.eye(len(R), dtype=R.dtype))


@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_factored_damping_is_that_of_each_factor(damping: float) -> None:
    kfac = KFAC(build("opt", tied=False), batched(examples(), (3, 2)), params=FACTORED, correction=False)
    (name,) = kfac.params
    M = factored_reference(kfac, name, damping)
    v = torch.randn(kfac.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = solve(kfac, v, Kronecker(damping, factored=True))
    assert found.converged
    assert relative(found.value, torch.linalg.solve(M, v)) < 1e-9
    assert relative(solve(kfac, v, Kronecker(damping)).value, torch.linalg.solve(M, v)) > 0.01  # it is another damping


@pytest.mark.parametrize("tied", [True, False])
def test_powers_with_factored_damping(tied: bool) -> None:
    kfac = KFAC(build("gpt-neox", tied=tied), batched(examples(), (3, 2)), correction=False)
    v = unflatten(torch.randn(kfac.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), kfac.params)
    inverse = Kronecker(1e-2, factored=True).prepare(kfac)
    assert "by factors" in inverse.system
    back = inverse.power(inverse.power(v, -1.0), 1.0)
    assert relative(flatten(back), flatten(v)) < 1e-10
    root = inverse.power(inverse.power(v, -0.5), -0.5)
    assert relative(flatten(root), flatten(inverse.mv(v))) < 1e-10
    # a mere diagonal has no factors: its entries plus lambda
    plain = Kronecker(1e-2).prepare(kfac).mv(v)
    assert kfac.left_out
    assert all(torch.equal(inverse.mv(v)[name], plain[name]) for name in kfac.left_out)
    assert any(relative(inverse.mv(v)[name], plain[name]) > 0.01 for name in kfac.params if name not in kfac.left_out)


def test_without_damping_left_both_dampings_agree() -> None:
    """The products, and the solutions for what the texts show."""
    kfac = KFAC(build("opt", tied=False), batched(examples(), (3, 2)), params=FACTORED, correction=False)
    (name,) = kfac.params
    e, generator = kfac.eigen()[name], torch.Generator().manual_seed(0)
    shown = e.values_pq > 1e-3 * e.values_pq.max()
    assert int(shown.sum()) > 3
    v = {name: e.apply(torch.randn(e.values_pq.shape, dtype=torch.float64, generator=generator), shown.double())}
    gaps: dict[float, list[float]] = {1.0: [], -1.0: []}
    for damping in (1e-4, 1e-8, 1e-12):
        dampings = [
            Kronecker(damping * float(e.values_pq.max()), factored=factored).prepare(kfac) for factored in (False, True)
        ]
        for exponent, found in gaps.items():
            plain, factored = (inverse.power(v, exponent)[name] for inverse in dampings)
            found.append(relative(factored, plain))
    for first, second, third in gaps.values():
        assert second < 0.1 * first
        assert third < 0.1 * second
        assert third < 1e-3


def test_corrected_eigenvalues_have_no_factors_to_damp() -> None:
    kfac = KFAC(build("opt"), batched(examples(), (5,)))
    with pytest.raises(InputError, match=r"EK-FAC's eigenvalues are no products.*use KFAC\(correction=False\)"):
        solve(kfac, torch.ones(kfac.size, dtype=torch.float64), Kronecker(0.1, factored=True))
