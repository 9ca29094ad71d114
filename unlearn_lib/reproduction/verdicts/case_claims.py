"""The claims of the paper's case studies (section 6), judged from this repository's records; over runs, paired by task, family and seed."""

from __future__ import annotations

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.intervals import clustered
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.verdicts.evidence import Effect, Evidence
from unlearn_lib.reproduction.verdicts.judging import (
    NOT_REPRODUCED,
    REPRODUCED,
    Comparison,
    Judgement,
    Register,
    judged,
    ratio_of,
    untestable,
)
from unlearn_lib.reproduction.verdicts.table_claims import ASCENTS, LENGTHS

KEPT = 0.9
"""From this share on the memorised texts count as left."""
NONE = 0.5
"""Texts, or percent of the data, that count as none."""
REGISTER = Register()
KEYS = ["task", "family", "seed"]


def by_run(e: Evidence, method: str, measure: str = "memorised") -> pd.Series:
    """A measure of a method in every run."""
    return e.cases[e.cases.method == method].set_index(KEYS)[measure]


def asked(e: Evidence) -> str:
    """What the counts go over, in words."""
    return f"of {e.cases.asked.iloc[0]} texts, {len(by_run(e, ORIGINAL))} runs:"


@REGISTER.claim(
    "Table 8, p. 10",
    "table08",
    earlier=NOT_REPRODUCED,
    reason="hangs on the share of near-duplicates, which was chosen here",
)
def retraining_leaves_none(e: Evidence) -> Judgement:
    """Retraining leaves no private text memorised."""
    left, before = (clustered(by_run(e, method)) for method in ("retrain", ORIGINAL))
    data = clustered(by_run(e, "retrain", "found_share"))
    return untestable(
        f"In the mean {left.mean:.2f} of {e.cases.asked.iloc[0]} texts are still memorised, because the texts were generated here with a "
        f"share of {NANO.cases.rate:g} near-duplicates, which stay in the training set.",
        note=f"memorised after retraining, {asked(e)} {left.text(signed=False)}, and before {before.text(signed=False)}; planted personal "
        f"data found {data.text(signed=False)} %",
    )


@REGISTER.claim("Table 8, p. 10", "table08", earlier=NOT_REPRODUCED)
def finetuning_leaves_all(e: Evidence) -> Judgement:
    """Finetuning leaves the memorised private texts memorised (nine in ten or more)."""
    share = by_run(e, "finetune") / by_run(e, ORIGINAL)
    what = f"share of the memorised texts left, {len(share)} runs:"
    return judged(
        [ratio_of(what, clustered(share), KEPT, float("inf"), "1")],
        f"A share of {share.mean():.2f} of the memorised texts is left.",
        "after an epoch at the learning rate of the original training",
    )


@REGISTER.claim("Table 8, p. 10", "table08", earlier=NOT_REPRODUCED)
def removal_leaves_least(e: Evidence) -> Judgement:
    """Fisher Removal leaves fewer private texts memorised than ascent and Fisher Forgetting."""
    removal = by_run(e, "fisher-removal")
    gaps = []
    for other in (*ASCENTS, "fisher-forgetting"):
        gap = removal - by_run(e, other)
        gaps.append((f"memorised, less those after {paper.CASE_METHODS[other]},", Effect(clustered(gap), len(gap))))
    raw, adam = (f"{effect.ours.mean:+.1f}" for _, effect in gaps[:2])
    line = f"The difference to ascent is {raw} texts (raw) and {adam} texts (through Adam) {LENGTHS}."
    return untestable(line, gaps, "texts")


@REGISTER.claim("p. 9; Table 10, p. 14", "table10", earlier=REPRODUCED)
def boilerplate_is_left(e: Evidence) -> Judgement:
    """What comes back after unlearning is boilerplate that other texts share."""
    gaps = {
        method: clustered(by_run(e, method, "shared") - by_run(e, method, "own"))
        for method in ("retrain", "fisher-removal-calibrated", "fisher-removal")
    }
    runs = len(by_run(e, "retrain"))
    comparisons = [
        Comparison(f"{paper.CASE_METHODS[method]}, {runs} runs:", gaps[method], low=0, unit="points", digits=1)
        for method in ("retrain", "fisher-removal-calibrated")
    ]
    return judged(
        comparisons,
        f"After retraining the share of the boilerplate that comes back is {gaps['retrain'].mean:.0f} points larger than that of the "
        "texts' own passages.",
        "each the percentage of the runs of 8 tokens that come back of those that other training texts share, less that of a text's "
        f"own; after Fisher Removal with a length that was chosen {gaps['fisher-removal'].mean:+.1f}",
    )


@REGISTER.claim("recommended on p. 9, and not tried", "duplicates", ours=True)
def deduplication_helps(e: Evidence) -> Judgement:
    """What retraining leaves comes from near-duplicates; deduplication removes it."""
    retrained = e.deduplication[(e.deduplication.method == "retrain") & (e.deduplication.rate > 0)]
    as_it_is, extended = (retrained[retrained.deduplicated == chosen] for chosen in (False, True))
    comparisons = []
    for rate, runs in as_it_is.groupby("rate"):
        found = clustered(runs.set_index(KEYS).found_share)
        what = f"planted personal data found after retraining without the request, share of near-duplicates {rate:g}, {len(runs)} runs:"
        comparisons.append(Comparison(what, found, low=NONE, unit="%", digits=1, signed=False))
    for measure, unit in (("found_share", "%"), ("memorised", "texts memorised")):
        found = clustered(extended.set_index([*KEYS, "rate"])[measure])
        what = f"without its near-duplicates, too, {len(extended)} runs:"
        comparisons.append(Comparison(what, found, -NONE, NONE, unit=unit, digits=1, signed=False))
    most = as_it_is[as_it_is.rate == as_it_is.rate.max()].found_share.mean()
    line = (
        f"Retraining without the request leaves {most:.1f} % of the personal data where half of the texts are near-duplicates, and "
        f"{extended.found_share.mean():.1f} % where the request is extended by them."
    )
    return judged(comparisons, line)
