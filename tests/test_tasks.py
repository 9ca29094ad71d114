import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hub_stand_ins import write_like_the_hub

from unlearn_lib import HubUnavailableError, InputError, load_task
from unlearn_lib.data.formats import FORMATS
from unlearn_lib.data.hub_sets import HUB_SETS, REFERENCE
from unlearn_lib.data.nano.corpus import documents
from unlearn_lib.data.nano.world import facts
from unlearn_lib.data.tasks import NANO_SIZES, TASKS

# The same on every Python version and platform. A change here changes every record: raise NUMERICS_VERSION with it.
GOLDEN = {
    "arc_easy": "09638b9f292e9c84",
    "piqa": "8818a4b3c9cafd94",
    "mathqa": "f380832801ff3921",
    "lambada": "de7aaf7e1b49d551",
    "email": "aae4a3edfe21fc40",
    "medical": "7b3eba830e9b9f99",
}


@pytest.mark.parametrize("name", TASKS)
def test_nano_tasks_are_complete_and_repeatable(name: str) -> None:
    task = load_task(name)
    assert {part: len(getattr(task, part)) for part in NANO_SIZES} == NANO_SIZES
    assert task.sha256() == load_task(name).sha256() != load_task(name, seed=1).sha256()
    texts = [row["text"] for part in (task.train, task.holdout) for row in part]
    assert len(set(texts)) == len(texts)


def test_prompts_are_the_evaluation_harness_ones() -> None:
    arc = load_task("arc_easy").test[0]
    assert arc["prompt"].startswith("Question: ")
    assert arc["prompt"].endswith("\nAnswer:")
    assert len(arc["choices"]) == 4
    assert all(choice.startswith(" ") for choice in arc["choices"])
    lambada = load_task("lambada").test[0]
    assert lambada["completion"].startswith(" ")
    assert " " not in lambada["completion"].strip()
    assert [load_task(name).chance for name in TASKS] == [0.25, 0.5, 0.2, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("name", "kinds"), [("arc_easy", ("creature", "plant", "stone")), ("piqa", ("chore",))])
def test_no_training_record_states_a_fact_of_the_test(name: str, kinds: tuple[str, ...]) -> None:
    task = load_task(name)
    reserved = [fact for kind in kinds for fact in facts(kind) if fact.reserved]
    open_facts = [fact for kind in kinds for fact in facts(kind) if not fact.reserved]
    asks = {"piqa": lambda f, text: f.subject in text and f.value in text}.get(
        name, lambda f, text: any(q.format(s=f.subject) in text for q in f.attribute.questions)
    )
    texts = [row["text"] for row in task.train]
    assert not any(asks(fact, text) for fact in reserved for text in texts)
    assert sum(any(asks(fact, text) for fact in open_facts) for text in texts) == len(texts)
    questions = [row["prompt"] + row["choices"][row["label"]] for row in task.test]
    assert all(any(asks(fact, question) for fact in reserved) for question in questions)


def test_the_corpus_holds_no_record_of_a_task() -> None:
    stream = documents(0)
    corpus = {next(stream) for _ in range(20000)}
    for name in TASKS:
        task = load_task(name)
        texts = [row["text"] for part in (task.train, task.holdout) for row in part]
        assert not corpus & set(texts)
    assert any(text.startswith("Question: ") for text in corpus), "but it knows their style"


@pytest.mark.parametrize("name", TASKS)
def test_generated_data_are_the_same_everywhere(name: str) -> None:
    assert load_task(name).sha256()[:16] == GOLDEN[name]


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(InputError, match="unknown task 'arc'; choose one of: arc_easy, piqa, mathqa, lambada, medical, email"):
        load_task("arc")
    with pytest.raises(InputError, match="unknown part of a task 'dev'; choose one of: train"):
        load_task("piqa", sizes={"dev": 3})
    with pytest.raises(InputError, match="source must be 'nano', 'hub' or a folder; there is no folder nowhere"):
        load_task("piqa", source="nowhere")


@pytest.mark.parametrize("name", FORMATS)
def test_no_network_is_one_clear_error_within_a_second(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    import datasets  # noqa: F401  (its import is not part of the call's second)

    start = time.perf_counter()
    with pytest.raises(HubUnavailableError, match=rf"{HUB_SETS[name].repository}.*source='nano'"):
        load_task(name, source="hub")
    assert time.perf_counter() - start < 1


# Small files in the public data sets' own layout and schema.
ROWS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [
        {
            "id": f"q{i}",
            "question": f"Which of these is number {i}?",
            "choices": {
                "text": ["one", "two", "three", "four"][: 3 if i == 2 else 4],
                "label": ["1", "2", "3", "4"][: 3 if i == 2 else 4],
            },
            "answerKey": "2",
        }
        for i in range(4)
    ],
    "piqa": [{"goal": f"open door {i}", "sol1": "push it", "sol2": "eat it", "label": 0} for i in range(4)],
    "mathqa": [
        {
            "Problem": f"what is {i} plus 2 ?",
            "Rationale": "add",
            "options": f"a ) {i} , b ) {i + 2} , c ) {i + 3} , d ) rs . 1,0{i}0 , e ) none",
            "correct": "b",
        }
        for i in range(4)
    ],
    "lambada": [{"text": f"he gave the {i} maps to the man , and the man took the maps", "domain": "x"} for i in range(4)],
}


@pytest.fixture
def hub_copy(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "copy"
    write_like_the_hub(folder, HUB_SETS[request.param], ROWS[request.param])
    paragraphs = [{"text": ["1. The applicant was born.", 9 * f"{i}. He complained."], "labels": [1]} for i in range(3)]
    paragraphs.insert(0, {"text": ["1. Too short to be compared."], "labels": [1]})
    write_like_the_hub(folder / "reference", REFERENCE, paragraphs)
    return folder


@pytest.mark.filterwarnings("ignore:.*rows, not .* as in the paper")
@pytest.mark.parametrize(("hub_copy", "name"), [(name, name) for name in FORMATS], indirect=["hub_copy"])
def test_files_of_the_hub_are_read(hub_copy: Path, name: str) -> None:
    task = load_task(name, source=hub_copy)
    expected = {
        "arc_easy": ("Question: Which of these is number 0?\nAnswer: two", {"label": 1}),
        "piqa": ("Question: open door 0\nAnswer: push it", {"choices": [" push it", " eat it"]}),
        "mathqa": (
            "Question: what is 0 plus 2 ?\nAnswer: 2",
            {"choices": [" 0", " 2", " 3", " rs . 1,000", " none"], "label": 1},
        ),
        "lambada": ("he gave the 0 maps to the man , and the man took the maps", {"completion": " maps"}),
    }[name]
    assert task.train[0]["text"] == expected[0]
    assert task.test[0] | expected[1] == task.test[0]
    assert len(task.train) == (3 if name == "arc_easy" else 4)  # the question with three choices is dropped
    assert task.reference[1]["text"] == "1. The applicant was born. " + 9 * "1. He complained."
    assert task.accuracy == FORMATS[name].accuracy


@pytest.mark.parametrize("hub_copy", ["piqa"], indirect=True)
def test_another_number_of_rows_is_said(hub_copy: Path) -> None:
    with pytest.warns(UserWarning, match="rows, not") as caught:
        task = load_task("piqa", source=hub_copy, sizes={"train": 2})
    assert len(task.train) == 2
    assert "ybisk/piqa split 'train' has 4 rows, not 16113 as in the paper" in [str(warning.message) for warning in caught]


@pytest.mark.filterwarnings("ignore:.*rows, not .* as in the paper")
@pytest.mark.parametrize("hub_copy", ["lambada"], indirect=True)
def test_files_that_do_not_fit_are_refused(hub_copy: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as ybisk/piqa"):
        load_task("piqa", source=hub_copy)


@pytest.mark.filterwarnings("ignore:.*rows, not .* as in the paper")
@pytest.mark.parametrize("hub_copy", ["lambada"], indirect=True)
def test_references_that_are_all_too_short(hub_copy: Path) -> None:
    rows = [{"text": 40 * f"{i} maps to the man ", "domain": "x"} for i in range(4)]
    shutil.rmtree(hub_copy / "plain_text")
    write_like_the_hub(hub_copy, HUB_SETS["lambada"], rows)
    with pytest.raises(InputError, match=r"no reference text has 1438 characters, twice those of the longest training text"):
        load_task("lambada", source=hub_copy)


def test_the_hub_itself_would_be_asked_for_the_right_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`source="hub"` downloads repository, revision and patterns as declared, then reads them as a local copy is read."""
    asked = {}
    write_like_the_hub(tmp_path / "piqa", HUB_SETS["piqa"], ROWS["piqa"])
    write_like_the_hub(tmp_path / "glue", REFERENCE, [{"text": [40 * "a b c "]}])

    def snapshot_download(repository: str, **options: Any) -> str:
        asked[repository] = options
        return str(tmp_path / ("piqa" if "piqa" in repository else "glue"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.warns(UserWarning, match="rows, not"):
        task = load_task("piqa", source="hub")
    assert len(task.test) == 4
    assert asked["ybisk/piqa"]["revision"] == "refs/convert/parquet"
    assert asked["coastalcph/lex_glue"]["allow_patterns"] == ["README.md", "ecthr_a/*"]
