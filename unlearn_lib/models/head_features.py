"""What the head of a causal language model sees: its inputs, token by token, and a head that shares no weight with the embedding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.precision import in_full
from unlearn_lib.curvature.softmax_head import HeadTexts
from unlearn_lib.data.batches import Example, Grouping, make_batches
from unlearn_lib.data.examples import by_text
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, token_logits
from unlearn_lib.models.forms import form_of

LINEAR = 1e-3
"""How far logits may be from the product of head and features, as a share of the largest: far above rounding in float32."""


@torch.no_grad()
def head_texts(model: Any, examples: Sequence[Example], grouping: int | Grouping) -> HeadTexts:
    """The scored tokens of texts as the model's head sees them, text by text; the pieces of a long text together.

    Args:
        model: A causal language model in evaluation mode, whose output embedding is a plain linear map.
        examples: The sequences, as `encode` gives them.
        grouping: How many go through the model at a time.

    Returns:
        The features in the format in which the model computes them, on the CPU.

    Raises:
        InputError: The logits are not the product of the head and its inputs, so that the loss is not convex in the head.

    Cost: a forward pass of every example.
    """
    features, labels = [], []
    head = model.get_output_embeddings()
    with _inputs_of(head) as seen, in_full(model.parameters()):
        for batch in make_batches(examples, grouping, model.device):
            logits_BTV = token_logits(model, batch)
            hidden_BTd = seen.pop()[:, -logits_BTV.shape[1] :]
            _check_linear(logits_BTV, hidden_BTd, head.weight)
            labels_BS = batch["labels"][:, 1:]
            T = batch["labels"].shape[1]
            for hidden_Sd, labels_S in zip(hidden_BTd[:, -T:-1], labels_BS, strict=True):
                scored_S = labels_S != IGNORED
                features.append(hidden_Sd[scored_S].cpu())
                labels.append(labels_S[scored_S].cpu())
    groups = by_text(examples)
    order = [position for group in groups for position in group]
    sizes = torch.tensor([sum(len(labels[position]) for position in group) for group in groups])
    return HeadTexts(
        torch.cat([features[position] for position in order]),
        torch.cat([labels[position] for position in order]),
        torch.arange(len(groups)).repeat_interleave(sizes),
        tuple(text_key([examples[position] for position in group]) for group in groups),
    )


def text_key(parts: Sequence[Example]) -> str:
    """What identifies a text: the SHA-256 of its pieces' tokens and of which are scored, in hexadecimal."""
    content = json.dumps([[part.input_ids, part.labels] for part in parts])
    return hashlib.sha256(content.encode()).hexdigest()


def untie(model: Any) -> None:
    """Give the model, in place, a head of its own with the weights it has, where head and input embedding are one matrix. The embedding
    stays as it is.

    Raises:
        InputError: The model is a peft adapter, or has no head that is a linear map without a bias.
    """
    if hasattr(model, "peft_config"):
        raise InputError(
            "the head of a model with a peft adapter cannot be trained alone, because the adapter belongs to what must stay frozen; merge "
            "it with merge_and_unload() first"
        )
    if form_of(model) not in ("", "certified"):
        raise InputError(
            f"a certified head belongs to a plain model, and this one has the form {form_of(model)!r}; give the model that it was made from"
        )
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        what = "has no linear head" if not isinstance(head, torch.nn.Linear) else "has a head with a bias"
        raise InputError(
            f"a {type(model).__name__} {what}, and the certificate is derived for logits that are a matrix times the features; use a "
            "model such as GPT-2, OPT or Llama"
        )
    V, d = head.weight.shape
    own = torch.nn.Linear(d, V, bias=False, device=head.weight.device, dtype=head.weight.dtype)
    own.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    own.train(head.training)
    model.set_output_embeddings(own)
    # transformers ties what the configuration, or the list that it made of it, says, whenever weights are loaded or resized
    model.config.tie_word_embeddings = False
    if text_config := model.config.get_text_config():
        text_config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def is_tied(model: Any) -> bool:
    """Whether head and input embedding are one matrix."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@contextmanager
def _inputs_of(module: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Inside, what the module is given at every call is appended to the list."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _check_linear(logits_BTV: Tensor, hidden_BTd: Tensor, W_Vd: Tensor) -> None:
    product_BTV = hidden_BTd @ W_Vd.T
    if (logits_BTV - product_BTV).abs().max() > LINEAR * product_BTV.abs().max():
        raise InputError(
            "the model's logits are not the product of its head and the features (they are scaled, capped or shifted), so the loss is not "
            "the softmax regression that the certificate is derived for; use a model such as GPT-2, OPT or Llama"
        )
