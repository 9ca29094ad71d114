"""MUSE's scores of a model that knows the generated articles by heart, of one that knows nothing, and of the two side by side."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from unlearn_lib import InputError, QuestionTask, TrainingConfig, load_task
from unlearn_lib.data.batches import encode
from unlearn_lib.metrics import muse_scores as module
from unlearn_lib.metrics.muse_scores import MuseScores, muse_scores
from unlearn_lib.models import nano
from unlearn_lib.training.loop import fit

TOKENS = {"verbatim_tokens": 16, "answer_tokens": 8}
SIZES = {"verbatim": 2, "knowledge_forget": 4, "knowledge_retain": 4, "leak_forget": 4, "leak_holdout": 4}


@pytest.fixture(scope="module")
def task() -> QuestionTask:
    return load_task("muse", sizes=SIZES)


def fresh() -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 2, 2, 0.0, 0, ""))).eval()


@pytest.fixture(scope="module")
def knower(task: QuestionTask, tokenizer: Any) -> Any:
    """A tiny model that knows the texts and the questions to forget, and none of those to retain."""
    before = "".join(row["prompt"] + row["completion"] + "\n\n" for row in task["shots_forget"])
    asked = [{"prompt": before + row["prompt"], "completion": row["completion"]} for row in task["knowledge_forget"]]
    rows = [*task["verbatim"], *({"text": text} for text in task["leak_forget"]["text"]), *asked]
    model = fresh()
    fit(model, encode(rows, tokenizer, 256).examples, TrainingConfig(80, 1e-2))
    return model


@pytest.fixture(scope="module")
def scores(knower: Any, task: QuestionTask, tokenizer: Any) -> MuseScores:
    return muse_scores(knower, tokenizer, task, fresh(), **TOKENS)


def test_a_model_that_knows_what_it_should_have_forgotten(scores: MuseScores) -> None:
    assert scores.verbatim_forget > 90
    assert scores.knowledge_forget > 70
    assert scores.knowledge_retain < scores.knowledge_forget - 20
    assert scores.auc < 0.1
    assert scores.privleak is not None
    assert scores.privleak < -80
    assert scores.auc_retrained is not None
    assert scores.privleak == pytest.approx(100 * (scores.auc - scores.auc_retrained) / scores.auc_retrained)
    assert scores.numbers == SIZES
    assert not scores.without_privleak


def test_a_model_that_knows_nothing(task: QuestionTask, tokenizer: Any) -> None:
    found = muse_scores(fresh(), tokenizer, task, fresh(), **TOKENS)
    assert found.privleak == 0.0
    assert max(found.verbatim_forget, found.knowledge_forget) < 30


def test_without_a_retrained_model_there_is_no_privleak(
    knower: Any, scores: MuseScores, task: QuestionTask, tokenizer: Any
) -> None:
    """And nothing else is another number, however the sequences are grouped and in whatever mode the model is."""
    knower.train()
    found = muse_scores(knower, tokenizer, task, batch_size=1, **TOKENS)
    assert knower.training
    knower.eval()
    assert found.privleak is found.auc_retrained is None
    assert "retrain a model without the forget texts" in found.without_privleak
    same = replace(found, privleak=scores.privleak, auc_retrained=scores.auc_retrained, without_privleak="")
    assert same == scores


def test_a_retrained_model_that_tells_all_apart_gives_no_privleak(
    knower: Any, task: QuestionTask, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrained = fresh()
    monkeypatch.setattr(module, "_auc", lambda model, *_: 0.0 if model is retrained else 0.4)
    found = muse_scores(knower, tokenizer, task, retrained, **TOKENS)
    assert (found.privleak, found.auc, found.auc_retrained) == (None, 0.4, 0.0)
    assert "is 0, so that PrivLeak is not defined" in found.without_privleak


def test_other_tasks_are_refused(knower: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="the task is 'tofu'"):
        muse_scores(knower, tokenizer, load_task("tofu", split="forget01"))
