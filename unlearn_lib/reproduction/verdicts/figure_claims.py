"""The claims of the paper's figures, judged from the records by the rule of `judging`."""

from __future__ import annotations

import math

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits import fig03_tradeoff, fig04_weights, fig06_onion, fig07_exposure
from unlearn_lib.reproduction.exhibits.intervals import Interval, clustered, interval
from unlearn_lib.reproduction.runs.grids import exposure_histograms, onion, weights
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.verdicts.accuracy import ABOVE_CHANCE, able
from unlearn_lib.reproduction.verdicts.evidence import Effect, Evidence
from unlearn_lib.reproduction.verdicts.judging import (
    MARGIN,
    NATS,
    NOT_REPRODUCED,
    Comparison,
    Judgement,
    Register,
    judged,
    untestable,
)
from unlearn_lib.reproduction.verdicts.table_claims import ASCENTS, LENGTHS

REGISTER = Register()


def _private(e: Evidence, task: str, low: float, high: float) -> Judgement:
    """Accuracy of the best DP-SGD less that of the best unlearning, both chosen on the other seeds."""
    runs = e.tradeoff[e.tradeoff.task == task]
    found = fig03_tradeoff.best_against_best(runs)
    gap = interval(found.private - found.unlearned)
    chosen = (
        f"{found.private.mean():.1f} and {found.unlearned.mean():.1f} %, where the loss attack's AUC is at most {fig03_tradeoff.HIDDEN:g}; "
        "for every seed the settings were chosen on the other seeds"
    )
    if not len(able(runs, e.above_chance)):
        start = runs[runs.method == ORIGINAL].accuracy.mean()
        line = (
            f"The original model answers {start:.1f} %, fewer than {ABOVE_CHANCE:g} points above chance, so that unlearning has nothing to "
            f"lose; the best DP-SGD answers {found.private.mean():.1f} %."
        )
        seen = [
            ("accuracy of the best DP-SGD less that of the best of the paper's unlearning methods", Effect(gap, len(found)))
        ]
        return untestable(line, seen, "points", chosen)
    difference = Comparison(
        f"accuracy of the best DP-SGD less that of the best of the paper's unlearning methods, {len(found)} seeds:",
        gap,
        low,
        high,
        unit="points",
        digits=1,
    )
    return judged(
        [difference],
        f"The best DP-SGD answers {found.private.mean():.1f} % right and the best unlearning {found.unlearned.mean():.1f} %, in the mean "
        f"over {len(found)} seeds.",
        chosen,
    )


@REGISTER.claim(
    "Figure 3a, p. 10",
    "fig03",
    earlier=NOT_REPRODUCED,
    reason="the original model answers too few questions for unlearning to lose any",
)
def private_lambada(e: Evidence) -> Judgement:
    """DP-SGD nearly dominates unlearning on LAMBADA: its best is at most 2.5 points below."""
    return _private(e, "lambada", -MARGIN, math.inf)


@REGISTER.claim(
    "Figure 3b, p. 10",
    "fig03",
    earlier=NOT_REPRODUCED,
    reason="the best settings are compared, not means over the grid, and three seeds do not decide",
)
def private_piqa(e: Evidence) -> Judgement:
    """DP-SGD is poor on PIQA: unlearning keeps more accuracy where both hide the samples."""
    return _private(e, "piqa", -math.inf, 0)


@REGISTER.claim("Figure 4, p. 12", "fig04", earlier=NOT_REPRODUCED)
def weight_histograms(e: Evidence) -> Judgement:
    """The weights' histogram after ascent is further from retraining's than after the Fisher methods."""
    mean = fig04_weights.table(e.records(weights())).groupby("method")["divergence, float32"].mean()
    printed = paper.printed("weight_divergence").set_index("method").divergence
    words = [f"{paper.METHODS[m]} {mean[m]:.3f} nats (paper {printed[m]})" for m in printed.index]
    largest = math.log(paper.WEIGHTS + paper.BINS)
    bound = (
        f"with one count added to every bin, as here, no divergence of {paper.WEIGHTS} weights in {paper.BINS} bins exceeds "
        f"{largest:.1f} nats"
    )
    seen = " and ".join(f"{mean[m]:.3f}" for m in ("gradient-ascent", "fisher-removal"))
    return untestable(f"After ascent and Fisher Removal it is {seen} nats away {LENGTHS}.", note="; ".join([*words, bound]))


def _fourth(e: Evidence, method: str, measure: str) -> Effect:
    """A measure after four cycles; the change of accuracy only where the original model has some to lose."""
    last = e.cycles[(e.cycles.method == method) & (e.cycles.removed == 4 * NANO.cycle_size)]
    if measure == "delta_acc":
        last = able(last, e.above_chance)
    values = last.set_index(["task", "family", "size", "seed"])[measure]
    return Effect(clustered(values), len(values))


@REGISTER.claim("Figure 5, p. 12", "fig05", earlier=NOT_REPRODUCED)
def forgetting_over_cycles(e: Evidence) -> Judgement:
    """Fisher Forgetting keeps utility over four cycles."""
    effect = _fourth(e, "fisher-forgetting", "delta_acc")
    printed = paper.printed("cycles")
    printed = printed[printed.task.isin(able(e.cycles, e.above_chance).task)]
    theirs = printed[printed.method == "fisher-forgetting"].groupby("task").accuracy.agg(lambda a: a.iloc[-1] - a.iloc[0])
    words = ", ".join(f"{value:+.1f}" for value in theirs) + " from the first cycle to the fourth"
    what = f"ΔACC after four cycles, {effect.cells} runs:"
    line = f"After four cycles accuracy has changed by {effect.ours.mean:+.2f} points in the mean over {effect.cells} runs."
    return judged([Comparison(what, effect.ours, -MARGIN, MARGIN, unit="points", theirs=words)], line)


@REGISTER.claim("Figure 5, p. 12", "fig05", earlier=NOT_REPRODUCED)
def collapse_over_cycles(e: Evidence) -> Judgement:
    """Ascent and Fisher Removal wreck the model over four cycles."""
    methods = ("fisher-removal", *ASCENTS)
    seen = [(f"rise of the retain loss after {paper.METHODS[m]}", _fourth(e, m, "retain_rise")) for m in methods]
    first, raw, adam = (f"{effect.ours.mean:+.2f}" for _, effect in seen)
    line = f"The retain loss moves by {first} nats (Fisher Removal), {raw} (ascent, raw) and {adam} (through Adam) {LENGTHS}."
    return untestable(line, seen, "nats")


@REGISTER.claim("Figure 6, p. 12", "fig06", earlier=NOT_REPRODUCED)
def onion_effect(e: Evidence) -> Judgement:
    """The onion effect: samples that stay become more exposed when the most exposed are removed."""
    table = fig06_onion.table(e.records(onion()))
    change = interval(table["mean of the rest, after"] - table["mean of the rest, before"])
    above = table["above after, of the rest"]
    return judged(
        [Comparison(f"change of the mean exposure of the samples that stay, {len(table)} seeds:", change, low=0, unit="nats")],
        f"The mean exposure of the samples that stay changes by {change.mean:+.2f} nats in the mean over {len(table)} seeds.",
        f"{above.min()} to {above.max()} of them rise above the cutoff",
    )


def _moved(e: Evidence, method: str) -> Effect:
    """How far a method moves the mean exposure of all training samples."""
    table = fig07_exposure.table(e.records(exposure_histograms())).set_index("seed")
    change: pd.Series = (
        table[table.method == method]["mean, all"] - table[table.method == ORIGINAL]["mean, all"]  # one value for each seed
    )
    printed = paper.printed("exposure_summary").set_index("method")["mean"]
    theirs = float(printed[method] - printed[ORIGINAL])
    return Effect(interval(change), len(change), Interval(theirs, math.nan, math.nan))


@REGISTER.claim("Figure 7, p. 15", "fig07", earlier=NOT_REPRODUCED)
def exposure_after_retraining(e: Evidence) -> Judgement:
    """Retraining leaves the mean exposure of the training set where it was, to half a nat of the printed change."""
    effect = _moved(e, "retrain")
    assert effect.paper is not None
    theirs = effect.paper.mean
    what = f"change of the mean exposure of all training samples, {effect.cells} seeds:"
    low, high = round(theirs - NATS, 2), round(theirs + NATS, 2)
    line = f"The mean exposure changes by {effect.ours.mean:+.2f} nats, where the paper has {theirs:+.2f}."
    return judged([Comparison(what, effect.ours, low, high, unit="nats", theirs=f"{theirs:+.2f}")], line)


@REGISTER.claim("Figure 7, p. 15", "fig07", earlier=NOT_REPRODUCED)
def exposure_after_unlearning(e: Evidence) -> Judgement:
    """Ascent and Fisher Removal leave the mean exposure of the training set where it was."""
    seen = [(paper.METHODS[method], _moved(e, method)) for method in ("gradient-ascent", "fisher-removal")]
    ascent, removal = (f"{effect.ours.mean:+.2f}" for _, effect in seen)
    return untestable(f"It moves by {ascent} nats (ascent) and {removal} nats (Fisher Removal) {LENGTHS}.", seen, "nats")
