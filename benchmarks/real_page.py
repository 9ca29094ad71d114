"""The records of real.py as a page of Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from methods_page import named, tried
from real_lab import machine

COLUMNS = {
    "damage_ratio": "damage ratio, outside",
    "used_damage_ratio": "damage ratio, used",
    "same_damage_ratio": "damage ratio, same person",
    "forget_loss": "forget",
    "retain_loss": "outside",
    "holdout_loss": "never learnt",
    "forget_kl": "KL forget",
    "retain_kl": "KL outside",
    "holdout_kl": "KL never learnt",
    "attack_auc": "loss attack AUC",
    "extraction_strength": "extraction strength",
    "forget_probability": "P(answer), forgotten",
    "retain_probability": "P(answer), outside",
    "same_probability": "P(answer), same person",
    "world_facts": "world facts",
    "prose_loss": "prose",
    "cost": "cost",
    "gradient_evaluations": "gradients",
    "seconds": "seconds",
    "peak_memory_bytes": "GiB",
}


TITLES = {
    "knowundo": "KnowUnDo: private facts go, public facts stay",
    "tofu, forget01": "All of TOFU: forget01",
    "tofu, forget05": "All of TOFU: forget05",
    "tofu, forget10": "All of TOFU: forget10",
}
WHAT = {
    "knowundo": "Ten people of KnowUnDo's privacy half (arXiv 2407.01920) are learnt, the private facts of one are forgotten, and no "
    "method sees the public facts of the same person, nor anything on the two people outside.",
    "split": "All authors of TOFU are learnt and those of the split are forgotten; two of the others are outside.",
}


def page(gathered: dict[str, Any], what: str) -> str:
    """The table: means over the draws of authors and, for the damage outside, the standard deviation; and what tuning tried."""
    rows = gathered["rows"]
    lines = [
        "# A real language model at the same forgetting",
        "",
        f"Made by `python benchmarks/real.py table`; the numbers are those of `real.json`. {what}",
        "",
        f"{machine(gathered['environment'])}, torch {gathered['environment']['torch']}, float32. Damage ratio: rise of",
        "the retain loss over rise of the forget loss. KL: mean divergence of the next token's distribution from the retrained model's,",
        "in nats. P(answer): the geometric mean of its tokens' probabilities, as in TOFU; world facts: the right answer's share of it",
        "among four; prose: the loss on 16 texts that this repository generates, unlike TOFU. GiB: growth of memory during the run.",
        "",
        *_table(rows),
        *(line for name, table in gathered.get("others", {}).items() for line in _other(name, table)),
        "",
        "## What was tuned",
        "",
        "On a draw of authors of its own: the value, the damage ratio outside, and the cost.",
        "",
    ]
    for label, entry in rows.items():
        tries = [tried(run, entry["chosen"]) for run in entry["tuning"]]
        if tries:
            end = " The chosen value is at the end of its ladder." if entry["at_the_end_of_a_ladder"] else ""
            lines.append(f"* {label}: {'; '.join(tries)}.{end}")
    return "\n".join(lines) + "\n"


def _table(rows: dict[str, Any]) -> list[str]:
    """The rows; columns that none of them has are left out."""
    columns = [name for name in COLUMNS if any(name in run for entry in rows.values() for run in entry["seeds"])]
    lines = [
        "| method | draws | " + " | ".join(COLUMNS[name] for name in columns) + " | tuned |",
        "|---|---|" + "---|" * (len(columns) + 1),
    ]
    machines: dict[str, list[str]] = {}
    for label, entry in rows.items():
        seeds = entry["seeds"]
        cells = [_cell(name, [run[name] for run in seeds if run.get(name) is not None]) for name in columns]
        chosen = ", ".join(f"{name} {value:g}" for name, value in entry["chosen"].items())
        lines.append(f"| {named(label, seeds)} | {len(seeds)} | " + " | ".join(cells) + f" | {chosen} |")
        for elsewhere in sorted({run["machine"] for run in seeds if "machine" in run}):
            machines.setdefault(elsewhere, []).append(label)
    for elsewhere, labels in machines.items():
        lines += [
            "",
            f"Computed on {elsewhere}, with an original and a retrained model of its own: {'; '.join(labels)}. Seconds are of that "
            "machine, and trainings on two machines do not end with the same digits.",
        ]
    return lines


def _other(name: str, table: dict[str, Any]) -> list[str]:
    """The section of another task."""
    what = WHAT["knowundo" if name == "knowundo" else "split"]
    where = f"{machine(table['environment'])}, torch {table['environment']['torch']}."
    told = f"{what} Retraining takes {table['retraining']:g}. The learning rates are those that were tuned above. {where}"
    return ["", f"## {TITLES[name]}", "", told, "", *_table(table["rows"])]


def _cell(name: str, values: list[float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    if name == "peak_memory_bytes":
        return f"{mean / 2**30:.1f}"
    text = f"{mean:.0f}" if abs(mean) >= 10 else f"{mean:.4f}" if name.endswith("damage_ratio") else f"{mean:.3f}"
    return f"{text} ± {statistics.stdev(values):.4f}" if name == "damage_ratio" and len(values) > 1 else text
