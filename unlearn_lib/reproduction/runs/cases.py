"""The case studies on private text (section 6 of the paper) as scenarios: one cycle, and extraction of what was to be forgotten.

A model is fine-tuned on texts that hold personal data, 32 long ones are unlearned, and an attacker who knows their first tokens
lets the model write on. `case_bench.py` carries a case out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unlearn_lib.data.tasks import NEAR_DUPLICATES
from unlearn_lib.reproduction.runs.scenarios import Scenario

if TYPE_CHECKING:
    from unlearn_lib.metrics.extraction import Draws


def _draws() -> Draws:
    from unlearn_lib.metrics.extraction import Draws  # torch, which other scenarios are read without

    return Draws()


@dataclass(frozen=True)
class Case(Scenario):
    """One run of a case study; `cycle_size` texts of more than `long` tokens are the request.

    Attributes:
        duplicates: Share of near-duplicates in the texts.
        deduplicate: Whether the request is extended by its near-duplicates among the other training texts.
        long: Tokens that a text of the request has at least, and one more.
        draws: How continuations are drawn for the extraction.
    """

    cycles: int = 1
    train_size: int = 160
    reference_size: int = 0
    duplicates: float = NEAR_DUPLICATES
    deduplicate: bool = False
    long: int = 200
    draws: Draws = field(default_factory=_draws)

    @property
    def name(self) -> str:
        kind = f"{self.duplicates:g}{'-deduplicated' if self.deduplicate else ''}"
        return f"{super().name}-near{kind}"

    def data(self) -> tuple[Any, ...]:
        return (*super().data(), self.duplicates)

    def shared(self) -> dict[str, Any]:
        return {name: value for name, value in super().shared().items() if name != "deduplicate"}

    def config(self) -> dict[str, Any]:
        return super().config() | {"scenario": "case-study"}
