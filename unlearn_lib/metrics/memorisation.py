r"""How well a model knows texts by heart: memorisation accuracy and extraction likelihood (Jang et al. 2023, arXiv 2210.01504),
greedy extraction and extraction strength.

For a text of T tokens, f greedy:

    MA     share of its T - 1 predictions that are the most likely token
    EL_n   mean over the prefixes x_<t of 1 ... T - n tokens of the share of the n-grams of f(x_<t), which has the length of x_>=t,
           that are among those of x_>=t. Each is counted as often as it was written, as in the paper and in its authors' code
    ES     1 - k / T for the shortest prefix of k tokens from which greedy decoding gives the rest exactly; 0 if there is none
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import Example, Grouping, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, token_logits
from unlearn_lib.metrics.generation import write_on


@torch.no_grad()
def right_tokens(model: Any, examples: Sequence[Example], batch_size: int | Grouping = 32) -> list[Tensor]:
    """For every text `[S]`, bool: which of its scored predictions are the most likely token. Cost: one forward pass.

    MA, ES and greedy extraction all come from it: where every prediction of a text's rest is right under teacher forcing,
    greedy decoding gives that rest exactly.

    Raises:
        InputError: No texts.
    """
    if not examples:
        raise InputError("there are no texts to measure")
    found = []
    for batch in make_batches(examples, batch_size, model.device):
        found += right_of(token_logits(model, batch), batch["labels"])
    return found


def right_of(logits_BTV: Tensor, labels_BT: Tensor) -> list[Tensor]:
    """For every text of a batch `[S]`, bool: what `right_tokens` gives, from its logits."""
    targets_BS = labels_BT[:, 1:]
    # the first token of a text is not counted, even where virtual tokens before it predict it
    right_BS = logits_BTV[:, -targets_BS.shape[1] - 1 : -1].argmax(-1) == targets_BS
    scored_BS = targets_BS != IGNORED
    return [right_S[scored_S].cpu() for right_S, scored_S in zip(right_BS, scored_BS, strict=True)]


def memorisation_accuracy(right: Sequence[Tensor]) -> float:
    """MA, the mean over the texts, between 0 and 1; of what `right_tokens` gives."""
    return sum(float(right_S.double().mean()) for right_S in right) / len(right)


def extraction_strength(right: Sequence[Tensor]) -> Tensor:
    """`[n]`: ES of every text, over its scored tokens; of what `right_tokens` gives.

    A rest of the last token alone (nearly always the end-of-text token) does not count.
    """
    found = []
    for right_S in right:
        run = int(right_S.flip(0).cumprod(0).sum())  # right predictions at the end
        found.append(run / (len(right_S) + 1) if run > 1 else 0.0)
    return torch.tensor(found, dtype=torch.float64)


def extracted(right: Sequence[Tensor], prefix: float = 0.5) -> Tensor:
    """`[n]`, bool: whether greedy decoding after that share of a text's tokens gives the rest exactly; of what `right_tokens` gives.

    Raises:
        InputError: A share outside [0, 1).
    """
    if not 0 <= prefix < 1:
        raise InputError(f"prefix is the share of a text that is given, at least 0 and below 1; got {prefix}")
    return torch.tensor([bool(right_S[int(prefix * len(right_S)) :].all()) for right_S in right])


@torch.no_grad()
def extraction_likelihood(model: Any, examples: Sequence[Example], n: int = 10, batch_size: int = 64) -> float:
    """EL_n, the mean over the texts that score more than n tokens, between 0 and 1.

    Of a text with a prompt, the prefixes begin with the whole prompt: it is given, and not to be extracted.

    Args:
        model: A causal language model in evaluation mode.
        examples: The texts.
        n: Length of the n-grams.
        batch_size: Prefixes of a text at a time.

    Raises:
        InputError: No text is longer than n tokens; n below 1.

    Cost: T - n greedy generations of up to T - 1 tokens for a text of T tokens.
    """
    if n < 1:
        raise InputError(f"EL_n counts runs of n tokens, n at least 1; got {n}")
    values = [_likelihood(model, example, n, batch_size) for example in examples if _prefixes(example, n)]
    if not values:
        raise InputError(f"EL_{n} needs texts of more than {n} tokens; lower n")
    return sum(values) / len(values)


def generations(examples: Sequence[Example], n: int = 10) -> int:
    """How many greedy generations `extraction_likelihood` takes of these texts, each no more work than a forward pass of its text."""
    return sum(len(_prefixes(example, n)) for example in examples)


def _prefixes(example: Example, n: int) -> range:
    """The lengths of the prefixes: at least one token, all of a prompt, and n tokens are left."""
    prompt = next((i for i, label in enumerate(example.labels) if label != IGNORED), len(example.labels))
    return range(max(1, prompt), len(example.input_ids) - n + 1)


def _likelihood(model: Any, example: Example, n: int, batch_size: int) -> float:
    ids, starts, shares = example.input_ids, _prefixes(example, n), []
    for first in range(0, len(starts), batch_size):
        group = starts[first : first + batch_size]
        # All begin with the shortest prefix and are led along the text to the end of their own, so that nothing is padded and
        # no row is longer than the text.
        written_BT = write_on(
            model,
            torch.tensor([ids[: group[0]]] * len(group), device=model.device),
            [_Given(ids, group)],
            do_sample=False,
            max_new_tokens=len(ids) - group[0],
            pad_token_id=0,
            eos_token_id=None,
        )
        for t, row in zip(group, written_BT.tolist(), strict=True):
            truth = set(_ngrams(ids[t:], n))
            wrote = _ngrams(tuple(row[t:]), n)
            shares.append(sum(gram in truth for gram in wrote) / len(wrote))
    return sum(shares) / len(shares)


class _Given:
    """A rule of generation: the next token of row b is the text's own, up to `starts[b]` tokens."""

    def __init__(self, ids: Sequence[int], starts: Sequence[int]) -> None:
        self.ids, self.starts = ids, torch.tensor(starts)

    def __call__(self, written_BT: Tensor, scores_BV: Tensor) -> Tensor:
        length = written_BT.shape[1]
        own_BV = torch.full_like(scores_BV, -torch.inf)
        own_BV[:, self.ids[min(length, len(self.ids) - 1)]] = 0.0
        return torch.where((self.starts.to(scores_BV.device) > length).unsqueeze(1), own_BV, scores_BV)


def _ngrams(ids: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    return [ids[i : i + n] for i in range(len(ids) - n + 1)]
