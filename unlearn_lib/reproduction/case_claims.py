"""The claims of the paper's case studies (section 6), judged from the records of ours; over runs, paired by task, family and seed."""

from __future__ import annotations

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.claims import ASCENTS, Claim, Judgement, ratio, verdict
from unlearn_lib.reproduction.evidence import Evidence
from unlearn_lib.reproduction.intervals import interval, text
from unlearn_lib.reproduction.scenarios import ORIGINAL

KEPT = 0.9
"""Of the memorised texts: from this share on they count as left."""


def by_run(e: Evidence, method: str, measure: str = "memorised") -> pd.Series:
    """A measure of a method in every run."""
    chosen = e.cases[e.cases.method == method]
    return chosen.set_index(["task", "family", "seed"])[measure]


def asked(e: Evidence) -> str:
    """Over what the counts go."""
    return f"of {e.cases.asked.iloc[0]} texts over {len(by_run(e, ORIGINAL))} runs"


def _retraining_leaves_none(e: Evidence) -> Judgement:
    left, data = by_run(e, "retrain"), by_run(e, "retrain", "found_share")
    return verdict(left.max() == 0), (
        f"memorised after retraining {ratio(interval(left))} {asked(e)} (before {ratio(interval(by_run(e, ORIGINAL)))}); planted personal "
        f"data found {ratio(interval(data))} %: near-duplicates stay in the training set"
    )


def _finetuning_leaves_all(e: Evidence) -> Judgement:
    share = interval(by_run(e, "finetune") / by_run(e, ORIGINAL))
    return verdict(share[1] >= KEPT), (
        f"share of the memorised texts left {ratio(share)} over {len(by_run(e, ORIGINAL))} runs (paper 1), after an epoch at the learning "
        "rate of the original training"
    )


def _removal_leaves_least(e: Evidence) -> Judgement:
    gaps = {other: interval(by_run(e, "fisher-removal") - by_run(e, other)) for other in (*ASCENTS, "fisher-forgetting")}
    words = "; ".join(f"less {paper.METHODS[other]} {text(gap, 1)}" for other, gap in gaps.items())
    return verdict(all(gap[2] < 0 for gap in gaps.values())), (
        f"memorised after Fisher Removal {ratio(interval(by_run(e, 'fisher-removal')))} {asked(e)}; {words}"
    )


def _boilerplate_is_left(e: Evidence) -> Judgement:
    words, holds = [], True
    for method in ("retrain", "fisher-removal", "fisher-removal-calibrated"):
        gap = interval(by_run(e, method, "shared") - by_run(e, method, "own"))
        holds = holds and gap[1] > 0
        words.append(f"{paper.METHODS[method]} {text(gap, 1)}")
    return verdict(holds), (
        "runs of 8 tokens that come back, in percent of those that other training texts share, less in percent of a text's own: "
        + "; ".join(words)
    )


def _deduplication_helps(e: Evidence) -> Judgement:
    retrained = e.deduplication[(e.deduplication.method == "retrain") & (e.deduplication.rate > 0)]
    as_it_is, extended = (retrained[retrained.deduplicated == chosen] for chosen in (False, True))
    means = as_it_is.groupby("rate").found_share.mean()
    rates = ", ".join(f"{value:.1f} % at a share of near-duplicates of {rate:g}" for rate, value in means.items())
    holds = as_it_is.found_share.min() > 0 and extended.found_share.max() == 0 and extended.memorised.max() == 0
    return verdict(holds), (
        f"planted personal data found after retraining without the request: {rates}; without its near-duplicates, too: at most "
        f"{extended.found_share.max():.1f} %, and at most {extended.memorised.max()} texts memorised, in {len(extended)} runs"
    )


CASE_CLAIMS = [
    Claim("Retraining leaves no private text memorised.", "Table 8, p. 10", "table08", _retraining_leaves_none),
    Claim(
        "Finetuning leaves the memorised private texts memorised (nine in ten or more).",
        "Table 8, p. 10",
        "table08",
        _finetuning_leaves_all,
    ),
    Claim(
        "Fisher Removal leaves fewer private texts memorised than ascent and Fisher Forgetting.",
        "Table 8, p. 10",
        "table08",
        _removal_leaves_least,
    ),
    Claim(
        "What comes back after unlearning is boilerplate that other texts share.",
        "p. 9; Table 10, p. 14",
        "table10",
        _boilerplate_is_left,
    ),
    Claim(
        "What retraining leaves comes from near-duplicates; deduplication removes it.",
        "p. 9; recommended, not tried",
        "duplicates",
        _deduplication_helps,
    ),
]
