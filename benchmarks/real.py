"""The table of a real language model: SmolLM2 with 135 million parameters learns ten of TOFU's authors and forgets one.

    python benchmarks/real.py teach --tofu DIR --out DIR     the model that knows them, and the questions, as `unlearn run` takes them
    python benchmarks/real.py run --tofu DIR [--minutes 9]   compute what is missing into results/real/ (resumes; exit code 75: call again)
    python benchmarks/real.py table                          results/real/ -> benchmarks/real.json and real.md

`unlearn fetch smollm2-135m` gets the model. DIR has TOFU's files; "hub" takes them from the hub. On a GPU all takes a quarter of an hour;
on two cores one training takes ten minutes. Rows and draws without records are left out of the table. `--knowundo DIR` in place of
`--tofu DIR` takes people of KnowUnDo's privacy half, whose private facts are forgotten and whose public facts are to stay; with
`--split forget01`, forget05 or forget10 all of TOFU is learnt (200 authors, which takes a GPU). Both have fewer rows.

Ten authors are learnt, one is forgotten; of the other nine a method is given seven, and the damage is measured on the two that it does
not see ("outside"). Every method goes as far as the retrained model's forget loss, without a limit. Costs are in gradients of single
texts, and a forward pass counts as a third; retraining takes 900. The learning rates of first-order methods are
tuned on a draw of authors of its own, for the least damage at no more than retraining's cost; their other options are those that the
table of nano models (methods.md) found best within a tenth of it, and were not tuned anew. Constrained Newton has its default options.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import torch
from pieces import in_pieces
from real_lab import LENGTH, ORIGINAL, RETRAIN, Bench, Cell, machine, tuned
from real_page import page
from real_rows import ROWS, SEEDS, TUNING_SEED, Row, rows_of
from real_texts import SPLITS, Setting, learnt
from tuning import Found, score, search

from unlearn_lib.checkpoints import Deadline, Workspace
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
OTHERS = {"knowundo": Setting(task="knowundo"), **{f"tofu, {name}": Setting(split=name) for name in SPLITS}}
"""What else is learnt and forgotten."""


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
        example = self.original()
        if example is None:
            raise InputError("there are no records of the original model; call `run` first")
        home = {name: value for name, value in example["provenance"].items() if name not in ("commit", "created")}

        def where(record: Any) -> dict[str, Any]:
            """The machine of a record, where it is not the one of the original's."""
            mine = record["provenance"]
            same = all(mine[name] == home[name] for name in ("device", "processor"))
            return {} if same else {"machine": machine(mine)}

        rows: dict[str, Any] = {}
        for row in (Row(ORIGINAL, ORIGINAL), Row("retraining", RETRAIN), *self.rows):
            found = self.tuning(row)
            if found.best is None:
                continue
            best = found.best
            records = {seed: self.bench.get(self.cell(row, seed, best)) for seed in self.seeds if seed in row.seeds}
            seeds = [
                {
                    "seed": seed,
                    **record["results"],
                    **record["timing"],
                    "commit": record["provenance"]["commit"],
                    **where(record),
                }
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
        told = cast(Mapping[str, Any], example["config"])
        config = {name: told[name] for name in ("model", "model_sha256", "data_sha256", "authors", "outside", "training")}
        return {"environment": home, "setting": config, "retraining": self.retraining(), "rows": rows}

    def original(self) -> Any:
        """The record of an original model, of the first draw that has one."""
        found = (self.bench.get(Cell(self.setting, seed, ORIGINAL)) for seed in self.seeds)
        return next((record for record in found if record is not None), None)

    def retraining(self) -> float:
        """What retraining costs, in gradients of single texts, by the record of the retrained model where there is one."""
        record = self.bench.get(Cell(self.setting, self.seeds[0], RETRAIN))
        found = None if record is None else record["results"].get("retraining")
        return float(cast(float, found or self.setting.retraining))


MODEL = click.option("--model", type=click.Path(path_type=Path), help="The base model; default: as `unlearn fetch` writes it.")
DEVICE = click.option("--device", default="auto", show_default=True)


def source(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what is learnt."""
    for option in (
        click.option("--tofu", metavar="DIR", help="The folder with TOFU's files, or hub."),
        click.option("--knowundo", metavar="DIR", help="The folder with the files of KnowUnDo's privacy half."),
    ):
        command = option(command)
    return command


def asked(tofu: str | None, knowundo: str | None) -> tuple[str, str]:
    """`(task, source)` of what was given."""
    given = [(task, path) for task, path in (("tofu", tofu), ("knowundo", knowundo)) if path is not None]
    if len(given) != 1:
        raise click.UsageError("give --tofu DIR or --knowundo DIR")
    return given[0]


def _model(given: Path | None) -> Path:
    return given or models_folder() / Setting().model


@click.group(help=__doc__)
def main() -> None:
    """See the module's docstring."""


@main.command()
@source
@MODEL
@DEVICE
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--seed", default=0, show_default=True, help="Which people are drawn.")
@click.option("--authors", default=Setting.authors, show_default=True, type=click.IntRange(4), help="Of how many is learnt.")
def teach(tofu: str | None, knowundo: str | None, model: Path | None, device: str, out: Path, seed: int, authors: int) -> None:
    """Teach the model of some people: OUT/model, and OUT/forget.jsonl, retain.jsonl and holdout.jsonl."""
    quiet_libraries()
    task, path = asked(tofu, knowundo)
    setting = Setting(authors=authors, task=task)
    rows = learnt(setting, seed, path)
    kept = [row for name in ("used", "retain", "same") for row in rows.get(name, ())]
    with new_folder(out) as folder, ProgressBar("learning") as progress:
        base, tokenizer = load_model(_model(model), device=device)
        known = encode([*rows["forget"], *kept], tokenizer, LENGTH).examples
        fit(base, known, setting.training, seed=seed, progress=progress)
        save_model(base, tokenizer, folder / "model")
        for name, texts in (("forget", rows["forget"]), ("retain", kept), ("holdout", rows["holdout"])):
            write_text(folder / f"{name}.jsonl", write_rows(texts))
    click.echo(
        f"{out}: a model that knows {authors} {'authors' if task == 'tofu' else 'people'}, of whom one is to be forgotten"
    )


@main.command()
@source
@MODEL
@DEVICE
@click.option("--split", type=click.Choice(tuple(SPLITS)), help="Learn all of TOFU, and forget the authors of this split.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop before so many minutes are over.")
@click.option("--draw", type=int, help=f"Only the cells of one draw of people: {TUNING_SEED} to tune, or {SEEDS}.")
@click.option("--part", default="1/1", show_default=True, metavar="I/N", help="Only every N-th row, from the I-th on.")
def run(
    tofu: str | None,
    knowundo: str | None,
    model: Path | None,
    device: str,
    split: str | None,
    minutes: float | None,
    draw: int | None,
    part: str,
) -> None:
    """Compute what is missing."""
    quiet_libraries()
    task, path = asked(tofu, knowundo)
    setting = Setting(task=task, split=split or "")
    first, _, every = part.partition("/")
    rows = rows_of(setting)[int(first) - 1 :: int(every)]
    workspace = Workspace(ROOT / "build" / "trained" / "real", Deadline(minutes))
    bench = Bench(RunStore(ROOT / "results" / "real"), _model(model), path, device, workspace)
    with in_pieces():
        failed = Table(bench, setting, rows_of(setting)).run(rows, draw)
    if failed:
        raise click.ClickException(f"{len(failed)} cells did not fit into memory: {'; '.join(failed)}")


@main.command()
@click.option("--out", default=ROOT / "benchmarks" / "real.json", type=click.Path(path_type=Path))
def table(out: Path) -> None:
    """Gather the records into a JSON file and a page; needs neither the model nor the texts."""
    write(gathered(), out)


def gathered() -> dict[str, Any]:
    """The committed records as one dict: those of ten of TOFU's authors, and under `others` those of other tasks."""
    store = RunStore(ROOT / "results" / "real")
    found = _gathered(store, Setting())
    assert found is not None
    others = {name: _gathered(store, setting) for name, setting in OTHERS.items()}
    return {**found, "others": {name: table for name, table in others.items() if table is not None}}


def _gathered(store: RunStore, setting: Setting) -> dict[str, Any] | None:
    """The table of a setting; None without a record of its original model."""
    bench = Bench(store, Path(), "", "cpu", Workspace())
    if not bench.as_recorded(setting.task) and setting != Setting():
        return None
    table = Table(bench, setting, rows_of(setting))
    if setting != Setting() and table.original() is None:
        return None
    return table.gathered()


def write(found: dict[str, Any], out: Path) -> None:
    """The JSON file, and beside it the page."""
    text = page(found, " ".join((__doc__ or "").split("\n\n")[3].split()))
    write_text(out, json.dumps(found, indent=1) + "\n")
    write_text(out.with_suffix(".md"), text)
    click.echo(text)


if __name__ == "__main__":
    main()
