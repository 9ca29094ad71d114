"""Attacks on membership that take more than one model and one text: on whole documents, and with shadow models.

    python benchmarks/inference.py run [--minutes 9]   compute what is missing into results/inference/ (resumes; exit code 75: call again)
    python benchmarks/inference.py table               results/inference/ -> benchmarks/inference.json and inference.md

Books: the model nano/opt-s learns 32 generated books, like those of the stand-in of MUSE's, and forgets 8 of them as wholes; 32 further
ones it never sees. Random forests learn to tell the 32 from the others by the original's token probabilities (Meeus et al.), and read
them again under each model; every book is scored by the forest of the fold that it was held out of. All 8 forgotten books are ranked
against the 32 others across the folds, whose forests differ. The attacker has the original model, so that the AUC says what is left for
a detector that was made there.

Shadows: the model nano/opt-s learns 64 questions and forgets 24 of them; 24 further ones it never sees. Eight shadow models learn the 40
retained questions and a random half of the other 48; LiRA looks at the original with them. For each method they unlearn that half by
the method, and the likelihood ratio says which of the 48 questions was unlearned, and which never seen (the game of RULI). The control
is the retrained model, judged by the same shadow models. The attacker knows all retained texts, the base model, all settings, and the
loss at which the method stops.

Methods go as far as the retrained model's loss on what is forgotten, with the options that the benchmark of methods found for a quarter
of retraining's cost on medium models of this family; they were not tuned anew. On books NPO's 100 passes end before that loss. Gradients
are those of single sequences, of which a book has two or three. AUC: the chance that a forgotten text has a higher score than one
that was never seen, as mean (least to largest) over seeds; 0.5 cannot tell.
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from equal_forgetting import default_workspace
from pieces import in_pieces

from unlearn_lib import load_model, load_task, train, unlearn
from unlearn_lib.audit.shadows import shadow_scores, unlearned_shadow_scores
from unlearn_lib.checkpoints import Deadline, Workspace
from unlearn_lib.data.nano.books import book
from unlearn_lib.data.nano.muse_files import on_different_people
from unlearn_lib.files import write_text
from unlearn_lib.metrics.documents import document_audit
from unlearn_lib.metrics.indistinguishable import loss_attack_auc
from unlearn_lib.metrics.lira import lira, logit_score
from unlearn_lib.metrics.roc import auc
from unlearn_lib.metrics.text_losses import text_losses
from unlearn_lib.reproduction.runs.store import RunStore
from unlearn_lib.training.config import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
NUMERICS, SEEDS = 2, (0, 1, 2)
ORIGINAL, RETRAINED, BASE = "original", "retraining", "base model"
METHODS = {
    "gradient-difference, KL": "gradient-difference, KL, 25 %",
    "npo, with KL term": "npo, with KL term, 25 %",
    "constrained-newton, default": "constrained-newton, default",
}
"""Whose options are those of which row of methods.md."""
FAMILY = "opt"
COLUMNS = {
    "books": {
        "forget_loss": "loss of the forgotten books",
        "outside_loss": "loss of the others",
        "loss": "AUC, loss",
        "documents": "AUC, forest",
        "members": "AUC of the retained books, forest",
        "gradients": "gradients",
    },
    "shadows": {
        "forget_loss": "loss of the forgotten questions",
        "outside_loss": "loss of the others",
        "loss": "AUC, loss",
        "shadows": "AUC, shadow models",
        "control": "the same, retrained model",
        "gradients": "gradients",
    },
}


@dataclass(frozen=True)
class Setting:
    """How many texts are forgotten, retained, and never seen, and which model learns them."""

    experiment: str
    model: str
    forget: int
    retain: int
    others: int
    shadows: int = 0
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=12, learning_rate=2e-3, batch_size=8))


SETTINGS = {
    "books": Setting("books", f"nano/{FAMILY}-s", forget=8, retain=24, others=32),
    "shadows": Setting("shadows", f"nano/{FAMILY}-s", forget=24, retain=40, others=24, shadows=8),
}
Rows = list[dict[str, Any]]


def different_books(seed: int, count: int) -> list[str]:
    """So many books, on heroes of different names."""
    return [text for text, _ in on_different_people(lambda number: book(("inference", seed, number)), count)]


class Bench:
    """One seed of an experiment: its texts, and the models to attack."""

    def __init__(self, setting: Setting, seed: int, workspace: Workspace, methods: Mapping[str, Any]) -> None:
        self.setting, self.seed, self.workspace, self.methods = setting, seed, workspace, methods
        self.base, self.tokenizer = load_model(setting.model, device="cpu")
        count = setting.forget + setting.retain + setting.others
        if setting.experiment == "books":
            everything: Rows = [{"text": text} for text in different_books(seed, count)]
        else:
            everything = list(load_task("arc_easy", seed=seed, sizes={"train": count}).train)
        self.forget, rest = everything[: setting.forget], everything[setting.forget :]
        self.retain, self.others = rest[: setting.retain], rest[setting.retain :]
        self.original = self.learnt(self.forget + self.retain)
        self.retrained = self.learnt(self.retain)
        self.goal = float(self.losses(self.retrained, self.forget).mean())

    def learnt(self, rows: Rows) -> Any:
        """A model that was trained on these rows."""
        self.workspace.deadline.check()
        model = copy.deepcopy(self.base)
        train(model, self.tokenizer, rows, self.setting.training, seed=self.seed)
        return model

    def losses(self, model: Any, rows: Rows) -> torch.Tensor:
        """`[n]`, float64."""
        return text_losses(model, self.tokenizer, rows).double()

    def without(self, label: str, model: Any, rows: Rows) -> Any:
        """The result of a method with the options of a row of methods.md, on a model that is to forget some rows."""
        self.workspace.deadline.check()
        told = self.methods[label]
        return unlearn(
            model,
            self.tokenizer,
            forget=rows,
            retain=self.retain,
            method=told["method"],
            seed=self.seed,
            batch_size=16,
            target_loss=self.goal,
            **told["options"],
        )

    def models(self) -> Iterator[tuple[str, Any, dict[str, float]]]:
        """Every model that is attacked, and of a method's what it took."""
        yield ORIGINAL, self.original, {}
        yield RETRAINED, self.retrained, {}
        if self.setting.experiment == "books":
            yield BASE, self.base, {}
        for label in self.methods:
            result = self.without(label, self.original, self.forget)
            yield label, result.model, {"gradients": float(result.cost.gradient_evaluations)}

    def told(self, model: Any) -> dict[str, float]:
        """The losses, and how the attack by the loss does."""
        gone, others = (self.losses(model, rows) for rows in (self.forget, self.others))
        return {
            "forget_loss": float(gone.mean()),
            "outside_loss": float(others.mean()),
            "loss": loss_attack_auc(gone, others),
        }


def books(bench: Bench) -> dict[str, dict[str, float]]:
    """The attack on whole documents, by row."""
    found: dict[str, dict[str, float]] = {}
    members = bench.forget + bench.retain
    for label, model, cost in bench.models():
        scores_n = torch.from_numpy(
            document_audit(bench.original, bench.tokenizer, members, bench.others, after=model).scores_n.copy()
        )
        gone, kept, others = scores_n.split([len(bench.forget), len(bench.retain), len(bench.others)])
        found[label] = bench.told(model) | {"documents": float(auc(gone, others)), "members": float(auc(kept, others))} | cost
    return found


def shadows(bench: Bench) -> dict[str, dict[str, float]]:
    """The attack with shadow models, by row, and on the retrained model with the same shadow models; of the original it is LiRA."""
    found: dict[str, dict[str, float]] = {}
    texts = bench.forget + bench.others
    options: dict[str, Any] = {
        "models": bench.setting.shadows,
        "config": bench.setting.training,
        "seed": bench.seed,
        "retain": bench.retain,
        "workspace": bench.workspace,
    }

    def judged(scores: Any, model: Any) -> float:
        observed_n = logit_score(bench.losses(model, texts))
        ratio_n = lira(scores.in_scores, scores.out_scores, observed_n, fixed_variance=True)
        return float(auc(ratio_n[: len(bench.forget)], ratio_n[len(bench.forget) :]))

    for label, model, cost in bench.models():
        found[label] = bench.told(model) | cost
        if label == ORIGINAL:
            scores = shadow_scores(lambda: bench.base, bench.tokenizer, texts, **options)
        elif label in bench.methods:

            def gone(shadow: Any, rows: Rows, label: str = label) -> Any:
                return bench.without(label, shadow, rows).model

            scores = unlearned_shadow_scores(lambda: bench.base, bench.tokenizer, texts, gone, against="held out", **options)
        else:
            continue
        found[label] |= {"shadows": judged(scores, model), "control": judged(scores, bench.retrained)}
    return found


EXPERIMENTS: dict[str, Callable[[Bench], dict[str, dict[str, float]]]] = {"books": books, "shadows": shadows}


def config(setting: Setting, seed: int, methods: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a record depends on."""
    return {"benchmark": "inference", "numerics": NUMERICS, "seed": seed, **asdict(setting), "methods": dict(methods)}


def tuned() -> dict[str, Any]:
    """The methods and their options, by the labels of methods.md."""
    rows = json.loads((ROOT / "benchmarks" / "methods.json").read_text(encoding="utf-8"))["rows"]
    return {label: {name: rows[row][FAMILY][name] for name in ("method", "options")} for label, row in METHODS.items()}


def compute(
    store: RunStore, setting: Setting, seed: int, methods: Mapping[str, Any], folder: Path | None, deadline: Deadline
) -> None:
    """A record, unless it is there."""
    told = config(setting, seed, methods)
    if store.get(f"{setting.experiment}-{seed}", told) is None:
        workspace = Workspace(folder and folder / f"{setting.experiment}-{seed}", deadline)
        rows = EXPERIMENTS[setting.experiment](Bench(setting, seed, workspace, methods))
        store.put(f"{setting.experiment}-{seed}", told, {"rows": rows}, {})
        workspace.clear()


def gathered(store: RunStore, methods: Mapping[str, Any], settings: Mapping[str, Setting] = SETTINGS) -> dict[str, Any]:
    """The records by experiment; those that are missing are left out."""
    found: dict[str, Any] = {}
    for name, setting in settings.items():
        records = {seed: store.get(f"{name}-{seed}", config(setting, seed, methods)) for seed in SEEDS}
        there = {seed: record for seed, record in records.items() if record is not None}
        if there:
            where = next(iter(there.values()))["provenance"]
            found[name] = {
                "setting": asdict(setting),
                "environment": {key: value for key, value in where.items() if key != "created"},
                "seeds": {str(seed): dict(record["results"])["rows"] for seed, record in there.items()},
            }
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def page(found: Mapping[str, Any]) -> str:
    """The tables: means over seeds, and the smallest and largest AUC."""
    parts = (__doc__ or "").split("\n\n")
    lines = [
        "# Whole documents, and shadow models",
        "",
        "Made by `python benchmarks/inference.py table` from `inference.json`.",
    ]
    for name, entry in found.items():
        what = next(part for part in parts if part.lower().startswith(name))
        where, columns = entry["environment"], COLUMNS[name]
        lines += [
            "",
            f"## {name.capitalize()}",
            "",
            " ".join(what.split()),
            "",
            f"{len(entry['seeds'])} seeds; {where['processor']}, torch {where['torch']}.",
            "",
        ]
        lines += ["| row | " + " | ".join(columns.values()) + " |", "|---|" + "---|" * len(columns)]
        rows = list(entry["seeds"].values())
        for label in rows[0]:
            cells = (
                _cell(
                    [row[label][key] for row in rows if key in row[label]],
                    key not in ("forget_loss", "outside_loss", "gradients"),
                )
                for key in columns
            )
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", " ".join(parts[-1].split())]) + "\n"


def _cell(values: Sequence[float], spread: bool) -> str:
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.2f}" if max(values) < 10 else f"{statistics.fmean(values):.0f}"
    return f"{mean} ({min(values):.2f} to {max(values):.2f})" if spread else mean


def _store() -> RunStore:
    return RunStore(ROOT / "results" / "inference")


@click.group(help=__doc__)
def main() -> None:
    """See the module's docstring."""


@main.command("run")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop before so many minutes are over.")
def run_command(minutes: float | None) -> None:
    """Compute what is missing."""
    deadline, folder = Deadline(minutes), default_workspace(ROOT)
    with in_pieces():
        for seed in SEEDS:
            for setting in SETTINGS.values():
                compute(_store(), setting, seed, tuned(), folder, deadline)


@main.command()
@click.option("--out", default=Path(__file__).with_suffix(".json"), type=click.Path(path_type=Path))
def table(out: Path) -> None:
    """Gather the records into a JSON file and a page."""
    found = gathered(_store(), tuned())
    write_text(out, json.dumps(found, indent=1) + "\n")
    write_text(out.with_suffix(".md"), page(found))
    click.echo(page(found))


if __name__ == "__main__":
    main()
