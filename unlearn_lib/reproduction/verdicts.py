"""The page of verdicts, generated from the records."""

from __future__ import annotations

from collections import Counter

from unlearn_lib.reproduction.case_claims import CASE_CLAIMS
from unlearn_lib.reproduction.claims import CLAIMS, MARGIN, Verdict
from unlearn_lib.reproduction.evidence import Evidence
from unlearn_lib.reproduction.intervals import LEVEL
from unlearn_lib.reproduction.inventory import find

HEAD = """# Verdicts: what of the paper holds here

Every claim of {{cite:t}}`gu2024` that its tables and figures make, judged by the records of this repository: {counts}.

Effects are means over cells (a task, a model and a number of removed samples, each a mean over its seeds) with their {level:.0%}
interval over the cells, or over runs where it says so; the paper's cells are treated alike. A claim about a difference is
*reproduced* when the interval has the claimed side of zero to itself, a claim of no change when the interval stays within
{margin} points; one about gradient ascent, whose optimizer the paper does not name, when both readings (raw steps, steps through
Adam) say so. All other claims that were judged are *not reproduced*: also those that are merely undecided, which the interval
shows. Cells share tasks and models, so the intervals are somewhat too narrow.

The models are small (0.2, 0.9 and 2.9 million weights), pre-trained from scratch on generated text,
and answer generated questions: a verdict says what happens there, not what would happen to a model of 125 million weights.

| claim | verdict | effect |
|---|---|---|
"""


def page(evidence: Evidence) -> str:
    """The page in MyST Markdown; the same text for the same records."""
    judged = [(claim, *claim.judge(evidence)) for claim in (*CLAIMS, *CASE_CLAIMS)]
    tally = Counter(verdict for _, verdict, _ in judged)
    counts = ", ".join(f"{tally[verdict]} {verdict}" for verdict in Verdict)
    rows = []
    for claim, verdict, effect in judged:
        link = f"{{doc}}`{claim.page} <../notebooks/{find(claim.notebook).notebook.removesuffix('.ipynb')}>`"
        rows.append(f"| {claim.words} ({link}) | **{verdict}** | {effect} |")
    return HEAD.format(counts=counts, level=LEVEL, margin=MARGIN) + "\n".join(rows) + "\n"
