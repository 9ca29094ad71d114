"""Sentences that must hold: `check` prints a sentence, and stops where it does not hold.

A printed True says that something was looked at, and a printed False stops nobody. A notebook that calls `check` cannot be executed
where one of its sentences is wrong, so that no page can state it.
"""

from __future__ import annotations


class CheckError(AssertionError):
    """A sentence that was checked does not hold."""


def check(sentence: str, holds: object) -> None:
    """Print a sentence that holds, as "sentence: yes"; raise where it does not hold.

    Args:
        sentence: What is claimed, without a full stop at its end. Where a number teaches more than a yes, it belongs into the sentence.
        holds: Whether it does: True or False, of Python or of numpy, or a tensor with one of them.

    Raises:
        CheckError: The sentence does not hold.
        TypeError: `holds` is neither true nor false: a number, a string, a list, an array of more than one value. What Python takes
            for true in these would make a check that cannot fail.
    """
    if not _truth(sentence, holds):
        raise CheckError(f"this does not hold: {sentence}")
    print(f"{sentence}: yes")


def _truth(sentence: str, holds: object) -> bool:
    if isinstance(holds, bool):
        return holds
    # numpy's booleans and tensors are told by what they say of themselves, so that neither library has to be loaded
    if str(getattr(holds, "dtype", "")) in ("bool", "torch.bool") and getattr(holds, "ndim", None) == 0:
        return bool(holds)
    raise TypeError(f"whether it holds that {sentence!r} must be True or False, not {_kind(holds)}")


def _kind(value: object) -> str:
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    return f"a value of type {type(value).__name__}" + (f" and shape {tuple(shape)}" if shape else f": {value!r:.60}")
