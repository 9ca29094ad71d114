"""The course of ten weeks: which chapters are read when, what students can do afterwards, and what they hand in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.book.sections import sections


@dataclass(frozen=True)
class Section:
    """A section of a notebook that is no chapter, read in a week beside its chapters.

    Attributes:
        notebook: The name of the file below `notebooks`, without its ending.
        heading: The section's heading.
        page: What the notebook is called in the plan.
    """

    notebook: str
    heading: str
    page: str


@dataclass(frozen=True)
class Week:
    """A week of the course.

    Attributes:
        title: What it is about.
        chapters: Numbers of the chapters that are read, in this order.
        goals: What students can do afterwards, each as the end of the sentence "After this week students can ...".
        sections: What is read besides.
    """

    title: str
    chapters: tuple[int, ...]
    goals: tuple[str, ...]
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True)
class Work:
    """What students hand in.

    Attributes:
        name: As the page of assignments calls it, in a sentence.
        label: The label of its part of that page.
        hours: How long it takes; a suggestion, which was not measured.
        weeks: Numbers of the weeks in which it is done; its hours are divided evenly between them.
        events: What happens in a week, by its number; `{it}` stands for a link to the part of the page.
    """

    name: str
    label: str
    hours: float
    weeks: tuple[int, ...]
    events: dict[int, str]


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
    ),
    Week(
        "Newton's method and influence",
        (5,),
        (
            "derive the step that leads to the optimum without some of the data, and say when it is exact",
            "bound its error on logistic regression, and name what breaks for a language model",
        ),
    ),
    Week(
        "The curvature of a transformer",
        (6,),
        (
            "write down the Hessian, the Gauss-Newton matrix, the Fisher and the empirical Fisher, and say which of them are equal",
            "say what each of them leaves out, and what an unlearning step with it damages",
        ),
    ),
    Week(
        "Inverting a matrix that cannot be stored",
        (7,),
        (
            "compute products with the Hessian, the Gauss-Newton matrix and the empirical Fisher without storing the matrix",
            "solve a damped system by conjugate gradients, by Woodbury's identity, by a recursion and by blocks",
            "say what each solver costs in gradients and in memory, and read its residual",
        ),
    ),
    Week(
        "Damping, and differential privacy",
        (8, 10),
        (
            "say what damping does to every component of a step, also in the null space of the curvature",
            "decide whether a method with a given damping is of second order at all, and choose a damping",
            "say what DP-SGD promises for one text and for a request of many, and at which price",
        ),
    ),
    Week(
        "Fisher Removal, Fisher Forgetting, Hessian-free unlearning and constrained Newton",
        (9,),
        (
            "derive the algorithms of the paper and the Hessian-free step, and run them",
            "derive a step of constrained Newton, the default of the library, from what it minimises under which constraint",
            "find the length of a step by measuring, and compare methods at the same forgetting",
        ),
        (Section("exam_frontier", "One step of constrained Newton, by hand", "the comparison of all methods"),),
    ),
    Week(
        "How to measure, and the paper reproduced",
        (11, 12),
        (
            "put an interval on a result, and recognise tables that flatter a method",
            "judge a published claim by a rule that was written down beforehand, and write such a rule",
        ),
    ),
    Week(
        "A request of one's own, and an audit",
        (13, 15),
        (
            "answer a request for deletion, from a file of texts to a model and a report",
            "attack an unlearned model, and say what an audit has not shown",
        ),
    ),
    Week(
        "A real language model, and the projects",
        (14,),
        (
            "say which results of small models hold on a model of 135 million parameters",
            "present a result with the rule that decided on it, and with what it does not show",
        ),
    ),
)

WORK = (
    Work("assignment 1", "assignment-1", 4, (2, 3), {2: "{it} is set", 3: "assignment 1 is due"}),
    Work("assignment 2", "assignment-2", 4, (4, 5, 6), {4: "{it} is set", 6: "assignment 2 is due"}),
    Work("assignment 3", "assignment-3", 4, (6, 7, 8), {6: "{it} is set", 8: "assignment 3 is due"}),
    Work("assignment 4", "assignment-4", 4, (9, 10), {9: "{it} is set", 10: "assignment 4 is due"}),
    Work(
        "projects",
        "course-project",
        12,
        (7, 8, 9, 10),
        {
            6: "{it} are chosen",
            8: "each project's statement and rule are handed in at the end",
            10: "projects are handed in and presented",
        },
    ),
)
"""The assignments and the project, in the order of their page."""

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
    11: (4,),
    12: (9, 10, 11),
    13: (4,),
    14: (9,),
    15: (11, 13),
}
"""What a chapter needs of those before it: the arrows of the drawing `book/_static/drawings/course-map.svg`.

Chapters 11, 13 and 15 compare methods by name. The last section of chapter 4 says what the ones with curvature do; nothing of
their derivation in chapters 5 to 9 is needed there.
"""
SHORTER = {"requests for deletion": (1, 2, 3, 4, 11, 13, 15), "optimisation": (1, 2, 3, 4, 5, 6, 7, 8, 9)}
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
    """The notebooks of all chapters of the course, in the order of their numbers."""
    return [chapter(root, number) for number in sorted(number for week in WEEKS for number in week.chapters)]


def section(root: Path, part: Section) -> Any:
    """A section of a notebook, as a notebook of its own.

    Raises:
        InputError: The notebook has no section of that heading.
    """
    import nbformat

    path = root / "notebooks" / f"{part.notebook}.ipynb"
    for heading, cells in sections(nbformat.read(path, as_version=4)):
        if heading == part.heading:
            return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"## {heading}"), *cells])
    raise InputError(f"{path.name} has no section '{part.heading}', which a week of the course reads; name one that it has")


def work(number: int) -> str:
    """What happens in a week, numbered from 1: what is set, due, chosen or handed in, as MyST."""
    happens = [(item, item.events[number]) for item in WORK if number in item.events]
    happens.sort(key=lambda pair: "{it}" in pair[1])  # what is due comes before what is set
    return "; ".join(event.replace("{it}", f"{{ref}}`{item.name} <{item.label}>`") for item, event in happens)


def work_minutes(number: int) -> float:
    """The suggested minutes of assignments and the project in a week, numbered from 1."""
    return sum(60 * item.hours / len(item.weeks) for item in WORK if number in item.weeks)
