"""What every unlearning method shares: its inputs, its outcome, and the check of its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.errors import InputError, unknown
from unlearn_lib.losses import Batch

Progress = Callable[[int, int, float], None]


@dataclass
class Inputs:
    """What a method works on. `forget`, `retain` are D- and D+; `base()` loads the checkpoint that retraining starts from."""

    forget: Sequence[Example]
    retain: Sequence[Example]
    base: Callable[[], Any] | None
    seed: int
    progress: Progress | None = None

    def forget_batches(self, batch_size: int | None, device: torch.device) -> list[Batch]:
        """D- in order; `None` means all of it in one batch (the paper's cycle)."""
        return make_batches(self.forget, batch_size or len(self.forget), device)


@dataclass
class Outcome:
    """What a method did: the new model, one dict per step, and the number of sequences it took gradients of."""

    model: Any
    history: list[dict[str, float]] = field(default_factory=list)
    gradient_evaluations: int = 0
    details: dict[str, Any] = field(default_factory=dict)


class Method(BaseModel, ABC):
    """One unlearning method: its options as fields, its mathematics in `run`.

    `needs` names the inputs beyond the forget set: "retain", "base". `source` says where the method comes from. `presets` maps
    the name of a preset to option values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def run(self, model: Any, inputs: Inputs) -> Outcome:
        """Unlearn `inputs.forget` from `model`, which may be changed in place, and say what was done."""

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
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"option {where} of {cls.name} is {first['input']!r}: {first['msg']}") from error
