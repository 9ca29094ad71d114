"""Which models this library is for: causal language models with plain weights and a tokenizer that fits them.

What is said by the configuration is checked before anything is loaded, so that a plan refuses what a run would.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from unlearn_lib.errors import HubUnavailableError, InputError, first_line

MOST_LAYERS = 10_000
LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
OTHER_HEADS = re.compile(
    r"For(Sequence|Token|Image)Classification$|ForQuestionAnswering$|ForMultipleChoice$|RewardModel$|DoubleHeads"
)
TOKENS = 6


def check_config(raw: Any, name: str) -> None:
    """Refuse a configuration, as read from config.json, that is not that of a causal language model with plain weights.

    Raises:
        InputError: An unknown model type (code of the model's own is never run), an encoder or encoder-decoder, another head than a
            language model's, quantised weights, a number of layers that no model has.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = raw.get("model_type") if isinstance(raw, Mapping) else None
    if not isinstance(kind, str):
        raise InputError(
            f"the configuration of {name} cannot be read: it states no model_type; give a saved transformers model"
        )
    if kind not in CONFIG_MAPPING_NAMES:
        own = " The code that comes with it (auto_map) is never run." if "auto_map" in raw else ""
        raise InputError(
            f"the configuration of {name} cannot be read: transformers {transformers.__version__} does not know the model type {kind!r}; "
            f"if it is a new one, upgrade with `pip install -U transformers`.{own}"
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(
            f"the configuration of {name} is not that of a causal language model: a {kind} is none; give a decoder such as GPT, OPT or "
            "Llama"
        )
    named = raw.get("architectures") or []
    if not isinstance(named, list):
        raise InputError(
            f"the configuration of {name} cannot be read: architectures is no list; give a saved transformers model"
        )
    architectures = [str(word) for word in named if OTHER_HEADS.search(str(word))]
    if architectures:
        raise InputError(
            f"the configuration of {name} is not that of a causal language model: its weights are those of a {architectures[0]}; give the "
            "language model itself"
        )
    if raw.get("quantization_config") is not None or raw.get("compression_config") is not None:
        settings = raw.get("quantization_config") or raw.get("compression_config")
        method = settings.get("quant_method") if isinstance(settings, Mapping) else None
        raise InputError(
            f"the weights of {name} are quantised{f' ({method})' if method else ''}, and curvature needs the plain ones; give the "
            "checkpoint from before it was quantised"
        )
    parts = [raw, *(part for part in raw.values() if isinstance(part, Mapping))]
    for key, value in ((key, part[key]) for part in parts for key in LAYERS if key in part):
        if isinstance(value, int) and not 0 < value <= MOST_LAYERS:
            raise InputError(f"the configuration of {name} cannot be right: {key} is {value}")
    default = _default(kind, raw)
    if default.get("is_encoder_decoder"):
        raise InputError(
            f"the configuration of {name} is not that of a causal language model: this {kind} is an encoder and a decoder; give a model "
            "that is a decoder only, such as GPT, OPT or Llama"
        )
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not default.get("is_decoder"):
        raise InputError(
            f"the configuration of {name} is not that of a causal language model: this {kind} is an encoder, whose predictions see what "
            "comes after them (is_decoder is false)"
        )


def _default(kind: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """`is_encoder_decoder` and `is_decoder` as the configuration says, or as is usual for its kind."""
    from transformers import AutoConfig

    keys = ("is_encoder_decoder", "is_decoder")
    if all(key in raw for key in keys):
        return {key: raw[key] for key in keys}
    usual = AutoConfig.for_model(kind)
    return {key: raw.get(key, getattr(usual, key, None)) for key in keys}


@torch.no_grad()
def check_causal(model: Any) -> None:
    """Refuse a model whose predictions depend on tokens that come later, whatever it is called. Cost: one pass over 12 tokens.

    Raises:
        InputError: A prediction depends on a later token.
    """
    V = model.get_input_embeddings().weight.shape[0]
    ids_BT = (torch.arange(2, 2 + TOKENS, device=model.device) % V).repeat(2, 1)
    ids_BT[1, -1] = (ids_BT[1, -1] + V // 2) % V
    logits_BTV = model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False).logits
    change = (logits_BTV[0, :-1] - logits_BTV[1, :-1]).abs().max()
    if change > max(1e-5, 4 * torch.finfo(logits_BTV.dtype).eps) * logits_BTV.abs().max():
        raise InputError(
            f"the predictions of a {type(model).__name__} with this configuration depend on tokens that come later, so it is not a causal "
            "language model; give a decoder such as GPT, OPT or Llama"
        )


def check_tokenizer(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer some of whose tokens the model has no embedding for. The padding token may lie outside: it is never used.

    Raises:
        InputError: The message names tokens, and the sizes.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    outside = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows and i != tokenizer.pad_token_id)
    if outside:
        some = ", ".join(f"{token!r} ({i})" for i, token in outside[:3]) + (", ..." if len(outside) > 3 else "")
        raise InputError(
            f"the tokenizer has {len(outside)} tokens that the model has no embedding for, whose {rows} rows are those of tokens 0 to "
            f"{rows - 1}: {some}; give the tokenizer that the model was trained with, or enlarge the model with "
            "model.resize_token_embeddings(len(tokenizer)) and train the new rows"
        )


def check_same_vocabulary(model: Any, tokenizer: Any, other: Any, other_tokenizer: Any) -> None:
    """Refuse a small model whose logits belong to other tokens than those of a large one.

    Args:
        model, tokenizer: The large model; without a tokenizer (in a plan) sizes alone are compared.
        other, other_tokenizer: The small one.

    Raises:
        InputError: The message names the sizes, or tokens.
    """
    rows, others = (one.get_input_embeddings().weight.shape[0] for one in (model, other))
    if rows != others:
        raise InputError(
            f"the small model has a vocabulary of {others} tokens and the large one of {rows}, so their logits cannot be added; give a "
            "small model of the same family"
        )
    if tokenizer is None or other_tokenizer is None:
        return
    mine, theirs = tokenizer.get_vocab(), other_tokenizer.get_vocab()
    wrong = sorted(token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token))
    if wrong:
        token = wrong[0]
        numbers = f"{token!r} has the number {mine.get(token)} in the large one's and {theirs.get(token)} in the small one's"
        raise InputError(
            f"the tokenizers of the small and the large model differ in {len(wrong)} tokens ({numbers}), so their logits cannot be added; "
            "give a small model of the same family"
        )


def check_generation(settings: Any) -> None:
    """Refuse settings for generation that transformers would refuse to write after all the work: they are written once for trial.

    Raises:
        InputError: With transformers' reason.
    """
    with (
        refused("generation_config.json cannot be used", "; correct it, or remove it if you do not need it"),
        TemporaryDirectory() as folder,
    ):
        settings.save_pretrained(folder)


def read_generation(folder: Path) -> Any | None:
    """The generation_config.json of a folder, None where there is none.

    Raises:
        InputError: It cannot be read, or not written again.
    """
    from transformers import GenerationConfig

    if not (folder / "generation_config.json").is_file():
        return None
    with refused("generation_config.json cannot be used", "; correct it, or remove it if you do not need it"):
        settings = GenerationConfig.from_pretrained(folder, local_files_only=True)
    check_generation(settings)
    return settings


@contextmanager
def refused(prefix: str, suffix: str = "") -> Iterator[None]:
    """Turn whatever a library raises on damaged files into an `InputError` of one line. Not for numerics.

    transformers, peft and tokenizers have no common error: a file that is not what it should be may end in any of Python's.
    """
    try:
        yield
    except (InputError, HubUnavailableError) as error:
        if prefix and isinstance(error, InputError) and not str(error).startswith(prefix):
            raise InputError(f"{prefix}: {error}") from error
        raise
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(f"{prefix}: {first_line(error).rstrip('.')}{suffix}") from error
