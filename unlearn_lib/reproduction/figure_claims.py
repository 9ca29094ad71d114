"""The claims of the paper's figures, judged from the records by the rule of `judging`."""

from __future__ import annotations

import math

import pandas as pd

from unlearn_lib.reproduction import histograms, paper, tradeoff
from unlearn_lib.reproduction.claims import ASCENTS, LENGTH, MARGIN, NATS
from unlearn_lib.reproduction.evidence import Effect, Evidence
from unlearn_lib.reproduction.grids import exposure_histograms, onion, weights
from unlearn_lib.reproduction.intervals import clustered, interval
from unlearn_lib.reproduction.judging import Claim, Comparison, Judgement, claim, judged, untestable
from unlearn_lib.reproduction.profiles import NANO
from unlearn_lib.reproduction.scenarios import ORIGINAL

PAPER_WEIGHTS, PAPER_BINS = 768 * 3072, 40_000  # Figure 4


def _private(e: Evidence, task: str, low: float, high: float) -> Judgement:
    """Accuracy of the best DP-SGD less that of the best unlearning, both chosen on the other seeds."""
    found = tradeoff.best_against_best(e.tradeoff[e.tradeoff.task == task])
    difference = Comparison(
        f"accuracy of the best DP-SGD less that of the best of the paper's unlearning methods, {len(found)} seeds:",
        interval(found.private - found.unlearned),
        low,
        high,
        unit="points",
        digits=1,
    )
    return judged(
        [difference],
        f"{found.private.mean():.1f} and {found.unlearned.mean():.1f} %, where the loss attack's AUC is at most {tradeoff.HIDDEN:g}; "
        "for every seed the settings were chosen on the other seeds",
    )


@claim("Figure 3a, p. 10", "fig03")
def private_lambada(e: Evidence) -> Judgement:
    """DP-SGD nearly dominates unlearning on LAMBADA: its best is at most 2.5 points below."""
    return _private(e, "lambada", -MARGIN, math.inf)


@claim("Figure 3b, p. 10", "fig03")
def private_piqa(e: Evidence) -> Judgement:
    """DP-SGD is poor on PIQA: unlearning keeps more accuracy where both hide the samples."""
    return _private(e, "piqa", -math.inf, 0)


@claim("Figure 4, p. 12", "fig04")
def weight_histograms(e: Evidence) -> Judgement:
    """The weights' histogram after ascent is further from retraining's than after the Fisher methods."""
    mean = histograms.weight_divergences(e.records(weights())).groupby("method")["divergence, float32"].mean()
    printed = paper.printed("weight_divergence").set_index("method").divergence
    words = "; ".join(f"{paper.METHODS[m]} {mean[m]:.3f} nats (paper {printed[m]})" for m in printed.index)
    largest = math.log(PAPER_WEIGHTS + PAPER_BINS)
    return untestable(
        f"{LENGTH}; seen at our lengths: {words}; with one count added to every bin, as here, no divergence of {PAPER_WEIGHTS} weights "
        f"in {PAPER_BINS} bins exceeds {largest:.1f} nats"
    )


def _fourth(e: Evidence, method: str, measure: str) -> Effect:
    """A measure after four cycles."""
    last = e.cycles[(e.cycles.method == method) & (e.cycles.removed == 4 * NANO.cycle_size)]
    values = last.set_index(["task", "family", "size", "seed"])[measure]
    return Effect(clustered(values), len(values))


@claim("Figure 5, p. 12", "fig05")
def forgetting_over_cycles(e: Evidence) -> Judgement:
    """Fisher Forgetting keeps utility over four cycles."""
    effect = _fourth(e, "fisher-forgetting", "delta_acc")
    printed = paper.printed("cycles")
    theirs = printed[printed.method == "fisher-forgetting"].groupby("task").accuracy.agg(lambda a: a.iloc[-1] - a.iloc[0])
    words = ", ".join(f"{value:+.1f}" for value in theirs) + " from the first cycle to the fourth"
    what = f"ΔACC after four cycles, {effect.cells} runs:"
    return judged([Comparison(what, effect.ours, -MARGIN, MARGIN, unit="points", theirs=words)])


@claim("Figure 5, p. 12", "fig05")
def collapse_over_cycles(e: Evidence) -> Judgement:
    """Ascent and Fisher Removal wreck the model over four cycles."""
    methods = ("fisher-removal", *ASCENTS)
    seen = [(f"rise of the retain loss after {paper.METHODS[m]}", _fourth(e, m, "retain_rise")) for m in methods]
    return untestable(LENGTH, seen, "nats")


@claim("Figure 6, p. 12", "fig06")
def onion_effect(e: Evidence) -> Judgement:
    """The onion effect: samples that stay become more exposed when the most exposed are removed."""
    table = histograms.onion_table(e.records(onion()))
    change = interval(table["mean of the rest, after"] - table["mean of the rest, before"])
    above = table["above after, of the rest"]
    return judged(
        [Comparison(f"change of the mean exposure of the samples that stay, {len(table)} seeds:", change, low=0, unit="nats")],
        f"{above.min()} to {above.max()} of them rise above the cutoff",
    )


def _moved(e: Evidence, method: str) -> Effect:
    """How far a method moves the mean exposure of all training samples."""
    table = histograms.exposure_table(e.records(exposure_histograms())).set_index("seed")
    change: pd.Series = (
        table[table.method == method]["mean, all"] - table[table.method == ORIGINAL]["mean, all"]  # one value for each seed
    )
    printed = paper.printed("exposure_summary").set_index("method")["mean"]
    theirs = float(printed[method] - printed[ORIGINAL])
    return Effect(interval(change), len(change), (theirs, math.nan, math.nan))


@claim("Figure 7, p. 15", "fig07")
def exposure_after_retraining(e: Evidence) -> Judgement:
    """Retraining leaves the mean exposure of the training set where it was, to half a nat of the printed change."""
    effect = _moved(e, "retrain")
    assert effect.paper is not None
    theirs = effect.paper[0]
    what = f"change of the mean exposure of all training samples, {effect.cells} seeds:"
    low, high = round(theirs - NATS, 2), round(theirs + NATS, 2)
    return judged([Comparison(what, effect.ours, low, high, unit="nats", theirs=f"{theirs:+.2f}")])


@claim("Figure 7, p. 15", "fig07")
def exposure_after_unlearning(e: Evidence) -> Judgement:
    """Ascent and Fisher Removal leave the mean exposure of the training set where it was."""
    seen = [(paper.METHODS[method], _moved(e, method)) for method in ("gradient-ascent", "fisher-removal")]
    return untestable(LENGTH, seen, "nats")


FIGURE_CLAIMS: tuple[Claim, ...] = (
    private_lambada,
    private_piqa,
    weight_histograms,
    forgetting_over_cycles,
    collapse_over_cycles,
    onion_effect,
    exposure_after_retraining,
    exposure_after_unlearning,
)
