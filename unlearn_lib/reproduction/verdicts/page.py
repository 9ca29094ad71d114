"""The page of verdicts, generated from the records."""

from __future__ import annotations

from unlearn_lib.reproduction import inventory
from unlearn_lib.reproduction.exhibits.intervals import FEWEST, LEVEL
from unlearn_lib.reproduction.markdown import rendered
from unlearn_lib.reproduction.verdicts.claims import OURS, judge, tally
from unlearn_lib.reproduction.verdicts.evidence import Evidence
from unlearn_lib.reproduction.verdicts.judging import MARGIN, NATS, NOT_REPRODUCED, REPRODUCED, Verdict

SAME = {(REPRODUCED, Verdict.SUPPORTED), (NOT_REPRODUCED, Verdict.CONTRADICTED)}
"""Verdicts of version 0.1.0 and of today that mean the same."""
USUAL_REASONS = {
    Verdict.NOT_TESTABLE: "hangs on a step length that we chose",
    Verdict.UNDECIDED: "the interval holds both sides, which used to count as not reproduced",
    Verdict.CONTRADICTED: "the rule or the records changed",
    Verdict.SUPPORTED: "the rule or the records changed",
}


def page(evidence: Evidence) -> str:
    """The page in MyST Markdown; the same text for the same records."""
    papers = judge(evidence)
    return rendered(
        __package__,
        "verdicts.md",
        level=f"{LEVEL:.0%}",
        margin=f"{MARGIN:g}",
        nats=f"{NATS:g}",
        fewest=FEWEST,
        papers=papers,
        ours=judge(evidence, OURS),
        changed=[
            (claim, found.verdict)
            for claim, found in papers
            if claim.earlier is not None and (claim.earlier, found.verdict) not in SAME
        ],
        usual=USUAL_REASONS,
        tally=tally,
        pages={name: item.notebook.removesuffix(".ipynb") for name, item in inventory.ITEMS.items()},
    )
