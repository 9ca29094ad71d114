"""Past one process: the tables of `benchmarks/cluster.py`, and what a product would take on cards that were not at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from unlearn_lib.reproduction.exhibits import saving

MIB, GIB = 2**20, 2**30


def shares(report: Mapping[str, Any]) -> pd.DataFrame:
    """What the busiest of several processes does: its FLOPs and the peak of its tensors as shares of one process's, the MiB that it hands
    over to be sent, and the relative difference of the answers."""
    one, rows = report["shares"]["1"], []
    for processes, found in report["shares"].items():
        for operation, row in found.items():
            alone = one[operation]
            rows.append(
                {
                    "operation": operation,
                    "processes": int(processes),
                    "FLOPs": row["flops_at_most"] / alone["flops_at_most"],
                    "memory": row["peak_bytes"] / alone["peak_bytes"],
                    "sent (MiB)": row["sent_bytes"] / MIB,
                    "difference": row["difference"],
                }
            )
    return pd.DataFrame(rows).sort_values(["operation", "processes"], kind="stable", ignore_index=True)


def steps(report: Mapping[str, Any]) -> pd.DataFrame:
    """One step of a large model: memory beyond the model and gradients, planned and measured."""
    rows = [
        {
            "step": name,
            "weights (M)": row["parameters"] / 1e6,
            "changed (M)": row["changed"] / 1e6,
            "planned (GiB)": row["planned_bytes"] / GIB,
            "measured (GiB)": row["measured_bytes"] / GIB,
            "gradients planned": row["planned_gradients"],
            "gradients counted": row["counted_gradients"],
        }
        for name, row in report["steps"].items()
    ]
    return pd.DataFrame(rows).set_index("step")


@dataclass(frozen=True)
class Machine:
    """What a computed table assumes: FLOPs a second of a card, bytes a second between the cards of a machine and between machines, and
    the cards of a machine."""

    flops: float
    within: float
    between: float
    cards: int


def computed(weights: float, tokens: float, cards: list[int], machine: Machine) -> pd.DataFrame:
    """The milliseconds of a Gauss-Newton product: its FLOPs divided among the cards, and the all-reduce of the result.

    A product takes two gradients, each 6 FLOPs a weight and token. An all-reduce of V bytes over W cards moves 2 (W - 1) / W V bytes
    through each, over the slower of the two connections that are used. Computing and sending are not overlapped.

    Args:
        weights: How many the model has, in float32.
        tokens: Of all texts together.
        cards: Numbers of cards.
        machine: See `Machine`.
    """
    rows = []
    for number in cards:
        speed = machine.within if number <= machine.cards else machine.between
        computing = 2 * 6 * weights * tokens / number / machine.flops
        sending = 2 * (number - 1) / number * 4 * weights / speed
        rows.append({"cards": number, "computing (ms)": 1e3 * computing, "sending (ms)": 1e3 * sending})
    table = pd.DataFrame(rows).set_index("cards")
    table["speed-up"] = table["computing (ms)"].iloc[0] * cards[0] / table.sum(axis=1)
    return table


def made_from(report: Mapping[str, Any]) -> dict[str, str]:
    """What the tables were made from."""
    return saving.of_benchmark(
        report, "cluster.json", f"{', '.join(report['shares'])} processes, and {len(report['steps'])} steps"
    )
