r"""What an attack brought back, on one scale for all attacks: the share of the way from the unlearned model's loss to the original's.

    share = (L_unlearned - L_attacked) / (L_unlearned - L_original)

L is the mean loss of the measured forget texts. 0 says that the attack changed nothing, 1 that the model knows the texts again as
well as before it forgot them; a negative share, that the attack made it worse. A share alone proves no trace of the texts: training
also lowers the loss of texts that a model never saw. Evidence is what the same attack does not do to a model that was trained
without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unlearn_lib.attacks.knowledge import Knowledge


@dataclass(frozen=True)
class Recovered:
    """What an attack brought back of some forget texts.

    Attributes:
        name: Of the attack.
        setting: Its settings, by name.
        before: The mean loss of the texts in the model that was attacked, in nats.
        after: Their mean loss after the attack.
        known: Their mean loss in the original model, from before it forgot; None where there is none.
        unseen: Their mean loss in a model that was never trained on them (a retrained one); None where there is none.
        measures: "accuracy", "strength" and "extracted" (see `Knowledge`), each as (before, after).
    """

    name: str
    setting: Mapping[str, Any]
    before: float
    after: float
    known: float | None = None
    unseen: float | None = None
    measures: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """(before - after) / (before - known); None without an original, or where the model knows the texts as well as the original
        does (before <= known), so that there is no way back."""
        if self.known is None or not self.before > self.known:
            return None
        return (self.before - self.after) / (self.before - self.known)


def compared(before: Knowledge, after: Knowledge) -> dict[str, Any]:
    """The fields of a `Recovered` that follow from what was known of the texts before and after an attack."""
    pairs = {name: (value, after.measures[name]) for name, value in before.measures.items()}
    return {"before": before.loss, "after": after.loss, "measures": pairs}
