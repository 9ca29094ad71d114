"""The paper's claims, each with its page, the notebook that looks at it, and how it is judged from the records.

A claim about a difference is reproduced when the 95 % interval of the mean difference over all cells (task, model, removed samples)
has the claimed side of zero to itself; one about "no change" when the interval lies within `MARGIN` points. Everything else is not
reproduced. What small models cannot show is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from unlearn_lib.reproduction import histograms, paper, units
from unlearn_lib.reproduction.evidence import Effect, Evidence, paired
from unlearn_lib.reproduction.grids import exposure_histograms, onion, weights
from unlearn_lib.reproduction.intervals import interval, text
from unlearn_lib.reproduction.profiles import NANO
from unlearn_lib.reproduction.scenarios import ORIGINAL, PRIVATE

MARGIN = 2.5
"""Points of accuracy that count as no change."""
PAPER_WEIGHTS, PAPER_BINS = 768 * 3072, 40_000  # Figure 4
ASCENTS = ("gradient-ascent", "gradient-ascent-adam")


class Verdict(StrEnum):
    """What became of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_TESTABLE = "not testable here"


Judgement = tuple[Verdict, str]


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, where, the id of the notebook, and the judgement of the records."""

    words: str
    page: str
    notebook: str
    judge: Callable[[Evidence], Judgement]


CLAIMS: list[Claim] = []
"""In the order of the paper's argument."""


def claim(words: str, page: str, notebook: str) -> Callable[[Callable[[Evidence], Judgement]], None]:
    """Register the judgement of a claim."""

    def register(judge: Callable[[Evidence], Judgement]) -> None:
        CLAIMS.append(Claim(words, page, notebook, judge))

    return register


def verdict(holds: bool) -> Verdict:
    """Reproduced or not."""
    return Verdict.REPRODUCED if holds else Verdict.NOT_REPRODUCED


def said(effect: Effect, unit: str, digits: int = 2) -> str:
    """An effect in words: ours with interval and number of cells, and the paper's."""
    words = f"{text(effect.ours, digits)} {unit} over {effect.cells} cells"
    return words if effect.paper is None else f"{words}; paper {text(effect.paper, digits)}"


def ratio(found: tuple[float, float, float]) -> str:
    """A positive quantity with its interval, without signs."""
    return text(found).replace("+", "")


def both_ascents(effect: Callable[[str], Effect], holds: Callable[[Effect], bool], unit: str) -> Judgement:
    """The paper does not say how ascent was run; a claim about it is reproduced when it holds for both readings."""
    found = {method: effect(method) for method in ASCENTS}
    words = "; ".join(f"{name}: {said(found[m], unit)}" for m, name in zip(ASCENTS, ("raw", "through Adam"), strict=True))
    return verdict(all(holds(one) for one in found.values())), words


def erasure(e: Evidence, method: str, other: str) -> tuple[Effect, str]:
    """The difference of two methods' ΔEXP, and in words with what the loss attack still sees after the first."""
    gap, seen = e.gap(method, other, "delta_exp"), e.level(method, "attack_auc")
    return gap, f"difference of ΔEXP {said(gap, 'nats')}; the loss attack still has an AUC of {ratio(seen.ours)}"


@claim("Fisher Removal lowers exposure further than retraining.", "Tables 3 to 5 and 9, p. 7, 8, 14", "table07")
def _erases_more_than_retraining(e: Evidence) -> Judgement:
    gap = e.gap("fisher-removal", "retrain", "delta_exp")
    return verdict(gap.below), f"difference of ΔEXP {said(gap, 'nats')}"


@claim("Of the approximate methods Fisher Removal erases most.", "Table 7, p. 9", "table07")
def _erases_most(e: Evidence) -> Judgement:
    others = ("finetune", *ASCENTS, "fisher-forgetting")
    gaps = {other: e.gap("fisher-removal", other, "delta_exp") for other in others}
    words = "; ".join(f"against {paper.METHODS[m]}: {said(gap, 'nats')}" for m, gap in gaps.items())
    return verdict(all(gap.below for gap in gaps.values())), f"difference of ΔEXP {words}"


@claim("Fisher Removal costs less accuracy than gradient ascent.", "Tables 3 to 5 and 9, p. 7, 8, 14", "table07")
def _milder_than_ascent(e: Evidence) -> Judgement:
    return both_ascents(lambda m: e.gap("fisher-removal", m, "delta_acc"), lambda gap: gap.above, "points (difference of ΔACC)")


@claim("Gradient ascent costs accuracy once 256 samples are removed.", "Tables 3 to 5 and 9, p. 7, 8, 14", "table03")
def _ascent_costs(e: Evidence) -> Judgement:
    return both_ascents(lambda m: e.level(m, "delta_acc", 2 * NANO.cycle_size), lambda level: level.below, "points (ΔACC)")


@claim("A second cycle of Fisher Removal harms utility.", "Tables 3 to 5 and 9, p. 7, 8, 14; Figure 5, p. 12", "fig05")
def _second_cycle_harms(e: Evidence) -> Judgement:
    accuracy, loss = e.second_cycle("fisher-removal", "delta_acc"), e.second_cycle("fisher-removal", "retain_rise")
    return verdict(accuracy.below), f"ΔACC moves by {said(accuracy, 'points')}; the retain loss by {said(loss, 'nats')}"


@claim("Fisher Forgetting keeps utility.", "Tables 3 to 5 and 9, p. 7, 8, 14", "table03")
def _forgetting_keeps(e: Evidence) -> Judgement:
    level = e.level("fisher-forgetting", "delta_acc")
    return verdict(level.within(MARGIN)), f"ΔACC {said(level, 'points')}"


@claim("Fisher Forgetting erases more than finetuning.", "Table 7, p. 9", "table07")
def _forgetting_erases(e: Evidence) -> Judgement:
    gap, words = erasure(e, "fisher-forgetting", "finetune")
    return verdict(gap.below), words


@claim("Finetuning does not unlearn.", "Tables 3 to 5 and 9, p. 7, 8, 14", "table03")
def _finetuning_does_not(e: Evidence) -> Judgement:
    gap, words = erasure(e, "finetune", "retrain")
    return verdict(gap.above), words


@claim("Retraining keeps accuracy.", "Tables 3 to 5 and 9, p. 7, 8, 14", "table03")
def _retraining_keeps(e: Evidence) -> Judgement:
    level = e.level("retrain", "delta_acc")
    return verdict(level.within(MARGIN)), f"ΔACC {said(level, 'points')}"


@claim("Retraining hardly lowers exposure (mean change as printed).", "Tables 3 to 5 and 9, p. 7, 8, 14", "erasure")
def _retraining_barely_erases(e: Evidence) -> Judgement:
    level = e.level("retrain", "delta_exp")
    assert level.paper is not None
    return verdict(level.ours[1] <= level.paper[0] <= level.ours[2]), f"ΔEXP {said(level, 'nats')}"


@claim(
    "Second-order information matters: the inverse Fisher at the printed damping of 1 does less damage than the gradient.",
    "title, p. 1; equations 7 and 8, p. 4",
    "damping",
)
def _inverse_fisher_matters(e: Evidence) -> Judgement:
    runs = e.damping
    printed = runs[runs.damping == 1.0]
    effect = paired(printed, runs[runs.solver == "identity"], "damage")
    cosine = printed.cosine_to_gradient.min()
    return verdict(effect.below), (
        f"damage ratio with the inverse Fisher less that with the identity in its place: {text(effect.ours, 4)} over "
        f"{effect.cells} runs; cosine of the step and the gradient at least {cosine:.6f}"
    )


@claim("Second-order information matters, at a damping that we chose.", "title, p. 1", "damping")
def _curvature_matters(e: Evidence) -> Judgement:
    ours, plain = e.blocks[(e.blocks.width == 48) & (e.blocks.terms == 256)], e.damping[e.damping.solver == "identity"]
    effect = paired(ours, plain, "damage")
    return verdict(effect.below), (
        f"damage ratio with blocks of 48 at a damping of 1e-2 of the mean diagonal {ours.damage.mean():.2f}, with the gradient "
        f"{plain.damage.mean():.2f}, difference {text(effect.ours)} over {effect.cells} runs"
    )


@claim("Cost: retraining and finetuning O(r), ascent O(t), the Fisher methods O(t m).", "Table 6, p. 8", "table06")
def _counted(e: Evidence) -> Judgement:
    """O(r) for retraining and finetuning, O(t) for ascent, O(t m) for the Fisher methods, as gradients in the records."""
    runs = e.utility
    kept = runs.task.map(NANO.train_sizes) - runs.removed
    expected = {
        "retrain": 5 * kept,
        "finetune": kept,
        "gradient-ascent": NANO.cycle_size,
        "fisher-removal": kept + NANO.cycle_size,
        "fisher-forgetting": kept,
    }
    right = {name: (runs.gradient_evaluations == count)[runs.method == name].all() for name, count in expected.items()}
    return verdict(all(right.values())), (
        "gradients in every run: retraining 5 r, finetuning r, ascent t, removal t + b m, forgetting b m, with b samples of D+ in "
        f"a term and one batch of D-: {sum(right.values())} of {len(right)} methods exactly"
    )


@claim("The Fisher methods are faster than retraining.", "Figure 2, p. 8; Table 7, p. 9", "fig02")
def _faster_than_retraining(e: Evidence) -> Judgement:
    words, slowest = [], 0.0
    for method in ("fisher-removal", "fisher-forgetting"):
        found, theirs = e.seconds(method, "retrain")
        slowest = max(slowest, found[2])
        words.append(f"{paper.METHODS[method]} {ratio(found)} of retraining's (paper {theirs.min():.2f} to {theirs.max():.2f})")
    return verdict(slowest < 1), f"seconds of a cycle, small models: {'; '.join(words)}"


@claim("Fisher Removal is slower than finetuning.", "Figure 2, p. 8; Table 7, p. 9", "fig02")
def _slower_than_finetuning(e: Evidence) -> Judgement:
    found, theirs = e.seconds("fisher-removal", "finetune")
    return verdict(found[1] > 1), (
        f"seconds of a cycle, small models: {ratio(found)} of finetuning's (paper {theirs.min():.2f} to {theirs.max():.2f})"
    )


def private_against_unlearning(e: Evidence, task: str) -> tuple[tuple[float, float, float], str]:
    """Accuracy of DP-SGD less that of the paper's unlearning methods, each a mean over all strengths that hide the samples (mean AUC
    of the loss attack at most 0.6): the interval over the seeds, and the effect in words."""
    runs = e.tradeoff[(e.tradeoff.task == task) & e.tradeoff.strength.notna()].set_index(["method", "strength"])
    attack = runs.groupby(level=["method", "strength"]).attack_auc.mean()
    hiding = runs.loc[attack[attack <= 0.6].index].reset_index()
    private, other = hiding[hiding.method == PRIVATE], hiding[hiding.method != PRIVATE]
    found = interval(private.groupby("seed").accuracy.mean() - other.groupby("seed").accuracy.mean())
    return found, (
        f"accuracy of DP-SGD {private.accuracy.mean():.1f} % (ε up to {private.strength.max():g}), of unlearning "
        f"{other.accuracy.mean():.1f} %, where the attack's AUC is at most 0.6; "
        f"difference {text(found, 1)} points over {hiding.seed.nunique()} seeds"
    )


@claim("DP-SGD nearly dominates unlearning on LAMBADA.", "Figure 3a, p. 10", "fig03")
def _private_lambada(e: Evidence) -> Judgement:
    found, words = private_against_unlearning(e, "lambada")
    return verdict(found[1] >= -MARGIN), words


@claim("DP-SGD is poor on PIQA: unlearning keeps more accuracy where both hide the samples.", "Figure 3b, p. 10", "fig03")
def _private_piqa(e: Evidence) -> Judgement:
    found, words = private_against_unlearning(e, "piqa")
    return verdict(found[2] < 0), words


@claim(
    "The weights' histogram after ascent is further from retraining's than after the Fisher methods.",
    "Figure 4, p. 12",
    "fig04",
)
def _weight_histograms(e: Evidence) -> Judgement:
    own = histograms.weight_divergences(e.records(weights())).groupby("method")["divergence, float32"]
    lowest, mean, highest = own.min(), own.mean(), own.max()
    printed = paper.printed("weight_divergence").set_index("method").divergence
    words = "; ".join(f"{paper.METHODS[m]} {mean[m]:.3f} nats (paper {printed[m]})" for m in printed.index)
    largest = math.log(PAPER_WEIGHTS + PAPER_BINS)
    return verdict(lowest["gradient-ascent"] > highest[["fisher-removal", "fisher-forgetting"]].max()), (
        f"{words}; with one count added to every bin, as here, no divergence of {PAPER_WEIGHTS} weights in {PAPER_BINS} bins exceeds "
        f"{largest:.1f} nats"
    )


@claim("Fisher Forgetting keeps utility over four cycles.", "Figure 5, p. 12", "fig05")
def _forgetting_over_cycles(e: Evidence) -> Judgement:
    last = e.cycles[(e.cycles.method == "fisher-forgetting") & (e.cycles.removed == 4 * NANO.cycle_size)]
    found = interval(last.delta_acc)
    printed = paper.printed("cycles")
    theirs = printed[printed.method == "fisher-forgetting"].groupby("task").accuracy.agg(lambda a: a.iloc[-1] - a.iloc[0])
    return verdict(found[1] >= -MARGIN and found[2] <= MARGIN), (
        f"ΔACC after four cycles {text(found)} points over {len(last)} runs (paper, from the first cycle to the fourth: "
        f"{', '.join(f'{value:+.1f}' for value in theirs)})"
    )


@claim(
    "Ascent and Fisher Removal wreck the model over four cycles (retain loss up by more than half a nat).",
    "Figure 5, p. 12",
    "fig05",
)
def _collapse_over_cycles(e: Evidence) -> Judgement:
    words, holds, fourth = [], True, e.cycles[e.cycles.removed == 4 * NANO.cycle_size]
    for method in ("fisher-removal", *ASCENTS):
        last = fourth[fourth.method == method]
        found = interval(last.retain_rise)
        holds = holds and found[1] > 0.5
        words.append(f"{paper.METHODS[method]} {text(found)} nats")
    return verdict(holds), f"rise of the retain loss after four cycles, over {len(last)} runs each: {'; '.join(words)}"


@claim("The onion effect: samples that stay become more exposed when the most exposed are removed.", "Figure 6, p. 12", "fig06")
def _onion_effect(e: Evidence) -> Judgement:
    table = histograms.onion_table(e.records(onion()))
    change = interval(table["mean of the rest, after"] - table["mean of the rest, before"])
    above = table["above after, of the rest"]
    return verdict(change[1] > 0), (
        f"mean exposure of the samples that stay moves by {text(change)} nats over {len(table)} seeds; {above.min()} to {above.max()} of "
        "them rise above the cutoff"
    )


@claim("Unlearning leaves the mean exposure of the training set where it was (to half a nat).", "Figure 7, p. 15", "fig07")
def _exposure_of_the_rest(e: Evidence) -> Judgement:
    table = histograms.exposure_table(e.records(exposure_histograms()))
    start = table[table.method == ORIGINAL].set_index("seed")["mean, all"]
    words, holds = [], True
    printed = paper.printed("exposure_summary").set_index("method")["mean"]
    for method in ("retrain", "gradient-ascent", "fisher-removal"):
        found = interval(table[table.method == method].set_index("seed")["mean, all"] - start)
        theirs = printed[method] - printed[ORIGINAL]
        holds = holds and found[1] >= theirs - 0.5 and found[2] <= theirs + 0.5
        words.append(f"{paper.METHODS[method]} {text(found)} (paper {theirs:+.2f})")
    return verdict(holds), f"mean exposure of all training samples moves by, in nats: {'; '.join(words)}"


@claim("Exposure is computed with the logarithm to base 2.", "Equation 9, p. 5", "units")
def _bits(e: Evidence) -> Judgement:
    found = units.in_possible_bins(5.2).loc["nats"].to_dict()
    inside, samples = int(found["samples in such bins"]), int(found["samples"])
    holding, bins = int(found["bins that hold a value"]), int(found["bins"])
    return verdict(inside < samples / 2), (
        f"{inside} of the {samples} printed samples above 5.2 lie in the {holding} of {bins} bins that hold ln(1000 / rank); the "
        f"highest printed bin ends at {found['largest printed bin']:.2f}, ln 1000 is {found['largest possible']:.2f}, log2 1000 would be "
        f"{units.possible('bits', 1)[0]:.2f}"
    )


@claim("A GPU of 16 GB holds the inverse blocks of a model of 125M weights at B = 48.", "p. 4", "blocks")
def _memory(e: Evidence) -> Judgement:
    numbers = 125e6 * 48
    return Verdict.NOT_TESTABLE, (
        f"no such model here; B P numbers are {4 * numbers / 2**30:.1f} GiB in float32 and {2 * numbers / 2**30:.1f} GiB in half precision"
    )


@claim("All of it holds for models of 125M to 2.7B weights.", "p. 6", "table03")
def _scale(e: Evidence) -> Judgement:
    return Verdict.NOT_TESTABLE, "our models have 0.2 to 2.9 million weights, trained from scratch on generated text"
