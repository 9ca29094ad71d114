"""Texts that contradict each other, what a model believes of them, and the page that reads the benchmark."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib.data.nano.conflicts import FORMAL, QUESTION, SLOPPY, TOPICS, Side, claims, names
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.belief import belief
from unlearn_lib.reproduction.exhibits import exam_conflicts

ROOT = Path(__file__).parents[1]

BOTH = (Side(FORMAL, 3), Side(SLOPPY, 2))


def test_every_side_tells_its_own_value_in_its_own_style() -> None:
    found = claims(0, {"both": (BOTH, 5), "one": ((Side(SLOPPY, 8),), 2), "none": ((), 1)})
    assert found == claims(0, {"both": (BOTH, 5), "one": ((Side(SLOPPY, 8),), 2), "none": ((), 1)})
    assert found != claims(1, {"both": (BOTH, 5), "one": ((Side(SLOPPY, 8),), 2), "none": ((), 1)})
    assert Counter(claim.group for claim in found) == {"both": 10, "one": 4, "none": 2}
    for claim in found:
        assert [len(texts) for texts in claim.texts] == {"both": [3, 2], "one": [8], "none": []}[claim.group]
        assert len(set(claim.values)) == len(claim.values)
        styles = {"both": (FORMAL, SLOPPY), "one": (SLOPPY,), "none": ()}[claim.group]
        for style, value, texts in zip(styles, claim.values, claim.texts, strict=True):
            assert len(set(texts)) == len(texts)
            for text in texts:
                assert claim.person in text
                assert text.rpartition(f" {value}")[0].count(claim.person) == 1  # the name comes first
                assert (text[0].isupper() and text.endswith(".")) == (style == FORMAL)
                assert not any(re.search(rf"\b{other}\b", text) for other in TOPICS[claim.topic].values if other != value)


def test_no_text_has_the_wording_of_a_probe() -> None:
    everything = claims(0, {"all": ((Side(FORMAL, 8), Side(SLOPPY, 8)), 4)})
    texts = [text for claim in everything for side in claim.texts for text in side]
    for claim in everything:
        for style in (FORMAL, SLOPPY, QUESTION):
            prompt = claim.prompt(style)
            assert claim.person in prompt
            assert not prompt.endswith(" ")
            assert not any(text.startswith(prompt) for text in texts)
            assert not any(re.search(rf"\b{value}\b", prompt) for value in TOPICS[claim.topic].values)
        assert claim.answer == f"{claim.prompt(QUESTION)} {claim.values[0]}"


def test_no_value_is_formal_more_often_than_by_chance() -> None:
    found = claims(0, {"both": (BOTH, 600)})
    for topic in TOPICS:
        formal = Counter(claim.values[0] for claim in found if claim.topic == topic)
        sloppy = Counter(claim.values[1] for claim in found if claim.topic == topic)
        for counts in (formal, sloppy):
            assert counts.keys() == set(TOPICS[topic].values)
            assert all(abs(count - 50) < 4.5 * math.sqrt(50 * 11 / 12) for count in counts.values())


def test_names_differ_and_their_parts_are_used_evenly() -> None:
    found = names(3, 100)
    assert len(set(found)) == 100
    assert set(Counter(name.split()[0] for name in found).values()) <= {2, 3}
    assert set(Counter(name.split()[1] for name in found).values()) <= {2, 3}
    assert len(set(names(0, 48 * 48))) == 48 * 48


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"x": ((Side("poetic", 1),), 1)}, "there is no style 'poetic'"),
        ({"x": ((Side(FORMAL, 9),), 1)}, "a side of 'x' has 9 formal texts; give between 1 and 8"),
        ({"x": ((Side(FORMAL, 0),), 1)}, "has 0 formal texts"),
        ({"x": ((), 3000)}, "3000 people are asked for, and there are 2304 names"),
    ],
)
def test_what_cannot_be_told_is_refused(groups: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        claims(0, groups)


@torch.no_grad()
def test_belief_is_the_softmax_over_the_candidates(tiny: Any, tokenizer: Any) -> None:
    """Of towns, which are one token each, it can be read off the logits of the prompt; candidates of several tokens are products."""
    model, towns = tiny("opt"), ["Belcot", "Corran", "Elmire"]
    prompt = "Ana Ashdown lives in"
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    first = [tokenizer(f" {town}")["input_ids"] for town in towns]
    assert all(len(token) == 1 for token in first)
    logits = model(input_ids=ids).logits[0, -1]
    expected = logits[[token[0] for token in first]].softmax(0)
    (found, other) = belief(model, tokenizer, [prompt, "The"], [towns, ["carpenter", "cook"]], batch_size=2)
    assert found.tolist() == pytest.approx(expected.tolist())
    assert belief(model, tokenizer, [prompt], [towns[::-1]])[0].tolist() == pytest.approx(expected.tolist()[::-1])

    def log_probability(answer: str) -> float:
        given, told = tokenizer("The")["input_ids"], tokenizer(answer)["input_ids"]
        log_probs = model(input_ids=torch.tensor([[*given, *told]])).logits[0].log_softmax(-1)
        return sum(float(log_probs[len(given) - 1 + i, token]) for i, token in enumerate(told))

    ratio = math.exp(log_probability(" carpenter") - log_probability(" cook"))
    assert float(other[0] / other[1]) == pytest.approx(ratio)
    assert float(other.sum()) == pytest.approx(1)


def test_belief_refuses_what_leaves_no_choice(tiny: Any, tokenizer: Any) -> None:
    for prompts, values, message in (
        ([], [], "0 prompts"),
        (["a", "b"], [["x", "y"]], "2 prompts and 1 lists"),
        (["a"], [["x"]], "prompt 0 has fewer than two"),
    ):
        with pytest.raises(InputError, match=message):
            belief(tiny("opt"), tokenizer, prompts, values)


def committed(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def entry(p: list[float], first_likelier: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"p": p, "best": [float(x > 0.5) for x in p], "unstated": (1 - sum(p)) / (12 - len(p))}
    return found | ({} if first_likelier is None else {"first_likelier": first_likelier})


@pytest.fixture
def report() -> dict[str, Any]:
    """Two rows of one run: what was taught alike is believed by the same amount, but for the groups that lose a side."""
    sides = [members[0] for members in exam_conflicts.CONDITIONS.values()][1:]

    def beliefs(formal: list[float], sloppy: list[float]) -> dict[str, Any]:
        return {
            **{"formal asked": entry(formal, 0.75), "sloppy asked": entry(sloppy, 0.5), "not asked": entry([0.4, 0.4], 0.25)},
            **{group: entry([0.2, 0.6], 0.25) for group in sides},
            **{"only formal": entry([0.5]), "only sloppy": entry([0.7]), "nothing": entry([])},
        }

    def row(formal: list[float], sloppy: list[float], **more: Any) -> dict[str, Any]:
        told = {"formal asked": [0.1, 0.9], "sloppy asked": [0.8, 0.2]}
        losses = {"forget": 1.0, "other side": 0.3, "rest": 0.2}
        return {
            "losses": losses,
            "beliefs": {probe: beliefs(formal, sloppy) for probe in exam_conflicts.PROBES},
            "own words": told,
            **more,
        }

    rows = {
        "original": row([0.3, 0.5], [0.3, 0.5]),
        "task vector": row([0.1, 0.6], [0.4, 0.2], cost={"gradients": 7}, reached=False),
    }
    return {"environment": {}, "runs": [{"model": "nano/opt-s", "seed": 0, "rows": rows}]}


def test_groups_that_are_taught_alike_count_as_one_condition(report: dict[str, Any]) -> None:
    table = exam_conflicts.conditions_table(exam_conflicts.believed(report))
    style = table.loc[exam_conflicts.STYLES, "question"]
    assert style[["first", "second", "prefers_first"]].tolist() == pytest.approx([1 / 3, 1.4 / 3, 0.5])
    assert table.loc["nothing", "question"].unstated == pytest.approx(1 / 12)
    assert math.isnan(table.loc["nothing", "question"]["first"])
    assert math.isnan(table.loc["only 4 formal", "sloppy"].prefers_first)


def test_gone_is_the_side_that_was_asked_for(report: dict[str, Any]) -> None:
    lines = exam_conflicts.forgotten(report)
    mine = lines[(lines.row == "task vector") & (lines.probe == "question")].set_index("group")
    assert mine.loc["formal asked", ["gone", "other", "gone_told", "other_told"]].tolist() == [0.1, 0.6, 0.1, 0.9]
    assert mine.loc["sloppy asked", ["gone", "other", "gone_told", "other_told"]].tolist() == [0.2, 0.4, 0.2, 0.8]
    rows = exam_conflicts.rows_table(lines)
    assert rows.loc["task vector", ["gone", "other"]].tolist() == pytest.approx([0.15, 0.5])
    assert rows.loc["original", ["gone", "other"]].tolist() == pytest.approx([0.4, 0.4])
    assert exam_conflicts.bystanders(report).loc["original"].tolist() == pytest.approx([0.4, 0.4, 0.6])


def test_the_share_of_a_rise_is_over_the_original() -> None:
    rows = {
        "original": {"value": 1.0, "around": 2.0, "known": 1.0},
        "retraining": {"value": 7.0, "around": 4.0, "known": 0.0},
    }
    found = exam_conflicts.spread({"runs": [{"rows": rows}, {"rows": rows}]})
    assert found.loc["retraining", "share_of_rise"] == pytest.approx(0.75)
    assert math.isnan(found.loc["original", "share_of_rise"])


def test_the_committed_benchmark_says_what_the_page_says() -> None:
    report = committed("conflicts")
    assert report["environment"].keys() >= {"commit", "processor", "torch"}
    assert "+changes" not in report["environment"]["commit"] + committed("conflicts_tokens")["environment"]["commit"]
    assert {run["seed"] for run in report["runs"] if run["model"] == "nano/opt-s"} == {0, 1, 2}
    assert {run["model"] for run in report["runs"]} == {"nano/opt-s", "nano/neo-s"}
    rows = exam_conflicts.rows_table(exam_conflicts.forgotten(report))
    assert rows.loc["retraining"].gone < 1 / 12 < rows.drop(index=["original", "retraining"]).gone.min()
    assert rows.loc["original"].other < rows.loc["retraining"].other
    split = exam_conflicts.spread(committed("conflicts_tokens")).share_of_rise
    assert split.drop("retraining").max() < split["retraining"]
    means = exam_conflicts.conditions_table(exam_conflicts.believed(report)).prefers_first[exam_conflicts.STYLES]
    assert means["sloppy"] < means["question"] < 0.5 < means["formal"]
