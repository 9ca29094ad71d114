r"""A large model with an offset: what two small models of the same vocabulary disagree on is added to its logits.

    logits = l_large + scale (l_small - l_reference)

(Huang et al. 2024, arXiv 2404.11045; the sum of logits is that of Liu et al. 2024, arXiv 2401.08565.) The large model is a black box:
it is asked for logits, without a gradient. The reference is the small model as it was before it was trained, so that an offset that
was not trained is zero and leaves the large model's logits as they are, bit for bit.

A saved offset is a folder of the form "offset": the small model's weights in `offset.safetensors`, and in the form's file the scale
and where the two others are. One whose weights are still those that it was loaded from is named there; any other is written beside.

This module imports transformers, which is slow, and is imported where an offset is needed.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from unlearn_lib.errors import InputError
from unlearn_lib.models.adapters import own_tokenizer
from unlearn_lib.models.forms import LoadModel, named, write_form
from unlearn_lib.models.joint_cache import joint_cache, own_caches
from unlearn_lib.models.load import load_tokenizer
from unlearn_lib.models.parts import keep_part
from unlearn_lib.models.suited import check_same_vocabulary, read_generation

FORM = "offset"
WEIGHTS = "offset.safetensors"


class OffsetForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The sum of a large model and an offset, as a causal language model of transformers.

    Its parameters are those of `large`, `small` and `reference`; only those of `small` require a gradient. Dropout is never on in the
    other two. `generate` keeps the keys and values of all three; where one of them has none, or is a peft model or an offset itself, it
    takes the whole text through the three for every token.

    Args:
        large: The black box; it is frozen and put into evaluation mode, in place.
        small: The small model that is or was trained.
        reference: The small model as it was before; frozen, likewise.
        scale: The factor of the offset.

    Raises:
        InputError: A scale that is not finite.
    """

    given_part: ClassVar[str] = "large"
    # attention is a matter of the three models
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    form = FORM

    def __init__(self, large: Any, small: Any, reference: Any, scale: float = 1.0) -> None:
        if not math.isfinite(scale):
            raise InputError(f"the factor of an offset is a finite number, got {scale}")
        config = copy.deepcopy(large.config)
        config.name_or_path = ""
        lengths = [getattr(model.config, "max_position_embeddings", None) for model in (large, reference)]
        if known := [length for length in lengths if length]:
            config.max_position_embeddings = min(known)
        super().__init__(config)
        self.large, self.small, self.reference, self.scale = large, small, reference, float(scale)
        self.generation_config = copy.deepcopy(large.generation_config)
        for frozen in (self.large, self.reference):
            frozen.requires_grad_(False)
        self.train(small.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.large.eval()
        self.reference.eval()
        return self

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        large_logits: Tensor | None = None,
    ) -> Any:
        """The summed logits `[B, T, V]`, in the large model's number format; the sum is taken in float32 or wider.

        Args:
            input_ids, attention_mask, position_ids, labels: `[B, T]`, as of every causal language model.
            past_key_values: A cache of `joint_cache` for the large, the reference and the small model, which is filled.
            use_cache, return_dict: Without effect: a cache is used where one is given, and the result is always an object.
            large_logits: What the large model says, `[B, T, V]`, where that is known; it is not asked then.

        Raises:
            InputError: The small models give logits of another shape than the large one; a cache of another kind.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        given = {name: value for name, value in given.items() if value is not None}
        caches = [None] * 3 if past_key_values is None else own_caches(past_key_values, self._models)
        large, reference, small = ({**given, "past_key_values": own, "use_cache": own is not None} for own in caches)
        with torch.no_grad():
            if large_logits is None:
                large_logits = self.large(**large).logits
            before = self.reference(**reference).logits
        now = self.small(**small).logits
        if now.shape != large_logits.shape:
            raise InputError(
                f"the large model gives logits of shape {tuple(large_logits.shape)} and the small one of shape {tuple(now.shape)}, which "
                "cannot be added; give a small model with the same vocabulary, and no adapter that adds tokens to the text"
            )
        wide = torch.promote_types(large_logits.dtype, torch.float32)
        offset = self.scale * (now.to(wide) - before.to(wide))
        logits = (large_logits.to(wide) + offset).to(large_logits.dtype)
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=logits.shape[-1])
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    @property
    def _models(self) -> tuple[Any, Any, Any]:
        return self.large, self.reference, self.small

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, past_key_values: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """What `generate` gives to `forward`: new tokens alone where there is a cache, else the whole text; and their positions (those
        behind padding on the left begin at 0) where all three models take positions."""
        length = None if past_key_values is None else next_sequence_length
        inputs = super().prepare_inputs_for_generation(input_ids, length, past_key_values, **kwargs)
        names = {"input_ids", "attention_mask", "past_key_values"}
        if all(_takes_positions(model) for model in self._models):
            names.add("position_ids")
        return {name: value for name, value in inputs.items() if name in names}

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *_: Any) -> None:
        # of transformers, which would make a cache for one model alone
        if generation_config.use_cache and model_kwargs.get("past_key_values") is None:
            cache = joint_cache(self._models)
            model_kwargs |= {} if cache is None else {"past_key_values": cache}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # an offset on this model keeps no cache

    def get_input_embeddings(self) -> Any:
        return self.large.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return None  # no one matrix gives the logits

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the folder of the form "offset", without a tokenizer.

        Raises:
            OSError: It cannot be written.
        """
        from safetensors.torch import save_model

        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.small, str(folder / WEIGHTS))
        self.generation_config.save_pretrained(folder)
        places = {name: keep_part(getattr(self, name), folder, name) for name in ("large", "reference")}
        write_form(folder, FORM, {**places, "scale": self.scale})


def _takes_positions(model: Any) -> bool:
    own = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "position_ids" in inspect.signature(own.forward).parameters


def load(folder: Path, settings: Mapping[str, Any], load_model: LoadModel) -> tuple[OffsetForCausalLM, Any]:
    """`(model, tokenizer)` of a folder of this form, in evaluation mode.

    Raises:
        InputError: Settings that are none of this form, models that cannot be loaded, weights of another model, vocabularies that differ.
    """
    from safetensors.torch import load_model as fill

    large_name, small_name, scale = (settings.get(name) for name in ("large", "reference", "scale"))
    if not isinstance(large_name, str) or not isinstance(small_name, str):
        raise InputError("its file does not name the large model and the small one")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise InputError("its file does not say the factor of the offset (scale)")
    large, tokenizer = load_model(named(folder, large_name))
    reference, of_small = load_model(named(folder, small_name))
    check_same_vocabulary(large, tokenizer, reference, of_small)
    small = copy.deepcopy(reference).requires_grad_(True)
    fill(small, folder / WEIGHTS)
    model = OffsetForCausalLM(large, small, reference, scale)
    model.generation_config = read_generation(folder) or model.generation_config
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    return model, own_tokenizer(folder, tokenizer, lambda path: load_tokenizer(path, options))
