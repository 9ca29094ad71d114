"""K-FAC's moments from all scored positions or a share of them, and moments that several parameters share."""

from typing import Any

import pytest
import torch
from dense import FAMILIES, batched, build, examples, relative
from test_cost import opt
from test_kfac import block_of
from torch import Tensor

from unlearn_lib.curvature import KFAC, Kronecker, solve
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.moments import FullMoment, Moments, moment_panels
from unlearn_lib.curvature.positions import Positions, draw_positions, for_positions
from unlearn_lib.curvature.uses import Direct, Lookup, Outer
from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError

SHARE = 0.4


def moments_of(kfac: KFAC, name: str) -> tuple[Tensor, Tensor, float]:
    """`(L, R, N)` of a parameter that is used once, from the positions that count."""
    L, R, N = torch.zeros(()), torch.zeros(()), 0.0
    for uses, heard_BT in kfac._draws():
        (use,) = uses[name]
        assert isinstance(use, Outer)
        left, right = (x.flatten(0, 1).double() for x in use.tensors)
        L, R, N = L + left.T @ left, R + right.T @ right, N + float(heard_BT.sum())
    return L, R, N


def used_once(kfac: KFAC) -> list[str]:
    (uses, _), *_ = kfac._draws()
    return [name for name, found in uses.items() if len(found) == 1 and isinstance(found[0], Outer)]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_correction_a_block_is_the_product_of_the_moments(family: str) -> None:
    kfac = KFAC(build(family, tied=False), batched(examples(), (3, 2)), correction=False)
    for name in used_once(kfac):
        L, R, N = moments_of(kfac, name)
        assert relative(block_of(kfac, name), torch.kron(L, R) / N) < 1e-9, name


def test_the_corrections_eigenvectors_are_those_of_all_positions_to_the_bit() -> None:
    model, batches = build("opt", dtype=torch.float32), batched(examples(), (3, 2))
    kfac = KFAC(model, batches)
    for name in used_once(kfac):
        L, R, _ = moments_of(kfac, name)
        e = kfac.eigen()[name]
        assert e.left_pp is not None
        assert e.right_qq is not None
        assert torch.equal(e.left_pp, torch.linalg.eigh(float(R.trace()) * L)[1].float()), name
        assert torch.equal(e.right_qq, torch.linalg.eigh(float(L.trace()) * R)[1].float()), name


@pytest.mark.parametrize("correction", [True, False])
def test_a_share_of_one_is_all_of_them_to_the_bit(correction: bool) -> None:
    model, batches = build("llama", dtype=torch.float32), batched(examples(), (3, 2))
    one, other = KFAC(model, batches, correction=correction), KFAC(model, batches, correction=correction, positions=1.0)
    assert torch.equal(one.diagonal(), other.diagonal())


def test_float32_is_as_good_as_float64_for_the_inverse() -> None:
    """Moments in float32, eigenvectors in float64: what is left is rounding, at a damping far below the largest eigenvalues."""
    model, batch = opt(layers=1)
    v = torch.randn(sum(p.numel() for p in model.parameters()), generator=torch.Generator().manual_seed(0))
    found = {}
    for precision in ("float32", "float64"):
        kfac = KFAC(model, [batch], params="*layers*", correction=False, precision=precision)
        damping = 1e-2 * kfac.trace() / kfac.size
        found[precision] = solve(kfac, v[: kfac.size].to(kfac.dtype), Kronecker(damping), tolerance=1e-2).value
    assert relative(found["float32"].double(), found["float64"]) < 1e-4


def test_each_position_is_drawn_with_the_share_as_its_probability() -> None:
    heard_BT = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0]], dtype=torch.bool)
    generator, times = torch.Generator().manual_seed(0), 4000
    drawn = torch.stack([draw_positions(heard_BT, SHARE, generator) for _ in range(times)])
    assert not drawn[:, ~heard_BT].any()
    error = 4 * (SHARE * (1 - SHARE) / times) ** 0.5
    assert (drawn.double().mean(0)[heard_BT] - SHARE).abs().max() < error
    assert set(drawn[:, 0].sum(1).tolist()) == {2, 3}  # 2.8 of 7
    assert set(drawn[:, 1].sum(1).tolist()) == {1, 2}  # 1.2 of 3


def test_moments_of_a_share_are_those_of_all_on_average() -> None:
    model, (batch,) = build("opt"), batched(examples(), (5,))
    kfac = KFAC(model, [batch], params="*fc1.weight")
    ((uses, heard_BT),) = ((dict(uses), positions.heard_BT) for uses, positions in kfac._captures())
    (name,) = uses
    generator, times = torch.Generator().manual_seed(0), 1000

    def traces(weights_BT: Tensor) -> Tensor:
        moments = Moments(kfac.params, 4096, exact=False)
        moments.add(uses, Positions(heard_BT, weights_BT, drop=True))
        L, R, N = moments.sides[name, 0, 0].trace(), moments.sides[name, 0, 1].trace(), moments.positions[name]
        return torch.tensor([L, R, N, L * R / N], dtype=torch.float64)

    drawn = torch.stack([traces(draw_positions(heard_BT.bool(), SHARE, generator).to(heard_BT) / SHARE) for _ in range(times)])
    error = 4 * drawn.std(0) / times**0.5
    bias = torch.tensor([0, 0, 0, 0.05], dtype=torch.float64)  # L and R are of the same ten of 24 positions
    everything = traces(heard_BT)
    assert ((drawn.mean(0) - everything).abs() < error + bias * everything).all()


@pytest.mark.parametrize("correction", [True, False])
def test_how_the_texts_are_batched_does_not_matter_for_a_share(correction: bool) -> None:
    model, sequences = build("gpt-neo"), [*examples(), *examples()[::-1]]
    together, *others = (
        KFAC(model, batched(sequences, sizes), correction=correction, samples=2, positions=SHARE)
        for sizes in ((10,), (1,) * 10, (4, 4, 2))
    )
    for other in others:
        assert relative(other.diagonal(), together.diagonal()) < 1e-10
    everything = KFAC(model, batched(sequences, (10,)), correction=correction, samples=2)
    assert relative(everything.diagonal(), together.diagonal()) > 1e-3


def test_a_share_costs_a_share_of_the_products() -> None:
    model, batch = opt(layers=1)
    flops, names = {}, [name for name, p in model.named_parameters() if "layers" in name and p.ndim == 2]
    KFAC(model, [batch], params=names, correction=False).eigen()  # the comparison of one text is made once
    for positions in (1.0, 0.5, 0.25):
        with Meter() as meter:
            kfac = KFAC(model, [batch], params=names, correction=False, positions=positions)
            kfac.eigen()
        flops[positions] = meter.flops
    sides = [256] * 2 + [256] * 4 + [256, 1024] * 2  # one input for queries, keys and values
    moments = 2 * 16 * 63 * sum((stop - start) * stop for side in sides for start, stop in moment_panels(side))
    assert flops[1.0] - flops[0.5] == pytest.approx(moments / 2, rel=0.02)
    assert flops[0.5] - flops[0.25] == pytest.approx(moments / 4, rel=0.02)


def test_positions_of_heads_and_of_virtual_tokens() -> None:
    weights_BT = torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, 0.0]])
    assert for_positions(weights_BT, 6).tolist() == [[0, 0, 2, 2, 2, 2], [2, 2, 0, 0, 0, 0]]
    # two virtual tokens before the text, which count once each
    assert for_positions(weights_BT, 5).tolist() == [[1, 1, 0, 2, 2], [1, 1, 2, 0, 0]]
    assert for_positions(weights_BT, 0).shape == (2, 0)
    positions, generator = Positions((weights_BT > 0).float(), weights_BT, drop=True), torch.Generator().manual_seed(0)
    for S, number in ((3, 6), (6, 6), (5, 10)):
        x_BSs, ids_BS = torch.randn(2, S, 4, generator=generator), torch.randint(3, (2, S), generator=generator)
        weights_BS = for_positions(weights_BT, S)
        rows = positions.rows(x_BSs)
        assert len(rows) == int((weights_BS > 0).sum())
        assert relative(rows.T @ rows, torch.einsum("bs,bsi,bsj->ij", weights_BS, x_BSs, x_BSs)) < 1e-5
        use = Lookup(ids_BS, x_BSs, 3)
        assert positions.number(use) == number
        assert positions.counts(use).tolist() == [float(weights_BS[ids_BS == row].sum()) for row in range(3)]


def test_moments_are_shared_as_long_as_the_inputs_are_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.zeros(3, 5) for name in "abc"} | {"bias": torch.zeros(3)}

    def x(size: int) -> Tensor:
        return torch.randn(2, 4, size, generator=generator)

    shared, own = x(5), x(5)
    batches: list[dict[str, Any]] = [
        {name: [Outer(x(3), shared)] for name in "abc"},
        {name: [Outer(x(3), own if name == "b" else shared)] for name in "abc"},
    ]
    moments, ones = Moments(params, 4096, exact=False), torch.ones(2, 4)
    for batch in batches:
        moments.add({**batch, "bias": [Direct(x(1)[:, :3])]}, Positions(ones, ones, drop=True))
        if batch is batches[0]:
            assert len({id(moments.sides[name, 0, 1]) for name in "abc"}) == 1
    assert moments.sides["a", 0, 1] is moments.sides["c", 0, 1] is not moments.sides["b", 0, 1]
    for name in "abc":
        for side in (0, 1):
            rows = torch.cat([batch[name][0].tensors[side].flatten(0, 1) for batch in batches]).double()
            assert relative(moments.sides[name, 0, side].matrix(), rows.T @ rows) < 1e-6
    eigen = moments.eigen()
    assert eigen["a"].right_qq is eigen["c"].right_qq
    assert not moments.sides


@pytest.mark.parametrize("size", [3, 600, 1000])
def test_half_a_symmetric_product(size: int) -> None:
    x, moment = torch.randn(20, size, generator=torch.Generator().manual_seed(0)), FullMoment(size, torch.zeros(1), exact=False)
    with Meter() as meter:
        moment.add(x)
    moment.add(x)
    assert relative(moment.matrix(), 2 * x.double().T @ x.double()) < 1e-6
    whole = 2 * 20 * size**2
    assert meter.flops <= whole
    if size >= 600:
        assert meter.flops <= 0.76 * whole


def test_refusals() -> None:
    model, batches = build("opt"), batched([Example((3, 5), (3, 5))], (1,))
    for positions in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="positions must be above 0 and at most 1"):
            KFAC(model, batches, positions=positions)
    with pytest.raises(InputError, match=r"positions=0\.0001 leaves none of so few positions"):
        KFAC(model, batches, positions=1e-4).eigen()
