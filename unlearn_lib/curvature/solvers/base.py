"""What all solvers share: a frozen set of options that is made into a prepared inverse, and that says what it will cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.errors import InputError


@dataclass(frozen=True)
class Solver(ABC):
    """A way to (A + damping I)^p v: its options, and nothing of the operator, so that one solver serves many operators.

    A new solver is one file with a frozen dataclass that states `prepare` and `cost`, and one line in `registry`.

    Args:
        damping: lambda, at least 0.

    Raises:
        InputError: The damping is negative or not a number; another option is out of its range.
    """

    name: ClassVar[str]
    """What users type, for example in `unlearn run --set solver=block`."""
    planned: ClassVar[bool] = True
    """Whether `cost` is known before the solve."""
    at_most: ClassVar[bool] = False
    """Whether `cost` is the most that can happen, because the solver may stop earlier."""

    damping: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise InputError(f"damping must be a number that is not negative, got {self.damping}")

    @abstractmethod
    def prepare(self, operator: Operator) -> Inverse:
        """(A + damping I)^-1 of an operator, which does its work at its first use.

        Raises:
            InputError: The solver does not serve this kind of operator.
        """

    def cost(self, rehearsal: Rehearsal) -> tuple[float, float]:
        """`(peak bytes, FLOPs)` of one verified solve without refinement, for the risk that is rehearsed."""
        raise NotImplementedError(f"{self.name} states no cost")  # `plan` asks the planned ones only

    def suited_to(self, operator: Operator) -> Solver:
        """The solver that does the work for an operator: this one, unless it only chooses among others."""
        return self

    def smaller(self) -> Iterator[Solver]:
        """Settings that take less memory for the same answer, in the order in which they are to be tried."""
        yield from ()

    @property
    def label(self) -> str:
        """The name and the options that are not the default; without the damping, which no cost depends on."""
        own = [field for field in fields(self) if field.repr and field.name != "damping"]
        given = {field.name: getattr(self, field.name) for field in own if getattr(self, field.name) != field.default}
        return self.name + "".join(f", {option}={value!r}" for option, value in given.items())

    def planned_fisher(self, rehearsal: Rehearsal) -> EmpiricalFisher:
        """The rehearsed risk, for a solver that knows its cost for a Fisher alone.

        Raises:
            InputError: The risk is another operator.
        """
        if not isinstance(rehearsal.risk, EmpiricalFisher):
            raise InputError(
                f"there is a plan for solver {self.name!r} with an EmpiricalFisher alone, not with a {type(rehearsal.risk).__name__}, "
                "of which it forms the whole matrix"
            )
        return rehearsal.risk


@dataclass(frozen=True)
class Plan:
    """The needs of one verified solve without refinement.

    Attributes:
        solver: What was planned.
        peak_memory_bytes: The peak of live tensors beyond model, data and the vector.
        gradient_evaluations: Gradients of single texts, as in `Solution`; for conjugate gradients those of `max_steps` steps, the
            most that can happen. With the comparison of one text that the first solve of a class of model makes
            (`SequenceGradients.check`), except for a model without contents.
    """

    solver: Solver
    peak_memory_bytes: int
    gradient_evaluations: float

    def __str__(self) -> str:
        most = "at most " if self.solver.at_most else ""
        memory = f"{self.peak_memory_bytes / 2**20:,.0f} MiB"
        return f"{self.solver.label}: {memory}, {most}{self.gradient_evaluations:,.1f} gradients of single texts"
