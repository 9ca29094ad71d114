"""A statement that is checked where it is made: it is printed, or it stops the notebook."""

from __future__ import annotations


class DoesNotHoldError(AssertionError):
    """What was stated is not so."""


def check(sentence: str, holds: object) -> None:
    """Print a sentence that holds; raise where it does not, so that neither a notebook nor the book is made with a wrong statement.

    Args:
        sentence: What holds, with the tolerance that `holds` was computed with.
        holds: One truth value: of Python, or a scalar of NumPy, pandas or torch.

    Raises:
        DoesNotHoldError: It does not hold.
        TypeError: `holds` is no single truth value, such as a number, a text or an array: `all()` or a comparison is missing.
    """
    value = holds.item() if hasattr(holds, "item") and getattr(holds, "ndim", None) == 0 else holds
    if not isinstance(value, bool):
        raise TypeError(f"check() takes one truth value, got {type(holds).__name__} ({holds!r}) for: {sentence}")
    if not value:
        raise DoesNotHoldError(f"this does not hold: {sentence}")
    print(f"holds: {sentence}")
