"""The page of verdicts, generated from the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from unlearn_lib.reproduction import case_claims, claims, figure_claims
from unlearn_lib.reproduction.evidence import Evidence
from unlearn_lib.reproduction.intervals import FEWEST, LEVEL
from unlearn_lib.reproduction.inventory import find
from unlearn_lib.reproduction.judging import Claim, Judgement, Verdict

PAPERS: tuple[Claim, ...] = (*claims.CLAIMS, *figure_claims.FIGURE_CLAIMS, *case_claims.CASE_CLAIMS)
"""What the paper claims."""
OURS: tuple[Claim, ...] = (*claims.OURS, *case_claims.OURS)
"""What this repository claims beside it."""
HEAD = """# Verdicts: what of the paper holds here

Every claim of {{cite:t}}`gu2024` that its tables and figures make, judged by the records of this repository.

## The rule

A claim is judged by one or more comparisons. For each, the table shows the mean of the measured effect with its {level:.0%}
interval, and the region in which the claim puts it, with its margin. The comparison is

* **supported** if the whole interval lies inside the claimed region,
* **contradicted** if the whole interval lies outside,
* **undecided** if the interval holds both.

A claim with several comparisons is contradicted if one of them is contradicted, supported if all are supported, and undecided
otherwise. A claim of "no change" therefore needs its whole interval inside the margin ({margin:g} points of accuracy, {nats:g} nats of
exposure), and a noisier experiment never helps a claim. A claim of "less damage" needs at least a tenth less, so that a difference of
no importance contradicts it.

**Not testable** is what small models cannot show, and what hangs on an absolute step length that we chose. The printed lengths do
not move our models, so both were multiplied by one factor, the smallest at which Fisher Removal reaches the forget loss of
retraining: how far it goes beyond retraining, or how much ascent at a fifth of its length harms, is then a result of our
choice. Where the length is found in each run (`calibrated`) or swept (Figure 3), where it is the learning rate of the original
training (finetuning), and where the noise is the printed one (Fisher Forgetting), the claim is judged.

**Intervals.** The effect is first averaged within each task and model, over seeds and numbers of removed samples, because these
share their original models. The averages share tasks and models in turn. Where there are at least {fewest} of them, tasks and models are
clusters, and the interval is the two-way cluster-robust one {{cite:p}}`cameron2011` with Student's t on the smaller number of
clusters less one: with four tasks, three degrees of freedom. Where there are fewer, nothing can be said about other tasks or models,
and the interval is over the original models (task, model and seed). Differences are taken within the same task, model and seed. The
paper's printed cells are treated alike. Where the best of several settings is compared, for every seed it is chosen on
the other seeds. Counts of gradients have no interval, and a share of printed samples has the exact binomial one.

The models are small (0.2, 0.9 and 2.9 million weights), pre-trained from scratch on generated text,
and answer generated questions: a verdict says what happens there, not what would happen to a model of 125 million weights.

## The paper's claims

{counts}.

{papers}
## Claims of this repository

These are not results of the paper. {ours_counts}.

{ours}
## What changed since version 0.1.0

Version 0.1.0 knew two classes, *reproduced* and *not reproduced*, took cells for independent, and judged claims about step lengths.
Claims that are not listed kept theirs: what was *reproduced* is *supported*, what was *not reproduced* is *contradicted*.

{changes}"""
COLUMNS = "| claim | verdict | comparisons |\n|---|---|---|\n"
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
EARLIER: dict[Claim, str] = {
    claims.erases_more_than_retraining: NOT_REPRODUCED,
    claims.erases_most: NOT_REPRODUCED,
    claims.milder_than_ascent: NOT_REPRODUCED,
    claims.ascent_costs: NOT_REPRODUCED,
    claims.second_cycle_harms: REPRODUCED,
    claims.forgetting_keeps: REPRODUCED,
    claims.forgetting_erases: REPRODUCED,
    claims.finetuning_does_not: REPRODUCED,
    claims.retraining_keeps: REPRODUCED,
    claims.retraining_barely_erases: NOT_REPRODUCED,
    claims.inverse_fisher_matters: NOT_REPRODUCED,
    claims.first_order_costs: REPRODUCED,
    claims.fisher_costs: REPRODUCED,
    claims.faster_than_retraining: REPRODUCED,
    claims.slower_than_finetuning: REPRODUCED,
    claims.bits: NOT_REPRODUCED,
    figure_claims.private_lambada: NOT_REPRODUCED,
    figure_claims.private_piqa: NOT_REPRODUCED,
    figure_claims.weight_histograms: NOT_REPRODUCED,
    figure_claims.forgetting_over_cycles: NOT_REPRODUCED,
    figure_claims.collapse_over_cycles: NOT_REPRODUCED,
    figure_claims.onion_effect: NOT_REPRODUCED,
    figure_claims.exposure_after_retraining: NOT_REPRODUCED,
    figure_claims.exposure_after_unlearning: NOT_REPRODUCED,
    case_claims.retraining_leaves_none: NOT_REPRODUCED,
    case_claims.finetuning_leaves_all: NOT_REPRODUCED,
    case_claims.removal_leaves_least: NOT_REPRODUCED,
    case_claims.boilerplate_is_left: REPRODUCED,
}
"""The verdicts of version 0.1.0 on the claims that it judged."""
SAME = {(REPRODUCED, Verdict.SUPPORTED), (NOT_REPRODUCED, Verdict.CONTRADICTED)}
REASONS: dict[Claim, str] = {
    claims.erases_more_than_retraining: "circular: we chose the step length so that it reaches retraining",
    claims.forgetting_keeps: "tasks and models are clusters now, and the interval leaves the margin",
    claims.retraining_barely_erases: "needs the interval within half a nat of the printed mean; before, an interval that held the printed "
    "mean would have done, so more noise would have helped",
    claims.fisher_costs: "t and m are varied together; before, every run was compared with a formula at one t",
    figure_claims.private_lambada: "the best settings are compared, not means over the grid, and three seeds do not decide",
    figure_claims.private_piqa: "the best settings are compared, not means over the grid, and three seeds do not decide",
}
USUAL_REASONS = {
    Verdict.NOT_TESTABLE: "hangs on a step length that we chose",
    Verdict.UNDECIDED: "the interval holds both sides, which used to count as not reproduced",
    Verdict.CONTRADICTED: "the rule or the records changed",
    Verdict.SUPPORTED: "the rule or the records changed",
}


def judge(evidence: Evidence, chosen: Sequence[Claim] = PAPERS) -> list[tuple[Claim, Judgement]]:
    """The claims with their judgements."""
    return [(claim, claim.judge(evidence)) for claim in chosen]


def tally(judged: Sequence[tuple[Claim, Judgement]]) -> dict[str, int]:
    """How many claims have which verdict; all verdicts are named."""
    counts = Counter(judgement.verdict for _, judgement in judged)
    return {str(verdict): counts[verdict] for verdict in Verdict}


def page(evidence: Evidence) -> str:
    """The page in MyST Markdown; the same text for the same records."""
    papers, ours = judge(evidence), judge(evidence, OURS)
    now = {claim: judgement.verdict for claim, judgement in papers}
    rows = [
        f"| {claim.words} | {earlier} | {now[claim]} | {REASONS.get(claim, USUAL_REASONS[now[claim]])} |\n"
        for claim, earlier in EARLIER.items()
        if (earlier, now[claim]) not in SAME
    ]
    return HEAD.format(
        level=LEVEL,
        margin=claims.MARGIN,
        nats=claims.NATS,
        fewest=FEWEST,
        counts=_counts(papers),
        ours_counts=_counts(ours),
        papers=COLUMNS + _rows(papers),
        ours=COLUMNS + _rows(ours),
        changes="| claim | 0.1.0 | now | why |\n|---|---|---|---|\n" + "".join(rows),
    )


def _counts(judged: Sequence[tuple[Claim, Judgement]]) -> str:
    return f"{len(judged)} claims: " + ", ".join(f"{count} {name}" for name, count in tally(judged).items())


def _rows(judged: Sequence[tuple[Claim, Judgement]]) -> str:
    rows = []
    for claim, (verdict, effect) in judged:
        link = f"{{doc}}`{claim.page} <../notebooks/{find(claim.notebook).notebook.removesuffix('.ipynb')}>`"
        rows.append(f"| {claim.words} ({link}) | **{verdict}** | {effect} |\n")
    return "".join(rows)
