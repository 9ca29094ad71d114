r"""How far a model is from another in what it predicts: of an unlearned model, its distance to a model that was retrained.

For texts i of T_i scored tokens, p and q the two models' distributions of the next token:

    KL     mean over i of the mean over t of KL(p_t, q_t), in nats
    JS     the same of the Jensen-Shannon divergence, which is symmetric and at most log 2
    W1, KS 1-Wasserstein and Kolmogorov-Smirnov distance between the two models' token losses, those of all texts pooled into one
           sample of each model. They compare distributions and do not see which token has which loss

**Floor.** Two models that were retrained with different seeds are not the same model. Every distance here, and the agreement of
greedy continuations (`unlearn_lib.metrics.agreement`), is therefore to be read beside its floor: its value for two retrained
models. A model at the floor is as near to retraining as another retraining is, and 0 is not to be expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.data.examples import by_text, text_means
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import Batch, token_logits, token_nll
from unlearn_lib.metrics.agreement import greedy_agreement
from unlearn_lib.metrics.divergence import of_logits, sequence_divergences, sequence_jensen_shannon


class Compared(NamedTuple):
    """Two models on the same N sequences with K scored tokens, all float64: `kl_N` and `js_N`, means over each sequence's tokens, and
    the token losses `reference_K` and `model_K`; everything in nats."""

    kl_N: Tensor
    js_N: Tensor
    reference_K: Tensor
    model_K: Tensor


@dataclass(frozen=True)
class Distances:
    """How far a model is from a reference on a set of texts; to be read beside the same numbers of two retrained models.

    Attributes:
        kl: The mean over the texts of KL(reference, model), in nats.
        jensen_shannon: The same of the Jensen-Shannon divergence, between 0 and log 2.
        wasserstein: The 1-Wasserstein distance of the two distributions of token losses, in nats.
        kolmogorov_smirnov: The largest gap between their distribution functions, between 0 and 1.
        same: The share of the texts that both continue alike.
        tokens: The mean share of equal tokens in the two continuations.
        texts: The number of texts.
        scored: The number of their scored tokens.
    """

    kl: float
    jensen_shannon: float
    wasserstein: float
    kolmogorov_smirnov: float
    same: float
    tokens: float
    texts: int
    scored: int


@torch.no_grad()
def compare(reference: Any, model: Any, batches: Sequence[Batch]) -> Compared:
    """KL and Jensen-Shannon divergence of every sequence, and the losses of all scored tokens, in one pass of each model.

    Args:
        reference, model: Causal language models in evaluation mode that share a vocabulary; the reference is the retrained one.
        batches: The sequences. The first token of a sequence is not compared, even where virtual tokens before it predict it.

    Raises:
        InputError: No batches; the models' vocabularies differ in size.
        NumericsError: A divergence or a loss is not finite.

    Cost: a forward pass of each, and the memory of a few tensors of the logits' size.
    """
    if not batches:
        raise InputError("there are no texts on which the models could be compared; give at least one text")
    parts = [_compare_batch(reference, model, batch) for batch in batches]
    found = Compared(*(torch.cat(column).double().cpu() for column in zip(*parts, strict=True)))
    for name, values in found._asdict().items():
        if not bool(torch.isfinite(values).all()):
            raise NumericsError(
                f"{name} holds numbers that are not finite, so the models' predictions cannot be compared; look for a model that has "
                "diverged, or that rules tokens out (a logit of -inf)"
            )
    return found


def _compare_batch(reference: Any, model: Any, batch: Batch) -> tuple[Tensor, ...]:
    own = batch["labels"].shape[1]
    # rows of the text's own tokens, of which both kinds of models, with virtual tokens and without, have as many
    logits = [token_logits(each, batch)[:, -own:] for each in (reference, model)]
    if logits[0].shape != logits[1].shape:
        raise InputError(
            f"the reference predicts {logits[0].shape[-1]} tokens and the model {logits[1].shape[-1]}, so their predictions cannot be "
            "compared; give two models with the same vocabulary"
        )
    p_BSV, q_BSV = map(of_logits, logits)
    losses = [nll_BS[scored_BS] for nll_BS, scored_BS in (token_nll(each, batch["labels"]) for each in logits)]
    return sequence_divergences(p_BSV, q_BSV, batch), sequence_jensen_shannon(p_BSV, q_BSV, batch), *losses


def jensen_shannon(reference: Any, model: Any, batches: Sequence[Batch]) -> float:
    """The mean over all sequences of the Jensen-Shannon divergence of the next token, in nats; 0 for equal predictions, at most log 2.

    It does not matter which model is called the reference. `compare` gives it with KL by the same passes, and `distances` with the
    other distances. Read it beside its floor, its value for two retrained models.

    Args, Raises, Cost: As of `compare`.
    """
    return float(compare(reference, model, batches).js_N.mean())


def loss_distances(reference_K: Tensor, model_L: Tensor) -> tuple[float, float]:
    """The distances between two samples of token losses: 1-Wasserstein, in nats, and Kolmogorov-Smirnov, between 0 and 1.

    The tokens of a text depend on each other, so that a p-value of the pooled samples would be far too small, and none is given.

    Args:
        reference_K, model_L: The losses, those of all texts pooled.

    Raises:
        InputError: A sample is empty.
    """
    from scipy.stats import ks_2samp, wasserstein_distance

    if not len(reference_K) or not len(model_L):
        raise InputError(
            "a sample of token losses is empty, so it has no distribution; give at least one scored token of each model"
        )
    one, other = reference_K.double().cpu().numpy(), model_L.double().cpu().numpy()
    # only the p-value depends on the method, and an exact one takes long for many tokens
    return float(wasserstein_distance(one, other)), float(ks_2samp(one, other, method="asymp").statistic)


def distances(
    reference: Any,
    model: Any,
    sets: Mapping[str, Sequence[Example]],
    batch_size: int = 32,
    *,
    n: int = 20,
    prefix: int = 10,
) -> dict[str, Distances]:
    """All distances of a model from a reference, by the name of the set. Read them beside their floor: `distances` of the reference and
    a model that was retrained with another seed.

    Args:
        reference: The retrained model, in evaluation mode.
        model: The unlearned model, in evaluation mode, with the same vocabulary.
        sets: The encoded texts by name. The pieces of a long text count as one text in the means.
        batch_size: Sequences in a forward pass or a generation.
        n, prefix: Tokens of a greedy continuation and of its prompt; see `greedy_agreement`.

    Raises:
        InputError: A set without texts; vocabularies of different sizes; as of `greedy_agreement`.
        NumericsError: A divergence or a loss is not finite.

    Cost: a forward pass and a greedy generation of up to n tokens of each model for every sequence.
    """
    return {name: _distances(reference, model, examples, batch_size, n, prefix) for name, examples in sets.items()}


def _distances(reference: Any, model: Any, examples: Sequence[Example], batch_size: int, n: int, prefix: int) -> Distances:
    found = compare(reference, model, make_batches(examples, batch_size, model.device))
    kl, js = (float(text_means(values_N, examples).mean()) for values_N in (found.kl_N, found.js_N))
    wrote = greedy_agreement(reference, model, examples, n, prefix=prefix, batch_size=batch_size)
    transport, gap = loss_distances(found.reference_K, found.model_K)
    return Distances(kl, js, transport, gap, wrote.same, wrote.tokens, len(by_text(examples)), len(found.model_K))
