"""The rows of the table in methods.py: methods, their fixed options, and the ladders that tuning chooses from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tuning
from tuning import Ladder

MATCHED = {"retain_limit": None}
# in both cases up to 4,800 gradients, a quarter more than retraining takes (16 epochs of 240 texts)
ASCENT = {"stop": "calibrate", "epochs": 300, "forget_batch_size": None, **MATCHED}
HELD = {**ASCENT, "epochs": 100, "retain_batch_size": 32}

RETRAINING = 16 * 240
"""What retraining costs: epochs times retained texts."""
GIVEN_EPOCHS = 24
"""So many epochs over the 160 retained texts that a method is given cost as much."""
SHARES = (0.1, 0.25, 0.5)
DAMPING = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RATE = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WEIGHT = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
NPO_BETA = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SIMNPO_BETA = (0.1, 0.3, 1.0, 2.5, 4.5, 9.0, 20.0)
SHARE = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99)
POWER = (0.1, 0.3, 1.0, 3.0)
LOWERED = (1.0, 3.0, 10.0, 30.0)
STEERING = (0.1, 0.3, 1.0, 3.0, 6.5, 13.0, 26.0)
QUANTILE = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
CLIPPING = (1e-4, 1e-3, 0.01, 0.04, 0.1, 1.0, 10.0, 100.0)
EPOCHS = (1, 2, 5, 10, 20, 50, 100, 200, 300)


@dataclass(frozen=True)
class Row(tuning.Row):
    """One line of the table, with the budget that it is tuned within, and a note."""

    share: float | None = None
    """The most that it may cost on the tuning seed, as a share of retraining."""
    note: str = ""
    """What it needs beyond the inputs that its method names."""


def removal(label: str, steps: int, damping: float | None = None, **options: Any) -> Row:
    """Fisher Removal with its step calibrated, its damping tuned from there."""
    ladders = {} if damping is None else {"relative_damping": Ladder(DAMPING, damping)}
    return Row(label, "fisher-removal", {**options, "step": "calibrate", "steps": steps, **MATCHED}, ladders)


def held(label: str, method: str, rate: float, weight: float, share: float | None = None, note: str = "", **more: Any) -> Row:
    """A first-order method with a retain term, of which at most a share of retraining's cost may be spent; ladders among `more` are
    tuned, too."""
    ladders = {"learning_rate": Ladder(RATE, rate), "retain_weight": Ladder(WEIGHT, weight)}
    ladders |= {name: value for name, value in more.items() if isinstance(value, Ladder)}
    label = f"{label}, {100 * share:g} %" if share else label
    return Row(
        label, method, {**HELD, **{name: value for name, value in more.items() if name not in ladders}}, ladders, share, note
    )


def constrained(share: float | None = None, label: str = "", **options: Any) -> Row:
    """Constrained Newton within a share of retraining's cost."""
    budget = {"budget": share, "retraining_epochs": GIVEN_EPOCHS} if share else {}
    label = f"constrained-newton{label}, " + (f"{100 * share:g} %" if share else "default")
    label += ", written texts" if options.get("written") else ""
    return Row(label, "constrained-newton", {**budget, **options, **MATCHED})


ROWS = (
    Row("fine-tuning, one epoch", "finetune", {"epochs": 1, "learning_rate": 1e-3}),
    removal("gradient, one step", 1, solver="identity"),
    removal("fisher-removal, paper (damping 1), one step", 1, preset="paper"),
    removal("fisher-removal, diagonal, one step", 1, 1e-3, solver="diagonal"),
    removal("fisher-removal, woodbury (full matrix), one step", 1, 1e-3, solver="woodbury", precision="float64"),
    removal("fisher-removal, blocks of 48, one step", 1, 1e-2, solver="block"),
    Row(
        "kfac-newton, one step",
        "kfac-newton",
        {"step": "calibrate", "steps": 1, **MATCHED},
        {"relative_damping": Ladder(DAMPING, 1e-2)},
    ),
    Row(
        "newton (CG on Gauss-Newton, 32 texts), one step",
        "newton",
        {"step": "calibrate", "steps": 1, "retain_samples": 32, "max_steps": 20, **MATCHED},
        {"damping": Ladder(DAMPING, 1e-4)},
    ),
    Row(
        "woodbury-newton (no retain data), one step",
        "woodbury-newton",
        {"step": "calibrate", **MATCHED},
        {"share": Ladder(SHARE, 0.25, lowest=True)},
    ),
    Row(
        "fisher-forgetting, blocks of 48",
        "fisher-forgetting",
        {"step": "calibrate", "terms": 64, "relative_damping": 1e-2, **MATCHED},
    ),
    removal("gradient, 4 steps", 4, solver="identity"),
    Row("fisher-removal, blocks of 48, 4 steps", "fisher-removal", {"solver": "block", "steps": 4, **MATCHED}),
    Row("fisher-removal, default (K-FAC, 4 steps)", "fisher-removal", MATCHED),
    Row("gradient-ascent, raw", "gradient-ascent", {**ASCENT, "optimizer": "sgd"}, {"step": Ladder(RATE, 1e-2)}),
    Row("gradient-ascent, Adam", "gradient-ascent", {**ASCENT, "optimizer": "adam"}, {"step": Ladder(RATE, 1e-4)}),
    *(held("gradient-difference, NLL", "gradient-difference", 3e-4, 30.0, share) for share in SHARES),
    *(held("gradient-difference, KL", "gradient-difference", 3e-4, 30.0, share, retain_loss="kl") for share in SHARES),
    *(held("npo, with KL term", "npo", 3e-4, 30.0, share, retain_loss="kl", beta=Ladder(NPO_BETA, 0.1)) for share in SHARES),
    *(
        held("simnpo, with KL term", "simnpo", 3e-4, 3.0, share, retain_loss="kl", beta=Ladder(SIMNPO_BETA, 4.5))
        for share in SHARES
    ),
    constrained(0.05),
    constrained(0.075),
    constrained(),
    constrained(0.1),
    constrained(0.15),
    constrained(0.25, written=True),
    constrained(0.25),
    constrained(0.25, label=" and the NLL to forget by", q=0.0, written=True),
    constrained(0.5, written=True),
)


OWN_MODEL = "a model of its own: the numbers are of that before and after, and it has no goal to reach"
OTHERS = (
    held("wga, with KL term", "wga", 3e-4, 10.0, 0.25, retain_loss="kl", epochs=30, beta=Ladder(POWER, 1.0)),
    Row(
        "undial (no retain data)",
        "undial",
        ASCENT,
        {"learning_rate": Ladder(RATE, 3e-4), "beta": Ladder(LOWERED, 10.0)},
    ),
    held("undial, with KL term", "undial", 3e-4, 3.0, 0.25, retain_loss="kl", epochs=30, beta=Ladder(LOWERED, 10.0)),
    held("dpo with refusals, with KL term", "dpo", 1e-3, 3.0, 0.5, retain_loss="kl", epochs=25, beta=Ladder(NPO_BETA, 0.01)),
    held("rmu", "rmu", 3e-3, 1.0, None, steering=Ladder(STEERING, 6.5)),
    held(
        "memflex, NLL",
        "memflex",
        3e-4,
        3.0,
        0.25,
        scale="quantile",
        located_on=16,
        mu=Ladder(QUANTILE, 0.7),
        sigma=Ladder((0.0, *QUANTILE[:-1]), 0.3, lowest=True),
    ),
    held("sophia, NLL", "sophia", 3e-4, 3.0, 0.25, rho=Ladder(CLIPPING, 0.04)),
    Row(
        "task-vector (no retain data)",
        "task-vector",
        MATCHED,
        {"learning_rate": Ladder(RATE, 1e-4), "epochs": Ladder(EPOCHS, 5)},
    ),
    held("eul", "eul", 3e-3, 10.0, 0.5),
    held(
        "delta-unlearning, KL",
        "delta-unlearning",
        3e-4,
        10.0,
        None,
        objective="kl",
        small="nano/{family}-s",
        note="a small model with the same vocabulary, which its gradients are of, and of the large one its logits alone",
    ),
    Row(
        "sisa, 4 shards of 3 slices",
        "sisa",
        {"own_shards": 4, "own_slices": 3},
        note=f"{OWN_MODEL}, an ensemble trained in shards and slices; all texts and checkpoints are kept",
    ),
    Row(
        "certified-newton, the head alone",
        "certified-newton",
        {"own_weight_decay": 0.1, "own_sigma": 3.0, "bound": "measured", "tolerance": 1e-3, "at_a_time": None},
        note=f"{OWN_MODEL}, a head on the features of the pretrained model, trained with noise; all texts are kept",
    ),
)
"""The other systems of the field, those with a retain term within one budget."""


LARGE_ROWS = (
    held("gradient-difference, KL", "gradient-difference", 3e-4, 10.0, 0.25, retain_loss="kl"),
    held("simnpo, with KL term", "simnpo", 3e-4, 0.3, 0.25, retain_loss="kl", beta=Ladder(SIMNPO_BETA, 2.5)),
    constrained(0.05),
    constrained(0.1),
    constrained(0.25, written=True),
    constrained(0.5, written=True),
)
"""The two best first-order methods, and constrained Newton."""
