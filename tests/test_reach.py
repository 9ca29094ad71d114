"""The secant search for a length."""

import math
from collections.abc import Callable

import pytest

from unlearn_lib.methods.reach import TRIES, reach


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
