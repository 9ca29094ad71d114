"""ROUGE-L (Lin 2004): how much of a text's words another text has in the same order, by the package rouge-score.

With w the number of words of the longest common subsequence of answer and truth:

    recall      w / words of the truth
    precision   w / words of the answer
    F1          2 precision recall / (precision + recall)

The words are runs of the letters a to z and of digits, after lower-casing; the package leaves out everything else.
"""

from __future__ import annotations

from dataclasses import dataclass

from unlearn_lib.errors import InputError


@dataclass(frozen=True)
class RougeL:
    """The three values, each between 0 and 1; all are 0 where the answer has no word of the truth."""

    precision: float
    recall: float
    f1: float


def rouge_l(answer: str, truth: str, *, stem: bool) -> RougeL:
    """ROUGE-L of an answer against the truth.

    Args:
        answer: What a model wrote; it may be empty.
        truth: What it should have written.
        stem: Whether words of more than three letters are compared by their Porter stem, as in TOFU; MUSE compares whole words.

    Raises:
        InputError: The truth has no word that ROUGE-L knows, so that every answer to it would count as wrong.

    Cost: time in proportion to the product of both numbers of words.
    """
    from rouge_score import tokenize
    from rouge_score.rouge_scorer import RougeScorer

    if not tokenize.tokenize(truth, None):
        raise InputError(
            f"ROUGE-L counts words made of the letters a to z and of digits, and the true answer {truth!r:.60} has none, so every "
            "answer to it would score 0; leave this text out, or measure it by its loss"
        )
    found = RougeScorer(["rougeL"], use_stemmer=stem).score(truth, answer)["rougeL"]
    return RougeL(float(found.precision), float(found.recall), float(found.fmeasure))
