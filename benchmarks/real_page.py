"""The records of real.py as a page of Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from methods_page import named, tried

COLUMNS = {
    "damage_ratio": "damage ratio, outside",
    "used_damage_ratio": "damage ratio, used",
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
    "world_facts": "world facts",
    "prose_loss": "prose",
    "cost": "cost",
    "gradient_evaluations": "gradients",
    "seconds": "seconds",
    "peak_memory_bytes": "GiB",
}


def page(gathered: dict[str, Any], what: str) -> str:
    """The table: means over the draws of authors and, for the damage outside, the standard deviation; and what tuning tried."""
    where, rows = gathered["environment"], gathered["rows"]
    lines = [
        "# A real language model at the same forgetting",
        "",
        f"Made by `python benchmarks/real.py table`; the numbers are those of `real.json`. {what}",
        "",
        f"{where['device'] if where['device'] != 'cpu' else where['processor']}, torch {where['torch']}, float32. Damage ratio: rise of",
        "the retain loss over rise of the forget loss. KL: mean divergence of the next token's distribution from the retrained model's,",
        "in nats. P(answer): the geometric mean of its tokens' probabilities, as in TOFU; world facts: the right answer's share of it",
        "among four; prose: the loss on 16 texts that this repository generates, unlike TOFU. GiB: growth of memory during the run.",
        "",
        "| method | draws | " + " | ".join(COLUMNS.values()) + " | tuned |",
        "|---|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for label, entry in rows.items():
        seeds = entry["seeds"]
        cells = [_cell(name, [run[name] for run in seeds if run.get(name) is not None]) for name in COLUMNS]
        chosen = ", ".join(f"{name} {value:g}" for name, value in entry["chosen"].items())
        lines.append(f"| {named(label, seeds)} | {len(seeds)} | " + " | ".join(cells) + f" | {chosen} |")
    lines += [
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


def _cell(name: str, values: list[float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    if name == "peak_memory_bytes":
        return f"{mean / 2**30:.1f}"
    text = f"{mean:.0f}" if abs(mean) >= 10 else f"{mean:.4f}" if name.endswith("damage_ratio") else f"{mean:.3f}"
    return f"{text} ± {statistics.stdev(values):.4f}" if name == "damage_ratio" and len(values) > 1 else text
