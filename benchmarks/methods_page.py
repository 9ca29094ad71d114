"""The records of methods.py as a page of Markdown."""

from __future__ import annotations

import statistics
from typing import Any

COLUMNS = {
    "damage_ratio": "damage ratio, outside",
    "used_damage_ratio": "damage ratio, used",
    "forget_loss": "forget",
    "retain_loss": "outside",
    "used_loss": "used",
    "holdout_loss": "held-out",
    "forget_kl": "KL forget",
    "retain_kl": "KL outside",
    "holdout_kl": "KL held-out",
    "cost": "cost",
    "gradient_evaluations": "gradients",
    "seconds": "seconds",
}
RATIOS = ("damage_ratio", "used_damage_ratio")
ATTACKS = {"relearned": "relearnt", "rounding to 4 bits": "back by 4 bits"}
"""What `attacked.json` has of a row, and the head of its column."""
SAID = (
    "Relearnt: the lowest forget loss of half of the forgotten texts within 20 steps of training on the other half, in nats; back",
    "by 4 bits: the share of the way back to the original's forget loss that rounding the weights brings. Both are means over two",
    "models of each family, trained anew for attacked.md, which has more attacks; rows that were not attacked have none.",
)


def page(gathered: dict[str, Any], what: str, file: str, attacked: dict[str, Any]) -> str:
    """The tables of a file of results: means over seeds and, for the damage ratios, the standard deviation; what attacks bring back,
    where `attacked` (the content of attacked.json) is of the same models; and whether the tuned values lie inside."""
    setting, rows = gathered["setting"], gathered["rows"]
    brought = (
        brought_back(rows, attacked) if attacked["setting"] == {name: setting[name] for name in attacked["setting"]} else {}
    )
    heads = [*COLUMNS.values(), *(ATTACKS.values() if brought else ()), "MiB", "tuned"]
    seeds = len(rows["original"][next(iter(rows["original"]))]["seeds"])
    where = "; ".join(
        f"{there['processor']}, torch {there['torch']}, {there['threads']} thread" for there in gathered["environments"]
    )
    size = {"s": "small", "m": "medium", "l": "large"}[setting["model"].rpartition("-")[2]]
    lines = [
        f"# Every method at the same forgetting, {size} nano models",
        "",
        f"Made by `python benchmarks/methods.py table --size {size}`; the numbers are those of `{file}`. {what}",
        "",
        f"{setting['train']} texts, {setting['forget']} to forget, {setting['given']} given to the methods, {seeds} seeds; {where}.",
        "Damage ratio: rise of the retain loss over rise of the forget loss, on the retained texts that no method saw (outside), and",
        "on those that it used. Cost: gradients of single texts, and a third of one for a forward pass. KL: mean divergence of the next",
        "token's distribution from the retrained model's, in nats. MiB: peak of live tensors beyond the model in one step. Seconds were",
        "taken with other processes on the machine; compare the costs. A negative ratio means that the method went on training the",
        "retained texts: their loss is then below the original's and retraining's, at the price of the held-out loss.",
        *(SAID if brought else ()),
        "",
        "| method | family | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(heads),
    ]
    for label, families in rows.items():
        for family, entry in families.items():
            cells = [_cell([run[name] for run in entry["seeds"] if name in run], name in RATIOS) for name in COLUMNS]
            cells += [_cell(brought.get((label, family), {}).get(name, [])) for name in ATTACKS] if brought else []
            memory = f"{entry['peak_memory_bytes'] / 2**20:.0f}" if entry["peak_memory_bytes"] else ""
            chosen = ", ".join(f"{name} {value:g}" for name, value in (entry["chosen"] or {}).items())
            lines.append(f"| {named(label, entry['seeds'])} | {family} | " + " | ".join(cells) + f" | {memory} | {chosen} |")
    return "\n".join([*lines, *_needed(rows), *_written(gathered["written"]), *_tuned(rows), *_swept(gathered["sweep"])]) + "\n"


def brought_back(rows: dict[str, Any], attacked: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """What attacks bring back in the rows of a table, by the row's label and the family; of retraining, what they find in the retrained
    model itself."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}

    def take(label: str, run: dict[str, Any], name: str, column: str) -> None:
        if label in rows and column in run["numbers"]:
            found.setdefault((label, run["family"]), {}).setdefault(name, []).append(run["numbers"][column])

    for label, entry in attacked["rows"].items():
        for run in entry["runs"]:
            for name in ATTACKS:
                take(label, run, name, name)
            if label == "original":
                take("retraining", run, "relearned", "relearned_control")
    return found


def named(label: str, seeds: list[dict[str, Any]]) -> str:
    """The label of a row, and how many of its runs do not reach the goal."""
    missed = sum(not run.get("reached", 1.0) for run in seeds)
    return label + (f" ({missed} of {len(seeds)} do not reach the goal)" if missed else "")


def tried(run: dict[str, Any], chosen: dict[str, float]) -> str:
    """One try of the tuning: the options, in bold if they were chosen, and what came of them."""
    place = {name: run["options"][name] for name in chosen}
    mark = "**" if place == chosen else ""
    said = ", ".join(f"{name} {value:g}" for name, value in place.items())
    reached = f"{run['damage_ratio']:.4f}, cost {run['cost']:.0f}" if run["reached"] else "goal not reached"
    return f"{mark}{said}{mark}: {reached}"


def _needed(rows: dict[str, Any]) -> list[str]:
    """What each row takes beyond the texts to forget."""
    first = {label: next(iter(families.values())) for label, families in rows.items() if label != "original"}
    lines = [
        "",
        "## What each method needs",
        "",
        "All take the texts to forget and, here, the goal, and all but delta-unlearning the model's weights.",
        "",
        "| method | needs | what else |",
        "|---|---|---|",
    ]
    return [
        *lines,
        *(f"| {label} | {', '.join(entry['needs']) or 'nothing'} | {entry['note']} |" for label, entry in first.items()),
    ]


def _written(written: dict[str, Any]) -> list[str]:
    """How much of what the models write repeats what they have learnt."""
    lines = [
        "",
        "## What the models write",
        "",
        "Rows with written texts go on with texts that the original model writes once they have used all that they were given. Of",
        "texts written in this way so many repeat one that the model has learnt word for word (means over the seeds); a repeated text",
        "from outside is no longer one that the method has not seen. The column of different ones counts those.",
        "",
        "| family | written | repeat one outside | different ones | repeat a used one | repeat a forgotten one |",
        "|---|---|---|---|---|---|",
    ]
    for family, runs in written.items():
        means = [
            statistics.fmean(run[name] for run in runs) for name in ("written", "outside", "outside_texts", "used", "forget")
        ]
        lines.append(f"| {family} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return lines


def _tuned(rows: dict[str, Any]) -> list[str]:
    """What tuning tried, and where a ladder ended at the chosen value."""
    lines = [
        "",
        "## What was tuned",
        "",
        "Every try on the tuning seed: the options, the damage ratio outside and the cost; in bold the chosen one.",
    ]
    ends = []
    for label, families in rows.items():
        for family, entry in families.items():
            if not entry["tuning"]:
                continue
            ends += [f"{label}, {family}: {name}" for name in entry["at_the_end_of_a_ladder"]]
            lines += ["", f"{label}, {family}:", ""]
            for run in entry["tuning"]:
                lines.append(f"* {tried(run, entry['chosen'])}")
    inside = "Every chosen value lies inside: its smaller and its larger neighbour were tried and are no better."
    return [*lines, "", f"At the end of what was tried: {'; '.join(ends)}." if ends else inside]


def _swept(sweep: dict[str, Any]) -> list[str]:
    if not sweep:
        return []
    seeds = len(next(iter(next(iter(sweep.values())).values())))
    lines = [
        "",
        "## The paper's algorithm over dampings",
        "",
        f"Fisher Removal as printed, one step to the same goal, {seeds} seeds; below 1e-2 the recursion runs in float64.",
        "Cosine: of the step with the plain gradient.",
        "",
        "| inverse Fisher | family | damage ratio, outside | held-out | cosine |",
        "|---|---|---|---|---|",
    ]
    for label, families in sweep.items():
        for family, runs in families.items():
            cosine = statistics.fmean(run["cosine_to_gradient"] for run in runs)
            ratio = _cell([run["damage_ratio"] for run in runs], True)
            lines.append(f"| {label} | {family} | {ratio} | {_cell([run['holdout_loss'] for run in runs])} | {cosine:.4f} |")
    return lines


def _cell(values: list[float], spread: bool = False) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    text = f"{mean:.0f}" if abs(mean) >= 10 else f"{mean:.3f}"
    return f"{text} ± {statistics.stdev(values):.3f}" if spread and len(values) > 1 else text
