"""Models that this library writes, in EleutherAI's lm-evaluation-harness: it loads them, and its likelihoods are ours.

The harness has an environment of its own (its dependencies are not this library's), which is not there by default:

    python -m venv HARNESS
    HARNESS/bin/pip install "lm-eval[hf]==0.4.13"
    UNLEARN_HARNESS_PYTHON=HARNESS/bin/python python -m pytest tests/test_harness.py

Tasks are local files, and no network is used.
"""

import json
import math
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from unlearn_lib import load_model, load_task, save_model
from unlearn_lib.command.cli import main
from unlearn_lib.data.batches import Example
from unlearn_lib.data.files import write_rows
from unlearn_lib.losses import IGNORED
from unlearn_lib.metrics.accuracy import Questions
from unlearn_lib.metrics.likelihood import TokenScores, score_texts

HARNESS = os.environ.get("UNLEARN_HARNESS_PYTHON")
LENGTH = 100
"""Predictions in a window of the harness, fewer than the longest text has."""
pytestmark = [
    pytest.mark.harness,
    pytest.mark.skipif(not HARNESS, reason="UNLEARN_HARNESS_PYTHON names no interpreter of an environment with lm-eval"),
]

LIKELIHOOD = """
task: local_texts
dataset_path: json
dataset_kwargs: {data_files: {test: TEXTS}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
CHOICE = """
task: local_questions
dataset_path: json
dataset_kwargs: {data_files: {test: QUESTIONS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@dataclass
class Seen:
    """What the harness says of one model folder: results by task, and for each document its samples in order."""

    folder: Path
    results: dict[str, dict[str, float]]
    samples: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """Some texts that are longer than a window, and their beginnings, which are shorter."""
    task = load_task("medical", seed=0, sizes={"train": 4, "holdout": 4})
    whole = [{"text": row["text"]} for row in task.holdout]
    return [*whole, *({"text": row["text"][:90].rstrip()} for row in whole)]


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    choices = [" fever", " a neighbour", " the rain", " pain in the left knee"]
    prompts = [f"{name} was seen on 3 May. The patient complains of" for name in "Ana Bram Ugo Ida Tom Eva".split()]
    return [{"prompt": prompt, "choices": choices, "label": i % 4} for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module", params=["save_model", "unlearn run"])
def seen(request: Any, tmp_path_factory: Any, rows: list[dict[str, str]], questions: list[dict[str, Any]]) -> Seen:
    place: Path = tmp_path_factory.mktemp("harness")
    for name, given in (("texts", rows), ("questions", questions)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    if request.param == "save_model":
        folder = place / "model"
        save_model(*load_model("nano/opt-s"), folder)
    else:
        (place / "forget.jsonl").write_text(write_rows(rows[:2]), encoding="utf-8")
        words = ["run", "--model", "nano/opt-s", "--method", "gradient-ascent", "--set", "step=0.01"]
        done = CliRunner().invoke(main, [*words, "--forget", str(place / "forget.jsonl"), "--out", str(place / "out")])
        assert done.exit_code == 0, done.output
        folder = place / "out" / "model"
    return evaluated(folder, place)


def evaluated(folder: Path, place: Path) -> Seen:
    """Both tasks on one model, in the harness's own environment."""
    for name, text in (("texts", LIKELIHOOD), ("questions", CHOICE)):
        (place / "tasks").mkdir(exist_ok=True)
        (place / f"tasks/{name}.yaml").write_text(text.replace(name.upper(), str(place / f"{name}.jsonl")), encoding="utf-8")
    own = {"PATH": os.environ["PATH"], "HOME": str(place), "HF_HOME": str(place / "hub"), "OMP_NUM_THREADS": "1"}
    command = [str(HARNESS), "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "3", "--log_samples"]
    command += ["--model_args", f"pretrained={folder},dtype=float32,max_length={LENGTH}"]
    command += [
        "--tasks",
        "local_texts,local_questions",
        "--include_path",
        str(place / "tasks"),
        "--output_path",
        str(place / "found"),
    ]
    done = subprocess.run(
        command, env={**own, "HF_HUB_OFFLINE": "1"}, cwd=place, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (place / "found").rglob("results_*.json")
    samples = {}
    for task in ("local_texts", "local_questions"):
        (path,) = (place / "found").rglob(f"samples_{task}_*.jsonl")
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        samples[task] = sorted(found, key=lambda sample: sample["doc_id"])
    return Seen(folder, json.loads(results.read_text())["results"], samples)


def windows(ids: list[int], prefix: int) -> list[Example]:
    """A text as the harness reads it: a prefix token, then windows of at most LENGTH predictions that follow on one another, each with
    what fits of the tokens before it. The text's end is not scored."""
    found = []
    for start in range(0, len(ids), LENGTH):
        scored = ids[start : start + LENGTH]
        before = [prefix, *ids[:start]][-(LENGTH + 1 - len(scored)) :]
        found.append(Example((*before, *scored), (*[IGNORED] * len(before), *scored)))
    return found


def total(scores: list[TokenScores]) -> float:
    return -sum(float(text.nll_T.sum()) for text in scores)


def test_likelihoods_are_ours(seen: Seen, rows: list[dict[str, str]]) -> None:
    """To 1e-5 relative, of short texts and of texts in several windows; and so are byte and word perplexity.

    The library itself scores no first token, for want of a prefix, and the end-of-text token, which the harness leaves out.
    """
    model, tokenizer = load_model(seen.folder)
    ours = []
    for row, sample in zip(rows, seen.samples["local_texts"], strict=True):
        ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        ours.append(total(score_texts(model, windows(ids, tokenizer.bos_token_id))))
        assert float(sample["filtered_resps"][0]) == pytest.approx(ours[-1], rel=1e-5)
    found = seen.results["local_texts"]
    size = sum(len(row["text"].encode()) for row in rows)
    assert found["byte_perplexity,none"] == pytest.approx(math.exp(-sum(ours) / size), rel=1e-4)
    assert found["bits_per_byte,none"] == pytest.approx(-sum(ours) / size / math.log(2), rel=1e-4)
    words = sum(len(row["text"].split()) for row in rows)
    assert math.log(found["word_perplexity,none"]) == pytest.approx(-sum(ours) / words, rel=1e-4)


def test_choices_are_ours(seen: Seen, questions: list[dict[str, Any]]) -> None:
    model, tokenizer = load_model(seen.folder)
    right = Questions(questions, tokenizer, LENGTH).right(model).tolist()
    assert [bool(sample["acc"]) for sample in seen.samples["local_questions"]] == right
    assert seen.results["local_questions"]["acc,none"] == pytest.approx(sum(right) / len(right))
