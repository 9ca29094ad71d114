"""The page of verdicts, generated from the records."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from unlearn_lib.reproduction import inventory
from unlearn_lib.reproduction.exhibits.intervals import FEWEST, LEVEL
from unlearn_lib.reproduction.markdown import rendered
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.verdicts.accuracy import ABOVE_CHANCE, ERROR, left_out
from unlearn_lib.reproduction.verdicts.claims import OURS, judge, tally
from unlearn_lib.reproduction.verdicts.evidence import Evidence
from unlearn_lib.reproduction.verdicts.judging import MARGIN, NATS, NOT_REPRODUCED, REPRODUCED, Claim, Judgement, Verdict

SAME = {(REPRODUCED, Verdict.SUPPORTED), (NOT_REPRODUCED, Verdict.CONTRADICTED)}
"""Verdicts of version 0.1.0 and of today that mean the same."""
USUAL_REASONS = {
    Verdict.NOT_TESTABLE: "hangs on a step length that was chosen here",
    Verdict.UNDECIDED: "the interval holds both sides, which used to count as not reproduced",
    Verdict.CONTRADICTED: "the rule or the records changed",
    Verdict.SUPPORTED: "the rule or the records changed",
}

BADGES = {
    Verdict.SUPPORTED: "success",
    Verdict.CONTRADICTED: "danger",
    Verdict.UNDECIDED: "warning",
    Verdict.NOT_TESTABLE: "secondary",
}
"""The colour of each verdict's badge, by its name in sphinx-design."""

Judged = Sequence[tuple[Claim, Judgement]]


def page(evidence: Evidence) -> str:
    """The page in MyST Markdown; the same text for the same records."""
    papers, ours = judge(evidence), judge(evidence, OURS)
    changed = [
        (claim, found.verdict)
        for claim, found in papers
        if claim.earlier is not None and (claim.earlier, found.verdict) not in SAME
    ]
    return rendered(
        __package__,
        "verdicts.md",
        level=f"{LEVEL:.0%}",
        margin=f"{MARGIN:g}",
        nats=f"{NATS:g}",
        fewest=FEWEST,
        above=f"{ABOVE_CHANCE:g}",
        questions=NANO.test_size,
        error=f"{ERROR:g}",
        cells=_cells(evidence.above_chance),
        papers=papers,
        papers_factor=f"{NANO.step_factor:g}",
        cases_factor=f"{NANO.cases.step_factor:g}",
        ours=ours,
        changed=_grouped(changed),
        badges=BADGES,
        counts=_counts,
        tested=_tested,
        pages={name: item.notebook.removesuffix(".ipynb") for name, item in inventory.ITEMS.items()},
    )


def _cells(above: pd.Series) -> dict[str, str]:
    """Which original models can lose accuracy, in words: how many can, of how many, who cannot, and where the limit lies."""
    blind, rest = above[above < ABOVE_CHANCE], above[above >= ABOVE_CHANCE]
    return {
        "able": str(len(rest)),
        "of": str(len(above)),
        "left_out": left_out(above),
        "below": f"{blind.max():.1f}",
        "from": f"{rest.min():.1f}",
    }


def _tested(judged: Judged, *, testable: bool) -> Judged:
    """The claims that were judged, or those that these records cannot test."""
    return [pair for pair in judged if (pair[1].verdict != Verdict.NOT_TESTABLE) == testable]


def _counts(judged: Judged) -> str:
    """How many claims have which verdict, the untestable ones apart, as in `3 claims: 1 supported, 2 contradicted, 0 undecided`."""
    found = tally(judged)
    untested = found.pop(str(Verdict.NOT_TESTABLE))
    words = ", ".join(f"{count} {verdict}" for verdict, count in found.items())
    return f"{len(judged)} claims: {words}" + (f"; {untested} cannot be tested by these records" if untested else "")


def _grouped(changed: Sequence[tuple[Claim, Verdict]]) -> dict[tuple[str, str, str], list[str]]:
    """The claims whose verdict is another one now, by the verdict of version 0.1.0, today's, and the reason."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for claim, verdict in changed:
        key = (str(claim.earlier), str(verdict), claim.reason or USUAL_REASONS[verdict])
        groups.setdefault(key, []).append(claim.words)
    return groups
