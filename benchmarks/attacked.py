"""What is left of forgotten texts: the methods' models at the same forgetting, audited and attacked.

    python benchmarks/attacked.py run [--minutes 9]   compute what is missing into results/attacked/ (resumes; exit code 75: call again)
    python benchmarks/attacked.py table               results/attacked/ -> benchmarks/attacked.json and attacked.md
    python benchmarks/attacked.py run --again         the same into results/attacked_again/, for `table --again` and attacked_again.json

The models, texts and options are those of the benchmark of methods (methods.md): nano models that learnt 256 questions forget 16 of them,
every method goes as far as the retrained model's forget loss, and first-order methods have the rates that were tuned within a quarter of
retraining's cost. Each result is audited as `unlearn audit` does it, with the original, the retrained and the base model at hand. On the
models of seeds 0 and 1 the defaults of constrained Newton were chosen, too. "Twin" is a model that was retrained with another seed:
nothing that an attack finds in it was ever learnt, so that it is the floor of every column.

All of it was computed twice. For the second time (attacked_again.md) the models were trained anew from the same seeds, and ended elsewhere:
rounding depends on the processor, and the library had changed in between. The first verdicts are by a rule which took 0.141 for what
chance does to an AUC of 16 texts; the second ones are by today's, which counts the 128 held-out texts, too, and takes 0.150.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from equal_forgetting import ORIGINAL, Case, Setting, default_workspace
from methods import FAMILIES
from pieces import in_pieces

from unlearn_lib.audit.auditing import audit
from unlearn_lib.audit.measures import AGAINST
from unlearn_lib.audit.schema import Audit
from unlearn_lib.audit.settings import Settings
from unlearn_lib.checkpoints import Deadline
from unlearn_lib.data.overlap import without
from unlearn_lib.files import write_text
from unlearn_lib.reproduction.runs.record import Record
from unlearn_lib.reproduction.runs.store import RunStore

ROOT = Path(__file__).resolve().parents[1]
NUMERICS, SEEDS, TWIN = {"attacked": 1, "attacked_again": 2}, (0, 1, 2), "twin"
ROWS = (
    ORIGINAL,
    TWIN,
    "gradient, one step",
    "fisher-forgetting, blocks of 48",
    "gradient-ascent, Adam",
    "gradient-difference, NLL, 25 %",
    "gradient-difference, KL, 25 %",
    "npo, with KL term, 25 %",
    "simnpo, with KL term, 25 %",
    "kfac-newton, one step",
    "fisher-removal, default (K-FAC, 4 steps)",
    "constrained-newton, 10 %",
    "constrained-newton, 25 %",
    "constrained-newton, default",
)
"""Rows of methods.md by their labels, and two models that no method made."""
SETTINGS = Settings(batch_size=32, relearning_rate=1e-3, relearning_steps=(1, 2, 3, 4, 5, 6, 8, 10, 15, 20))
ATTACKS = ("loss", "zlib", "min-k 20 %", "min-k++ 20 %", "reference model", "gradient norm")
BROUGHT_BACK = ("rounding to 8 bits", "rounding to 4 bits", "pruning of 30 % of the weights", "other prompts", "the logit lens")
COLUMNS = {
    "forget_loss": "forget loss",
    "outside_loss": "outside loss",
    **{f"auc, {name}": f"AUC, {name}" for name in ATTACKS},
    "privleak": "PrivLeak",
    "extraction_strength": "extraction strength",
    "kl_forget": "KL forget",
    "kl_outside": "KL outside",
    "relearned": "lowest loss, relearnt",
    "relearned_control": "the same, retrained model",
    "steps_to_half": "steps to half",
    "steps_to_half_control": "the same, retrained model",
    **{name: f"back by {name}" for name in BROUGHT_BACK},
}


@dataclass(frozen=True)
class Cell:
    """One record: the audit of one row on one model."""

    family: str
    seed: int
    row: str
    method: str
    options: dict[str, Any]
    setting: Setting = field(default_factory=Setting)
    numerics: int = NUMERICS["attacked"]

    def config(self) -> dict[str, Any]:
        """Everything that the record depends on."""
        own = {name: value for name, value in asdict(self).items() if name not in ("setting", "row", "numerics")}
        return {
            "benchmark": "attacked",
            "numerics": self.numerics,
            **asdict(self.setting),
            **own,
            "relearning": SETTINGS.relearning_rate,
        }

    @property
    def name(self) -> str:
        """A readable file name prefix."""
        return f"{self.family}-{self.seed}-{self.method}"


def cells(
    families: Sequence[str] = FAMILIES, seeds: Sequence[int] = SEEDS, numerics: int = NUMERICS["attacked"]
) -> Iterator[Cell]:
    """Every cell, model after model."""
    tuned = json.loads((ROOT / "benchmarks" / "methods.json").read_text(encoding="utf-8"))["rows"]
    for seed in seeds:
        for family in families:
            for row in ROWS:
                if row in (ORIGINAL, TWIN):
                    yield Cell(family, seed, row, row, {}, numerics=numerics)
                else:
                    yield Cell(
                        family, seed, row, tuned[row][family]["method"], tuned[row][family]["options"], numerics=numerics
                    )


def compute(cell: Cell, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """(results, timing) of a cell."""
    task, tokenizer = case.bench.task, case.bench.tokenizer
    if cell.row == ORIGINAL:
        model, seconds = case.original, 0.0
    elif cell.row == TWIN:
        kept = without([*case.texts["used"], *case.texts["retain"]], case.texts["forget"])
        model, seconds = case.bench.trained("retrained-twin", list(kept), 1000 + cell.seed).model, 0.0
    else:
        result = case.unlearn(cell.method, cell.options, cell.seed, case.goal["forget"])
        model, seconds = result.model, result.cost.seconds
    outside = sorted(set(case.bench.order[case.setting.forget :]) - set(case.given))
    found = audit(
        model,
        tokenizer,
        forget=task.train.select(case.forget),
        retain=task.train.select(outside),
        holdout=task.holdout.select(range(case.setting.unseen)),
        original=case.original,
        retrained=case.retrained,
        base=case.bench.base,
        settings=SETTINGS,
    )
    return {"outcome": found.outcome, "numbers": numbers(found)}, {"seconds": seconds}


def numbers(found: Audit) -> dict[str, float]:
    """The columns of the table, of an audit; what was not measured is not there."""
    names = {
        "forget_loss": ("loss", "forget", "audited"),
        "outside_loss": ("loss", "retain", "audited"),
        "extraction_strength": ("extraction strength", "forget", "audited"),
        "privleak": ("PrivLeak", AGAINST, "audited"),
        "kl_forget": ("KL from the retrained model", "forget", "audited"),
        "kl_outside": ("KL from the retrained model", "retain", "audited"),
        **{f"auc, {name}": (f"AUC, {name}", AGAINST, "audited") for name in ATTACKS},
        **{name: (name, "forget", "audited") for name in BROUGHT_BACK},
    }
    values = {column: one.value for column, place in names.items() if (one := found.value(*place)) is not None}
    curves = {curve.role: dict(curve.points) for curve in found.curves}
    known = found.value("loss", "forget", "original")
    for role, end in (("audited", ""), ("retrained", "_control")):
        if role in curves and known is not None:
            values[f"relearned{end}"] = min(curves[role].values())
            # half of the way from the retrained model's loss back to the original's, for both models
            half = (curves["retrained"][0] + known.value) / 2
            steps = [step for step, loss in curves[role].items() if loss <= half]
            values[f"steps_to_half{end}"] = float(min(steps)) if steps else float(max(curves[role]) + 1)
    return values


def run(store: RunStore, wanted: Sequence[Cell], workspace: Path | None, deadline: Deadline) -> None:
    """Compute what is missing, with one model's case in memory at a time."""
    case: Case | None = None
    place: tuple[str, int] | None = None
    for cell in wanted:
        if store.get(cell.name, cell.config()) is None:
            deadline.check()
            if case is None or place != (cell.family, cell.seed):
                place = (cell.family, cell.seed)
                case = Case(cell.setting, cell.family, cell.seed, workspace)
            results, timing = compute(cell, case)
            store.put(cell.name, cell.config(), results, timing)
            click.echo(f"{cell.family} {cell.seed} {cell.row}: {results['outcome']}, {timing}")


def gathered(store: RunStore, wanted: Sequence[Cell]) -> dict[str, Any]:
    """The records by row; rows and models without records are left out."""
    rows: dict[str, Any] = {}
    environments: list[Mapping[str, Any]] = []
    for cell in wanted:
        record: Record | None = store.get(cell.name, cell.config())
        if record is None:
            continue
        where = {name: value for name, value in record["provenance"].items() if name not in ("commit", "created")}
        environments += [where] if where not in environments else []
        entry = rows.setdefault(cell.row, {"method": cell.method, "runs": []})
        told = {"family": cell.family, "seed": cell.seed, "commit": record["provenance"]["commit"]}
        entry["runs"].append({**told, **record["results"]})
    return {"environments": environments, "setting": asdict(Setting()), "rows": {row: rows[row] for row in ROWS if row in rows}}


def page(found: Mapping[str, Any], name: str) -> str:
    """The table: means over the models."""
    what = " ".join((__doc__ or "").split("\n\n")[2].split())
    machines = "; ".join(f"{where['processor']}, torch {where['torch']}" for where in found["environments"])
    lines = [
        "# What is left of forgotten texts",
        "",
        f"Made by `python benchmarks/attacked.py table`; the numbers are those of `{name}.json`. {what}",
        "",
        "Losses and KL (from the retrained model) in nats; AUC of attacks on membership, 0.5 cannot tell; PrivLeak in percent;",
        "relearnt: the lowest loss of half of the forget texts within 20 steps of training on the other half; steps to half: until it",
        "is half of the way from the retrained model's to the original's, 21 where it never is, as a mean over models that reach it",
        "or not; back: the share of the way from the loss of the attacked model to that of the original. Outside: retained texts that",
        "no method was given.",
        "",
        machines,
        "",
        "| row | models | verdicts | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for row, entry in found["rows"].items():
        runs = entry["runs"]
        outcomes = [run["outcome"] for run in runs]
        told = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
        lines.append(f"| {row} | {len(runs)} | {told} | " + " | ".join(_cell(name, runs) for name in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, runs: Sequence[Mapping[str, Any]]) -> str:
    values = [run["numbers"][name] for run in runs if name in run["numbers"]]
    return f"{statistics.fmean(values):.3g}" if values else ""


def _name(again: bool) -> str:
    return "attacked_again" if again else "attacked"


AGAIN = click.option("--again", is_flag=True, help="The second computation.")


@click.group(help=__doc__)
def main() -> None:
    """See the module's docstring."""


@main.command("run")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop before so many minutes are over.")
@click.option("--family", type=click.Choice(FAMILIES), help="Only models of this family.")
@click.option("--seed", type=int, help="Only this seed.")
@AGAIN
def run_command(minutes: float | None, family: str | None, seed: int | None, again: bool) -> None:
    """Compute what is missing."""
    families, seeds = FAMILIES if family is None else (family,), SEEDS if seed is None else (seed,)
    wanted = list(cells(families, seeds, NUMERICS[_name(again)]))
    with in_pieces():
        run(RunStore(ROOT / "results" / _name(again)), wanted, default_workspace(ROOT), Deadline(minutes))


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="The JSON file; by default beside this script.")
@AGAIN
def table(out: Path | None, again: bool) -> None:
    """Gather the records into a JSON file and a page."""
    out = out or Path(__file__).with_name(f"{_name(again)}.json")
    found = gathered(RunStore(ROOT / "results" / _name(again)), list(cells(numerics=NUMERICS[_name(again)])))
    write_text(out, json.dumps(found, indent=1) + "\n")
    write_text(out.with_suffix(".md"), page(found, out.stem))
    click.echo(page(found, out.stem))


if __name__ == "__main__":
    main()
