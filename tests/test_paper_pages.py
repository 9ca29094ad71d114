"""The pages of the paper's tables and figures: names of methods, heads of tables, folded code, and what is told once."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.book.session import begin
from unlearn_lib.reproduction.exhibits import fig03_tradeoff, fig05_cycles, frames, intervals, settings_table, utility_checks
from unlearn_lib.reproduction.exhibits.looks import short_label, style
from unlearn_lib.reproduction.runs import case_grids, grids
from unlearn_lib.reproduction.runs.options import options
from unlearn_lib.reproduction.runs.profiles import NANO

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
PAGES = sorted(
    path
    for pattern in ("table*.ipynb", "fig*.ipynb", "exam_*.ipynb", "paper_scale.ipynb")
    for path in NOTEBOOKS.glob(pattern)
    if path.stem != "exam_frontier"  # a page on methods that are not the paper's
)
SHARED = ("table04_piqa", "table05_mathqa", "table09_lambada")


def cells(path: Path) -> list[Any]:
    return list(nbformat.read(path, as_version=4).cells)


def shown(path: Path) -> str:
    """What the cells of a page print and show, without its pictures."""
    outputs = [output for cell in cells(path) if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    return "\n".join(
        [*texts, *(output.get("data", {}).get(kind, "") for output in outputs for kind in ("text/plain", "text/html"))]
    )


def paragraphs(name: str) -> set[str]:
    text = "\n\n".join(cell.source for cell in cells(NOTEBOOKS / f"{name}.ipynb") if cell.cell_type == "markdown")
    return {" ".join(part.split()) for part in text.split("\n\n")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_label_says_which_algorithm_is_meant(path: Path) -> None:
    assert not re.search(r"\bours\b", shown(path), flags=re.IGNORECASE)
    text = " ".join(cell.source for cell in cells(path) if cell.cell_type == "markdown")
    assert not re.search(r"\bours\b", text, flags=re.IGNORECASE)


def test_the_names_tell_one_step_from_four() -> None:
    name = "fisher-removal-calibrated"
    assert (options("s")[name]["steps"], case_grids.options()[name]["steps"]) == (1, 4)
    assert paper.METHODS[name].endswith("one step")
    assert paper.CASE_METHODS[name].endswith("four steps")
    assert {key for key in paper.METHODS if paper.METHODS[key] != paper.CASE_METHODS[key]} == {name}
    assert style(name)["label"] == paper.METHODS[name]
    assert style(name, paper.CASE_METHODS)["label"] == paper.CASE_METHODS[name]
    assert short_label(name) == "Fisher Removal,\ncalibrated, one step"
    for text in (*paper.METHODS.values(), *paper.CASE_METHODS.values(), paper.HERE, *settings_table.table().what):
        assert not re.search(r"\bours?\b", text, flags=re.IGNORECASE), text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_table_counts_its_rows_in_the_first_column(path: Path) -> None:
    """A data frame without an index of its own shows 0, 1, 2, ... there."""
    for cell in cells(path):
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if "dataframe" not in html:
                continue
            head, body = html.split("<tbody>")
            first = [row.split("</th>")[0].split(">")[-1] for row in body.split("<tr>")[1:]]
            name = head.split("<tr")[-1].split("</th>")[0].split(">")[-1]
            assert name or first != [str(number) for number in range(len(first))], cell.id


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_code_that_is_no_example_is_folded_and_says_what_it_is(path: Path) -> None:
    for cell in cells(path):
        if cell.cell_type != "code":
            continue
        tags, prompt = cell.metadata.get("tags", []), cell.metadata.get("mystnb", {}).get("code_prompt_show", "")
        if "hide-input" in tags:
            assert prompt.startswith("Show the "), cell.id
            assert cell.metadata.mystnb.code_prompt_hide == prompt.replace("Show", "Hide"), cell.id
        else:
            assert cell.source.count("\n") < 40, cell.id
            assert "plt.show()" not in cell.source, cell.id
            assert "parameters" not in tags, cell.id


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_is_checked_is_said_in_a_whole_sentence(path: Path) -> None:
    for sentence in re.findall(r"^holds: (.*)$", shown(path), flags=re.MULTILINE):
        assert sentence.endswith("."), sentence
        assert len(sentence.split()) >= 5, sentence


def test_tables_4_5_and_9_leave_the_explanations_to_table_3() -> None:
    explained = paragraphs("table03_arc")
    told = [paragraphs(name) for name in SHARED]
    headings = {part for part in explained if part.startswith("#")}
    for name, own in zip(SHARED, told, strict=True):
        assert own & explained <= headings, name
        assert any("{doc}`Table 3 <table03_arc>`" in part for part in own), name
        assert sum(len(part.split()) for part in own) < 0.4 * sum(len(part.split()) for part in explained), name
        code = "\n".join(cell.source for cell in cells(NOTEBOOKS / f"{name}.ipynb") if cell.cell_type == "code")
        assert "utility_checks.alike(changes)" in code, name
    assert "damage ratio* is the rise" in " ".join(explained)
    assert not any("damage ratio* is" in part for own in told for part in own)


def test_what_the_four_tables_share_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    def row(method: str, **measures: float) -> dict[str, object]:
        values = {
            "forget_loss_mean": 1.0,
            "attack_auc_mean": 0.5,
            "delta_exp_mean": 0.1,
            "forget_rise_mean": 0.0,
            "damage": 0.1,
        }
        where = {"task": "t", "removed": 32, "size": "s", "family": "neo", "retain_kl_mean": 0.1}
        return {"method": method, **where, **values, **measures}

    tuned = {"forget_rise_mean": 0.4, "attack_auc_mean": 0.7}
    rows = [
        row("retrain", forget_rise_mean=1.0),
        row("finetune", **tuned),
        row("fisher-forgetting"),
        row("fisher-removal-calibrated", retain_kl_mean=0.01),
    ]
    utility_checks.alike(pd.DataFrame(rows))
    printed = capsys.readouterr().out
    assert printed.count("holds: ") == 7
    assert "0.40 to 0.40 times as far as retraining, and leaves the attack an AUC of 0.70 to 0.70" in printed
    assert "the damage ratio is 0.10 to 0.10" in printed
    wrong = [
        (0, {"attack_auc_mean": 0.6}),
        (1, {"delta_exp_mean": -0.1}),
        (1, {"forget_rise_mean": 0.9}),
        (1, {"attack_auc_mean": 0.5}),
        (2, {"forget_rise_mean": 0.06}),
        (3, {"forget_loss_mean": 1.1}),
        (3, {"damage": 0.2}),
        (2, {"retain_kl_mean": 0.001}),
    ]
    for number, change in wrong:
        changed = [one | change if place == number else one for place, one in enumerate(rows)]
        with pytest.raises(AssertionError):
            utility_checks.alike(pd.DataFrame(changed))


def test_what_was_not_measured_before_has_a_dash() -> None:
    table = utility_checks.live_states({"forget_loss": 0.5}, {"forget_loss": 1.25, "cosine_to_gradient": 1.0})
    assert table.loc["forget loss (nats)"].tolist() == ["0.500", "1.250"]
    assert table.loc["cosine of the step and the gradient"].tolist() == ["–", "1.000"]


def test_the_bars_of_figure_5_are_the_intervals_of_the_paired_change() -> None:
    session = begin("nano")
    runs = frames.tidy(session.records(grids.cycles(session.profile)))
    found = (
        fig05_cycles.changes(runs)
        .set_index(["task", "method", "removed"])
        .loc["piqa", "fisher-forgetting", 2 * NANO.cycle_size]
    )
    chosen = runs[(runs.task == "piqa") & (runs.removed == 2 * NANO.cycle_size)].set_index("seed")
    after, before = (chosen[chosen.method == name].accuracy for name in ("fisher-forgetting", "original"))
    assert tuple(found[["change", "low", "high"]]) == pytest.approx(tuple(intervals.interval(after - before)))
    assert found.half == pytest.approx((found.high - found.low) / 2)
    assert found.accuracy == pytest.approx(after.mean())


def test_figure_3_enlarges_where_most_methods_lie() -> None:
    session = begin("nano")
    points = fig03_tradeoff.points(fig03_tradeoff.runs(session.records(grids.tradeoff(session.profile))))
    drawn = fig03_tradeoff.figure(points)
    assert len(drawn.axes) == 6
    for task, (_, whole, part) in zip(("lambada", "piqa"), (drawn.axes[:3], drawn.axes[3:]), strict=True):
        assert part.get_xlim()[1] - part.get_xlim()[0] < 0.45 * (whole.get_xlim()[1] - whole.get_xlim()[0])
        chosen = points[(points.task == task) & ~points.method.isin(["dp-sgd", "fisher-forgetting"])]
        low, high = part.get_xlim()
        assert chosen.exposure_drop_mean.between(low, high).all()
        low, high = part.get_ylim()
        assert chosen.accuracy_mean.between(low, high).all()


def test_forgetting_does_not_lower_exposure_and_the_page_says_so() -> None:
    text = " ".join(paragraphs("fig03_tradeoff"))
    assert "The printed picture does not come back" in text
    assert "its fall of exposure is negative everywhere" in text
    assert "answers more questions than the original model" in text
    session = begin("nano")
    points = fig03_tradeoff.points(fig03_tradeoff.runs(session.records(grids.tradeoff(session.profile))))
    assert points[points.method == "fisher-forgetting"].exposure_drop_mean.max() < 0
    piqa = points[(points.task == "piqa")].set_index(["method", "strength"]).accuracy_mean
    assert piqa.loc["dp-sgd"].loc[100:].min() > piqa.loc["original"].iloc[0]


def test_no_page_decides_what_its_verdict_leaves_open() -> None:
    onion = " ".join(paragraphs("fig06_onion"))
    assert "do not shield" not in onion
    assert "No onion" not in onion
    cycles = " ".join(paragraphs("fig05_cycles"))
    assert "comes back in shape" not in cycles
    assert "Forgetting costs at most 2.5 points" not in shown(NOTEBOOKS / "fig05_cycles.ipynb")
    assert "moves exposure at least as far" not in " ".join(paragraphs("table07_ranks"))
    assert "costs no accuracy beyond the noise" not in " ".join(paragraphs("table03_arc"))
    title = " ".join(paragraphs("exam_damping"))
    assert "holds all the same" not in title
    assert "{doc}`contradicted <../book/verdicts>`" in title
    assert "{doc}`supported <../book/verdicts>`" in title
    assert "In batches of four, twice the t and twice the m cost 3.3 and 4 times as much" in " ".join(
        paragraphs("table06_complexity")
    )
