"""The directions of the second-order methods against dense float64 references."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import unlearn_lib
from unlearn_lib.curvature import EmpiricalFisher
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.data.batches import collate, encode, make_batches
from unlearn_lib.losses import sequence_losses
from unlearn_lib.methods.base import Outcome
from unlearn_lib.methods.fisher import once_relative
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

FORGET, RETAIN, DAMPING = slice(0, 4), slice(4, 16), 1e-3

unlearn = partial(unlearn_lib.unlearn, method="fisher-removal")


def rows_of_gradients(model: Any, rows: list[dict[str, str]], tokenizer: Any) -> np.ndarray:
    """`[n, P]`: one backward pass a text."""
    found = []
    for example in encode(rows, tokenizer, 256).examples:
        model.zero_grad()
        sequence_losses(model, collate([example])).sum().backward()
        found.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).numpy().copy())
    return np.stack(found)


def change(model: Any, result: Any) -> np.ndarray:
    after = dict(result.model.named_parameters())
    return torch.cat([(after[name] - p).detach().reshape(-1) for name, p in model.named_parameters()]).numpy()


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    # 2e-5: the library keeps eager attention's softmax in float64, plain backward passes do not
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def power(G: np.ndarray, v: np.ndarray, p: float) -> np.ndarray:
    """(G^T G / n + lambda I)^p v by the singular value decomposition."""
    _, s, Vt = np.linalg.svd(G / np.sqrt(len(G)), full_matrices=False)
    w = Vt @ v
    result: np.ndarray = Vt.T @ (((s**2 + DAMPING) ** p - DAMPING**p) * w) + DAMPING**p * v
    return result


def by_blocks(model: Any, G: np.ndarray, v: np.ndarray, p: float, width: int) -> np.ndarray:
    pieces, start = [], 0
    for parameter in model.parameters():
        for first in range(0, parameter.numel(), width):
            part = slice(start + first, start + min(first + width, parameter.numel()))
            pieces.append(power(G[:, part], v[part], p))
        start += parameter.numel()
    return np.concatenate(pieces)


@pytest.mark.parametrize("solver", ["woodbury", "block", "diagonal", "identity", "recursion"])
def test_removal(solver: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, gamma = tiny(), 1e6
    options: dict[str, Any] = {"solver": solver, "damping": DAMPING, "step": gamma, "steps": 1, "width": 16}
    result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], **options)
    g, G = rows_of_gradients(tiny(), texts[FORGET], tokenizer).mean(0), rows_of_gradients(tiny(), texts[RETAIN], tokenizer)
    expected = {
        "woodbury": lambda: power(G, g, -1),
        "block": lambda: by_blocks(model, G, g, -1, 16),
        "recursion": lambda: by_blocks(model, G, g, -1, 16),
        "diagonal": lambda: g / ((G**2).mean(0) + DAMPING),
        "identity": lambda: g,
    }[solver]()
    close(change(model, result) / gamma, expected)
    if solver not in ("identity", "recursion"):
        assert result.solution is not None
        assert result.solution.converged
        assert result.solution.residual < 1e-9


@pytest.mark.parametrize("solver", ["recursion", "block", "woodbury"])
def test_passes_trade_gradients_for_memory(solver: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, found = tiny(), {}
    for passes in (1, 3):
        options: dict[str, Any] = {"solver": solver, "damping": 1.0, "step": 1e6, "steps": 1, "passes": passes}
        prepared = prepare(
            model, tokenizer, Request(forget=texts[FORGET], retain=texts[RETAIN], method="fisher-removal", options=options)
        )
        needs = prepared.method.plan(model, prepared.inputs)
        with Meter() as meter:
            result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], **options)
        found[passes] = change(model, result), result.cost.gradient_evaluations, meter.peak
        assert result.cost.gradient_evaluations == pytest.approx(needs.gradient_evaluations, rel=0.05)
        assert meter.peak == pytest.approx(needs.peak_memory_bytes, rel=0.2)
    close(found[3][0], found[1][0], 1e-9)
    assert found[3][1] > found[1][1] + 0.5 * 12
    # three fifths of this model are its embedding, which is not divided, and the whole matrix pays for its products
    assert (found[3][2] < found[1][2]) == (solver != "woodbury")


def test_the_recursion_takes_all_gradients_in_every_pass(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    options: dict[str, Any] = {"preset": "paper", "retain_batch_size": 4, "passes": 3}
    result = unlearn(tiny(), tokenizer, forget=texts[FORGET], retain=texts[RETAIN], **options)
    assert result.cost.gradient_evaluations == 4 + 3 * 12


@pytest.mark.parametrize("exponent", [-0.25, -0.5])
@pytest.mark.parametrize("solver", ["block", "woodbury"])
def test_forgetting(solver: str, exponent: float, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny()
    options: dict[str, Any] = {"solver": solver, "damping": DAMPING, "step": 1.0, "mu": 2.0, "sigma": 3.0, "width": 16}
    result = unlearn(
        model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method="fisher-forgetting", exponent=exponent, **options
    )
    generator, G = torch.Generator().manual_seed(0), rows_of_gradients(tiny(), texts[RETAIN], tokenizer)
    normal = torch.cat([torch.randn(p.shape, generator=generator, dtype=torch.float64).reshape(-1) for p in model.parameters()])
    noise = power(G, normal.numpy(), exponent) if solver == "woodbury" else by_blocks(model, G, normal.numpy(), exponent, 16)
    close(change(model, result), 18.0**0.25 * noise)


def test_relative_damping_is_a_share_of_the_mean_diagonal(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    G = rows_of_gradients(tiny(), texts[RETAIN], tokenizer)
    options: dict[str, Any] = {"relative_damping": 0.3, "step": 1.0, "steps": 1, "solver": "diagonal"}
    result = unlearn(tiny(), tokenizer, forget=texts[FORGET], retain=texts[RETAIN], **options)
    assert result.details["damping"] == pytest.approx(0.3 * float((G**2).mean()), rel=1e-5)


@pytest.mark.parametrize("method", ["fisher-removal", "kfac-newton"])
def test_kfac_directions_solve_their_system(method: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    from unlearn_lib.curvature import KFAC

    model, options = tiny(), {"solver": "kfac", "damping": DAMPING} if method == "fisher-removal" else {}
    result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method=method, step=1e6, steps=1, **options)
    damping = result.details.get("damping", DAMPING)
    K = KFAC(model, make_batches(encode(texts[RETAIN], tokenizer, 256).examples, 8))
    x = torch.from_numpy(change(model, result) / 1e6)
    g = rows_of_gradients(tiny(), texts[FORGET], tokenizer).mean(0)
    close((K @ x + damping * x).numpy(), g)


def test_woodbury_newton_takes_the_forget_curvature_out_of_an_isotropic_whole(
    tiny: Any, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    model = tiny()
    result = unlearn(model, tokenizer, forget=texts[FORGET], method="woodbury-newton", share=0.7, step=1e6)
    G = rows_of_gradients(tiny(), texts[FORGET], tokenizer)
    c = 0.7 * len(G) / np.linalg.eigvalsh(G @ G.T)[-1]
    x, g = change(model, result) / 1e6, G.mean(0)
    close(x - c * G.T @ (G @ x) / len(G), g)  # (I - c F_F) x = g


def test_every_step_has_its_own_curvature(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """Two steps are the same as one step, and one more from where it led, with labels drawn anew."""
    options: dict[str, Any] = {"forget": texts[FORGET], "retain": texts[RETAIN], "damping": DAMPING, "step": 1e-4}
    twice = unlearn(tiny(), tokenizer, steps=2, **options)
    first = unlearn(tiny(), tokenizer, steps=1, **options)
    second = unlearn(first.model, tokenizer, steps=1, seed=1, **options)
    for a, b in zip(twice.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_relative_damping_takes_no_more_memory_than_the_passes(
    tiny: Any, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    """The trace that it is relative to is the same number, from a part of the gradients at a time."""
    model = tiny("opt")
    F = EmpiricalFisher(model, make_batches(encode(texts[:16], tokenizer, 128).examples, 1, model.device))
    F.gradients().check()
    found = {}
    for passes in (1, 4):
        outcome = Outcome(model)
        with Meter() as meter:
            damping = once_relative(F, 0.5, outcome, passes)
        found[passes] = meter.peak
        assert damping == pytest.approx(0.5 * F.trace() / F.size, rel=1e-12)
        assert outcome.gradient_evaluations == pytest.approx({1: 1, 4: 3}[passes] * 16, rel=0.05)
    assert found[4] < 0.85 * found[1]  # a block of columns is most of both here
