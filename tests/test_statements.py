"""Sentences of the book beside the records and stored outputs that they are about."""

import json
import math
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits import settings_table
from unlearn_lib.reproduction.exhibits.intervals import accuracy_error
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.verdicts import cost_claims, figure_claims, table_claims
from unlearn_lib.reproduction.verdicts.judging import Claim, Verdict

ROOT = Path(__file__).parents[1]


def cells(name: str) -> list[Any]:
    return list(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells)


def prose(name: str) -> str:
    """The text of a notebook, with single spaces."""
    return " ".join(" ".join(cell.source for cell in cells(name) if cell.cell_type == "markdown").split())


def printed(name: str) -> str:
    """What its cells print."""
    outputs = [output for cell in cells(name) if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def row(claim: Claim) -> tuple[str, str]:
    """Verdict and numbers of a claim on the page of verdicts, which another test compares with the records."""
    page = (ROOT / "book" / "verdicts.md").read_text(encoding="utf-8")
    found = re.search(rf"`([a-z ]+)` \*\*{re.escape(claim.words)}\*\*(.*?)\n:::\n", page, flags=re.DOTALL)
    assert found is not None
    return found[1], found[2]


def test_the_angles_between_gradients_are_those_that_were_measured() -> None:
    """Opposed at a stationary point only: the book's own three cosines differ, and are told."""
    text, measured = prose("ch04_first_order"), printed("ch04_first_order")
    own = re.search(r"cosine of the gradients (-?[\d.]+)", measured)
    assert own is not None
    assert f"negative at the start, ${own[1]}$" in text
    rows = [line.split() for line in printed("ch05_newton").splitlines() if re.match(r"\s*(0|5)\s+0\.\d", line)]
    before, after = (-float(row[-1]) for row in rows)
    assert f"measures ${before:.2f}$ before fine-tuning and ${after:.2f}$ after five epochs" in text
    assert "at a trained model that is wrong" not in text.lower()


def test_the_settings_of_chapter_12_are_those_of_the_runs() -> None:
    text = prose("ch12_paper")
    table = settings_table.table().set_index("what").nano
    assert f"{NANO.cycle_size} texts are removed instead of {paper.CYCLE_SIZE}" in text
    assert (
        f"both step lengths are multiplied by {NANO.step_factor:g} (by {NANO.cases.step_factor:g} in the case studies)" in text
    )
    assert (
        f"exposure has {NANO.reference_size} references instead of 1000, accuracy {NANO.test_size} questions instead of 2376"
        in text
    )
    assert table["test questions"] == "100"
    assert "everything else is the paper's" not in text.lower()


def test_the_errors_of_a_difference_follow_from_the_answers_that_change() -> None:
    text = prose("ch12_paper")
    independent = math.sqrt(2) * accuracy_error(50, 2376)
    assert f"an error of {independent:.2f} points" in text
    paired = [100 * math.sqrt(share / 2376) for share in (0.01, 0.06)]
    assert f"when 1 % change, the error is {paired[0]:.1f} points, when 6 % change, {paired[1]:.1f}" in text


@pytest.mark.parametrize(
    ("notebook", "claim"),
    [
        ("fig03_tradeoff", figure_claims.private_piqa),
        ("fig05_cycles", figure_claims.forgetting_over_cycles),
        ("fig06_onion", figure_claims.onion_effect),
    ],
)
def test_a_page_says_undecided_where_the_verdict_does(notebook: str, claim: Claim) -> None:
    assert row(claim)[0] == Verdict.UNDECIDED
    assert "{doc}`undecided <../book/verdicts>`" in prose(notebook)


def test_figure_3_says_that_lambada_is_not_tested_and_why() -> None:
    verdict, words = row(figure_claims.private_lambada)
    assert verdict == Verdict.NOT_TESTABLE
    text = prose("fig03_tradeoff")
    assert "The one about LAMBADA is not tested, because the original model answers 8 % of the questions" in text
    assert "The original model answers 8.3 %" in words


def first_number(after: str, words: str) -> float:
    found = re.search(rf"{re.escape(after)} ([+-][\d.]+) ", words)
    assert found is not None
    return float(found[1])


def test_the_mean_accuracy_under_forgetting_is_within_a_point_of_where_it_was() -> None:
    assert "mean accuracy after four cycles is within a point of where it was" in prose("fig05_cycles")
    assert abs(first_number("ΔACC after four cycles, 3 runs:", row(figure_claims.forgetting_over_cycles)[1])) <= 1


def test_ascent_through_adam_lowers_exposure_further_than_removal() -> None:
    assert "Ascent through Adam, the other reading of the paper's ascent, lowers it further still" in prose("table07_ranks")
    assert first_number("ΔEXP less that of Gradient Ascent (Adam)", row(table_claims.erases_most)[1]) > 0


def test_short_steps_alone_do_nothing() -> None:
    text = prose("ch09_second_order")
    assert "four of the plain gradient do about as much damage as one" in text
    assert "matter as much as curvature" not in text
    rows = json.loads((ROOT / "benchmarks/methods.json").read_text(encoding="utf-8"))["rows"]

    def damage(name: str) -> float:
        seeds = rows[name]["opt"]["seeds"]
        return sum(seed["damage_ratio"] for seed in seeds) / len(seeds)

    assert 0.8 < damage("gradient, 4 steps") / damage("gradient, one step") < 1.2
    assert damage("fisher-removal, blocks of 48, 4 steps") < 0.5 * damage("fisher-removal, blocks of 48, one step")


def test_chapter_12_counts_as_the_page_of_verdicts_does() -> None:
    page = (ROOT / "book" / "verdicts.md").read_text(encoding="utf-8")
    counts = re.search(r"\n\d+ claims: (.*); (\d+) cannot be tested by these records\.\n", page)
    assert counts is not None
    parts = [*counts[1].split(", "), f"{counts[2]} not testable"]
    found = dict(reversed(part.split(" ", 1)) for part in parts)  # type: ignore[misc]
    assert "{" + ", ".join(f"'{name}': {number}" for name, number in found.items()) + "}" in printed("ch12_paper")
    share = int(found["supported"]) / sum(map(int, found.values()))
    assert "about a quarter of the claims are supported" in prose("ch12_paper")
    assert 0.2 <= share <= 0.3


def test_the_fisher_methods_cost_is_a_sum_wherever_it_is_told() -> None:
    assert row(cost_claims.fisher_costs)[0] == Verdict.CONTRADICTED
    assert row(cost_claims.fisher_costs_of_batches)[0] == Verdict.SUPPORTED
    assert "as algorithms 2 and 3 run, it is {doc}`supported <../book/verdicts>`" in prose("table06_complexity")
    assert "that of the Fisher methods, O(t m), is contradicted by the counts" in prose("ch12_paper")
    assert "the costs are as stated" not in prose("ch12_paper")
    assert "Twice the t and twice the m then cost twice as much" in prose("table06_complexity")
