"""Constrained Newton: the step against closed forms, and the whole method on small models."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from dense import batched, build, examples

from unlearn_lib import text_losses, unlearn
from unlearn_lib.curvature import GaussNewton
from unlearn_lib.curvature.vector import dot, flatten, unflatten
from unlearn_lib.data.batches import Example, encode, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.losses import evaluate
from unlearn_lib.methods import constrained_newton
from unlearn_lib.methods.base import Inputs, Method
from unlearn_lib.methods.constrained_newton import GROWTH, ConstrainedNewton, Corrections, optimality, tangent
from unlearn_lib.methods.fisher_removal import FisherRemoval
from unlearn_lib.methods.reach import reach
from unlearn_lib.methods.replay import replay
from unlearn_lib.metrics.divergence import divergence

FORGET, RETAIN, UNSEEN = slice(0, 5), slice(5, 24), slice(24, 40)


def inputs(retain: list[Example] | None = None, forget: list[Example] | None = None, seed: int = 0) -> Inputs:
    return Inputs(forget or [Example((2, 3, 4), (2, 3, 4))], retain or examples(), None, seed, batch_size=2)


class Quadratic:
    """1/2 x'Kx + r'x on two tensors, with exact curvature, and a linear forget loss g'x."""

    def __init__(self, seed: int = 0, n: int = 12) -> None:
        rng = np.random.default_rng(seed)
        A = rng.normal(size=(n, n))
        self.K, self.g, self.r = A @ A.T + 0.1 * np.eye(n), rng.normal(size=n), rng.normal(size=n)

    def solve(self, v: np.ndarray) -> np.ndarray:
        return np.linalg.solve(self.K, v)

    def optimum(self, rise: float) -> np.ndarray:
        """The minimum subject to g'x = rise, from the KKT system."""
        n = len(self.g)
        system = np.block([[self.K, self.g[:, None]], [self.g[None, :], np.zeros((1, 1))]])
        return np.linalg.solve(system, np.append(-self.r, rise))[:n]


def vector(x: np.ndarray) -> dict[str, torch.Tensor]:
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return {"a": tensor[:8].view(2, 4), "b": tensor[8:]}


def array(x: dict[str, torch.Tensor]) -> np.ndarray:
    return flatten(x).numpy()


@pytest.mark.parametrize("rise", [0.7, -0.4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_corrected_step_lands_on_the_constrained_optimum(seed: int, rise: float) -> None:
    problem = Quadratic(seed)
    g, r = vector(problem.g), vector(problem.r)
    u, c = vector(problem.solve(problem.g)), vector(problem.solve(problem.r))
    assert optimality(g, u, r, c) > 0.1  # there is something to correct
    t, eta = Corrections(momentum=0.0, relaxation=1.0).next(g, u, r, c, divergence=1e6)
    assert eta == 1.0
    assert abs(dot(g, t)) < 1e-10
    x = rise / dot(g, u) * array(u) - eta * array(t)
    expected = problem.optimum(rise)
    np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-10)
    there = problem.K @ x + problem.r
    assert optimality(g, u, vector(there), vector(problem.solve(there))) < 1e-6


def test_the_share_is_newtons_own_where_all_of_the_divergence_lies_along_the_constraint() -> None:
    """At a displacement along the constraint KL = 1/2 x'Kx, so that 2 KL / (r.t) = 1 and the correction takes all of x back."""
    problem = Quadratic()
    g, u = vector(problem.g), vector(problem.solve(problem.g))
    x = array(tangent(g, u, vector(np.arange(12.0))))
    r = problem.K @ x
    for relaxation in (1.0, 0.5):
        t, eta = Corrections(0.0, relaxation).next(g, u, vector(r), vector(x), divergence=0.5 * x @ r)
        np.testing.assert_allclose(array(t), x, atol=1e-9)
        assert eta == pytest.approx(relaxation)
    # where the divergence is a hundredth of what the curvature says, the correction is a hundredth
    _, eta = Corrections(0.0, 1.0).next(g, u, vector(r), vector(x), divergence=0.005 * x @ r)
    assert eta == pytest.approx(0.01)


def test_optimality_is_the_sine_between_the_two_gradients() -> None:
    problem = Quadratic()
    g, u = vector(problem.g), vector(problem.solve(problem.g))

    def of(r: np.ndarray) -> float:
        return optimality(g, u, vector(r), vector(problem.solve(r)))

    along, across = problem.g, problem.r - (problem.r @ array(u)) / (problem.g @ array(u)) * problem.g
    assert of(-3 * along) < 1e-6
    assert of(across) == pytest.approx(1.0)
    assert of(np.zeros(12)) == 0.0
    tangent_length = (across @ problem.solve(across)) ** 0.5
    mixed = along + across
    assert of(mixed) == pytest.approx(tangent_length / (mixed @ problem.solve(mixed)) ** 0.5)


def test_where_nothing_has_moved_the_step_is_that_of_fisher_removal() -> None:
    problem = Quadratic()
    g, u, nothing = vector(problem.g), vector(problem.solve(problem.g)), vector(np.zeros(12))
    corrections = Corrections(0.7, 0.5)
    t, eta = corrections.next(g, u, nothing, nothing, 0.0)
    assert eta == 0.0
    assert all(torch.equal(2.0 * u[name] - eta * t[name], 2.0 * u[name]) for name in u)
    # and the empty step does not hold back the next one
    r, c = vector(problem.r), vector(problem.solve(problem.r))
    assert corrections.next(g, u, r, c, 1e6)[1] == 0.5


def test_momentum_adds_up_and_starts_anew_where_it_leads_uphill() -> None:
    problem = Quadratic()
    g, u = vector(problem.g), vector(problem.solve(problem.g))
    r, c = vector(problem.r), vector(problem.solve(problem.r))
    corrections = Corrections(0.5, 1.0)
    corrections.next(g, u, r, c, 1e6)
    t, _ = corrections.next(g, u, r, c, 1e6)
    np.testing.assert_allclose(array(t), 1.5 * array(tangent(g, u, c)), rtol=1e-9)
    back = {name: -0.1 * tensor for name, tensor in r.items()}, {name: -0.1 * tensor for name, tensor in c.items()}
    t, eta = corrections.next(g, u, *back, 1e6)
    np.testing.assert_allclose(array(t), array(tangent(g, u, back[1])), rtol=1e-9)
    assert eta > 0
    assert dot(back[0], t) > 0


def test_a_correction_grows_by_no_more_than_half() -> None:
    problem = Quadratic()
    g, u = vector(problem.g), vector(problem.solve(problem.g))
    r, c = vector(problem.r), vector(problem.solve(problem.r))
    slope = dot(r, tangent(g, u, c))
    corrections = Corrections(0.0, 1.0)
    assert corrections.next(g, u, r, c, 0.005 * slope)[1] == pytest.approx(0.01)
    assert corrections.next(g, u, r, c, 1e6)[1] == pytest.approx(0.01 * GROWTH)


@pytest.fixture
def arguments(memorised: Any, tokenizer: Any, texts: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "model": memorised,
        "tokenizer": tokenizer,
        "forget": texts[FORGET],
        "retain": texts[RETAIN],
        "holdout": texts[UNSEEN],
        "method": "constrained-newton",
    }


def losses(model: Any, tokenizer: Any, rows: Any) -> float:
    return float(text_losses(model, tokenizer, rows).double().mean())


def moved(before: Any, after: Any) -> torch.Tensor:
    old, new = (flatten(dict(model.named_parameters())).detach().double() for model in (before, after))
    return new - old


@pytest.mark.parametrize("family", ["gpt-neox", "gpt2"])
def test_the_first_step_is_fisher_removals(family: str) -> None:
    """Of the same curvature: EK-FAC of all retained texts and positions, and the gradient of all of D-."""
    model, forget = build(family), examples()[:2]
    goal = evaluate(model, batched(forget, (2,))).mean().item() + 0.3
    same: dict[str, Any] = {"solver": "kfac", "relative_damping": 1e-2, "retain_limit": None, "target_loss": goal, "steps": 1}

    def step(method: Method) -> tuple[torch.Tensor, float]:
        outcome = method.run(copy.deepcopy(model), inputs(examples()[2:], forget))
        assert outcome.warnings == []
        return moved(model, outcome.model), outcome.details["damping"]

    own, damping = step(ConstrainedNewton(**same, q=0.0, correction=True, positions=1.0))
    theirs, expected = step(FisherRemoval(**same, focus=False))
    assert damping == pytest.approx(expected, rel=1e-12)
    assert cosine(own, theirs) == pytest.approx(1.0, abs=1e-9)
    # other settings of it are other directions, so that the agreement says something
    for other in ({"q": 1.0}, {"correction": False}, {"relative_damping": 1.0}):
        assert (
            cosine(step(ConstrainedNewton(**{**same, "q": 0.0, "correction": True, "positions": 1.0, **other}))[0], own) < 0.999
        )


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_the_forget_loss_comes_to_its_goal_and_the_retained_texts_stay(arguments: dict[str, Any], texts: Any) -> None:
    original, tokenizer = arguments["model"], arguments["tokenizer"]
    result = unlearn(**arguments, retain_limit=None, steps=4, anchor_texts=19)
    goal, before = result.details["goal"], losses(original, tokenizer, texts[FORGET])
    assert goal - before > 1.0  # there is something to forget
    assert losses(result.model, tokenizer, texts[FORGET]) == pytest.approx(goal, abs=0.05 * (goal - before))
    assert not any("forgetting_incomplete" in warning for warning in result.warnings)
    assert len(result.history) == result.details["steps"] == 4
    assert "divergence" not in result.history[0]
    assert all(0 <= entry["optimality"] <= 1 and entry["divergence"] > 0 for entry in result.history[1:])


def test_corrections_keep_the_predictions_on_the_retained_texts(arguments: dict[str, Any], tokenizer: Any, texts: Any) -> None:
    """Against as many steps to the same forget loss with next to no correction."""
    batches = make_batches(encode(texts[RETAIN], tokenizer, 256).examples, 8)
    options: dict[str, Any] = {"steps": 4, "anchor_texts": 19, "target_loss": 1.5, "retain_limit": None, "positions": 0.25}
    corrected, plain = (
        divergence(arguments["model"], unlearn(**arguments, **options, **more).model, batches)
        for more in ({}, {"relaxation": 1e-6})
    )
    assert corrected < 0.6 * plain


def test_nothing_to_forget_is_said(arguments: dict[str, Any], fingerprint: Any) -> None:
    result = unlearn(**arguments, target_loss=0.001)
    assert any(warning.startswith("nothing was done: the forget loss") for warning in result.warnings)
    assert fingerprint(result.model) == fingerprint(arguments["model"])
    assert result.cost.gradient_evaluations == 0


def test_an_overshoot_is_walked_back(arguments: dict[str, Any], texts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constrained_newton, "LOOSE", 0.9)  # the first step takes the first length, which is too long
    calls: list[tuple[float, float, float]] = []

    def spied(loss_at: Any, at_zero: float, goal: float, first: float, tolerance: float) -> tuple[float, float, bool]:
        found = reach(loss_at, at_zero, goal, first, tolerance)
        calls.append((at_zero, goal, found[0]))
        return found

    monkeypatch.setattr(constrained_newton, "reach", spied)
    result = unlearn(**arguments, steps=1, approach=1, q=0.0, positions=0.25, target_loss=2.0, retain_limit=None)
    overshot, goal, length = calls[-1]
    assert overshot > goal + 0.2
    assert length < 0
    assert losses(result.model, arguments["tokenizer"], texts[FORGET]) == pytest.approx(2.0, abs=0.09)


def test_the_first_of_many_small_steps_moves(arguments: dict[str, Any]) -> None:
    """The others take the slope of the forget loss from it: of a first step of no length, the second would be many times too long."""
    result = unlearn(**arguments, steps=14, approach=14, target_loss=2.0, retain_limit=None)
    first, *others = result.history
    assert first["step_norm"] > 0
    before = first["forget_loss"]
    part = (2.0 - before) / 14
    assert others[0]["forget_loss"] - before == pytest.approx(part, abs=0.8 * part + 1e-6)
    rises = [there["forget_loss"] - here["forget_loss"] for here, there in pairwise(result.history)]
    assert max(rises) < 4 * part


def test_the_limit_on_the_retained_texts_holds(arguments: dict[str, Any]) -> None:
    result = unlearn(**arguments, retain_limit=1e-3, steps=2)
    assert any(w.startswith("forgetting_incomplete") and "binds" in w for w in result.warnings)
    before, after = (losses_["forget"].double().mean().item() for losses_ in (result.losses_before, result.losses_after))
    checked = result.details["checked_loss"]
    rise = checked["after"] - checked["before"] + checked["standard_error"]
    assert rise <= 1e-3 * (after - before) + 2e-6 * checked["before"]
    assert result.details["reached"] == pytest.approx(after, rel=1e-5)
    assert result.details["reached"] < 0.9 * result.details["goal"]


def of_its_own_texts(family: str, seed: int) -> tuple[Any, Inputs, float]:
    """A smooth model, 40 texts that it has written itself and one that it has not, and the loss of that one."""
    model = build(family, seed=seed)
    firsts = [Example((2 + number % 5,) * 8, (2 + number % 5,) * 8) for number in range(40)]
    forget = [Example((6, 2, 5, 3, 4, 2), (6, 2, 5, 3, 4, 2))]
    retain, _ = replay(model, firsts, 40, [], 8, seed=0)
    return model, Inputs(forget, retain, None, 0), evaluate(model, batched(forget, (1,))).item()


TO_THE_OPTIMUM: dict[str, Any] = {
    "steps": 10, "approach": 1, "q": 0.0, "momentum": 0.0, "relaxation": 1.0, "anchor_texts": 40, "retain_limit": None,
    "relative_damping": 1e-2,
}  # fmt: skip


@pytest.fixture
def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method with the Gauss-Newton matrix of the retained texts as its curvature, in place of an estimate of it."""

    def solver(method: Any, model: Any, own: Inputs, outcome: Any) -> Callable[[Any], Any]:
        M = GaussNewton(copy.deepcopy(model), own.batches(own.retain, model.device)).as_matrix()
        root = torch.linalg.cholesky(M + method.relative_damping * M.trace() / len(M) * torch.eye(len(M), dtype=M.dtype))
        return lambda v: unflatten(torch.cholesky_solve(flatten(v)[:, None], root)[:, 0], v)

    monkeypatch.setattr(ConstrainedNewton, "_solver", solver)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("family", ["gpt2", "gpt-neox"])
def test_the_residual_falls_where_the_curvature_is_exact(family: str, seed: int) -> None:
    model, given, before = of_its_own_texts(family, seed)
    method = ConstrainedNewton(**TO_THE_OPTIMUM, target_loss=before + 1e-3, tolerance=0.0)
    outcome = method.run(copy.deepcopy(model), given)
    assert outcome.warnings == []
    corrected = outcome.history[1:]
    assert len(corrected) == 9
    assert all(entry["correction"] == 1.0 for entry in corrected)  # Newton's own length
    for earlier, later in pairwise(corrected):
        assert later["optimality"] < earlier["optimality"]
        assert later["divergence"] < earlier["divergence"]
    assert corrected[-1]["optimality"] < 0.5 * corrected[0]["optimality"]
    assert outcome.details["reached"] == pytest.approx(before + 1e-3, abs=5e-5)


@pytest.mark.usefixtures("exactly")
def test_it_stops_where_the_residual_is_below_the_tolerance() -> None:
    model, given, before = of_its_own_texts("gpt-neox", 0)
    method = ConstrainedNewton(**TO_THE_OPTIMUM, target_loss=before + 1e-3, tolerance=0.1)
    history = method.run(copy.deepcopy(model), given).history
    assert 3 <= len(history) < 10
    assert "correction" not in history[-1]
    assert history[-1]["optimality"] <= 0.1 < min(entry["optimality"] for entry in history[1:-1])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", ["gpt2", "gpt-neox"])
def test_the_divergence_falls_with_kfac(family: str, seed: int) -> None:
    """K-FAC is not that exact: the residual need not fall, but the divergence at the same forget loss does."""
    model, given, before = of_its_own_texts(family, seed)
    method = ConstrainedNewton(**TO_THE_OPTIMUM, target_loss=before + 1e-3, tolerance=0.0, positions=1.0)
    outcome = method.run(copy.deepcopy(model), given)
    assert outcome.warnings == []
    first, last = outcome.history[1], outcome.history[-1]
    assert last["divergence"] < 0.6 * first["divergence"]
    assert last["forget_loss"] == pytest.approx(first["forget_loss"], abs=2e-4)


def test_a_seed_repeats_with_written_texts_too(arguments: dict[str, Any], fingerprint: Any) -> None:
    options: dict[str, Any] = {"written": True, "anchor_texts": 24, "steps": 2, "retain_limit": None, "target_loss": 1.5}
    first = unlearn(**arguments, **options)
    torch.rand(3)  # the caller's draws do not matter
    assert fingerprint(unlearn(**arguments, **options).model) == fingerprint(first.model)
    assert fingerprint(unlearn(**arguments, **options, seed=1).model) != fingerprint(first.model)
    # five forget losses each at least four times; of 24 corrected texts the original's predictions; five of them written
    assert first.cost.forward_evaluations >= 4 * 5 + 24 + 5


@pytest.mark.parametrize("solver", ["diagonal", "block", "woodbury", "identity"])
def test_every_curvature_reaches_the_goal(solver: str, arguments: dict[str, Any], texts: Any) -> None:
    result = unlearn(**arguments, solver=solver, steps=2, target_loss=1.5, retain_limit=None)
    assert losses(result.model, arguments["tokenizer"], texts[FORGET]) == pytest.approx(1.5, abs=0.07)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retraining_epochs": 3}, "retraining_epochs makes budget a share of a retraining"),
        ({"retraining_epochs": 3, "budget": 100}, "retraining_epochs makes budget a share of a retraining"),
        ({"budget": 300, "solver": "diagonal"}, "a budget can be planned with solver='kfac' only, not with 'diagonal'"),
        ({"budget": 5}, r"a budget of 5 gradients is too small for 5 texts to forget; the least is \d+"),
        ({"steps": 0}, "option steps of constrained-newton is 0"),
        ({"q": 1.5}, "option q of constrained-newton is 1.5"),
    ],
)
def test_refusals(options: dict[str, Any], message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        unlearn(**arguments, **options)
