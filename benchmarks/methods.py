"""The table that decides: every method at the same forgetting, on the same models, beside retraining.

    python benchmarks/methods.py run [--processes 16]   compute what is missing into results/methods/, one thread a process (resumes)
    python benchmarks/methods.py table                  results/methods/ -> benchmarks/methods.json and methods.md
    python benchmarks/methods.py prune                  delete the records that no table uses

With `--size large` the same is done for fewer rows and seeds on models three times as large: methods-large.json and methods-large.md.

A nano model learns 256 texts of ARC by heart; 16 of them are to go. Of the other 240 the methods are given 160. Every method goes
as far as the retrained model's forget loss (the first crossing, within 1 % of the gap, with no limit on the retain loss) and is
measured there, on the 160 texts that it used and on the 80 outside, which no method sees. First-order methods and the damping of
the second-order ones are tuned for the lowest damage outside, separately for each family, on a seed of its own; the reported seeds
are others. First-order methods with a retain term are tuned for each budget of 10, 25 and 50 % of retraining by itself; constrained
Newton has its default options, which were chosen on the tuning seed and on seeds 0 and 1, and is told the budget. The other systems
of the field are tuned for a quarter of retraining, EUL and DPO for a half; methods that have no budget in their name for none. SISA
and certified Newton each have a model of their own form, trained on the same texts, and no goal to reach. Costs are in gradients of
single texts, and a forward pass counts as a third of one, for every method. No method gets more than 4,800 gradients, a quarter
more than retraining takes. The search for the best options ends only where the next smaller and the next larger value of every one
were tried and are no better.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch
from equal_forgetting import MEMORY, ORIGINAL, OWN, RETRAIN, WRITTEN, Cell, Setting, case, compute, default_workspace
from method_rows import LARGE_ROWS, MATCHED, OTHERS, RETRAINING, ROWS, Row
from methods_page import page
from tuning import Found, Place, search
from tuning import score as scored

from unlearn_lib.methods import METHODS
from unlearn_lib.reproduction.runs.processes import KEEP_MEMORY
from unlearn_lib.reproduction.runs.store import RunStore

ROOT = Path(__file__).resolve().parents[1]
WHAT = " ".join((__doc__ or "").split("\n\n")[3].split())
"""What the pages say of what is measured."""
SEEDS, TUNING_SEED = (0, 1, 2, 3, 4), 1000
SWEPT_SEEDS = (0, 1)
WRITTEN_TEXTS = {"texts": 640}
"""About as many as constrained Newton within half of retraining's cost has the model write."""
ABSOLUTE = (1.0, 1e-2, 1e-4, 1e-6, 1e-8)
FAMILIES = ("neo", "opt")
score = partial(scored, retraining=RETRAINING)


@dataclass(frozen=True)
class Benchmark:
    """All cells of the table, and where their records are."""

    store: RunStore = field(default_factory=lambda: RunStore(ROOT / "results" / "methods"))
    setting: Setting = field(default_factory=Setting)
    rows: tuple[Row, ...] = (*ROWS, *OTHERS)
    families: tuple[str, ...] = FAMILIES
    seeds: tuple[int, ...] = SEEDS
    swept_seeds: tuple[int, ...] = SWEPT_SEEDS

    def tuning(self, row: Row, family: str) -> Found:
        """How far the search for a row's options has come; a row without ladders needs none."""
        if not row.ladders:
            return Found((), (), {})

        def look(place: Place) -> dict[str, Any] | None:
            record = self.tried(row, family, place).get(self.store)
            return None if record is None else dict(record["results"])

        return search(row.ladders, look, partial(score, share=row.share))

    def tried(self, row: Row, family: str, place: Place) -> Cell:
        """The cell of one set of options on the tuning seed."""
        return Cell(self.setting, family, TUNING_SEED, row.method, {**row.options, **place})

    def cells(self) -> Iterator[Cell]:
        """Every cell that can be known by now, those first on which others wait."""
        found = {(row.label, family): self.tuning(row, family) for family in self.families for row in self.rows}
        for row in reversed(self.rows):  # the last ones have the longest searches
            for family in self.families:
                yield from (self.tried(row, family, place) for place in found[row.label, family].tried)
        for seed in self.seeds:
            for family in self.families:
                for row in self.rows:
                    if (best := found[row.label, family].best) is not None:
                        yield Cell(self.setting, family, seed, row.method, {**row.options, **best})
                yield from (Cell(self.setting, family, seed, method) for method in (ORIGINAL, RETRAIN))
                yield Cell(self.setting, family, seed, ORIGINAL, WRITTEN_TEXTS, WRITTEN)
                if seed in self.swept_seeds:
                    for _, options in sweep():
                        yield Cell(self.setting, family, seed, "fisher-removal", options)
        for family in self.families:
            yield Cell(self.setting, family, TUNING_SEED, RETRAIN, measure=MEMORY)
            for row in self.rows:
                if (best := found[row.label, family].best) is not None:
                    yield Cell(self.setting, family, TUNING_SEED, row.method, {**row.options, **best}, MEMORY)

    def missing(self) -> list[Cell]:
        """Those whose records are not there."""
        missing = {cell.path(self.store): cell for cell in self.cells() if not cell.path(self.store).exists()}
        return list(missing.values())

    def run(self, processes: int, workspace: Path | None) -> None:
        """Compute what is missing, so many cells at a time; what becomes known on the way, too.

        Models come first, those of the tuning seed before all others. A cell that fails does not stop the rest.
        """
        models = [(f, s) for s in (TUNING_SEED, *self.seeds) for f in self.families] if self.missing() else []
        trained, started, failed = set[tuple[str, int]](), set[Path](), list[str]()
        running: dict[Future[str], tuple[str, int] | None] = {}
        with _pool(processes) as pool:
            for model in models:
                running[pool.submit(_train, self.setting, *model, workspace)] = model
            while running:
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    finished = running.pop(done)
                    if (error := done.exception()) is not None:
                        failed.append(f"{type(error).__name__}: {error}")
                    elif finished is not None:
                        trained.add(finished)
                    click.echo(failed[-1] if error else done.result())
                for cell in self.missing():
                    path = cell.path(self.store)
                    if len(running) >= processes:
                        break
                    if (cell.family, cell.seed) in trained and path not in started:
                        started.add(path)
                        running[pool.submit(_compute, cell, self.store, workspace)] = None
        if failed:
            raise click.ClickException(f"{len(failed)} cells failed, the first with {failed[0]}")

    def gathered(self) -> dict[str, Any]:
        """All records as one dict, for the table."""
        if missing := self.missing():
            raise click.ClickException(
                f"{len(missing)} records are missing, the first is of {missing[0].name}; call `run` first"
            )
        rows: dict[str, Any] = {}
        for family in self.families:
            for row in (Row(ORIGINAL, ORIGINAL), Row("retraining", RETRAIN), *self.rows):
                found = self.tuning(row, family)
                options = {**row.options, **(found.best or {})}
                memory = (
                    None if row.method == ORIGINAL else Cell(self.setting, family, TUNING_SEED, row.method, options, MEMORY)
                )
                rows.setdefault(row.label, {})[family] = {
                    "method": row.method,
                    "options": options,
                    "chosen": found.best,
                    "needs": needs(row.method, options),
                    "note": row.note,
                    "at_the_end_of_a_ladder": list(found.ends),
                    "tuning": [self._entry(self.tried(row, family, place)) for place in found.tried],
                    "peak_memory_bytes": memory and self._entry(memory)["peak_memory_bytes"],
                    "seeds": [self._entry(Cell(self.setting, family, seed, row.method, options)) for seed in self.seeds],
                }
        swept = {
            label: {
                family: [self._entry(Cell(self.setting, family, seed, "fisher-removal", options)) for seed in self.swept_seeds]
                for family in self.families
            }
            for label, options in (sweep() if self.swept_seeds else ())
        }
        written = {
            family: [self._entry(Cell(self.setting, family, seed, ORIGINAL, WRITTEN_TEXTS, WRITTEN)) for seed in self.seeds]
            for family in self.families
        }
        example = Cell(self.setting, self.families[0], self.seeds[0], ORIGINAL)
        return {
            "environments": self._environments(),
            "setting": example.config(),
            "rows": rows,
            "sweep": swept,
            "written": written,
        }

    def _entry(self, cell: Cell) -> dict[str, Any]:
        record = cell.get(self.store)
        assert record is not None  # none is missing
        return {"options": cell.options, "commit": record["provenance"]["commit"], **record["results"], **record["timing"]}

    def _environments(self) -> list[dict[str, Any]]:
        """Where the records were made, without commit and time."""
        found = []
        for cell in self.cells():
            record = cell.get(self.store)
            assert record is not None  # none is missing
            where = {name: value for name, value in record["provenance"].items() if name not in ("commit", "created")}
            found += [where] if where not in found else []
        return found

    def stale(self) -> list[Path]:
        """Records that the table does not use."""
        used = {cell.path(self.store) for cell in self.cells()}
        return [path for path in sorted(self.store.folder.glob("*.json")) if path not in used]


def needs(method: str, options: Mapping[str, Any]) -> list[str]:
    """The inputs that a method takes beyond the texts to forget, told the goal."""
    if method == ORIGINAL:
        return []
    known = METHODS[method].model_fields
    told = {name: value for name, value in options.items() if not name.startswith(OWN)} | (
        {"target_loss": 1.0} if "target_loss" in known else {}
    )
    return list(METHODS[method].from_options(told).required())


def sweep() -> Iterator[tuple[str, dict[str, Any]]]:
    """The ablation: the paper's algorithm over dampings, and with the identity in place of the inverse Fisher."""
    shared = {"step": "calibrate", "steps": 1, **MATCHED}
    yield "identity", {**shared, "solver": "identity"}
    for damping in ABSOLUTE:
        precise = {"precision": "float64"} if damping < 1e-2 else {}  # the recursion starts from I / damping
        yield f"damping {damping:g}", {**shared, "preset": "paper", "damping": damping, **precise}


def _pool(processes: int) -> ProcessPoolExecutor:
    for name, value in KEEP_MEMORY.items():
        os.environ.setdefault(name, value)
    os.environ["OMP_NUM_THREADS"] = "1"
    return ProcessPoolExecutor(processes, get_context("spawn"), _start)  # torch's threads do not survive a fork


def _start() -> None:
    torch.set_num_threads(1)


def _train(setting: Setting, family: str, seed: int, workspace: Path | None) -> str:
    start = time.perf_counter()
    case(setting, family, seed, workspace)
    return f"{family} {seed} trained: {time.perf_counter() - start:.1f} s"


def _compute(cell: Cell, store: RunStore, workspace: Path | None) -> str:
    start = time.perf_counter()
    results = compute(cell, store, workspace)["results"]
    numbers = {name: round(value, 4) for name, value in results.items() if isinstance(value, float)}
    return f"{cell.name} {cell.measure} {cell.options}: {json.dumps(numbers)}: {time.perf_counter() - start:.1f} s"


LARGE_SEEDS = 3
FILES = {"medium": "methods.json", "large": "methods-large.json"}
SIZED = click.option("--size", default="medium", show_default=True, type=click.Choice(list(FILES)), help="of the nano models")
SEEDED = click.option(
    "--seeds",
    default=None,
    type=click.IntRange(2, len(SEEDS)),
    help=f"how many are reported [{len(SEEDS)}; of large {LARGE_SEEDS}]",
)


def benchmark_of(size: str, seeds: int | None = None) -> Benchmark:
    """The benchmark on the models of a size."""
    if size == "medium":
        return Benchmark(seeds=SEEDS[:seeds])
    setting = Setting(model="nano/{family}-l")
    return Benchmark(setting=setting, rows=LARGE_ROWS, seeds=SEEDS[: seeds or LARGE_SEEDS], swept_seeds=())


@click.group(help=__doc__)
def main() -> None:
    """See the module's docstring."""


@main.command()
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1))
@SIZED
@SEEDED
def run(processes: int, size: str, seeds: int | None) -> None:
    """Compute what is missing."""
    benchmark_of(size, seeds).run(processes, default_workspace(ROOT))


@main.command()
@SIZED
@SEEDED
@click.option("--out", default=None, type=click.Path(path_type=Path), help="default: the file of the size in benchmarks/")
def table(size: str, seeds: int | None, out: Path | None) -> None:
    """Gather the records into a JSON file and a page."""
    write(benchmark_of(size, seeds), out or ROOT / "benchmarks" / FILES[size])


def write(benchmark: Benchmark, out: Path) -> None:
    """The JSON file, and beside it the page."""
    gathered = json.loads(json.dumps(benchmark.gathered()))
    attacked = json.loads((ROOT / "benchmarks" / "attacked.json").read_text(encoding="utf-8"))
    text = page(gathered, WHAT, out.name, attacked)
    out.write_text(json.dumps(gathered, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    click.echo(text)


@main.command()
def prune() -> None:
    """Delete the records that no table uses; nothing is deleted while any is missing."""
    benchmarks = [benchmark_of(size) for size in FILES]
    if missing := sum(len(benchmark.missing()) for benchmark in benchmarks):
        raise click.ClickException(f"{missing} records are missing; call `run` first")
    for path in sorted(set.intersection(*(set(benchmark.stale()) for benchmark in benchmarks))):
        path.unlink()
        click.echo(f"deleted: {path.name}")


if __name__ == "__main__":
    main()
