"""The page on clusters: its tables are those of the records, by hand on made-up ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn_lib.reproduction.exhibits import cluster

ROOT = Path(__file__).parents[1]


def row(flops: int, peak: int, sent: int, difference: float) -> dict[str, Any]:
    return {"flops_of_all": 0, "flops_at_most": flops, "peak_bytes": peak, "sent_bytes": sent, "difference": difference}


def test_shares_are_those_of_the_busiest_process() -> None:
    report = {
        "shares": {
            "1": {"gradient": row(100, 50, 0, 0.0), "product": row(300, 80, 0, 0.0)},
            "2": {"gradient": row(50, 40, 2**20, 1e-8), "product": row(165, 60, 2**21, 1e-7)},
        }
    }
    table = cluster.shares(report).set_index(["operation", "processes"])
    assert list(table.index) == [("gradient", 1), ("gradient", 2), ("product", 1), ("product", 2)]
    assert table.loc[("product", 2)].to_dict() == pytest.approx(
        {"FLOPs": 0.55, "memory": 0.75, "sent (MiB)": 2.0, "difference": 1e-7}
    )
    assert table.loc[("gradient", 1), "FLOPs"] == 1


def test_steps_are_in_gibibytes() -> None:
    one = {
        "parameters": 354e6, "changed": 177e6, "planned_bytes": 3 * 2**30, "measured_bytes": 2 * 2**30, "planned_gradients": 30,
        "counted_gradients": 29,
    }  # fmt: skip
    table = cluster.steps({"steps": {"a step": one}})
    assert table.loc["a step"].tolist() == [354, 177, 3, 2, 30, 29]


def test_the_computed_times_are_those_of_the_formulas() -> None:
    machine = cluster.Machine(flops=12e9, within=8e9, between=1e9, cards=2)
    table = cluster.computed(1e6, 1000, [1, 2, 4], machine)
    # a product: 12 FLOPs a weight and token; an all-reduce of 4 MB: through each card 4 MB of two, 6 MB of four
    assert table["computing (ms)"].tolist() == pytest.approx([1000, 500, 250])
    assert table["sending (ms)"].tolist() == pytest.approx([0, 0.5, 6])
    assert table["speed-up"].tolist() == pytest.approx([1, 1000 / 500.5, 1000 / 256])


def test_the_page_has_the_commands_that_there_are() -> None:
    notebook = json.loads((ROOT / "notebooks" / "cluster.ipynb").read_text(encoding="utf-8"))
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    for command in ("--plan --cards 8x80", "torchrun --standalone --nproc-per-node 8 --no-python unlearn run", "workflow/"):
        assert command in text
    assert (ROOT / "workflow" / "Snakefile").is_file()
