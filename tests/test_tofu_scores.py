"""All of TOFU's measures on a model that learnt some questions by heart, and on one that learnt nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unlearn_lib import InputError, QuestionTask, TrainingConfig, load_task, text_losses, train
from unlearn_lib.metrics.answers import answers
from unlearn_lib.metrics.tofu import COMPONENTS, rouge_l_recall
from unlearn_lib.metrics.tofu_scores import TofuScores, tofu_scores
from unlearn_lib.models import nano

PARTS = {"forget": "forget", "retain": "retain_asked", "real_authors": "real_authors", "world_facts": "world_facts"}


@pytest.fixture(scope="module")
def task() -> QuestionTask:
    return load_task(
        "tofu", split="forget01", sizes=dict.fromkeys(["forget", "retain", "retain_asked", "real_authors", "world_facts"], 4)
    )


@pytest.fixture(scope="module")
def untrained() -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 2, 2, 0.0, 0, ""))).eval()


@pytest.fixture(scope="module")
def learnt(untrained: Any, tokenizer: Any, task: QuestionTask) -> Any:
    import copy

    model = copy.deepcopy(untrained)
    rows = [{key: row[key] for key in ("prompt", "completion")} for part in PARTS.values() for row in task[part]]
    train(model, tokenizer, rows, TrainingConfig(60, 1e-2))
    return model


@pytest.fixture(scope="module")
def scores(learnt: Any, untrained: Any, tokenizer: Any, task: QuestionTask) -> dict[str, TofuScores]:
    return {
        name: tofu_scores(model, tokenizer, task, max_new_tokens=24)
        for name, model in (("learnt", learnt), ("untrained", untrained))
    }


def test_a_model_that_learnt_the_answers_is_told_from_one_that_did_not(scores: dict[str, TofuScores]) -> None:
    learnt, untrained = scores["learnt"], scores["untrained"]
    assert min(learnt.forget["probability"], learnt.forget["rouge"]) > 0.8
    assert max(untrained.forget["probability"], untrained.forget["rouge"]) < 0.1
    for part in ("retain", "real_authors", "world_facts"):
        for measure in ("probability", "rouge"):
            assert learnt.components[f"{part}_{measure}"] > untrained.components[f"{part}_{measure}"]
    for part in ("real_authors", "world_facts"):
        assert learnt.components[f"{part}_truth_ratio"] > 0.9 > 0.5 > untrained.components[f"{part}_truth_ratio"]
    assert tuple(learnt.components) == COMPONENTS
    assert untrained.utility < 0.1 < learnt.utility < 1
    assert learnt.quality(learnt).p == 1.0
    assert learnt.quality(untrained).D == untrained.quality(learnt).D > 0


def test_every_number_is_that_of_the_question_alone(
    scores: dict[str, TofuScores], learnt: Any, tokenizer: Any, task: QuestionTask
) -> None:
    def loss(row: dict[str, Any], answer: str) -> float:
        return text_losses(learnt, tokenizer, [{"prompt": row["prompt"], "completion": answer}]).item()

    for name, part in PARTS.items():
        found, number = scores["learnt"].questions[name], 3
        row = task[part][number]
        assert found.losses_n[number].item() == pytest.approx(loss(row, row["completion"]), abs=1e-5)
        assert found.paraphrase_losses_n[number].item() == pytest.approx(loss(row, row["paraphrase"]), abs=1e-5)
        assert found.wrong_losses[number].tolist() == pytest.approx([loss(row, wrong) for wrong in row["wrong"]], abs=1e-5)
        assert (found.answers[number],) == tuple(answers(learnt, tokenizer, [row["prompt"]], 24))
        assert found.rouge_n[number].item() == rouge_l_recall(found.answers[number], row["completion"])
        assert len(found.losses_n) == len(found.rouge_n) == len(found.ratios()) == 4


def test_batches_and_the_mean_of_the_ratios(
    scores: dict[str, TofuScores], learnt: Any, tokenizer: Any, task: QuestionTask, fingerprint: Callable[[Any], str]
) -> None:
    before = fingerprint(learnt)
    found = tofu_scores(learnt, tokenizer, task, mean="arithmetic", max_new_tokens=24, batch_size=3)
    for name, part in scores["learnt"].questions.items():
        assert torch.allclose(found.questions[name].losses_n, part.losses_n, atol=1e-5)
        assert found.questions[name].answers == part.answers
        # the arithmetic mean of probabilities is never below the geometric one
        assert found.questions[name].ratios("arithmetic").ge(part.ratios("geometric") * (1 - 1e-5)).all()
    assert found.utility < scores["learnt"].utility
    assert (fingerprint(learnt), learnt.training) == (before, False)


def test_what_is_not_of_tofu_is_refused(learnt: Any, tokenizer: Any, task: QuestionTask, scores: dict[str, TofuScores]) -> None:
    with pytest.raises(InputError, match="part 'forget' of task 'knowundo' needs questions with the columns prompt"):
        tofu_scores(learnt, tokenizer, load_task("knowundo"))
    with pytest.raises(InputError, match="at least 1; got 0 and 32"):
        tofu_scores(learnt, tokenizer, task, max_new_tokens=0)
    fewer = QuestionTask(
        task.name, task.source, 0, task.split, {part: rows.select(range(2)) for part, rows in task.parts.items()}
    )
    with pytest.raises(InputError, match="on the same questions, but there are 4 and 2"):
        scores["learnt"].quality(tofu_scores(learnt, tokenizer, fewer, max_new_tokens=1))
