"""Requests served in turn, and after each how much of all of them is known by heart (Jang et al. 2023, arXiv 2210.01504).

Jang et al. find that forgetting many texts a part at a time hurts a model less than forgetting all of them at once. To see what a later
request does to an earlier one, and whether one forgets what nobody has asked for yet, all requests are measured each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_lib.audit.requests import Served, consecutive
from unlearn_lib.data.batches import encode, sequence_length
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError
from unlearn_lib.methods import METHODS
from unlearn_lib.metrics.memorisation import extraction_likelihood, memorisation_accuracy, right_tokens
from unlearn_lib.metrics.text_losses import text_losses


@dataclass(frozen=True)
class ByHeart:
    """How well a model knows some texts.

    Attributes:
        loss: Mean over the texts of their mean NLL, in nats.
        accuracy: Memorisation accuracy, between 0 and 1.
        likelihood: Extraction likelihood EL_n, between 0 and 1.
    """

    loss: float
    accuracy: float
    likelihood: float


@dataclass(frozen=True)
class Known:
    """What a model in a series knows.

    Attributes:
        requests: How well it knows the texts of each request, those to come included, in their order.
        retain_loss: Mean loss of the texts to keep, in nats.
    """

    requests: tuple[ByHeart, ...]
    retain_loss: float


def by_heart(model: Any, tokenizer: Any, rows: Any, *, n: int = 10, max_length: int | None = None) -> ByHeart:
    """Loss, memorisation accuracy and extraction likelihood of some texts.

    Args:
        model, tokenizer: A causal language model in evaluation mode, and its tokenizer.
        rows: The texts, as `rows_of` takes them; longer ones are cut to `max_length` tokens.
        n: The length of the n-grams in EL_n.
        max_length: In tokens; default: the model's context.

    Raises:
        InputError: No texts, or none of more than n tokens.

    Cost: two forward passes of each text, and T - n greedy generations of a text of T tokens.
    """
    given = rows_of(rows)
    if not given:
        raise InputError("there are no texts to measure; give at least one")
    length = sequence_length(model, tokenizer, max_length)
    texts = encode(given, tokenizer, length, long_texts="cut").examples
    losses = text_losses(model, tokenizer, given, max_length=length, long_texts="cut")
    accuracy = memorisation_accuracy(right_tokens(model, texts))
    return ByHeart(losses.double().mean().item(), accuracy, extraction_likelihood(model, texts, n))


def in_turn(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Any],
    *,
    retain: Any,
    n: int = 10,
    max_length: int | None = None,
    method: str = "gradient-ascent",
    **options: Any,
) -> list[Served[Known]]:
    """Carry out requests one after another, each on the model that the one before it left, and see what each left known by heart.

    The recipe of Jang et al. is `preset="jang"` with the values of the original model on unseen texts as the ones to come down to:

        unseen = by_heart(model, tokenizer, holdout)
        in_turn(..., preset="jang", unseen_accuracy=unseen.accuracy, unseen_likelihood=unseen.likelihood)

    With `holdout=...` in their place, each request takes those of the model that the one before it left.

    Args:
        model, tokenizer: The original model, which is left as it is, and its tokenizer.
        requests: What is to be forgotten, request by request; a single one is forgetting all at once.
        retain: The texts to keep; all of them are measured, and a method that needs such texts gets those that nobody asked to forget.
        n: The length of the n-grams in EL_n, here and in a method that has such an option itself.
        max_length: In tokens, to which longer texts are cut; default: the model's context.
        method: As of `unlearn`.
        **options: Further arguments of `unlearn`, of its method, and of `consecutive`.

    Returns:
        One entry for the original model and one for every request; see `Served`.

    Raises:
        InputError: As of `consecutive` and `by_heart`.
        NumericsError: As of `unlearn`.

    Cost: that of the requests, and of `by_heart` for all requests once more than there are requests.
    """
    asked = [rows_of(request, f"request {number}") for number, request in enumerate(requests, 1)]
    kept = rows_of(retain, "retain")

    def measure(current: Any) -> Known:
        known = tuple(by_heart(current, tokenizer, rows, n=n, max_length=max_length) for rows in asked)
        losses = text_losses(current, tokenizer, kept, max_length=max_length)
        return Known(known, losses.double().mean().item())

    if method in METHODS and "n" in METHODS[method].model_fields:
        options["n"] = n
    # what is forgotten is what is measured
    options = {"long_texts": "cut", **options}
    return consecutive(model, tokenizer, asked, measure, retain=kept, method=method, max_length=max_length, **options)
