"""The verdict of a report: that of `unlearn audit`, as far as what a run measures anyway allows it."""

from __future__ import annotations

from unlearn_lib.audit.guard import Guard
from unlearn_lib.audit.measures import knowledge, membership
from unlearn_lib.audit.observe import Observed
from unlearn_lib.audit.texts import Texts
from unlearn_lib.audit.verdict import judge
from unlearn_lib.command.report.schema import Verdict


def verdict(before: Observed, after: Observed, texts: Texts) -> tuple[Verdict, list[str]]:
    """Whether the new model has forgotten, and sentences on what could not be measured.

    The given model is the original of the audit, and the new one is audited. There is no retrained model and no attack that changes a
    model, so the outcome is never "like retraining" or "hidden".

    Args:
        before, after: What the given and the new model say of the texts.
        texts: The texts.

    Cost: no forward pass; a thousand resamples of every measure.
    """
    guard = Guard(lambda _: None)
    for role, observed in (("audited", after), ("original", before)):
        guard.take(f"{role}: knowledge", knowledge, role, observed)
    if "holdout" in texts.examples:
        guard.take("attacks on membership", membership, "audited", after, texts, None)
    outcome, sentence, findings = judge(guard.measures, [])
    missing = [f"the verdict lacks a measure ({one.name}): {one.why}" for one in guard.skipped]
    return Verdict(outcome=outcome, sentence=sentence, findings=findings), missing
