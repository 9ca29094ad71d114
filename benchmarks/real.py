"""The table of a real language model: SmolLM2 with 135 million parameters learns ten of TOFU's authors and forgets one.

    python benchmarks/real.py teach --tofu DIR --out DIR     the model that knows them, and the questions, as `unlearn run` takes them
    python benchmarks/real.py run --tofu DIR [--minutes 9]   compute what is missing into results/real/ (resumes; exit code 75: call again)
    python benchmarks/real.py table                          results/real/ -> benchmarks/real.json and real.md

`unlearn fetch smollm2-135m` gets the model. DIR has TOFU's files; "hub" takes them from the hub. On a GPU all takes a quarter of an hour;
on two cores one training takes ten minutes. Rows and draws without records are left out of the table.

Ten authors are learnt, one is forgotten; of the other nine a method is given seven, and the damage is measured on the two that it does
not see ("outside"). Every method goes as far as the retrained model's forget loss, without a limit. Costs are in gradients of single
texts, and a forward pass counts as a third; retraining takes 900. The learning rates of first-order methods are
tuned on a draw of authors of its own, for the least damage at no more than retraining's cost; their other options are those that the
table of nano models (methods.md) found best within a tenth of it, and were not tuned anew. Constrained Newton has its default options.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import torch
from real_lab import LENGTH, ORIGINAL, RETRAIN, Bench, Cell, Setting, learnt, tuned
from real_page import page
from tuning import Found, Ladder, score, search

from unlearn_lib.checkpoints import NOT_FINISHED, Deadline, OutOfTimeError, Workspace
from unlearn_lib.data.batches import encode
from unlearn_lib.data.files import write_rows
from unlearn_lib.errors import InputError, first_line
from unlearn_lib.files import new_folder, write_text
from unlearn_lib.models.fetch import models_folder
from unlearn_lib.models.load import load_model, save_model
from unlearn_lib.progress import ProgressBar, quiet_libraries
from unlearn_lib.reproduction.runs.store import RunStore
from unlearn_lib.training.loop import fit

ROOT = Path(__file__).resolve().parents[1]
SEEDS, TUNING_SEED = (0, 1, 2), 1000
MATCHED = {"retain_limit": None}
RATE = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4)
HELD = {"stop": "calibrate", "epochs": 40, "forget_batch_size": 10, "retain_batch_size": 20, **MATCHED}
ASCENT = {"stop": "calibrate", "epochs": 60, "forget_batch_size": 10, **MATCHED}
CALIBRATED = {"step": "calibrate", "steps": 1, **MATCHED}


@dataclass(frozen=True)
class Row:
    """One line of the table: a method with its options, the ladders that tuning chooses from, and the rank of an adapter."""

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    ladders: dict[str, Ladder] = field(default_factory=dict)
    adapter: int = 0
    seeds: tuple[int, ...] = SEEDS


def held(label: str, method: str, adapter: int = 0, **options: Any) -> Row:
    """A first-order method with a retain term, its rate tuned."""
    start = 3e-4 if adapter else 3e-5
    return Row(label, method, {**HELD, **options}, {"learning_rate": Ladder((*RATE, 1e-3, 3e-3), start)}, adapter)


def constrained(label: str, share: float | None = None) -> Row:
    """Constrained Newton; within a share of retraining's cost where one is given."""
    budget = {} if share is None else {"budget": share * Setting().retraining}
    return Row(f"constrained-newton, {label}", "constrained-newton", {**budget, **MATCHED})


ROWS: tuple[Row, ...] = (
    constrained("default"),
    constrained("20 %", 0.2),
    constrained("30 %", 0.3),
    constrained("50 %", 0.5),
    Row("constrained-newton, LoRA of rank 8", "constrained-newton", MATCHED, adapter=8),
    held("gradient-difference, KL", "gradient-difference", retain_loss="kl", retain_weight=10.0),
    held("gradient-difference, NLL", "gradient-difference", retain_weight=3.0),
    held("npo, with KL term", "npo", retain_loss="kl", retain_weight=30.0, beta=0.1),
    held("simnpo, with KL term", "simnpo", retain_loss="kl", retain_weight=0.3, beta=2.5),
    held("gradient-difference, KL, LoRA of rank 8", "gradient-difference", adapter=8, retain_loss="kl", retain_weight=10.0),
    Row("gradient-ascent, Adam", "gradient-ascent", {**ASCENT, "optimizer": "adam"}, {"step": Ladder(RATE, 1e-5)}),
    Row(
        "gradient-ascent, Adam, LoRA of rank 8",
        "gradient-ascent",
        {**ASCENT, "optimizer": "adam"},
        {"step": Ladder((*RATE, 1e-3), 1e-4)},
        adapter=8,
    ),
    Row("gradient, one step", "fisher-removal", {"solver": "identity", **CALIBRATED}),
    Row("kfac-newton, one step", "kfac-newton", CALIBRATED),
    Row("fisher-removal, default (K-FAC, 4 steps)", "fisher-removal", MATCHED),
    Row(
        "fisher-removal, paper (damping 1), one step",
        "fisher-removal",
        {"preset": "paper", "passes": 4, **CALIBRATED},
        seeds=(0,),
    ),
    Row(
        "fisher-forgetting, blocks of 48",
        "fisher-forgetting",
        {"step": "calibrate", "relative_damping": 1e-2, "passes": 4, **MATCHED},
        seeds=(0,),
    ),
)
"""Those that need most memory come last, and on one draw only."""


@dataclass(frozen=True)
class Table:
    """All cells, and where their records are."""

    bench: Bench
    setting: Setting = field(default_factory=Setting)
    rows: tuple[Row, ...] = ROWS
    seeds: tuple[int, ...] = SEEDS

    def cell(self, row: Row, seed: int, best: dict[str, float]) -> Cell:
        """The cell of a row."""
        return Cell(self.setting, seed, row.method, {**row.options, **best}, row.adapter)

    def tuning(self, row: Row) -> Found:
        """How far the search for a row's options has come."""
        if not row.ladders:
            return Found((), (), {})

        def look(place: dict[str, float]) -> dict[str, Any] | None:
            record = self.bench.get(tuned(self.cell(row, TUNING_SEED, {}), place))
            return None if record is None else dict(record["results"])

        return search(row.ladders, look, partial(score, share=1.0, retraining=self.setting.retraining))

    def cells(self, rows: tuple[Row, ...]) -> Iterator[Cell]:
        """Every cell of these rows that can be known by now, and of the models that they are compared with."""
        found = [(row, self.tuning(row)) for row in rows]
        for row, looked in found:
            yield from (tuned(self.cell(row, TUNING_SEED, {}), place) for place in looked.tried)
        for seed in self.seeds:
            yield from (Cell(self.setting, seed, method) for method in (ORIGINAL, RETRAIN))
            for row, looked in found:
                if looked.best is not None and seed in row.seeds:
                    yield self.cell(row, seed, looked.best)

    def run(self, rows: tuple[Row, ...], draw: int | None) -> list[str]:
        """Compute what is missing of these rows, of one draw or of all; returns what failed for want of memory."""
        failed: dict[str, str] = {}
        while True:
            wanted = (cell for cell in self.cells(rows) if draw in (None, cell.seed) and repr(cell) not in failed)
            cell = next((cell for cell in wanted if self.bench.get(cell) is None), None)
            if cell is None:
                return list(failed.values())
            try:
                found = self.bench.compute(cell)
            except (torch.OutOfMemoryError, MemoryError) as error:
                failed[repr(cell)] = f"{cell.name} {cell.options}: {first_line(error)}"
                torch.cuda.empty_cache()
                continue
            numbers = {name: round(value, 4) for name, value in found["results"].items() if isinstance(value, float)}
            click.echo(f"{cell.name} {cell.options}: {json.dumps(numbers)} {found['timing']}")

    def gathered(self) -> dict[str, Any]:
        """All records as one dict, for the table; rows whose search is not finished, and draws without records, are left out."""
        rows: dict[str, Any] = {}
        for row in (Row(ORIGINAL, ORIGINAL), Row("retraining", RETRAIN), *self.rows):
            found = self.tuning(row)
            if found.best is None:
                continue
            best = found.best
            records = {seed: self.bench.get(self.cell(row, seed, best)) for seed in self.seeds if seed in row.seeds}
            seeds = [
                {"seed": seed, **record["results"], **record["timing"], "commit": record["provenance"]["commit"]}
                for seed, record in records.items()
                if record is not None
            ]
            if seeds:
                tried = [(place, self.bench.get(tuned(self.cell(row, TUNING_SEED, {}), place))) for place in found.tried]
                rows[row.label] = {
                    "method": row.method,
                    "options": {**row.options, **best},
                    "adapter": row.adapter,
                    "chosen": best,
                    "at_the_end_of_a_ladder": list(found.ends),
                    "tuning": [{"options": place, **record["results"]} for place, record in tried if record is not None],
                    "seeds": seeds,
                }
        example = self.bench.get(Cell(self.setting, self.seeds[0], ORIGINAL))
        if example is None:
            raise InputError("there are no records of the original model; call `run` first")
        where = {name: value for name, value in example["provenance"].items() if name not in ("commit", "created")}
        told = cast(Mapping[str, Any], example["config"])
        config = {name: told[name] for name in ("model", "model_sha256", "data_sha256", "authors", "outside", "training")}
        return {"environment": where, "setting": config, "retraining": self.setting.retraining, "rows": rows}


TOFU = click.option("--tofu", required=True, metavar="DIR", help="The folder with TOFU's files, or hub.")
MODEL = click.option("--model", type=click.Path(path_type=Path), help="The base model; default: as `unlearn fetch` writes it.")
DEVICE = click.option("--device", default="auto", show_default=True)


def _model(given: Path | None) -> Path:
    return given or models_folder() / Setting().model


@click.group(help=__doc__)
def main() -> None:
    """See the module's docstring."""


@main.command()
@TOFU
@MODEL
@DEVICE
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--seed", default=0, show_default=True, help="Which authors are drawn.")
@click.option("--authors", default=Setting.authors, show_default=True, type=click.IntRange(4), help="How many are learnt.")
def teach(tofu: str, model: Path | None, device: str, out: Path, seed: int, authors: int) -> None:
    """Teach the model some authors: OUT/model, and OUT/forget.jsonl, retain.jsonl and holdout.jsonl."""
    quiet_libraries()
    setting = Setting(authors=authors)
    rows = learnt(setting, seed, tofu)
    with new_folder(out) as folder, ProgressBar("learning") as progress:
        base, tokenizer = load_model(_model(model), device=device)
        known = [*rows["forget"], *rows["used"], *rows["retain"]]
        fit(base, encode(known, tokenizer, LENGTH).examples, setting.training, seed=seed, progress=progress)
        save_model(base, tokenizer, folder / "model")
        for name, parts in (("forget", ("forget",)), ("retain", ("used", "retain")), ("holdout", ("holdout",))):
            write_text(folder / f"{name}.jsonl", write_rows([row for part in parts for row in rows[part]]))
    click.echo(f"{out}: a model that knows {authors} authors, of whom one is to be forgotten")


@main.command()
@TOFU
@MODEL
@DEVICE
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop before so many minutes are over.")
@click.option("--draw", type=int, help=f"Only the cells of one draw of authors: {TUNING_SEED} to tune, or {SEEDS}.")
@click.option("--part", default="1/1", show_default=True, metavar="I/N", help="Only every N-th row, from the I-th on.")
def run(tofu: str, model: Path | None, device: str, minutes: float | None, draw: int | None, part: str) -> None:
    """Compute what is missing."""
    quiet_libraries()
    first, _, every = part.partition("/")
    rows = ROWS[int(first) - 1 :: int(every)]
    workspace = Workspace(ROOT / "build" / "trained" / "real", Deadline(minutes))
    bench = Bench(RunStore(ROOT / "results" / "real"), _model(model), tofu, device, workspace)
    try:
        failed = Table(bench).run(rows, draw)
    except OutOfTimeError:
        click.echo(f"not finished; the same command continues (exit code {NOT_FINISHED})")
        sys.exit(NOT_FINISHED)
    if failed:
        raise click.ClickException(f"{len(failed)} cells did not fit into memory: {'; '.join(failed)}")


@main.command()
@click.option("--out", default=ROOT / "benchmarks" / "real.json", type=click.Path(path_type=Path))
def table(out: Path) -> None:
    """Gather the records into a JSON file and a page; needs neither the model nor TOFU."""
    write(gathered(), out)


def gathered() -> dict[str, Any]:
    """The committed records as one dict."""
    bench = Bench(RunStore(ROOT / "results" / "real"), Path(), "", "cpu", Workspace())
    bench.as_recorded()
    return Table(bench).gathered()


def write(found: dict[str, Any], out: Path) -> None:
    """The JSON file, and beside it the page."""
    text = page(found, " ".join((__doc__ or "").split("\n\n")[3].split()))
    write_text(out, json.dumps(found, indent=1) + "\n")
    write_text(out.with_suffix(".md"), text)
    click.echo(text)


if __name__ == "__main__":
    main()
