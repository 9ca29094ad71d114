"""The table that decides: every method at the same forgetting, on the same models, beside retraining.

    python benchmarks/methods.py run FAMILY...   compute what is missing into results/methods/ (resumes; one process a family)
    python benchmarks/methods.py table           results/methods/ -> benchmarks/methods.json, and print the table

A medium nano model learns 256 texts of ARC by heart; 16 of them are to go. Every method goes as far as the retrained model's
forget loss (the first crossing, within 1 % of the gap, with no limit on the retain loss) and is measured there. First-order
methods are tuned over the grids below on a seed of its own, for the lowest damage ratio, separately for each family; so is the
damping of the second-order ones. The reported seeds are others.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import torch

from unlearn_lib import unlearn
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.data.batches import make_batches
from unlearn_lib.environment import provenance
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import mean_loss
from unlearn_lib.methods import METHODS
from unlearn_lib.methods.base import INCOMPLETE
from unlearn_lib.metrics.divergence import divergence
from unlearn_lib.reproduction.bench import Bench
from unlearn_lib.reproduction.scenarios import Scenario
from unlearn_lib.reproduction.store import RunStore
from unlearn_lib.training import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
STORE = RunStore(ROOT / "results" / "methods")
TASK, TRAIN, FORGET = "arc_easy", 256, 16
TRAINING = TrainingConfig(epochs=16, learning_rate=1e-3, batch_size=8)
SEEDS, TUNING_SEED = (0, 1, 2, 3, 4), 1000
FAMILIES = ("neo", "opt")
MOST_STEPS = 60
DRAWS = 5
BATCH = 32
UNSEEN, COMPARED = 128, 64
MATCHED = {"retain_limit": None}

RATES = (1e-4, 3e-4, 1e-3)
FIRST = {"stop": "calibrate", "epochs": MOST_STEPS, "forget_batch_size": None, **MATCHED}
HELD = {**FIRST, "retain_batch_size": 32}
DAMPINGS = (1e-1, 1e-2, 1e-3, 1e-4)
ABSOLUTE = (1.0, 1e-2, 1e-4, 1e-6, 1e-8)
SWEPT_SEEDS = (0, 1)


@dataclass(frozen=True)
class Row:
    """One line of the table: a method, its fixed options, and the grid that tuning chooses from."""

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def candidates(self) -> Iterator[dict[str, Any]]:
        """All options of the grid."""
        for values in itertools.product(*self.grid.values()):
            yield {**self.options, **dict(zip(self.grid, values, strict=True))}


def removal(label: str, steps: int, **options: Any) -> Row:
    """Fisher Removal with its step calibrated."""
    grid = {} if options.get("solver") == "identity" or "preset" in options else {"relative_damping": DAMPINGS}
    return Row(label, "fisher-removal", {**options, "step": "calibrate", "steps": steps, **MATCHED}, grid)


ROWS = (
    Row("fine-tuning, one epoch", "finetune", {"epochs": 1, "learning_rate": 1e-3}),
    removal("gradient, one step", 1, solver="identity"),
    removal("fisher-removal, paper (damping 1), one step", 1, preset="paper"),
    removal("fisher-removal, diagonal, one step", 1, solver="diagonal"),
    removal("fisher-removal, woodbury (full matrix), one step", 1, solver="woodbury", precision="float64"),
    removal("fisher-removal, blocks of 48, one step", 1, solver="block"),
    Row(
        "kfac-newton, one step",
        "kfac-newton",
        {"step": "calibrate", "steps": 1, **MATCHED},
        {"relative_damping": (1e-1, 1e-2, 1e-3, 1e-4)},
    ),
    Row(
        "newton (CG on Gauss-Newton, 32 texts), one step",
        "newton",
        {"step": "calibrate", "retain_samples": 32, "max_steps": 20, "damping": 1e-4, **MATCHED},
    ),
    Row(
        "woodbury-newton (no retain data), one step",
        "woodbury-newton",
        {"step": "calibrate", **MATCHED},
        {"share": (0.5, 0.9, 0.99)},
    ),
    Row(
        "fisher-forgetting, blocks of 48",
        "fisher-forgetting",
        {"step": "calibrate", "terms": 64, "relative_damping": 1e-2, **MATCHED},
    ),
    removal("gradient, 4 steps", 4, solver="identity"),
    Row("fisher-removal, blocks of 48, 4 steps", "fisher-removal", {"solver": "block", "steps": 4, **MATCHED}),
    Row("fisher-removal, default (K-FAC, 4 steps)", "fisher-removal", MATCHED),
    Row("gradient-ascent, raw", "gradient-ascent", {**FIRST, "optimizer": "sgd"}, {"step": (1e-2, 3e-2, 1e-1)}),
    Row("gradient-ascent, Adam", "gradient-ascent", {**FIRST, "optimizer": "adam"}, {"step": RATES}),
    Row(
        "gradient-difference, NLL",
        "gradient-difference",
        HELD,
        {"learning_rate": RATES, "retain_weight": (1.0, 3.0, 10.0, 30.0)},
    ),
    Row(
        "gradient-difference, KL",
        "gradient-difference",
        {**HELD, "retain_loss": "kl"},
        {"learning_rate": RATES, "retain_weight": (3.0, 10.0)},
    ),
    Row("npo, with retain term", "npo", HELD, {"learning_rate": RATES, "retain_weight": (3.0, 10.0)}),
    Row("simnpo, with retain term", "simnpo", HELD, {"learning_rate": RATES, "retain_weight": (0.3, 3.0)}),
)


class Case:
    """One family and seed: the original, the retrained model, and how to measure."""

    def __init__(self, family: str, seed: int, training: TrainingConfig = TRAINING) -> None:
        self.family, self.seed = family, seed
        scenario = Scenario(TASK, f"nano/{family}-m", seed, "original", training, train_size=TRAIN)
        self.bench = Bench(scenario)
        order = self.bench.order
        train = self.bench.encoded["train"]
        self.forget, self.kept = order[:FORGET], self.bench.kept(FORGET)
        self.sets = {
            "forget": make_batches([train[i] for i in self.forget], BATCH),
            "retain": make_batches([train[i] for i in self.kept], BATCH),
            "holdout": make_batches(self.bench.encoded["holdout"][:UNSEEN], BATCH),
        }
        # distances to the retrained model are taken on so many texts of each set
        self.compared = {name: batches[: -(-COMPARED // BATCH)] for name, batches in self.sets.items()}
        self.original = self.bench.original
        self.retrained = self.bench.trained(self.kept)
        self.before, self.goal = self.losses(self.original), self.losses(self.retrained)

    def losses(self, model: Any) -> dict[str, float]:
        return {name: mean_loss(model, batches) for name, batches in self.sets.items()}

    def measure(self, model: Any) -> dict[str, float]:
        """Losses, the damage ratio, and the distance to the retrained model on the three sets (nats a token)."""
        after = self.losses(model)
        rise = after["forget"] - self.before["forget"]
        found = {f"{name}_loss": loss for name, loss in after.items()}
        found["damage_ratio"] = (after["retain"] - self.before["retain"]) / rise if abs(rise) > 1e-9 else 0.0
        return found | {f"{name}_kl": divergence(self.retrained, model, batches) for name, batches in self.compared.items()}

    def unlearn(self, method: str, options: dict[str, Any], seed: int) -> Any:
        known = METHODS[method].model_fields
        goal = {"target_loss": self.goal["forget"]} if "target_loss" in known else {}
        task = self.bench.task
        return unlearn(
            self.original,
            self.bench.tokenizer,
            forget=task.train.select(self.forget),
            retain=task.train.select(self.kept),
            base=self.bench.base,
            method=method,
            seed=seed,
            batch_size=BATCH,
            **options,
            **goal,
        )


@lru_cache(maxsize=1)
def case(family: str, seed: int) -> Case:
    """The case, made when it is first needed; the last one is kept."""
    return Case(family, seed)


def config(family: str, seed: int, method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Everything a record depends on."""
    return {
        "benchmark": "methods",
        "numerics": 1,
        "task": TASK,
        "train": TRAIN,
        "forget": FORGET,
        "training": asdict(TRAINING),
        "family": family,
        "seed": seed,
        "method": method,
        "options": options,
    }


def record(family: str, seed: int, method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The results of one run, computed unless they are there."""
    name, key = f"{family}-{seed}-{method}", config(family, seed, method, options)
    found = STORE.get(name, key)
    if found is None:
        here = case(family, seed)
        results, timing = compute(here, method, options)
        found = STORE.put(name, key, results, timing)
        numbers = {name: round(value, 4) for name, value in results.items() if isinstance(value, float)}
        click.echo(f"{family} {seed} {method} {options}: {json.dumps(numbers)}")
    return found["results"] | found["timing"]


def compute(here: Case, method: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """(results, timing); noise methods are averaged over draws."""
    if method == "original":
        return here.measure(here.original), {}
    if method == "retrain":
        return here.measure(here.retrained), {}
    found: list[dict[str, float]] = []
    seconds = 0.0
    for draw in range(DRAWS if method == "fisher-forgetting" else 1):
        try:
            result = here.unlearn(method, options, here.seed + 100 * draw)
        except NumericsError as error:  # a damping too small for float32
            return here.measure(here.original) | {"reached": 0.0, "refused": str(error)}, {}
        seconds = result.cost.seconds
        short = any(INCOMPLETE in warning for warning in result.warnings)
        cosine = result.history[0].get("cosine_to_gradient") if result.history else None
        found.append(
            here.measure(result.model)
            | {
                "gradient_evaluations": result.cost.gradient_evaluations,
                "steps": len(result.history),
                "reached": float(not short),
            }
            | ({"cosine_to_gradient": cosine} if cosine is not None else {})
        )
    return {name: statistics.fmean(entry[name] for entry in found) for name in found[0]}, {"seconds": seconds}


def peak_memory(here: Case, row: Row, options: dict[str, Any]) -> int:
    """Peak bytes of live tensors in one step of a method; they depend on shapes alone, so the model need not be trained."""
    known = METHODS[row.method].model_fields
    short = {"steps": 1} if "steps" in known else {"epochs": 0.05 if row.method == "finetune" else 1}
    here.goal = {"forget": here.before["forget"] + 0.02}
    with Meter() as meter:
        here.unlearn(row.method, {**options, **short}, here.seed)
    return meter.peak


def tuned(row: Row, family: str) -> dict[str, Any]:
    """The options of the grid with the lowest damage ratio on the tuning seed, among those that reach the goal."""
    candidates = list(row.candidates())
    if len(candidates) == 1:
        return candidates[0]
    tried = [(record(family, TUNING_SEED, row.method, options), options) for options in candidates]
    reached = [(found["damage_ratio"], number) for number, (found, _) in enumerate(tried) if found["reached"]]
    return tried[min(reached)[1]][1] if reached else candidates[0]


def sweep() -> Iterator[tuple[str, dict[str, Any]]]:
    """The ablation: the paper's algorithm over dampings, and with the identity in place of the inverse Fisher."""
    shared = {"step": "calibrate", "steps": 1, **MATCHED}
    yield "identity", {**shared, "solver": "identity"}
    for damping in ABSOLUTE:
        precise = {"precision": "float64"} if damping < 1e-2 else {}  # the recursion starts from I / damping
        yield f"damping {damping:g}", {**shared, "preset": "paper", "damping": damping, **precise}


@click.group()
def main() -> None:
    """See the module's docstring."""


@main.command()
@click.argument("families", nargs=-1, required=True, type=click.Choice(FAMILIES))
@click.option("--threads", default=1, show_default=True)
def run(families: tuple[str, ...], threads: int) -> None:
    """Compute what is missing."""
    torch.set_num_threads(threads)
    for family in families:
        chosen = {row.label: tuned(row, family) for row in ROWS}
        for seed in SEEDS:
            record(family, seed, "original", {})
            record(family, seed, "retrain", {})
            for row in ROWS:
                record(family, seed, row.method, chosen[row.label])
            if seed in SWEPT_SEEDS:
                for _, options in sweep():
                    record(family, seed, "fisher-removal", options)


@main.command()
@click.option("--out", default=ROOT / "benchmarks" / "methods.json", type=click.Path(path_type=Path))
def table(out: Path) -> None:
    """Gather the records into a JSON file and a page."""
    gathered: dict[str, Any] = {"environment": provenance(), "setting": config("", 0, "", {}), "rows": {}, "sweep": {}}
    for family in FAMILIES:
        untrained = Case(family, TUNING_SEED, TrainingConfig(0.05, 1e-3, 8))
        for row in (Row("original", "original"), Row("retraining", "retrain"), *ROWS):
            known = row.method in METHODS
            tried = [existing(family, TUNING_SEED, row.method, options) for options in row.candidates()] if row.grid else []
            options = tuned(row, family) if known else {}
            gathered["rows"].setdefault(row.label, {})[family] = {
                "method": row.method,
                "options": options,
                "tuning": tried,
                "peak_memory_bytes": peak_memory(untrained, row, options) if known else None,
                "seeds": [existing(family, seed, row.method, options) for seed in SEEDS],
            }
        for label, options in sweep():
            gathered["sweep"].setdefault(label, {})[family] = [
                existing(family, seed, "fisher-removal", options) for seed in SWEPT_SEEDS
            ]
    out.write_text(json.dumps(gathered, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(gathered), encoding="utf-8")
    click.echo(page(gathered))


def existing(family: str, seed: int, method: str, options: dict[str, Any]) -> dict[str, Any]:
    """A record that has to be there."""
    found = STORE.get(f"{family}-{seed}-{method}", config(family, seed, method, options))
    if found is None:
        raise click.ClickException(
            f"no record of {method} {options} for {family}, seed {seed}; run `benchmarks/methods.py run` first"
        )
    return {"options": options, "commit": found["provenance"]["commit"]} | found["results"] | found["timing"]


COLUMNS = {
    "damage_ratio": "damage ratio",
    "forget_loss": "forget",
    "retain_loss": "retain",
    "holdout_loss": "held-out",
    "forget_kl": "KL forget",
    "retain_kl": "KL retain",
    "holdout_kl": "KL held-out",
    "gradient_evaluations": "gradients",
    "seconds": "seconds",
}


def page(gathered: dict[str, Any]) -> str:
    """The tables as Markdown: means over seeds and, for the damage ratio, the standard deviation."""
    where = gathered["environment"]
    lines = [
        "# Every method at the same forgetting",
        "",
        "Made by `python benchmarks/methods.py table` from `methods.json`. "
        + " ".join((__doc__ or "").split("\n\n")[2].split()),
        "",
        f"{TRAIN} texts, {FORGET} to forget, {len(SEEDS)} seeds; one thread on {where['processor']}, torch {where['torch']}.",
        "Damage ratio: rise of the retain loss over rise of the forget loss. KL: mean divergence of the next token's distribution from",
        "the retrained model's, in nats. Gradients: of single texts. MiB: peak of live tensors beyond the model in one step. Seconds",
        "were taken while the machine did other work, too; compare the gradients. A negative ratio means that the method went on",
        "training the retained texts: their loss is then below the original's and retraining's, at the price of the held-out loss.",
        "",
        "| method | family | " + " | ".join(COLUMNS.values()) + " | MiB | tuned |",
        "|---|---|" + "---|" * (len(COLUMNS) + 2),
    ]
    for label, families in gathered["rows"].items():
        for family, entry in families.items():
            cells = [_cell([run[name] for run in entry["seeds"] if name in run], name == "damage_ratio") for name in COLUMNS]
            memory = f"{entry['peak_memory_bytes'] / 2**20:.0f}" if entry["peak_memory_bytes"] else ""
            chosen = ", ".join(f"{key} {entry['options'][key]:g}" for key in _grid_of(label))
            missed = sum(not run.get("reached", 1.0) for run in entry["seeds"])
            note = f" ({missed} of {len(entry['seeds'])} do not reach the goal)" if missed else ""
            lines.append(f"| {label}{note} | {family} | " + " | ".join(cells) + f" | {memory} | {chosen} |")
    lines += [
        "",
        "## The paper's algorithm over dampings",
        "",
        f"Fisher Removal as printed, one step to the same goal, {len(SWEPT_SEEDS)} seeds; below 1e-2 the recursion runs in float64.",
        "Cosine: of the step with the plain gradient.",
        "",
        "| inverse Fisher | family | damage ratio | held-out | cosine |",
        "|---|---|---|---|---|",
    ]
    for label, families in gathered["sweep"].items():
        for family, runs in families.items():
            cosine = statistics.fmean(run["cosine_to_gradient"] for run in runs)
            ratio = _cell([run["damage_ratio"] for run in runs], True)
            lines.append(f"| {label} | {family} | {ratio} | {_cell([run['holdout_loss'] for run in runs])} | {cosine:.4f} |")
    return "\n".join(lines) + "\n"


def _grid_of(label: str) -> list[str]:
    return next((list(row.grid) for row in ROWS if row.label == label), [])


def _cell(values: list[float], spread: bool = False) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    text = f"{mean:.0f}" if abs(mean) >= 10 else f"{mean:.3f}"
    return f"{text} ± {statistics.stdev(values):.3f}" if spread and len(values) > 1 else text


if __name__ == "__main__":
    main()
