"""A statement that is checked where it is made: it is printed, or it stops the notebook. The same for an answer to an exercise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class DoesNotHoldError(AssertionError):
    """What was stated is not so."""


class NotRightYetError(AssertionError):
    """An answer to an exercise is missing, or it is not right."""


def check(sentence: str, holds: object) -> None:
    """Print a sentence that holds; raise where it does not, so that neither a notebook nor the book is made with a wrong statement.

    Args:
        sentence: What holds, with the tolerance that `holds` was computed with.
        holds: One truth value: of Python, or a scalar of NumPy, pandas or torch.

    Raises:
        DoesNotHoldError: It does not hold.
        TypeError: `holds` is no single truth value, such as a number, a text or an array: `all()` or a comparison is missing.
    """
    if not _truth(holds, sentence):
        raise DoesNotHoldError(f"this does not hold: {sentence}")
    print(f"holds: {sentence}")


def exercise(number: int, right: Callable[[Any], object], answer: Any, wrong: Sequence[Any], hint: str = "") -> None:
    """Say that the answer to an exercise is right; raise where it is not.

    Args:
        number: Of the exercise.
        right: Whether an answer is right, without saying what the right one is.
        answer: The reader's; `...` as long as there is none.
        wrong: Answers that readers are likely to give and that are not right. `right` must refuse all of them, so that it cannot pass
            whatever it is given.
        hint: What to think of, in a sentence, where the answer is not right.

    Raises:
        NotRightYetError: There is no answer yet, or it is not right.
        DoesNotHoldError: `right` takes a wrong answer.
        TypeError: `right` returns no single truth value.
    """
    taken = [one for one in wrong if _truth(right(one), f"exercise {number}")]
    if taken or not wrong:
        raise DoesNotHoldError(f"the check of exercise {number} takes a wrong answer, or has none to refuse: {taken!r}")
    if answer is ...:
        raise NotRightYetError(f"exercise {number} has no answer yet; replace the three dots")
    if not _truth(right(answer), f"exercise {number}"):
        raise NotRightYetError(f"the answer to exercise {number} is not right yet" + (f": {hint}" if hint else ""))
    print(f"exercise {number}: right")


def _truth(holds: object, sentence: str) -> bool:
    value = holds.item() if hasattr(holds, "item") and getattr(holds, "ndim", None) == 0 else holds
    if not isinstance(value, bool):
        raise TypeError(f"check() takes one truth value, got {type(holds).__name__} ({holds!r}) for: {sentence}")
    return value
