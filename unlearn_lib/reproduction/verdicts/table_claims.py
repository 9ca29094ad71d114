"""The claims of the paper's text and utility tables, each with its page, the notebook that looks at it, and how it is judged from
the records, by the rule of `judging`."""

from __future__ import annotations

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits import exam_units
from unlearn_lib.reproduction.exhibits.intervals import clustered, proportion
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.verdicts.evidence import CELL, Effect, Evidence, paired_ratio
from unlearn_lib.reproduction.verdicts.judging import (
    LESS,
    MARGIN,
    NATS,
    NOT_REPRODUCED,
    REPRODUCED,
    Comparison,
    Judgement,
    Register,
    above,
    below,
    judged,
    ratio_of,
    untestable,
    within,
)

ASCENTS = ("gradient-ascent", "gradient-ascent-adam")
UTILITY = "Tables 3 to 5 and 9, p. 7, 8, 14"
REGISTER = Register()
LENGTHS = "at the step lengths of these runs"
"""Said of what was seen where a claim cannot be tested: the page of verdicts says once how the lengths were chosen, and why."""


def _mean(effect: Effect) -> str:
    return f"{effect.ours.mean:+.2f}"


def _ascents(effect: str, gaps: dict[str, Effect]) -> list[tuple[str, Effect]]:
    return [(f"{effect} {name}", gaps[method]) for method, name in zip(ASCENTS, ("raw", "through Adam"), strict=True)]


@REGISTER.claim(
    UTILITY, "table07", earlier=NOT_REPRODUCED, reason="circular: the step length was chosen so that it reaches retraining"
)
def erases_more_than_retraining(e: Evidence) -> Judgement:
    """Fisher Removal lowers exposure further than retraining."""
    gap = e.gap("fisher-removal", "retrain", "delta_exp")
    return untestable(f"Its ΔEXP is {_mean(gap)} nats off retraining's {LENGTHS}.", [("difference of ΔEXP", gap)], "nats")


@REGISTER.claim("Table 7, p. 9", "table07", earlier=NOT_REPRODUCED)
def erases_most(e: Evidence) -> Judgement:
    """Of the approximate methods Fisher Removal erases most."""
    others = ("finetune", *ASCENTS, "fisher-forgetting")
    gaps = [(f"ΔEXP less that of {paper.METHODS[m]}", e.gap("fisher-removal", m, "delta_exp")) for m in others]
    raw, adam = (_mean(e.gap("fisher-removal", m, "delta_exp")) for m in ASCENTS)
    line = f"Its ΔEXP less that of ascent is {raw} nats (raw) and {adam} nats (through Adam) {LENGTHS}."
    return untestable(line, gaps, "nats")


@REGISTER.claim(UTILITY, "table07", earlier=NOT_REPRODUCED)
def milder_than_ascent(e: Evidence) -> Judgement:
    """Fisher Removal costs less accuracy than gradient ascent."""
    gaps = {method: e.gap("fisher-removal", method, "delta_acc") for method in ASCENTS}
    raw, adam = (_mean(gaps[method]) for method in ASCENTS)
    line = f"Its ΔACC less that of ascent is {raw} points (raw) and {adam} points (through Adam) {LENGTHS}."
    return untestable(line, _ascents("ΔACC less that of ascent", gaps), "points")


@REGISTER.claim(UTILITY, "table03", earlier=NOT_REPRODUCED)
def ascent_costs(e: Evidence) -> Judgement:
    """Gradient ascent costs accuracy once 256 samples are removed."""
    levels = {method: e.level(method, "delta_acc", 2 * NANO.cycle_size) for method in ASCENTS}
    raw, adam = (_mean(levels[method]) for method in ASCENTS)
    line = f"ΔACC is {raw} points (raw) and {adam} points (through Adam) {LENGTHS}."
    return untestable(line, _ascents("ΔACC", levels), "points")


@REGISTER.claim(f"{UTILITY}; Figure 5, p. 12", "fig05", earlier=REPRODUCED)
def second_cycle_harms(e: Evidence) -> Judgement:
    """A second cycle of Fisher Removal harms utility."""
    moved = e.second_cycle("fisher-removal", "delta_acc")
    return untestable(f"ΔACC moves by {_mean(moved)} points {LENGTHS}.", [("ΔACC moves by", moved)], "points")


def _kept(e: Evidence, method: str) -> Judgement:
    """Whether a method leaves accuracy where it was, over the cells that can show a loss."""
    level = e.level(method, "delta_acc")
    line = f"Accuracy changes by {_mean(level)} points in the mean over the {level.cells} cells that can show a loss."
    return judged([within("ΔACC", level, "points", MARGIN)], line)


@REGISTER.claim(
    UTILITY,
    "table03",
    earlier=REPRODUCED,
    reason=(
        "tasks and models are clusters now, cells that cannot show a loss of accuracy are left out, and the interval leaves the margin"
    ),
)
def forgetting_keeps(e: Evidence) -> Judgement:
    """Fisher Forgetting keeps utility."""
    return _kept(e, "fisher-forgetting")


def _losses(e: Evidence, *methods: str) -> str:
    """What the losses say after some methods: the loss attack's AUC, and how far the forget loss rises."""
    before = clustered(e.originals.groupby(CELL).attack_auc.mean()).mean
    names = [paper.METHODS[method] for method in methods]
    aucs = [
        f"{e.level(method, 'attack_auc').ours.text(signed=False)} after {name}"
        for method, name in zip(methods, names, strict=True)
    ]
    rises = [
        f"{e.level(method, 'forget_rise').ours.mean:.3f} nats after {name}" for method, name in zip(methods, names, strict=True)
    ]
    return f"the loss attack's AUC is {before:.2f} before, {' and '.join(aucs)}; the forget loss rises by {' and '.join(rises)}"


@REGISTER.claim("Table 7, p. 9", "table07", earlier=REPRODUCED)
def forgetting_erases(e: Evidence) -> Judgement:
    """Fisher Forgetting's change of exposure is below finetuning's."""
    gap, attacks = (e.gap("fisher-forgetting", "finetune", measure) for measure in ("delta_exp", "attack_auc"))
    levels = [e.level(method, "delta_exp") for method in ("fisher-forgetting", "finetune")]
    both = "Neither erases, because both raise exposure" if min(level.ours.mean for level in levels) > 0 else "Exposure changes"
    line = f"{both}: by {_mean(levels[0])} nats (Fisher Forgetting) and {_mean(levels[1])} (finetuning)."
    more = "finetuning forgets more" if attacks.ours.low > 0 else "neither of them forgets more"
    notes = (
        f"by the loss attack {more}: the difference of AUC is {attacks.ours.text()}",
        _losses(e, "fisher-forgetting", "finetune"),
    )
    return judged([below("difference of ΔEXP", gap, "nats")], line, *notes)


@REGISTER.claim(UTILITY, "table03", earlier=REPRODUCED)
def finetuning_does_not(e: Evidence) -> Judgement:
    """Finetuning lowers exposure less than retraining."""
    levels = [e.level(method, "delta_exp") for method in ("finetune", "retrain")]
    line = f"Finetuning moves exposure by {_mean(levels[0])} nats, and retraining by {_mean(levels[1])}."
    gap = e.gap("finetune", "retrain", "delta_exp")
    return judged([above("difference of ΔEXP", gap, "nats")], line, _losses(e, "finetune", "retrain"))


@REGISTER.claim(
    UTILITY,
    "table03",
    earlier=REPRODUCED,
    reason="cells that cannot show a loss of accuracy are left out, and the interval of the others leaves the margin",
)
def retraining_keeps(e: Evidence) -> Judgement:
    """Retraining keeps accuracy."""
    return _kept(e, "retrain")


@REGISTER.claim(
    UTILITY,
    "erasure",
    earlier=NOT_REPRODUCED,
    reason=(
        "needs the interval within half a nat of the printed mean; before, an interval that held the printed "
        "mean would have done, so more noise would have helped"
    ),
)
def retraining_barely_erases(e: Evidence) -> Judgement:
    """Retraining hardly lowers exposure: its mean ΔEXP is the printed one, to half a nat."""
    level = e.level("retrain", "delta_exp")
    assert level.paper is not None
    line = f"Exposure changes by {_mean(level)} nats in the mean, where the paper has {level.paper.mean:+.2f}."
    return judged([within("ΔEXP", level, "nats", NATS, round(level.paper.mean, 2))], line)


def _less_damage(e: Evidence, printed: bool) -> tuple[Comparison, float, float]:
    """The damage ratio of a step with curvature over the gradient's, and both means."""
    blocks, damping = e.blocks, e.damping
    chosen = damping[damping.damping == 1.0] if printed else blocks[(blocks.width == 48) & (blocks.terms == 256)]
    plain = damping[damping.solver == "identity"]
    effect = paired_ratio(chosen, plain, "damage")
    comparison = Comparison(
        f"damage ratio over the gradient's, {effect.cells} runs:", effect.ours, high=LESS, signed=False, digits=3
    )
    return comparison, float(chosen.damage.mean()), float(plain.damage.mean())


@REGISTER.claim("title, p. 1; equations 7 and 8, p. 4", "damping", earlier=NOT_REPRODUCED)
def inverse_fisher_matters(e: Evidence) -> Judgement:
    """Second-order information matters: at the printed damping of 1 a step does at least a tenth less damage than the gradient."""
    comparison, _, _ = _less_damage(e, printed=True)
    cosine = e.damping[e.damping.damping == 1.0].cosine_to_gradient.min()
    line = (
        f"The step does {comparison.found.mean:.3f} times the gradient's damage, because it points where the gradient points."
    )
    return judged([comparison], line, f"cosine of the step and the gradient at least {cosine:.6f}")


@REGISTER.claim("only the title says so, p. 1", "blocks", ours=True)
def curvature_matters(e: Evidence) -> Judgement:
    """Second-order information matters at a damping of 1e-2 of the mean diagonal: a tenth less damage than the gradient or better."""
    comparison, ours, plain = _less_damage(e, printed=False)
    line = f"The step does {comparison.found.mean:.2f} times the gradient's damage."
    return judged([comparison], line, f"mean damage ratios {ours:.2f} and {plain:.2f}")


@REGISTER.claim("Equation 9, p. 5", "units", earlier=NOT_REPRODUCED)
def bits(e: Evidence) -> Judgement:
    """Exposure is computed with the logarithm to base 2."""
    found = exam_units.in_possible_bins(5.2).loc["nats"].to_dict()
    inside, samples = int(found["samples in such bins"]), int(found["samples"])
    holding, bins = int(found["bins that hold a value"]), int(found["bins"])
    share = ratio_of(
        f"share of the {samples} printed samples above 5.2 that lie in the {holding} of {bins} bins that hold ln(1000 / rank):",
        proportion(inside, samples),
        -float("inf"),
        0.5,
    )
    return judged(
        [share],
        f"{share.found.mean:.0%} of the most exposed printed samples lie in the few bins that the natural logarithm can reach.",
        f"the highest printed bin ends at {found['largest printed bin']:.2f}, ln 1000 is {found['largest possible']:.2f}, log2 1000 "
        f"would be {exam_units.possible('bits', 1)[0]:.2f}",
    )


STREAMED = (
    "a model of this size was run with this library's blocks of 48, which are formed a few at a time and forgotten again: a step with them "
    "took 13.8 GiB of one GPU beyond the model ({doc}`a model of the paper's size on one card <../notebooks/cluster>`)"
)
"""What was run beside the claim on memory; the record is `benchmarks/one_card.json`."""


@REGISTER.claim("p. 4", "blocks")
def memory(e: Evidence) -> Judgement:
    """A GPU of 16 GB holds the inverse blocks of a model of 125M weights at B = 48."""
    numbers = paper.SMALLEST * paper.WIDTH
    return untestable(
        "The recursion, which keeps every inverse, was not run on a model of this size; its B P numbers alone are "
        f"{4 * numbers / 2**30:.1f} GiB in float32 and {2 * numbers / 2**30:.1f} GiB in half precision.",
        note=STREAMED,
    )


@REGISTER.claim("p. 6", "table03")
def scale(e: Evidence) -> Judgement:
    """All of it holds for models of 125M to 2.7B weights."""
    return untestable("The models here have 0.2 to 2.9 million weights and were trained from scratch on generated text.")
