"""The course of ten weeks: which chapters are read when, and what students can do afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unlearn_lib.errors import InputError


@dataclass(frozen=True)
class Week:
    """A week of the course.

    Attributes:
        title: What it is about.
        chapters: Numbers of the chapters that are read.
        goals: What students can do afterwards, each as the end of the sentence "After this week students can ...".
        work: What they hand in or begin; may hold MyST.
    """

    title: str
    chapters: tuple[int, ...]
    goals: tuple[str, ...]
    work: str = ""


WEEKS = (
    Week(
        "Why models have to forget, and what they memorise",
        (1, 2),
        (
            "say who can ask for a text to be removed and what a model must satisfy afterwards",
            "measure by loss, exposure and extraction how much of a text a model knows by heart",
        ),
    ),
    Week(
        "What forgotten means, and why ascent fails",
        (3, 4),
        (
            "compare an unlearned model with a retrained one by a membership attack, and judge the difference by the noise of seeds",
            "derive what gradient ascent does to the retained texts, to first and to second order",
        ),
        "{ref}`assignment 1 <assignment-1>` is set",
    ),
    Week(
        "Newton's method and influence",
        (5,),
        (
            "derive the step that leads to the optimum without some of the data, and say when it is exact",
            "bound its error on logistic regression, and name what breaks for a language model",
        ),
        "assignment 1 is due",
    ),
    Week(
        "The curvature of a transformer",
        (6,),
        (
            "write down the Hessian, the Gauss-Newton matrix, the Fisher and the empirical Fisher, and say which of them are equal",
            "compute products with each of them without storing the matrix",
        ),
        "{ref}`assignment 2 <assignment-2>` is set",
    ),
    Week(
        "Inverting a matrix that cannot be stored",
        (7,),
        (
            "solve a damped system by conjugate gradients, by Woodbury's identity, by a recursion and by blocks",
            "say what each solver costs in gradients and in memory, and read its residual",
        ),
    ),
    Week(
        "Damping",
        (8,),
        (
            "say what damping does to every component of a step, also in the null space of the curvature",
            "decide whether a method with a given damping is of second order at all, and choose a damping",
        ),
        "assignment 2 is due; {ref}`assignment 3 <assignment-3>` is set",
    ),
    Week(
        "Fisher Removal, Fisher Forgetting and Hessian-free unlearning",
        (9,),
        (
            "derive the algorithms of the paper and the Hessian-free step, and run them",
            "find the length of a step by measuring, and compare methods at the same forgetting",
        ),
    ),
    Week(
        "Privacy, and how to measure",
        (10, 11),
        (
            "say what DP-SGD promises for one text and for a request of many, and at which price",
            "put an interval on a result, and recognise tables that flatter a method",
        ),
        "assignment 3 is due; {ref}`assignment 4 <assignment-4>` is set; {ref}`projects <course-project>` are chosen",
    ),
    Week(
        "The paper reproduced, and a request of one's own",
        (12, 13),
        (
            "judge a published claim by a rule that was written down beforehand",
            "answer a request for deletion, from a file of texts to a model and a report",
        ),
    ),
    Week(
        "A real language model, and an audit",
        (14, 15),
        (
            "say which results of small models hold on a model of 135 million parameters",
            "attack an unlearned model, and say what an audit has not shown",
        ),
        "assignment 4 is due; projects are handed in and presented",
    ),
)

NEEDS: dict[int, tuple[int, ...]] = {
    2: (1,),
    3: (2,),
    4: (3,),
    5: (4,),
    6: (5,),
    7: (6,),
    8: (7,),
    9: (8,),
    10: (3,),
    11: (3,),
    12: (9, 10, 11),
    13: (3,),
    14: (9,),
    15: (11, 13),
}
"""What a chapter needs of those before it: the arrows of the drawing `book/_static/drawings/course-map.svg`."""
SHORTER = {"requests for deletion": (1, 2, 3, 11, 13, 15), "optimisation": (1, 2, 3, 4, 5, 6, 7, 8, 9)}
"""Shorter courses, by subject, with all that their chapters need."""


def chapter(root: Path, number: int) -> Path:
    """The notebook of a chapter.

    Raises:
        InputError: There is none, or more than one.
    """
    found = sorted((root / "notebooks").glob(f"ch{number:02}_*.ipynb"))
    if len(found) != 1:
        raise InputError(f"one notebook has to be named notebooks/ch{number:02}_*.ipynb, and there are {len(found)}")
    return found[0]


def masters(root: Path) -> list[Path]:
    """The notebooks of all chapters of the course, in the order in which they are read."""
    return [chapter(root, number) for week in WEEKS for number in week.chapters]
