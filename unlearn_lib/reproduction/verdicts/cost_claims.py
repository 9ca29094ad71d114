"""The claims of the paper about cost: how the counts of gradients grow (Table 6), and seconds (Figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits import table06_complexity
from unlearn_lib.reproduction.exhibits.intervals import Interval
from unlearn_lib.reproduction.runs import counts
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.verdicts.evidence import Evidence
from unlearn_lib.reproduction.verdicts.judging import REPRODUCED, Comparison, Judgement, Register, judged, ratio_of

REGISTER = Register()


@REGISTER.claim("Table 6, p. 8", "table06", earlier=REPRODUCED)
def first_order_costs(e: Evidence) -> Judgement:
    """Cost: retraining and finetuning O(r), ascent O(t)."""
    counts, grows = e.other_costs, {"retrain": "r", "finetune": "r", "gradient-ascent": "t"}
    comparisons = []
    for method, growing in grows.items():
        for doubled in ("t", "r"):
            found, claimed = float((counts[doubled] / counts["first"])[method]), 2 if doubled == growing else 1
            what = f"growth of {paper.METHODS[method]}'s gradients when {doubled} is doubled:"
            comparisons.append(ratio_of(what, Interval(found, found, found), claimed - 0.1, claimed + 0.1))
    kept = e.utility.task.map(NANO.train_sizes) - e.utility.removed
    expected = {"retrain": 5 * kept, "finetune": kept, "gradient-ascent": NANO.cycle_size}
    exact = all((e.utility.gradient_evaluations == n)[e.utility.method == method].all() for method, n in expected.items())
    kinds = {"r": "retraining and finetuning", "t": "ascent"}
    growth = {r: float((counts[r] / counts["first"])["gradient-ascent" if r == "t" else "retrain"]) for r in kinds}
    line = "; ".join(f"when {r} is doubled, the gradients of {kinds[r]} grow {growth[r]:g} times" for r in kinds)
    note = f"in the records of all runs exactly 5 r, r and t gradients: {'yes' if exact else 'no'}"
    return judged(comparisons, f"{line[0].upper()}{line[1:]}.", note)


def _fisher_costs(e: Evidence, reading: str, line: Callable[[pd.Series], str]) -> Judgement:
    """How the gradients of the Fisher methods grow when t and m are both doubled, with the removed texts cut as `reading` says."""
    counted = e.fisher_costs[reading]
    growth, fit = table06_complexity.doubled(counted, "t", "m"), table06_complexity.fitted(counted)
    comparisons = [
        ratio_of(
            f"growth of {paper.METHODS[method]}'s gradients:", Interval(growth[method], growth[method], growth[method]), 3, 5
        )
        for method in counts.FISHER
    ]
    words = "; ".join(
        f"{paper.METHODS[method]} {abs(t):.2f} t + {abs(m):.2f} m + {abs(both):.2f} t m"
        for method, (t, m, both) in zip(fit.index, fit[["t", "m", "t m"]].to_numpy(float), strict=True)
    )
    note = f"gradients of single texts, one text in a term, with the removed texts of a cycle in {reading}: {words}, exactly"
    return judged(comparisons, line(growth), note)


@REGISTER.claim("Table 6, p. 8, read with algorithms 2 and 3", "table06", earlier=REPRODUCED)
def fisher_costs_of_batches(e: Evidence) -> Judgement:
    """Cost: the Fisher methods O(t m), with a Fisher for every batch of removed texts: both doubled, four times as much."""
    return _fisher_costs(
        e,
        "batches of 4",
        lambda growth: (
            f"In batches of 4 texts Fisher Removal costs {growth['fisher-removal']:.2f} times as much, and Fisher Forgetting "
            f"{growth['fisher-forgetting']:.2f}."
        ),
    )


@REGISTER.claim(
    "Table 6, p. 8",
    "table06",
    earlier=REPRODUCED,
    reason="t and m are varied together; before, every run was compared with a formula at one t",
)
def fisher_costs(e: Evidence) -> Judgement:
    """Cost: the Fisher methods O(t m), with all removed texts in one batch: both doubled, four times as much."""
    return _fisher_costs(
        e,
        "one batch",
        lambda growth: (
            f"Fisher Removal costs {growth['fisher-removal']:g} times as much, because the costs of t and of m add, and Fisher "
            f"Forgetting {growth['fisher-forgetting']:g} times, because t costs it nothing."
        ),
    )


def _seconds(e: Evidence, method: str, other: str, low: float, high: float) -> Comparison:
    found, theirs = e.seconds(method, other)
    return ratio_of(
        f"seconds of a cycle of {paper.METHODS[method]} over {paper.METHODS[other]}'s, small models:",
        found,
        low,
        high,
        f"{theirs.min():.2f} to {theirs.max():.2f}",
    )


def _not_judged(e: Evidence, methods: Sequence[str], other: str) -> str:
    """What the seconds of the larger models say, and why they are not judged."""
    parts = []
    for size in ("m", "l"):
        found = [e.ratios(method, other, size) for method in methods]
        spans = " and ".join(
            f"{one.min():.2f} to {one.max():.2f} ({paper.METHODS[method]})" for method, one in zip(methods, found, strict=True)
        )
        parts.append(f"{spans} on the {paper.SIZE_NAMES[size]} models")
    return (
        f"the larger models are not judged; there the seconds are {' and '.join(parts)} of {paper.METHODS[other]}'s. A method takes nearly "
        "the same number of gradients on every task, so that ratios this far apart measure the machine, which other work shared, and of "
        "the large models there is one seed"
    )


PLANNED = (
    "at the paper's sizes a plan for one GPU counts more gradients for a cycle of Fisher Removal than for retraining with 2.7B weights, "
    "because the blocks do not fit into its memory at once ({doc}`what a run would take <../notebooks/paper_scale>`)"
)
"""What stands against the claim on cost at sizes that were not run."""


@REGISTER.claim("Figure 2, p. 8; Table 7, p. 9", "fig02", earlier=REPRODUCED)
def faster_than_retraining(e: Evidence) -> Judgement:
    """The Fisher methods are faster than retraining, on the smallest models."""
    comparisons = [_seconds(e, method, "retrain", 0, 1) for method in counts.FISHER]
    shares = " and ".join(f"{comparison.found.mean:.2f}" for comparison in comparisons)
    line = f"A cycle of Fisher Removal and of Fisher Forgetting takes {shares} of retraining's seconds."
    return judged(comparisons, line, _not_judged(e, counts.FISHER, "retrain"), PLANNED)


@REGISTER.claim("Figure 2, p. 8; Table 7, p. 9", "fig02", earlier=REPRODUCED)
def slower_than_finetuning(e: Evidence) -> Judgement:
    """Fisher Removal is slower than finetuning, on the smallest models."""
    comparison = _seconds(e, "fisher-removal", "finetune", 1, float("inf"))
    line = f"A cycle takes {comparison.found.mean:.2f} times the seconds of finetuning."
    return judged([comparison], line, _not_judged(e, ("fisher-removal",), "finetune"))
