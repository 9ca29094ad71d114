"""How a budget of gradients is spent on curvature, steps and corrections: by the cost of each, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from unlearn_lib.errors import InputError

FORWARD = 1 / 3
"""A forward pass, in gradients: one of the three passes' worth of products that a forward and backward pass takes."""
CHECKS = 7
"""How often the forget loss is measured: before the first step, two or three times for its length, and two or three times at the end."""
CORRECTED = 48
"""Texts that a correction is computed from where the budget allows: with fewer it is noisy, with more there are fewer corrections."""
FEWEST_CORRECTED, FEWEST_TERMS = 16, 16


@dataclass(frozen=True)
class Prices:
    """What things cost, in gradients of single texts: K-FAC of a text, one solve; and how many texts there are of each sort."""

    build: float
    solve: float
    forget: int
    retain: int
    written: bool

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
        total = self.terms * prices.build + CHECKS * FORWARD * prices.forget + prices.forget + prices.solve
        for k in range(self.steps - 1):
            total += prices.forget + 2 * prices.solve + prices.anchor(self.anchor_texts, k * self.anchor_texts)
        return total


def schedule(budget: float, prices: Prices, terms: int) -> Schedule:
    """The schedule that makes the best use of a budget: corrections of about 48 texts, as many as there is room for.

    Args:
        budget: Gradients of single texts, a forward pass counted as a third.
        prices: What things cost.
        terms: Texts that the curvature is computed from where there is room for that and for one correction.

    Raises:
        InputError: The budget does not pay for a curvature of 16 texts, two steps and a correction on 16 texts.
    """
    least = Schedule(2, 2, FEWEST_CORRECTED, min(terms, FEWEST_TERMS))
    if least.cost(prices) > budget:
        raise InputError(
            f"a budget of {budget:,.0f} gradients is too small for {prices.forget} texts to forget; the least is {least.cost(prices):,.0f}"
        )
    for number in range(terms, least.terms - 1, -1):
        if Schedule(2, 2, min(FEWEST_CORRECTED * 2, CORRECTED), number).cost(prices) <= budget:
            terms = number
            break
    else:
        terms = least.terms
    best = Schedule(2, 2, FEWEST_CORRECTED, terms)
    while _more(best, prices, budget):
        best = _more(best, prices, budget) or best
    return best


def _more(now: Schedule, prices: Prices, budget: float) -> Schedule | None:
    """The next larger schedule, if it can be paid: more texts up to 48, then a step more with as many texts as there is room for."""
    if now.anchor_texts < CORRECTED:
        larger = Schedule(now.steps, now.approach, now.anchor_texts + 1, now.terms)
        if larger.cost(prices) <= budget:
            return larger
    for texts in range(CORRECTED, CORRECTED * 2 // 3, -1):
        larger = Schedule(now.steps + 1, 2 if now.steps < 4 else 3, texts, now.terms)
        if larger.cost(prices) <= budget:
            return larger
    return None
