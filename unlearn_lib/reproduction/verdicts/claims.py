"""All claims in one place, in the order of the page of verdicts, and their judgements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from unlearn_lib.reproduction.verdicts import case_claims, cost_claims, figure_claims, table_claims
from unlearn_lib.reproduction.verdicts.evidence import Evidence
from unlearn_lib.reproduction.verdicts.judging import Claim, Judgement, Verdict

_FILES = (table_claims, cost_claims, figure_claims, case_claims)
CLAIMS: tuple[Claim, ...] = tuple(claim for file in _FILES for claim in file.REGISTER.claims)
"""Every claim. A new one is a function in one of the four files, made a claim by its `REGISTER`."""
PAPERS = tuple(claim for claim in CLAIMS if not claim.ours)
"""What the paper claims."""
OURS = tuple(claim for claim in CLAIMS if claim.ours)
"""What this repository claims beside it."""


def judge(evidence: Evidence, chosen: Sequence[Claim] = PAPERS) -> list[tuple[Claim, Judgement]]:
    """The claims with their judgements."""
    return [(claim, claim.judge(evidence)) for claim in chosen]


def tally(judged: Sequence[tuple[Claim, Judgement]]) -> dict[str, int]:
    """How many claims have which verdict; all verdicts are named."""
    counts = Counter(judgement.verdict for _, judgement in judged)
    return {str(verdict): counts[verdict] for verdict in Verdict}
