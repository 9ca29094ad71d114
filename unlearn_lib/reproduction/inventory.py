"""What can be reproduced: every id with its notebook and what it shows."""

from __future__ import annotations

from dataclasses import dataclass

from unlearn_lib.errors import unknown


@dataclass(frozen=True)
class Item:
    """One notebook of the book.

    Attributes:
        notebook, title: Its file and what it shows.
        minutes: How long computing all its runs anew takes, for each profile: nano on two cores, gpu and paper on one GPU (0: no
            runs; None: not measured).
    """

    notebook: str
    title: str
    minutes: dict[str, int | None]


def _nano(minutes: int) -> dict[str, int | None]:
    return {"nano": minutes, "gpu": None if minutes else 0, "paper": None if minutes else 0}


ITEMS: dict[str, Item] = {
    "five_minutes": Item("five_minutes.ipynb", "Five minutes to the first unlearning", _nano(0)),
    "ch01": Item("ch01_why.ipynb", "Chapter 1: why unlearning", _nano(0)),
    "ch02": Item("ch02_memorisation.ipynb", "Chapter 2: language models memorise", _nano(0)),
    "ch03": Item("ch03_forgotten.ipynb", "Chapter 3: what forgotten means", _nano(0)),
    "ch04": Item("ch04_first_order.ipynb", "Chapter 4: first-order unlearning and how it fails", _nano(0)),
    "ch05": Item("ch05_newton.ipynb", "Chapter 5: Newton's method and influence", _nano(0)),
    "ch06": Item("ch06_curvature.ipynb", "Chapter 6: the curvature of a transformer", _nano(0)),
    "ch07": Item("ch07_inverting.ipynb", "Chapter 7: inverting a matrix you cannot store", _nano(0)),
    "ch08": Item("ch08_damping.ipynb", "Chapter 8: damping", _nano(5)),
    "ch09": Item("ch09_second_order.ipynb", "Chapter 9: Fisher Removal, Fisher Forgetting, Hessian-free steps", _nano(49)),
    "ch10": Item("ch10_dp.ipynb", "Chapter 10: DP-SGD is not unlearning", _nano(13)),
    "ch11": Item("ch11_measuring.ipynb", "Chapter 11: measuring without fooling yourself", _nano(49)),
    "ch12": Item("ch12_paper.ipynb", "Chapter 12: the paper reproduced", _nano(104)),
    "ch13": Item("ch13_your_model.ipynb", "Chapter 13: unlearn your own model", _nano(0)),
    "ch14": Item("ch14_real.ipynb", "Chapter 14: a real language model", _nano(0)),
    "ch15": Item("ch15_audit.ipynb", "Chapter 15: auditing", _nano(0)),
    "cluster": Item("cluster.ipynb", "From a laptop to a cluster", _nano(0)),
    "table01": Item("table01_notation.ipynb", "Table 1: notation", _nano(0)),
    "table02": Item("table02_comparison.ipynb", "Table 2: approaches side by side", _nano(0)),
    "fig01": Item("fig01_service.ipynb", "Figure 1: the service loop, drawn and running", _nano(0)),
    "table03": Item("table03_arc.ipynb", "Table 3: change of accuracy and exposure on ARC-Easy", _nano(49)),
    "table04": Item("table04_piqa.ipynb", "Table 4: change of accuracy and exposure on PIQA", _nano(23)),
    "table05": Item("table05_mathqa.ipynb", "Table 5: change of accuracy and exposure on MathQA", _nano(25)),
    "table09": Item("table09_lambada.ipynb", "Table 9: change of accuracy and exposure on LAMBADA", _nano(26)),
    "table07": Item("table07_ranks.ipynb", "Table 7: the methods' ranks", _nano(104)),
    "table06": Item("table06_complexity.ipynb", "Table 6: what the cost grows with", _nano(0)),
    "fig02": Item("fig02_runtime.ipynb", "Figure 2: running time", _nano(10)),
    "fig03": Item("fig03_tradeoff.ipynb", "Figure 3: DP-SGD against unlearning", _nano(13)),
    "fig04": Item("fig04_weights.ipynb", "Figure 4: histograms of the last layer's weights", _nano(2)),
    "fig05": Item("fig05_cycles.ipynb", "Figure 5: utility over consecutive unlearning cycles", _nano(7)),
    "fig06": Item("fig06_onion.ipynb", "Figure 6: the onion effect", _nano(1)),
    "fig07": Item("fig07_exposure.ipynb", "Figure 7: histograms of exposure", _nano(2)),
    "damping": Item("exam_damping.ipynb", "Examination: damping, and the identity in place of the inverse Fisher", _nano(5)),
    "blocks": Item("exam_blocks.ipynb", "Examination: block width and terms, what they cost and buy", _nano(5)),
    "units": Item("exam_units.ipynb", "Examination: exposure in nats or bits", _nano(0)),
    "erasure": Item("exam_erasure.ipynb", "Examination: over-erasure, distance to retraining", _nano(104)),
    "intervals": Item("exam_intervals.ipynb", "Examination: seeds and intervals", _nano(104)),
    "frontier": Item("exam_frontier.ipynb", "Examination: what forgetting costs, and what it does to other texts", _nano(0)),
    "roads": Item("other_roads.ipynb", "Other roads: eleven systems of the field", _nano(0)),
    "activations": Item("exam_activations.ipynb", "Examination: ReLU or GELU", _nano(8)),
    "table08": Item("table08_cases.ipynb", "Table 8: what a model gives away of private texts", _nano(33)),
    "table10": Item("table10_boilerplate.ipynb", "Table 10: boilerplate, and what comes back of it", _nano(33)),
    "scale": Item("paper_scale.ipynb", "The paper's own models: what a run would take", _nano(0)),
    "duplicates": Item("exam_duplicates.ipynb", "Examination: near-duplicates, and asking for all of them", _nano(12)),
    "conflicts": Item(
        "exam_conflicts.ipynb", "Experiment: texts that contradict each other, and forgetting one side", _nano(0)
    ),
    "labelling": Item("exam_labelling.ipynb", "Experiment: choosing what to label", _nano(0)),
}


def find(identifier: str) -> Item:
    """The item of an id such as `table03`."""
    if identifier not in ITEMS:
        raise unknown("table or figure", identifier, ITEMS)
    return ITEMS[identifier]
