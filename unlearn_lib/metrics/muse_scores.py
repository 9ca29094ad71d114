"""The four scores of MUSE (Shi et al., arXiv 2407.06460) of one model; how they change over requests: `unlearn_lib.audit.requests`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_lib.curvature.risk import evaluating
from unlearn_lib.data.batches import encode, sequence_length
from unlearn_lib.data.questions import QuestionTask
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.likelihood import TokenScores, of_texts, score_texts
from unlearn_lib.metrics.muse import holdout_auc, privleak
from unlearn_lib.metrics.muse_text import ANSWER_TOKENS, VERBATIM_TOKENS, knowledge_memorisation, verbatim_memorisation

LEAK = ("leak_forget", "leak_holdout")


@dataclass(frozen=True)
class MuseScores:
    """What a model shows of the texts to forget, and what it still knows of those to retain; all in percent.

    Attributes:
        verbatim_forget: Mean ROUGE-L F1 of the continuations of texts to forget (MUSE's VerbMem), 0 to 100; low is forgotten.
        knowledge_forget: Mean ROUGE-L F1 of the answers on texts to forget (KnowMem), 0 to 100; low is forgotten.
        knowledge_retain: The same on retained texts, 0 to 100; high is kept (MUSE's utility).
        privleak: PrivLeak, from -100 upwards: 0 is as after retraining, -100 not unlearned, above 0 over-unlearned; None without a
            retrained model.
        auc: The AUC that PrivLeak is made of, between 0 and 1: of telling held-out texts, the positive class, from forget texts.
        auc_retrained: The same of the retrained model, if there is one.
        without_privleak: Why there is no PrivLeak, as a sentence; empty where there is one.
        numbers: How many rows each part had that was measured on.
    """

    verbatim_forget: float
    knowledge_forget: float
    knowledge_retain: float
    privleak: float | None
    auc: float
    auc_retrained: float | None
    without_privleak: str
    numbers: dict[str, int]


def muse_scores(
    model: Any,
    tokenizer: Any,
    task: QuestionTask,
    retrained: Any = None,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    verbatim_tokens: int = VERBATIM_TOKENS,
    answer_tokens: int = ANSWER_TOKENS,
) -> MuseScores:
    """MUSE's four scores of a model.

    They say something beside those of the original and of a retrained model: how high a score is that nothing was learnt from depends
    on the texts. MUSE's own code takes two constants for the retrained model's AUC, which belong to its models; here it is measured.

    Args:
        model: A causal language model; it is measured in evaluation mode, and its mode is left as it was.
        tokenizer: Its tokenizer, which the retrained model shares.
        task: What `load_task("muse")` gives.
        retrained: A model that was trained without the texts to forget. Without one there is no PrivLeak: a model that saw neither forget
            nor held-out texts can tell them apart where they are not alike, so one half is not assumed in its place.
        batch_size: Sequences at a time; it changes no result.
        max_length: Of a sequence, in tokens; default: the model's context. Longer texts are read in pieces, all of which count.
        verbatim_tokens, answer_tokens: Tokens of a continuation and of an answer at most.

    Raises:
        InputError: A task of another kind, or what `verbatim_memorisation` and `knowledge_memorisation` refuse.

    Cost: a greedy generation for every row of three parts, and one forward pass of each model over the texts of PrivLeak.
    """
    if task.name != "muse":
        raise InputError(f"these are the scores of MUSE, and the task is {task.name!r}; give what load_task('muse') gives")
    with evaluating(model):
        verbatim_n = verbatim_memorisation(model, tokenizer, task["verbatim"], verbatim_tokens, batch_size=batch_size)
        forget_n, retain_n = (
            knowledge_memorisation(
                model, tokenizer, task[f"knowledge_{part}"], task[f"shots_{part}"], answer_tokens, batch_size=batch_size
            )
            for part in ("forget", "retain")
        )
    auc = _auc(model, tokenizer, task, batch_size, max_length)
    other = None if retrained is None else _auc(retrained, tokenizer, task, batch_size, max_length)
    leak, why = _leak(auc, other)
    return MuseScores(
        verbatim_forget=100 * float(verbatim_n.mean()),
        knowledge_forget=100 * float(forget_n.mean()),
        knowledge_retain=100 * float(retain_n.mean()),
        privleak=leak,
        auc=auc,
        auc_retrained=other,
        without_privleak=why,
        numbers={part: len(task[part]) for part in ("verbatim", "knowledge_forget", "knowledge_retain", *LEAK)},
    )


def _leak(auc: float, retrained: float | None) -> tuple[float | None, str]:
    try:
        return privleak(auc, retrained), ""
    except InputError as error:
        return None, str(error)


def _auc(model: Any, tokenizer: Any, task: QuestionTask, batch_size: int, max_length: int | None) -> float:
    length = sequence_length(model, tokenizer, max_length)

    def scores(part: str) -> Sequence[TokenScores]:
        examples = encode(task[part], tokenizer, length, long_texts="split").examples
        return of_texts(score_texts(model, examples, batch_size), examples)

    with evaluating(model):
        return holdout_auc(*map(scores, LEAK))
