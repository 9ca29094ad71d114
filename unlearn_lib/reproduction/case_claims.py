"""The claims of the paper's case studies (section 6), judged from the records of ours; over runs, paired by task, family and seed."""

from __future__ import annotations

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.claims import ASCENTS, ratio_of
from unlearn_lib.reproduction.evidence import Effect, Evidence
from unlearn_lib.reproduction.intervals import Interval, clustered
from unlearn_lib.reproduction.judging import Claim, Comparison, Judgement, claim, judged, untestable
from unlearn_lib.reproduction.profiles import NANO
from unlearn_lib.reproduction.scenarios import ORIGINAL

KEPT = 0.9
"""Of the memorised texts: from this share on they count as left."""
NONE = 0.5
"""Texts, or percent of the data, that count as none."""
KEYS = ["task", "family", "seed"]
LENGTH = (
    "hangs on absolute step lengths that we chose: the printed ones times "
    f"{NANO.cases.step_factor:g}, with which Fisher Removal reaches the forget loss of retraining on medical notes"
)


def by_run(e: Evidence, method: str, measure: str = "memorised") -> pd.Series:
    """A measure of a method in every run."""
    return e.cases[e.cases.method == method].set_index(KEYS)[measure]


def asked(e: Evidence) -> str:
    """Over what the counts go."""
    return f"of {e.cases.asked.iloc[0]} texts, {len(by_run(e, ORIGINAL))} runs:"


def plain(found: Interval) -> str:
    """An interval of a positive quantity in words."""
    return f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


@claim("Table 8, p. 10", "table08")
def retraining_leaves_none(e: Evidence) -> Judgement:
    """Retraining leaves no private text memorised."""
    left = ratio_of(f"memorised after retraining, {asked(e)}", clustered(by_run(e, "retrain")), -NONE, NONE)
    before, data = clustered(by_run(e, ORIGINAL)), clustered(by_run(e, "retrain", "found_share"))
    return judged(
        [left], f"before {plain(before)}; planted personal data found {plain(data)} %: near-duplicates stay in the training set"
    )


@claim("Table 8, p. 10", "table08")
def finetuning_leaves_all(e: Evidence) -> Judgement:
    """Finetuning leaves the memorised private texts memorised (nine in ten or more)."""
    share = by_run(e, "finetune") / by_run(e, ORIGINAL)
    what = f"share of the memorised texts left, {len(share)} runs:"
    return judged(
        [ratio_of(what, clustered(share), KEPT, float("inf"), "1")],
        "after an epoch at the learning rate of the original training",
    )


@claim("Table 8, p. 10", "table08")
def removal_leaves_least(e: Evidence) -> Judgement:
    """Fisher Removal leaves fewer private texts memorised than ascent and Fisher Forgetting."""
    removal = by_run(e, "fisher-removal")
    gaps = []
    for other in (*ASCENTS, "fisher-forgetting"):
        gap = removal - by_run(e, other)
        gaps.append((f"memorised, less those after {paper.METHODS[other]},", Effect(clustered(gap), len(gap))))
    return untestable(LENGTH, gaps, "texts")


@claim("p. 9; Table 10, p. 14", "table10")
def boilerplate_is_left(e: Evidence) -> Judgement:
    """What comes back after unlearning is boilerplate that other texts share."""
    gaps = {
        method: clustered(by_run(e, method, "shared") - by_run(e, method, "own"))
        for method in ("retrain", "fisher-removal-calibrated", "fisher-removal")
    }
    runs = len(by_run(e, "retrain"))
    comparisons = [
        Comparison(f"{paper.METHODS[method]}, {runs} runs:", gaps[method], low=0, unit="points", digits=1)
        for method in ("retrain", "fisher-removal-calibrated")
    ]
    return judged(
        comparisons,
        "each the percentage of the runs of 8 tokens that come back of those that other training texts share, less that of a text's "
        f"own; after Fisher Removal with a length that we chose {gaps['fisher-removal'][0]:+.1f}",
    )


@claim("recommended on p. 9, not tried in the paper", "duplicates")
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
    return judged(comparisons)


CASE_CLAIMS: tuple[Claim, ...] = (retraining_leaves_none, finetuning_leaves_all, removal_leaves_least, boilerplate_is_left)
OURS: tuple[Claim, ...] = (deduplication_helps,)
"""Claims that are not the paper's."""
