"""Who labels in the benchmark labelling.py: a simulated annotator whose errors are known, and language models, measured beside it.

The simulated annotator reads a text and takes it for a leak or not, wrongly with probability `noise`. What it has read is worth
log((1 - noise) / noise) to it. Of k demonstrations in its prompt, v of which leak, it makes the prior odds (v + 1) / (k - v + 1), and
answers "leaks" where the sum of both logarithms is above 0. So demonstrations may help or mislead; which of the two is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from labelling_pool import Floats, Labels, Pool

from unlearn_lib.audit.labelling import nearest
from unlearn_lib.data.batches import Example, collate
from unlearn_lib.losses import summed_losses
from unlearn_lib.metrics.roc import auc

TOKENS = 34
"""Of every text in the prompt of a language model, so that five demonstrations fit into its context of 256."""
ANSWERS = (" no", " yes")


@dataclass(frozen=True)
class Annotator:
    """The simulated annotator: how often it misreads, and how many demonstrations it sees."""

    noise: float
    k: int = 0

    def read(self, leaks_N: Labels, seed: int) -> Labels:
        """`[N]`: what it takes every text for when it sees no demonstrations. The same for the same seed, whatever is asked first."""
        wrong_N: Labels = np.random.default_rng([seed, 1]).random(len(leaks_N)) < self.noise
        return leaks_N ^ wrong_N

    def answer(self, read: bool, demonstrations: Sequence[bool]) -> bool:
        """Its label for a text that it has read as `read`, after these demonstrations."""
        if not self.noise:
            return read
        leaking = sum(demonstrations)
        own = math.log((1 - self.noise) / self.noise) * (1 if read else -1)
        return own + math.log((leaking + 1) / (len(demonstrations) - leaking + 1)) > 0


def quality(said_N: Labels, leaks_N: Labels) -> dict[str, float]:
    """How often labels are wrong, and which share of the leaks and of the other texts are called what they are."""
    return {
        "error": float((said_N != leaks_N).mean()),
        "leaks": float(said_N[leaks_N].mean()),
        "others": float((~said_N[~leaks_N]).mean()),
    }


def vote(share_N: Floats, leaks_N: Labels) -> dict[str, float]:
    """AUC and error of answers by the share of the demonstrations that leak."""
    score_N, true_N = torch.from_numpy(share_N), torch.from_numpy(leaks_N)
    return {"auc": float(auc(score_N[true_N], score_N[~true_N])), "error": float(((share_N > 0.5) != leaks_N).mean())}


def demonstrations(features_ND: Floats, text: int, trusted: Sequence[int], k: int, choice: str, seed: int) -> list[int]:
    """k of the trusted texts: the nearest ones, or any ("random"); the most similar one last, next to the question."""
    if choice == "nearest":
        return nearest(features_ND, text, trusted, k)[::-1]
    others = [i for i in trusted if i != text]
    return [others[i] for i in np.random.default_rng([seed, text, 2]).permutation(len(others))[:k]]


@torch.no_grad()
def model_scores(
    model: Any, tokenizer: Any, pool: Pool, asked: Sequence[int], shown: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """`(AUC, error)` of a language model that is asked whether texts leak: by log p(" yes") - log p(" no") after the demonstrations,
    and by which of the two is larger."""
    score = []
    for text, demos in zip(asked, shown, strict=True):
        said = "".join(f"{_question(tokenizer, pool.texts[i])}{ANSWERS[int(pool.leaks_N[i])]}\n" for i in demos)
        prompt = tokenizer(said + _question(tokenizer, pool.texts[text]))["input_ids"]
        ends = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in ANSWERS]
        examples = [Example((*prompt, *end), (*([-100] * len(prompt)), *end)) for end in ends]
        no, yes = summed_losses(model, collate(examples)).tolist()
        score.append(no - yes)
    told_N, leaks_N = torch.tensor(score), torch.from_numpy(pool.leaks_N[list(asked)])
    return float(auc(told_N[leaks_N], told_N[~leaks_N])), float(((told_N > 0) != leaks_N).double().mean())


def _question(tokenizer: Any, text: str) -> str:
    start = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:TOKENS])
    return f"Question: {' '.join(start.split())}\nAnswer:"
