"""Everything that TOFU (Maini et al. 2024, arXiv 2401.06121) measures on a model; the formulas are in `unlearn_lib.metrics.tofu`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.questions import QuestionTask
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.answers import answers
from unlearn_lib.metrics.text_losses import text_losses
from unlearn_lib.metrics.tofu import (
    ForgetQuality,
    Mean,
    forget_quality,
    model_utility,
    normalised_probability,
    probability,
    rouge_l_recall,
    truth_ratio,
    truth_ratio_forget,
    truth_ratio_true,
)

PARTS = {"retain": "retain_asked", "real_authors": "real_authors", "world_facts": "world_facts"}
"""The part of the task on which each set of the model utility is measured."""


@dataclass(frozen=True)
class QuestionScores:
    """What was measured on n questions.

    Attributes:
        losses_n, paraphrase_losses_n: `[n]`, the losses of the true answers and of their paraphrases: the mean NLL per token, in nats.
        wrong_losses: For every question `[k]`, the losses of its wrong answers.
        answers: What the model answered.
        rouge_n: `[n]`, the ROUGE-L recall of the answers.
    """

    losses_n: Tensor
    paraphrase_losses_n: Tensor
    wrong_losses: tuple[Tensor, ...]
    answers: tuple[str, ...]
    rouge_n: Tensor

    def ratios(self, mean: Mean = "geometric") -> Tensor:
        """`[n]`: the truth ratios."""
        return truth_ratio(self.wrong_losses, self.paraphrase_losses_n, mean)


@dataclass(frozen=True)
class TofuScores:
    """TOFU's measures of one model.

    Attributes:
        questions: What was measured, by the names "forget", "retain", "real_authors" and "world_facts".
        mean: Which mean the truth ratios take, "geometric" as in the released code or "arithmetic" as in the paper.
    """

    questions: Mapping[str, QuestionScores]
    mean: Mean

    @property
    def components(self) -> dict[str, float]:
        """The nine numbers of the model utility, by the names of `COMPONENTS`."""
        found = {}
        for name in PARTS:
            scores = self.questions[name]
            plain = name == "retain"
            share_n = probability(scores.losses_n) if plain else normalised_probability(scores.losses_n, scores.wrong_losses)
            found[f"{name}_probability"] = share_n.mean().item()
            found[f"{name}_rouge"] = scores.rouge_n.mean().item()
            found[f"{name}_truth_ratio"] = truth_ratio_true(scores.ratios(self.mean))
        return found

    @property
    def utility(self) -> float:
        """The model utility, between 0 and 1."""
        return model_utility(self.components)

    @property
    def forget(self) -> dict[str, float]:
        """On the questions to be forgotten the mean `probability` and `rouge`, and `truth_ratio`, the mean of min(R, 1/R)."""
        scores = self.questions["forget"]
        return {
            "probability": probability(scores.losses_n).mean().item(),
            "rouge": scores.rouge_n.mean().item(),
            "truth_ratio": truth_ratio_forget(scores.ratios(self.mean)),
        }

    def quality(self, reference: TofuScores) -> ForgetQuality:
        """The forget quality, against a model that was trained on the retained texts alone.

        Raises:
            InputError: The reference was measured on another number of questions, so these are not the same questions.
        """
        mine, theirs = (scores.questions["forget"].ratios(self.mean) for scores in (self, reference))
        if len(mine) != len(theirs):
            raise InputError(
                f"forget quality compares two models on the same questions, but there are {len(mine)} and {len(theirs)} of them; "
                "measure the reference on the same task and split"
            )
        return forget_quality(mine, theirs)


def tofu_scores(
    model: Any,
    tokenizer: Any,
    task: QuestionTask,
    *,
    mean: Mean = "geometric",
    max_new_tokens: int = 200,
    batch_size: int = 32,
) -> TofuScores:
    """Measure a model on all questions of a task. A loss is over an answer's tokens and the end-of-text token, as in TOFU's code.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        task: `load_task("tofu", ...)`; its parts `forget`, `retain_asked`, `real_authors` and `world_facts` are measured.
        mean: Of the truth ratios.
        max_new_tokens: Of a greedy answer, for its ROUGE. As many as the longest true answer has are enough in most cases, because a
            recall cannot fall when an answer goes on.
        batch_size: Texts in a forward pass, and prompts that are answered at a time.

    Raises:
        InputError: The task lacks one of these parts, or the columns `paraphrase` and `wrong`; a prompt fills the model's context.

    Cost: a forward pass over every question with its true, paraphrased and wrong answers (some 7 a question), and one greedy
    generation for every question, which takes nearly all of the time.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise InputError(f"max_new_tokens and batch_size are at least 1; got {max_new_tokens} and {batch_size}")
    names = {"forget": "forget", **PARTS}
    rows = {name: _rows(task, part) for name, part in names.items()}  # all are looked at before the first is measured
    found = {name: _scores(model, tokenizer, rows[name], max_new_tokens, batch_size) for name in names}
    return TofuScores(found, mean)


def _rows(task: QuestionTask, part: str) -> list[dict[str, Any]]:
    rows = list(task[part])
    if not rows or not {"prompt", "completion", "paraphrase", "wrong"} <= set(rows[0]):
        raise InputError(
            f"part {part!r} of task {task.name!r} needs questions with the columns prompt, completion, paraphrase and wrong; give a task "
            "of load_task('tofu', ...)"
        )
    return rows


def _scores(model: Any, tokenizer: Any, rows: list[dict[str, Any]], max_new_tokens: int, batch_size: int) -> QuestionScores:
    def losses(pairs: Iterable[tuple[str, str]]) -> Tensor:
        given = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
        return text_losses(model, tokenizer, given, batch_size=batch_size).cpu()

    wrong = losses((row["prompt"], wrong) for row in rows for wrong in row["wrong"])
    said = answers(model, tokenizer, [row["prompt"] for row in rows], max_new_tokens, batch_size)
    rouge = [rouge_l_recall(answer, row["completion"]) for answer, row in zip(said, rows, strict=True)]
    return QuestionScores(
        losses_n=losses((row["prompt"], row["completion"]) for row in rows),
        paraphrase_losses_n=losses((row["prompt"], row["paraphrase"]) for row in rows),
        wrong_losses=tuple(wrong.split([len(row["wrong"]) for row in rows])),
        answers=tuple(said),
        rouge_n=torch.tensor(rouge, dtype=torch.float64),
    )
