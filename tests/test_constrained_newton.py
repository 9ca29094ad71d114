"""Constrained Newton: the step against closed forms, its parts against their definitions, and the whole method on small models."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from dense import batched, build, examples, logits_of, relative

from unlearn_lib import TrainingConfig, load_model, load_task, text_losses, train, unlearn
from unlearn_lib.curvature import GaussNewton
from unlearn_lib.curvature.gradient import mean_gradient, trainable
from unlearn_lib.curvature.vector import dot, flatten, unflatten
from unlearn_lib.data.batches import Example, encode, make_batches
from unlearn_lib.data.overlap import near_duplicates
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import IGNORED, evaluate
from unlearn_lib.methods import constrained_newton
from unlearn_lib.methods.anchor import Anchor
from unlearn_lib.methods.base import Inputs, Method
from unlearn_lib.methods.budget import CORRECTED, FORWARD, Prices, Schedule, schedule
from unlearn_lib.methods.constrained_newton import GROWTH, ConstrainedNewton, Corrections, optimality, tangent
from unlearn_lib.methods.fisher_removal import FisherRemoval
from unlearn_lib.methods.forgetting import bounded_gradient
from unlearn_lib.methods.reach import TRIES, reach
from unlearn_lib.methods.replay import head_length, replay
from unlearn_lib.metrics.divergence import divergence
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

FORGET, RETAIN, UNSEEN = slice(0, 5), slice(5, 24), slice(24, 40)


# ---- one step on a quadratic


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


def test_the_share_is_newtons_own_where_the_curvature_explains_the_divergence() -> None:
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


# ---- the gradient that forgets


def bounded_by_definition(model: Any, sequences: list[Example], q: float) -> tuple[float, torch.Tensor]:
    """The mean NLL, and the gradient of mean (1 - p^q) / q, sequence by sequence."""
    params = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    total, nll = torch.zeros((), dtype=torch.float64), 0.0
    for sequence in sequences:
        log_p = logits_of(model, torch.tensor([sequence.input_ids]), params).log_softmax(-1)
        scored = [t for t in range(1, len(sequence.labels)) if sequence.labels[t] != IGNORED]
        p = torch.stack([log_p[t - 1, sequence.labels[t]].exp() for t in scored])
        total = total + ((1 - p**q) / q).mean() / len(sequences)
        nll -= p.detach().log().mean().item() / len(sequences)
    grads = torch.autograd.grad(total, list(params.values()), materialize_grads=True)
    return nll, torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("q", [0.25, 0.5, 1.0])
def test_bounded_gradient_is_that_of_the_generalised_cross_entropy(q: float) -> None:
    model = build("gpt-neox")
    nll, expected = bounded_by_definition(model, examples(), q)
    found, gradient = bounded_gradient(model, batched(examples(), (3, 2)), q)
    assert found == pytest.approx(nll, rel=1e-12)
    assert relative(flatten(gradient), expected) < 1e-10


def test_bounded_gradient_of_nothing_bounded_is_the_gradient() -> None:
    model, batches = build("gpt2"), batched(examples(), (3, 2))
    loss, plain = mean_gradient(model, batches)
    found, gradient = bounded_gradient(model, batches, 0.0)
    assert found == pytest.approx(loss, rel=1e-12)
    assert list(gradient) == list(plain)
    assert relative(flatten(gradient), flatten(plain)) < 1e-12
    assert relative(flatten(bounded_gradient(model, batches, 0.5)[1]), flatten(plain)) > 0.05


def test_a_model_that_has_diverged_has_no_gradients() -> None:
    model = build("gpt2")
    anchor = Anchor(model, inputs(), written=False)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(NumericsError, match="the model has diverged"):
        bounded_gradient(model, batched(examples(), (5,)), 0.5)
    with pytest.raises(NumericsError, match="the model has diverged"):
        anchor.gradient(model, examples())


# ---- the anchor


def inputs(retain: list[Example] | None = None, forget: list[Example] | None = None, seed: int = 0) -> Inputs:
    return Inputs(forget or [Example((2, 3, 4), (2, 3, 4))], retain or examples(), None, seed, batch_size=2)


def other_model(model: Any, scale: float = 0.1) -> Any:
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return other


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "llama"])
def test_the_anchor_has_neither_value_nor_gradient_at_the_original(family: str) -> None:
    model = build(family)
    anchor = Anchor(model, inputs(), written=False)
    value, gradient = anchor.gradient(model, examples())
    assert abs(value) < 1e-15
    moved_value, moved = anchor.gradient(other_model(model), examples())
    assert moved_value > 1e-3
    assert flatten(gradient).norm() < 1e-12 * flatten(moved).norm()


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "llama"])
def test_the_anchors_gradient_is_a_finite_difference(family: str) -> None:
    model = build(family)
    anchor, theta = Anchor(model, inputs(), written=False), other_model(model)
    generator = torch.Generator().manual_seed(4)
    direction = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in trainable(theta).items()}
    _, gradient = anchor.gradient(theta, examples())

    def at(h: float) -> float:
        moved = copy.deepcopy(theta)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(direction[name], alpha=h)
        return anchor.gradient(moved, examples())[0]

    h = 1e-4
    difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    assert dot(gradient, direction) == pytest.approx(difference, rel=1e-8)


def test_the_anchors_gradient_is_a_mean_over_texts_and_its_passes_are_counted() -> None:
    model = build("gpt2")
    given = inputs()
    anchor, theta = Anchor(model, given, written=False), other_model(model)
    value, gradient = anchor.gradient(theta, examples())
    assert given.passes.forward == 5
    alone = [anchor.gradient(theta, [example]) for example in examples()]
    assert given.passes.forward == 10
    assert value == pytest.approx(sum(one for one, _ in alone) / 5)
    assert relative(flatten(gradient), sum(flatten(one) for _, one in alone) / 5) < 1e-10
    assert all(p.grad is None for p in theta.parameters())
    assert not any(p.requires_grad for p in anchor.original.parameters())


def test_all_texts_come_once_before_one_comes_again() -> None:
    retain = [Example((2, number), (2, number)) for number in range(7)]
    anchor = Anchor(build("gpt2"), inputs(retain), written=False)
    drawn = [text for _ in range(7) for text in anchor.next(3)]
    assert [len(anchor.next(20)), anchor.inputs.passes.forward] == [20, 0]
    for start in (0, 7, 14):
        assert Counter(drawn[start : start + 7]) == Counter(retain)
    assert drawn[:7] != retain
    again = Anchor(build("gpt2"), inputs(retain), written=False).next(7)
    other = Anchor(build("gpt2"), inputs(retain, seed=1), written=False).next(7)
    assert again == drawn[:7]
    assert other != again


# ---- texts that the model writes


def heads() -> list[Example]:
    """A plain text, and three with prompts of two lengths. 1 ends a text."""
    ids = (2, 3, 4, 5, 6, 2, 3, 4, 5, 6)
    return [
        Example(ids, ids),
        Example(ids[:8], (IGNORED, IGNORED, IGNORED, *ids[3:8])),
        Example(ids[1:9], (IGNORED, IGNORED, IGNORED, *ids[4:9])),
        Example(ids[:7], (IGNORED, IGNORED, IGNORED, IGNORED, *ids[4:7])),
    ]


def test_the_head_of_a_text_is_what_is_not_scored_and_the_first_token() -> None:
    assert [head_length(text) for text in heads()] == [1, 3, 3, 4]
    assert head_length(Example((2, 3, 4), (IGNORED, 3, 4))) == 1
    assert head_length(Example((2, 3, 4), (IGNORED, IGNORED, IGNORED))) == 3


def test_what_is_written_goes_on_from_a_head_and_stops_at_the_end_of_a_text() -> None:
    model = build("opt")
    found, drawn = replay(model, heads(), 24, [], 4, seed=0)
    assert len(found) == drawn == 24
    kinds = set()
    for text in found:
        head = next(h for h in heads() if h.input_ids[: head_length(text)] == text.input_ids[: head_length(text)])
        k = head_length(text)
        assert k in {head_length(h) for h in heads() if h.input_ids[0] == head.input_ids[0]}
        assert text.labels == (*[IGNORED] * k, *text.input_ids[k:])
        assert len(text.input_ids) > k
        assert 1 not in text.input_ids[:-1]
        ended = text.input_ids[-1] == 1
        assert ended or len(text.input_ids) == 10  # that of the longest head
        kinds.add((k, ended))
    assert {k for k, _ in kinds} == {1, 3, 4}
    assert {ended for _, ended in kinds} == {True, False}
    # every head lends itself as often
    assert sorted(text.input_ids[:3] == (3, 4, 5) for text in found).count(True) >= 6


def test_writing_depends_on_the_seed_alone_and_draws_nothing_from_the_caller() -> None:
    model = build("opt")
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = replay(model, heads(), 8, [], 4, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    assert replay(model, heads(), 8, [], 4, seed=0) == first
    assert replay(model, heads(), 8, [], 4, seed=1) != first


def test_what_repeats_the_forget_set_is_left_out() -> None:
    model = build("opt", vocabulary=40)
    plain, _ = replay(model, heads(), 12, [], 4, seed=0)
    forget = [Example(text.input_ids, text.input_ids) for text in plain[:3]]
    found, drawn = replay(model, heads(), 12, forget, 4, seed=0)
    assert drawn > 12  # others were drawn in their place
    assert len(found) == 12
    assert not near_duplicates(found, forget)
    assert {text.input_ids for text in found}.isdisjoint(text.input_ids for text in forget)


def test_where_all_that_is_written_repeats_the_forget_set_there_are_fewer() -> None:
    model = build("opt")
    with torch.no_grad():  # ties the head to a single token
        for p in model.parameters():
            p.zero_()
        model.model.decoder.embed_tokens.weight[5] = 50.0
        model.model.decoder.final_layer_norm.bias.fill_(50.0)
    forget = [Example((5,) * 10, (5,) * 10)]
    found, drawn = replay(model, [Example((5, 5, 5, 5, 5, 5, 5, 5, 5, 5), (5,) * 10)], 3, forget, 4, seed=0)
    assert (found, drawn) == ([], 12)


def test_an_anchor_goes_on_with_texts_that_the_original_writes() -> None:
    model, retain = build("opt", vocabulary=40), heads()
    forget = [Example((9, 8, 7, 9, 8, 7, 9), (9, 8, 7, 9, 8, 7, 9))]
    given = inputs(retain, forget)
    anchor = Anchor(model, given, written=True)
    first = anchor.next(3)
    assert given.passes.forward == 0
    with torch.no_grad():  # what the model says later does not matter
        for p in model.parameters():
            p.zero_()
    second = anchor.next(5)
    assert Counter([*first, second[0]]) == Counter(retain)
    assert given.passes.forward == 4
    third = anchor.next(4)
    new = [*second[1:], *third]
    assert given.passes.forward == 8
    assert len(new) == 8
    assert set(new).isdisjoint(retain)
    assert len(set(new)) > 4  # every call draws others
    assert not near_duplicates(new, forget)


# ---- how far to go


class Counted:
    """A loss along a direction that keeps where it was evaluated."""

    def __init__(self, loss: Callable[[float], float]) -> None:
        self.loss, self.at = loss, list[float]()

    def __call__(self, x: float) -> float:
        self.at.append(x)
        return self.loss(x)


@pytest.mark.parametrize("first", [0.01, 0.3, 1.0, 5.0])
@pytest.mark.parametrize(
    ("loss", "goal", "expected"),
    [(math.exp, 3.0, math.log(3.0)), (lambda x: 1 + x + x**3, 4.0, 1.2134116627622296), (math.exp, 1.1, math.log(1.1))],
)
def test_a_goal_is_reached_on_smooth_losses(loss: Callable[[float], float], goal: float, expected: float, first: float) -> None:
    counted = Counted(loss)
    x, reached, near = reach(counted, loss(0.0), goal, first, 1e-3)
    assert near
    assert abs(reached - goal) <= 1e-3
    assert x == pytest.approx(expected, abs=2e-3)
    assert counted.at[-1] == x
    assert loss(x) == reached
    assert len(counted.at) <= TRIES


def test_a_line_takes_one_or_two_evaluations() -> None:
    for first, calls in ((2.0, 1), (1.0, 2), (5.0, 2)):
        counted = Counted(lambda x: 1 + 3 * x)
        assert reach(counted, 1.0, 7.0, first, 1e-9) == (pytest.approx(2.0), pytest.approx(7.0), True)
        assert len(counted.at) == calls


def test_a_goal_below_the_start_lies_behind_it() -> None:
    counted = Counted(lambda x: math.exp(x) + x)
    x, reached, near = reach(counted, 1.0, 0.2, -0.1, 1e-6)
    assert near
    assert x < 0
    assert reached == pytest.approx(math.exp(x) + x)
    assert reached == pytest.approx(0.2, abs=1e-6)
    assert all(tried < 0 for tried in counted.at)


def test_a_goal_that_is_met_takes_nothing() -> None:
    counted = Counted(math.exp)
    assert reach(counted, 1.0, 1.0005, 1.0, 1e-3) == (0.0, 1.0, True)
    assert reach(counted, 1.0, 2.0, 0.0, 1e-3) == (0.0, 1.0, False)
    assert counted.at == []


@pytest.mark.parametrize("first", [0.1, 0.95, 2.0, 40.0])
def test_an_infinite_loss_is_stepped_back_from(first: float) -> None:
    counted = Counted(lambda x: 2 * x if x < 1 else math.inf)
    x, reached, near = reach(counted, 0.0, 1.5, first, 0.05)
    assert near
    assert x == pytest.approx(0.75, abs=0.03)
    assert math.isfinite(reached)


@pytest.mark.parametrize("first", [0.5, 100.0])
def test_what_is_out_of_reach_is_said_and_the_nearest_length_kept(first: float) -> None:
    for loss in (math.tanh, lambda x: x if x < 1 else math.inf if x > 1e9 else 1.0, lambda x: -x):
        counted = Counted(loss)
        x, reached, near = reach(counted, 0.0, 2.0, first, 1e-3)
        assert not near
        assert counted.at[-1] == x
        assert reached == loss(x)
        assert all(abs(reached - 2.0) <= abs(loss(tried) - 2.0) for tried in counted.at)
        assert len(counted.at) <= TRIES + 1


# ---- budgets


PRICES = [Prices(0.9, 3.4, 16, 160, written) for written in (False, True)]


@pytest.mark.parametrize("prices", PRICES)
def test_a_schedule_never_costs_more_than_the_budget_and_little_less(prices: Prices) -> None:
    for budget in [*range(150, 1000, 7), *range(1000, 20_000, 997)]:
        found = schedule(budget, prices, 160)
        cost = found.cost(prices)
        assert cost <= budget
        assert found.steps >= 2
        assert found.approach <= found.steps
        assert 16 <= found.anchor_texts <= CORRECTED[1]
        assert 16 <= found.terms <= 160
        if budget > 300:
            assert cost >= 0.85 * budget, (budget, found)


@pytest.mark.parametrize("prices", PRICES)
def test_a_larger_budget_buys_no_less(prices: Prices) -> None:
    found = [schedule(budget, prices, 160) for budget in range(150, 3000, 10)]
    for smaller, larger in pairwise(found):
        assert larger.cost(prices) >= 0.9 * smaller.cost(prices)
        assert larger.steps >= smaller.steps
        assert larger.terms >= smaller.terms


def test_a_schedules_cost_by_hand() -> None:
    found = Schedule(3, 3, 20, 100).cost(Prices(0.5, 2.0, 10, 30, written=True))
    # curvature and checks; the first step's gradient and solve; two more with two solves and a correction, 10 of the 40 texts written
    assert found == pytest.approx(50 + 7 * 10 / 3 + 10 + 2 + 2 * (10 + 4 + 20 * 4 / 3) + 10 / 3)


def test_a_budget_that_pays_for_nothing_is_refused() -> None:
    least = Schedule(2, 2, 16, 16).cost(PRICES[0])
    assert schedule(least, PRICES[0], 160) == Schedule(2, 2, 16, 16)
    with pytest.raises(InputError, match=rf"a budget of {least - 1:,.0f} gradients is too small for 16 texts to forget"):
        schedule(least - 1, PRICES[0], 160)


# ---- the whole method


@pytest.fixture(scope="module")
def memorised(tokenizer: Any, texts: list[dict[str, str]]) -> Any:
    """A tiny model that knows the first 24 texts much better than the others."""
    from transformers import AutoModelForCausalLM

    from unlearn_lib.models import nano

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 2, 2, 0.0, 0, ""))).eval()
    train(model, tokenizer, texts[:24], TrainingConfig(40, 1e-2))
    return model


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
    options: dict[str, Any] = {"steps": 4, "anchor_texts": 19, "target_loss": 1.5, "retain_limit": None}
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
    result = unlearn(**arguments, steps=1, approach=1, q=0.0, target_loss=2.0, retain_limit=None)
    overshot, goal, length = calls[-1]
    assert overshot > goal + 0.2
    assert length < 0
    assert losses(result.model, arguments["tokenizer"], texts[FORGET]) == pytest.approx(2.0, abs=0.09)


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
@pytest.mark.parametrize("seed", [0, 1])
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


# ---- costs against plans, on an embedded model


@pytest.fixture(scope="module")
def embedded() -> dict[str, Any]:
    model, tokenizer = load_model("nano/opt-s", device="cpu")
    task = load_task("arc_easy", sizes={"train": 88, "holdout": 16, "test": 1, "reference": 0})
    return {
        "model": model,
        "tokenizer": tokenizer,
        "forget": list(task.train)[:8],
        "retain": list(task.train)[8:],
        "holdout": list(task.holdout),
        "method": "constrained-newton",
        "retain_limit": None,
        "target_loss": 4.0,
    }


def counted(result: Any) -> float:
    return float(result.cost.gradient_evaluations + FORWARD * result.cost.forward_evaluations)


@pytest.mark.parametrize(("budget", "more"), [(220.0, {}), (400.0, {"written": True}), (0.25, {"retraining_epochs": 15})])
def test_what_is_spent_is_the_budget(budget: float, more: dict[str, Any], embedded: dict[str, Any]) -> None:
    whole = budget * more.get("retraining_epochs", 0) * 80 or budget
    result = unlearn(**embedded, budget=budget, tolerance=0.0, **more)
    assert 0.8 * whole <= counted(result) <= 1.05 * whole
    assert result.details["reached"] == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize(
    "options", [{"steps": 3, "anchor_texts": 20}, {"solver": "diagonal", "steps": 2}, {"budget": 250.0}, {"solver": "identity"}]
)
def test_the_plan_is_within_a_fifth_of_what_is_counted(options: dict[str, Any], embedded: dict[str, Any]) -> None:
    given = {name: embedded[name] for name in ("forget", "retain", "holdout", "method")}
    own = {"retain_limit": None, "target_loss": 4.0, "tolerance": 0.0, **options}
    prepared = prepare(embedded["model"], embedded["tokenizer"], Request(**given, options=own))
    planned = prepared.method.plan(embedded["model"], prepared.inputs)
    result = unlearn(**embedded, tolerance=0.0, **options)
    assert planned.gradient_evaluations == pytest.approx(result.cost.gradient_evaluations, rel=0.2)


def test_a_larger_budget_goes_to_more_steps(embedded: dict[str, Any]) -> None:
    given = {name: embedded[name] for name in ("forget", "retain", "holdout", "method")}
    steps = []
    for budget in (200.0, 500.0, 1200.0):
        prepared = prepare(embedded["model"], embedded["tokenizer"], Request(**given, options={"budget": budget}))
        method: Any = prepared.method
        own = method.within_budget(embedded["model"], prepared.inputs)
        assert own.budget is None
        steps.append(own.steps)
    assert steps == sorted(set(steps))
