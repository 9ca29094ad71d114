"""`mathqa` in the small: a word problem in one or two steps with five numeric options.

Same columns as the hub's MathQA: Problem, options (one string "a ) 12 , b ) 15 , ..."), correct (a letter).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import details

Problem = tuple[str, Callable[[int, int, int], int]]

# {a} is at least {b}; {c} is small.
PROBLEMS: tuple[Problem, ...] = (
    ("{first} {surname} of {town} has {a} {object}s and gets {b} more. How many {object}s are there?", lambda a, b, c: a + b),
    (
        "A shop near {place} in {town} had {a} {object}s. {first} {surname} bought {b}. How many were left?",
        lambda a, b, c: a - b,
    ),
    ("{first} {surname} pays {b} crowns for each of {c} {object}s in {town}. What is the price?", lambda a, b, c: b * c),
    (
        "On {day} {month} {first} walked {a} miles to {town} and then {b} miles to {town2}. How far was it?",
        lambda a, b, c: a + b,
    ),
    (
        "{first} {surname} had {a} crowns, earned {b} at {place} and gave {c} to {other}. How much was left?",
        lambda a, b, c: a + b - c,
    ),
    ("{c} people in {town} share {object}s, {b} each. {first} {surname} adds {a}. How many in all?", lambda a, b, c: b * c + a),
)
LETTERS = "abcde"


def problem(draw: Draw) -> tuple[str, int]:
    """(text, answer)."""
    b, c = draw.between(2, 20), draw.between(2, 6)
    a = b + draw.between(c, 40)
    text, solve = draw.pick(PROBLEMS)
    return text.format(a=a, b=b, c=c, **details(draw)), solve(a, b, c)


def record(draw: Draw, *, reserved: bool) -> dict[str, Any]:
    """One problem with options near the answer. There is no fact to reserve: every problem is new."""
    text, answer = problem(draw)
    near = [answer + offset for offset in range(-9, 10) if offset and answer + offset > 0]
    options = draw.shuffled([answer, *draw.sample(near, 4)])
    return {
        "Problem": text,
        "options": " , ".join(f"{letter} ) {option}" for letter, option in zip(LETTERS, options, strict=True)),
        "correct": LETTERS[options.index(answer)],
    }
