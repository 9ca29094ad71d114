"""How a budget of gradients is spent on curvature, steps and corrections: by the cost of each, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from unlearn_lib.errors import InputError

FORWARD = 1 / 3
"""A forward pass, in gradients: one of the three passes' worth of products that a forward and backward pass takes."""
CHECKS = 7
"""How often the forget loss is measured: before the first step, two or three times for its length, and two or three times at the end."""
CORRECTED = (32, 48)
"""Texts that a correction is computed from where the budget allows: with fewer it is noisy, with more there are fewer corrections."""
MANY = 12
"""With more steps than this, each is corrected on 48 texts."""
FEWEST_CORRECTED, FEWEST_TERMS = 16, 16


@dataclass(frozen=True)
class Prices:
    """What things cost, in gradients of single texts: K-FAC of a text, one solve; how many texts there are of each sort; the
    forward passes that goal and limit take, whatever the steps; and what K-FAC takes whatever the texts."""

    build: float
    solve: float
    forget: int
    retain: int
    written: bool
    watched: int = 0
    setup: float = 0.0

    def anchor(self, texts: int, before: int) -> float:
        """Correcting on so many texts after so many others: gradient, original's predictions, and the writing of those that are missing."""
        new = max(0, min(texts, before + texts - self.retain)) if self.written else 0
        return texts * (1 + FORWARD) + new * FORWARD


@dataclass(frozen=True)
class Schedule:
    """How many steps, in how many of them the goal is approached, texts of a correction, and texts of the curvature."""

    steps: int
    approach: int
    anchor_texts: int
    terms: int

    def cost(self, prices: Prices) -> float:
        """The gradients of single texts that it takes, a forward pass counted as a third."""
        total = prices.setup + self.terms * prices.build + prices.forget + prices.solve
        total += FORWARD * (CHECKS * prices.forget + prices.watched)
        for k in range(self.steps - 1):
            total += prices.forget + 2 * prices.solve + prices.anchor(self.anchor_texts, k * self.anchor_texts)
        return total


def schedule(budget: float, prices: Prices, terms: int) -> Schedule:
    """The schedule that makes the best use of a budget: as many steps as there is room for, each corrected on 32 to 48 texts.

    Args:
        budget: Gradients of single texts, a forward pass counted as a third.
        prices: What things cost.
        terms: Texts that the curvature is computed from; fewer where that and two corrections are too dear.

    Raises:
        InputError: The budget does not pay for a curvature of 16 texts, two steps and a correction on 16 texts.
    """
    least = Schedule(2, 2, FEWEST_CORRECTED, min(terms, FEWEST_TERMS))
    if least.cost(prices) > budget:
        raise InputError(
            f"a budget of {budget:,.0f} gradients is too small for {prices.forget} texts to forget; the least is "
            f"{least.cost(prices):,.0f}"
        )
    while terms > least.terms and Schedule(3, 3, CORRECTED[0], terms).cost(prices) > budget:
        terms -= 1
    best, steps = least, 2
    while True:
        affordable = [
            found
            for texts in range(_fewest(steps), CORRECTED[1] + 1)
            if (found := Schedule(steps, _approach(steps), texts, terms)).cost(prices) <= budget
        ]
        if not affordable:
            return best
        best, steps = affordable[-1], steps + 1


def _fewest(steps: int) -> int:
    """How many texts a correction takes at least: two or three steps may have noisy ones; many steps gain more by better ones."""
    return FEWEST_CORRECTED if steps < 4 else CORRECTED[0] if steps <= MANY else CORRECTED[1]


def _approach(steps: int) -> int:
    """In how many of the steps the goal is approached: with more steps in shorter ones."""
    return min(steps, 3) if steps < 5 else 4
