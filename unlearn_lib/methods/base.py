"""What every unlearning method shares: its inputs, its outcome, and the check of its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from unlearn_lib.curvature import Solution
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.data.batches import Example, Grouping, make_batches
from unlearn_lib.errors import InputError, unknown
from unlearn_lib.losses import Batch
from unlearn_lib.methods.options import documented, split
from unlearn_lib.methods.plan import MethodPlan
from unlearn_lib.methods.resume import Keeper
from unlearn_lib.training.loop import Progress

INCOMPLETE = "forgetting_incomplete"
NOTHING = "nothing was done"
"""How the sentences of methods begin that stopped short, or changed nothing."""


@dataclass
class Passes:
    """How many texts have gone through a model without a gradient: a forward pass is a third of what a gradient takes."""

    forward: int = 0


@dataclass
class Inputs:
    """What a method works on. `forget`, `retain` are D- and D+; `holdout` texts of the same kind that were never trained on;
    `base()` loads the checkpoint that retraining starts from. At most `batch_size` sequences, and `batch_tokens` positions where it is
    given, go through the model at a time. `passes` counts forward passes, for all that share it. `tokenizer` is the model's, for methods
    that bring texts of their own; None in a plan without one. `keeper` keeps the steps, so that a run that was killed goes on."""

    forget: Sequence[Example]
    retain: Sequence[Example]
    base: Callable[[], Any] | None
    seed: int
    progress: Progress | None = None
    holdout: Sequence[Example] = ()
    batch_size: int = 8
    batch_tokens: int | None = None
    passes: Passes = field(default_factory=Passes)
    tokenizer: Any = None
    keeper: Keeper = field(default_factory=Keeper)

    @property
    def grouping(self) -> Grouping:
        """How many sequences go through the model at a time."""
        return Grouping(self.batch_size, self.batch_tokens)

    def forget_batches(self, batch_size: int | None) -> list[list[Example]]:
        """D- in order, in batches of which each makes one step; `None` means all of it at once (the paper's cycle)."""
        size = batch_size or len(self.forget)
        return [list(self.forget[i : i + size]) for i in range(0, len(self.forget), size)]

    def some_retain(self, most: int) -> list[Example]:
        """At most that many sequences of D+, drawn from the seed; in their own order."""
        if len(self.retain) <= most:
            return list(self.retain)
        generator = torch.Generator().manual_seed(self.seed)
        return [self.retain[i] for i in sorted(torch.randperm(len(self.retain), generator=generator)[:most].tolist())]

    def batches(self, examples: Sequence[Example], device: torch.device) -> list[Batch]:
        """Examples as batches for passes whose grouping does not matter."""
        return make_batches(examples, self.grouping, device)


@dataclass
class Outcome:
    """What a method did: the new model, one dict per step, the gradients of single texts it took (or what its FLOPs would have paid
    for), the last linear solve, further findings, and sentences for the user."""

    model: Any
    history: list[dict[str, float]] = field(default_factory=list)
    gradient_evaluations: float = 0
    details: dict[str, Any] = field(default_factory=dict)
    solution: Solution | None = None
    warnings: list[str] = field(default_factory=list)

    def take(self, solution: Solution) -> Vector:
        """Keep a linear solve, count its cost, and give its value."""
        self.solution = solution
        self.gradient_evaluations += solution.gradient_evaluations
        assert isinstance(solution.value, dict)
        return solution.value


class Method(BaseModel, ABC):
    """One unlearning method: its options as fields, its mathematics in `run`.

    `needs` names the inputs it always takes beyond the forget set ("retain", "base"), `required` those of its options, too.
    `strength` is the option that says how far it goes, along which methods are compared; empty where there is none. `source` says where
    it comes from. `form` names the saved form whose model alone it takes (see `unlearn_lib.models.forms`); empty where it takes any.
    `presets` maps the name of a preset to option values. `remedy` says what to change where the outcome is not finite. The docstring of
    a class describes the options that it adds, under "Options:"; those of the classes that it builds on are added to it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    strength: ClassVar[str]
    form: ClassVar[str] = ""
    source: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    remedy: ClassVar[str] = "lower step="
    meanings: ClassVar[Mapping[str, str]] = {}
    """What the options mean that the class itself describes."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        said, cls.meanings = split(vars(cls).get("__doc__"))
        cls.__doc__ = documented(said, cls.model_fields, (vars(base).get("meanings", {}) for base in cls.__mro__))

    @abstractmethod
    def run(self, model: Any, inputs: Inputs) -> Outcome:
        """Unlearn `inputs.forget` from `model`, which may be changed in place, and say what was done."""

    def required(self) -> tuple[str, ...]:
        """The inputs that these options need beyond the forget set."""
        return self.needs

    def settled(self, inputs: Inputs) -> Self:
        """The method with every option that depends on which inputs there are set to its value."""
        return self

    @abstractmethod
    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        """What `run` will take, without running it. Cost: a forward pass of one token or two, and rehearsals without contents."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Build the method from named options; `preset=NAME` fills in what is not given.

        Raises:
            InputError: Unknown option or preset, or a value out of range, in one sentence.
        """
        values = dict(options)
        preset = values.pop("preset", None)
        if preset is not None:
            if preset not in cls.presets:
                raise unknown(f"preset of {cls.name}", preset, cls.presets or ("(it has none)",))
            values = {**cls.presets[preset], **values}
        for option in values:
            if option not in cls.model_fields:
                raise unknown(f"option of {cls.name}", option, [*cls.model_fields, *(["preset"] if cls.presets else [])])
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            where = next((part for part in first["loc"] if part in cls.model_fields), None)
            message = first["msg"].removeprefix("Value error, ")
            if where is None:
                raise InputError(f"options of {cls.name}: {message}") from error
            raise InputError(
                f"option {where} of {cls.name} is {values.get(str(where), first['input'])!r}: {message}"
            ) from error
