r"""Extraction by sampling: a model is given the first tokens of a text and writes on; how much of the text comes back?

For a text x of T tokens and a prefix of k tokens, D continuations are drawn by top-k sampling. Of each, against the rest x_{k+1..T}:

    run    tokens, from the first on, that are right without a gap
    rouge  ROUGE-L recall: longest common subsequence / (T - k)
    edit   1 - Levenshtein distance / longer length

The paper (section 6) gives 10 tokens and draws 10 times; it does not say when a text counts as memorised, so that is a
`Criterion` here. All three say something of tokens, not of harm: `found` says which given strings came back word for word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rapidfuzz.distance import LCSseq, Levenshtein

from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.generation import end_tokens, until_end, write_on

Measure = Literal["run", "rouge", "edit"]


@dataclass(frozen=True)
class Draws:
    """How continuations are drawn. The paper does not say how many tokens top-k sampling chooses from."""

    prefix: int = 10
    number: int = 10
    top_k: int = 40


@dataclass(frozen=True)
class Criterion:
    """When a text counts as memorised: the best of its draws reaches `at_least` tokens ("run") or that share ("rouge", "edit")."""

    measure: Measure
    at_least: float

    def holds(self, best: Mapping[str, float]) -> bool:
        """Whether a text counts as memorised, by what `closeness` gives for it."""
        return best[self.measure] >= self.at_least


@torch.no_grad()
def continuations(
    model: Any, examples: Sequence[Example], draws: Draws | None = None, *, seed: int = 0, batch_size: int = 32
) -> list[list[tuple[int, ...]]]:
    """For every text, `draws.number` continuations of its first tokens, each as long as the rest or up to an end-of-text token.

    Args:
        model: A causal language model in evaluation mode. Its configurations say what ends a text (one token or several), and
            nothing else about the drawing.
        examples: Texts of more than `draws.prefix` tokens; their end-of-text token counts as part of the rest.
        draws: Prefix, number and width of the sampling.
        seed: Of the sampling; the global generators are left as they were.
        batch_size: Texts at a time.

    Raises:
        InputError: A text that has nothing after the prefix; draws below 1.

    Cost: `number` generations of T - k tokens for a text of T tokens.
    """
    draws = draws or Draws()
    if min(draws.prefix, draws.number, draws.top_k) < 1:
        raise InputError(f"prefix, number and top_k of the draws must be at least 1, got {draws}")
    short = next((i for i, example in enumerate(examples) if len(example.input_ids) <= draws.prefix), None)
    if short is not None:
        raise InputError(
            f"text {short} has {len(examples[short].input_ids)} tokens, so nothing is left after a prefix of {draws.prefix}; "
            "leave it out or lower the prefix"
        )
    ends = end_tokens(model)
    found: list[list[tuple[int, ...]]] = []
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for first in range(0, len(examples), batch_size):
            group = examples[first : first + batch_size]
            prompts_Bk = torch.tensor([example.input_ids[: draws.prefix] for example in group], device=model.device)
            drawn_BDT = write_on(
                model,
                prompts_Bk,
                do_sample=True,
                top_k=draws.top_k,
                top_p=1.0,
                temperature=1.0,
                num_return_sequences=draws.number,
                max_new_tokens=max(len(example.input_ids) for example in group) - draws.prefix,
                pad_token_id=ends[0] if ends else 0,
                eos_token_id=list(ends) or None,
            )[:, draws.prefix :].unflatten(0, (len(group), draws.number))
            for example, drawn_DT in zip(group, drawn_BDT.tolist(), strict=True):
                rest = len(example.input_ids) - draws.prefix
                found.append([until_end(row[:rest], ends) for row in drawn_DT])
    return found


def closeness(drawn: Sequence[tuple[int, ...]], example: Example, prefix: int) -> dict[str, float]:
    """The best of one text's draws by each measure; `run` in tokens, `rouge` and `edit` between 0 and 1."""
    truth = example.input_ids[prefix:]
    return {
        "run": float(max(_run(row, truth) for row in drawn)),
        "rouge": max(LCSseq.similarity(row, truth) for row in drawn) / len(truth),
        "edit": max(Levenshtein.normalized_similarity(row, truth) for row in drawn),
    }


def found(strings: Mapping[str, str], prompt: str, drawn: Sequence[str]) -> dict[str, bool]:
    """Which of the strings a model wrote: those that are not in the prompt already, by name, and whether one draw holds them."""
    return {name: any(value in text for text in drawn) for name, value in strings.items() if value not in prompt}


def _run(row: Sequence[int], truth: Sequence[int]) -> int:
    pairs = zip(row, truth, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(row), len(truth)))
