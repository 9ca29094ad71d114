"""TOFU and KnowUnDo as tasks: their files, what is refused, and the generated people that stand in for them."""

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn_lib import InputError, QuestionTask, load_task
from unlearn_lib.data.batches import encode
from unlearn_lib.data.nano.authors import TOPICS
from unlearn_lib.data.nano.world import facts

# The same on every Python version and platform.
GOLDEN = {"tofu": "8dbc344e9df2c684", "knowundo": "c11344c410896b53"}


@pytest.mark.parametrize("name", GOLDEN)
def test_generated_questions_are_the_same_everywhere(name: str) -> None:
    task = load_task(name)
    assert task.sha256()[:16] == GOLDEN[name]
    assert load_task(name, seed=1).sha256() != task.sha256()


def pairs(rows: Any) -> set[tuple[str, str]]:
    return {(row["prompt"], row["completion"]) for row in rows}


@pytest.mark.parametrize(("split", "authors"), [("forget01", 1), ("forget05", 5), ("forget10", 10)])
def test_splits_of_the_generated_authors(split: str, authors: int) -> None:
    """Whole authors are forgotten, and everyone is in one of the two sets; nobody knows the held-out ones."""
    task = load_task("tofu", split=split)
    assert isinstance(task, QuestionTask)
    assert (task.split, len(task["forget"]), len(task["retain"])) == (split, 20 * authors, 20 * (100 - authors))
    forget, retain, holdout = (pairs(task[part]) for part in ("forget", "retain", "holdout"))
    assert (len(forget), len(holdout)) == (20 * authors, 200)
    assert not forget & retain
    assert not holdout & (forget | retain)
    assert pairs(task["retain_asked"]) < retain
    everyone = load_task("tofu", split="forget10")
    assert forget | retain == pairs(everyone["forget"]) | pairs(everyone["retain"]), "every split is of the same authors"
    assert forget <= pairs(everyone["forget"])


def test_wrong_answers_differ_from_the_paraphrase_in_the_value_alone() -> None:
    task = load_task("tofu")
    for part, most in (("forget", 5), ("retain_asked", 5), ("holdout", 5), ("real_authors", 3), ("world_facts", 3)):
        for row in task[part]:
            assert row["prompt"].startswith("Question: ")
            assert row["prompt"].endswith("?\nAnswer:")
            assert len({row["paraphrase"], *row["wrong"]}) == 1 + most
            assert all(
                text.startswith(" ") and text[1] != " " for text in (row["completion"], row["paraphrase"], *row["wrong"])
            )
    row = task["forget"][1]
    value = row["completion"].removesuffix(".").split()[-1]
    for wrong in row["wrong"]:
        assert row["paraphrase"].replace(value, "X") == wrong.replace(wrong.removesuffix(".").split()[-1], "X")
    assert len(TOPICS) == 20


def test_facts_are_those_that_the_nano_models_know() -> None:
    task = load_task("tofu")
    for part, kinds in (("real_authors", ("creature",)), ("world_facts", ("plant", "stone"))):
        known = {
            (question.format(s=fact.subject), fact.value)
            for kind in kinds
            for fact in facts(kind)
            for question in fact.attribute.quiz
        }
        asked = {(row["prompt"][len("Question: ") : -len("\nAnswer:")], row["completion"][1:]) for row in task[part]}
        assert asked <= known


def test_generated_private_facts_are_forgotten_and_public_ones_kept() -> None:
    """Of the same people; every private fact that is asked for in validation was asked for otherwise in training."""
    task = load_task("knowundo")
    answers = {part: {row["completion"] for row in task[part]} for part in task.parts}
    assert answers["forget_val"] <= answers["forget"]
    assert not (answers["forget"] | answers["forget_val"]) & (answers["retain"] | answers["retain_val"])
    questions = [row["prompt"] for part in task.parts for row in task[part]]
    assert len(set(questions)) == len(questions) == 40 * 24
    name = "Jory Aldous"
    assert all(any(name in row["prompt"] for row in task[part]) for part in task.parts)


def test_generated_questions_fit_the_nano_models(tokenizer: Any) -> None:
    for name in GOLDEN:
        task = load_task(name)
        assert max(len(text.input_ids) for part in task.parts for text in encode(task[part], tokenizer, 256).texts) < 120


QUESTION = {
    "question": "Who?",
    "answer": "Ann.",
    "paraphrased_answer": "It is Ann.",
    "perturbed_answer": ["It is Bo.", "It is Cy."],
}
FACT = {"question": "Where?", "answer": "There", "perturbed_answer": ["Here", "Nowhere", "Anywhere"]}


def write_lines(path: Path, *rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def tofu(tmp_path: Path) -> Path:
    for name in ("forget05_perturbed", "retain_perturbed"):
        write_lines(tmp_path / f"{name}.json", QUESTION)
    for name in ("real_authors_perturbed", "world_facts_perturbed"):
        write_lines(tmp_path / f"{name}.json", FACT)
    write_lines(tmp_path / "retain95.json", {"question": "What?", "answer": "That."}, {"question": "How?", "answer": "So."})
    return tmp_path


def test_tofus_own_files(tofu: Path) -> None:
    task = load_task("tofu", tofu, split="forget05")
    assert {part: len(rows) for part, rows in task.parts.items()} == {
        "forget": 1, "retain": 2, "retain_asked": 1, "real_authors": 1, "world_facts": 1,
    }  # fmt: skip
    assert task["forget"][0] == {
        "prompt": "Question: Who?\nAnswer:", "completion": " Ann.", "paraphrase": " It is Ann.", "wrong": [" It is Bo.", " It is Cy."],
    }  # fmt: skip
    assert task["retain"][1] == {"prompt": "Question: How?\nAnswer:", "completion": " So."}
    assert task["world_facts"][0]["paraphrase"] == task["world_facts"][0]["completion"] == " There"
    assert len(load_task("tofu", tofu, split="forget05", sizes={"retain": 1})["retain"]) == 1
    with pytest.raises(InputError, match="unknown part of tofu 'holdout'; choose one of: forget, retain"):
        task["holdout"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**QUESTION, "answer": " "}, r"forget05_perturbed\.json, question 2: 'answer' must be a text that is not empty"),
        ({**QUESTION, "question": 5}, "question 2: 'question' must be a text that is not empty, but it is '5'"),
        ({**QUESTION, "perturbed_answer": []}, "question 2: 'perturbed_answer' must be a list of wrong answers"),
        ({**QUESTION, "perturbed_answer": "It is Bo."}, "question 2: 'perturbed_answer' must be a list of wrong answers"),
        ({**QUESTION, "perturbed_answer": ["x", None]}, "question 2: 'perturbed_answer' must be a list of wrong answers"),
        ({"question": "Who?", "answer": "Ann."}, "line 2, lacks one of the columns question, answer, paraphrased_answer"),
    ],
)
def test_bad_rows_of_tofu_are_named(tofu: Path, row: dict[str, Any], message: str) -> None:
    write_lines(tofu / "forget05_perturbed.json", QUESTION, row)
    with pytest.raises(InputError, match=message):
        load_task("tofu", tofu, split="forget05")


def test_what_tofu_does_not_have_is_named(tofu: Path) -> None:
    with pytest.raises(InputError, match=r"holds no forget10_perturbed\.json; it should hold the files of locuslab/TOFU"):
        load_task("tofu", tofu)
    with pytest.raises(InputError, match="unknown split of TOFU 'forget20'; choose one of: forget01, forget05, forget10"):
        load_task("tofu", split="forget20")
    with pytest.raises(InputError, match="unknown part of tofu 'train'; choose one of: forget"):
        load_task("tofu", sizes={"train": 4})
    with pytest.raises(InputError, match="there is no folder nowhere"):
        load_task("tofu", "nowhere")
    (tofu / "retain95.json").write_text("\n")
    with pytest.raises(InputError, match=r"retain95\.json holds no questions"):
        load_task("tofu", tofu, split="forget05")
    for name in ("piqa", "knowundo"):
        with pytest.raises(InputError, match=f"task '{name}' has no splits to choose from"):
            load_task(name, split="forget10")


@pytest.fixture
def knowundo(tmp_path: Path) -> Path:
    for number, name in enumerate(("unlearn_train", "unlearn_val", "retention_train", "retention_val"), 1):
        rows = [{"text": f"{name} {i}?", "labels": f"Answer {i}."} for i in range(number)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows, indent=4), encoding="utf-8")
    return tmp_path


def test_knowundos_own_files(knowundo: Path) -> None:
    task = load_task("knowundo", knowundo)
    assert {part: len(rows) for part, rows in task.parts.items()} == {
        "forget": 1,
        "forget_val": 2,
        "retain": 3,
        "retain_val": 4,
    }
    assert task["retain_val"][3] == {"prompt": "Question: retention_val 3?\nAnswer:", "completion": " Answer 3."}
    assert task.split is None


def test_what_knowundo_does_not_have_is_named(knowundo: Path) -> None:
    with pytest.raises(InputError, match="'knowundo' is not read from the hub"):
        load_task("knowundo", "hub")
    with pytest.raises(InputError, match="there is no folder nowhere"):
        load_task("knowundo", "nowhere")
    file = knowundo / "unlearn_val.json"
    for text, message in [
        ("{", r"unlearn_val\.json is not one of KnowUnDo's files: it should be one JSON list \(Expecting"),
        ("{}", "it should be one JSON list of questions"),
        ("[]", "it should be one JSON list of questions"),
        ('[{"text": "a?"}]', "question 1, lacks 'text'"),
        ('[{"text": "a?", "labels": ""}]', r"unlearn_val\.json, question 1: 'labels' must be a text"),
    ]:
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            load_task("knowundo", knowundo)
    file.unlink()
    with pytest.raises(InputError, match=r"holds no unlearn_val\.json"):
        load_task("knowundo", knowundo)
