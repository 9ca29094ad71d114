r"""An ensemble of language models that were trained on separate shards of the texts (Bourtoule et al. 2021, arXiv 1912.03817).

    probabilities     logits = log( 1/S sum_s softmax(z_s) )
    logits            logits = 1/S sum_s z_s

It is a causal language model like any other: it generates, its losses can be measured and differentiated. There is no cache of keys
and values, so that every token of a generation takes a pass over the whole text. Its saved form is "sisa", see `sisa_records`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from unlearn_lib.curvature.vector import Vector
from unlearn_lib.losses import wide_log_softmax
from unlearn_lib.models.forms import LoadModel, named
from unlearn_lib.models.sisa_records import BASE, FORM, Average, Place, Records, SisaSettings, only_trained, put, trained


class SisaForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The ensemble.

    Args:
        shards: The models, all of one configuration.
        records: The folder that they were loaded from; `name_or_path` is that folder.
    """

    form, holds_texts = FORM, True

    def __init__(self, shards: Sequence[Any], records: Records) -> None:
        super().__init__(copy.deepcopy(shards[0].config))
        self.shards, self.records = nn.ModuleList(shards), records
        self.generation_config = copy.deepcopy(shards[0].generation_config)
        self.name_or_path = str(records.folder)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput:
        """The logits `[B, T, V]` of the ensemble, in float32 at least; `use_cache` and `return_dict` change nothing."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        given = {name: tensor for name, tensor in given.items() if tensor is not None}
        logits = [shard(**given, use_cache=False).logits for shard in self.shards]
        return CausalLMOutput(logits=combined(logits, self.records.settings.average))

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As of transformers, without a cache."""
        return super().generate(*args, **{**kwargs, "use_cache": False})

    def get_input_embeddings(self) -> nn.Module:
        """Those of the first shard."""
        first: Any = self.shards[0]
        found: nn.Module = first.get_input_embeddings()
        return found

    def weights(self) -> list[Vector]:
        """The trained parameters of every shard, by their names in it."""
        return [trained(shard, self.records.settings) for shard in self.shards]

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the whole folder of the ensemble, see `Records.write`."""
        self.records.write(Path(save_directory), self.weights())


def combined(logits: Sequence[Tensor], average: Average) -> Tensor:
    """The logits of an ensemble from those of its models, `[..., V]` each."""
    if average == "logits":
        return torch.stack([one.to(torch.promote_types(one.dtype, torch.float32)) for one in logits]).mean(0)
    return reduce(torch.logaddexp, [wide_log_softmax(one) for one in logits]) - math.log(len(logits))


def load(folder: Path, settings: dict[str, Any], load_model: LoadModel) -> tuple[Any, Any]:
    """`(ensemble, tokenizer)` of a folder of this form."""
    records = Records(folder.resolve(), SisaSettings.model_validate(settings))
    base, tokenizer = load_model(named(folder, f"./{BASE}"))
    last = [Place(shard, records.settings.slices) for shard in range(1, records.settings.shards + 1)]
    only_trained(base, records.settings)
    shards = [put(copy.deepcopy(base), records.checkpoint(place)) for place in last]
    return SisaForCausalLM(shards, records).eval(), tokenizer
