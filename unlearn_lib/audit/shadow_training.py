r"""The training of shadow models: which texts each is trained on, and what it then says of all of them.

Shape suffixes: M shadow models, of which k are trained with a text and k' are not; N sequences, n texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearn_lib.attacks.copies import working_copy
from unlearn_lib.checkpoints import Workspace
from unlearn_lib.curvature.risk import evaluating
from unlearn_lib.data.batches import Encoded, Example, encode, make_batches, sequence_length
from unlearn_lib.data.examples import text_means
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError
from unlearn_lib.losses import evaluate
from unlearn_lib.metrics.lira import logit_score
from unlearn_lib.training.config import TrainingConfig
from unlearn_lib.training.loop import fit

MakeModel = Callable[[], Any]


def drawn_members(n: int, models: int = 8, share: float = 0.5, seed: int = 0) -> Tensor:
    """`[M, n]`, bool: which of n texts each of M models is trained on: every text is drawn by exactly `share` M models, and the models'
    numbers of texts differ by at most one.

    Raises:
        InputError: `share` M is no whole number, fewer than two models with or without a text, or so few texts that a model has none.
    """
    k = round(share * models)
    if abs(k - share * models) > 1e-9 or min(k, models - k) < 2:
        raise InputError(
            f"of {models} models a share of {share} is trained with each text, and at least two have to be and two not; let share times "
            "models be a whole number between 2 and models - 2"
        )
    if n * k < models:
        raise InputError(
            f"{n} texts are too few for {models} models that each have a share of {share} of them; give more texts"
        )
    generator = torch.Generator().manual_seed(seed)
    members_Mn = torch.zeros(models, n, dtype=torch.bool)
    for text in torch.randperm(n, generator=generator).tolist():
        # the models with the fewest texts so far, and among equal ones by chance
        fewest = members_Mn.sum(1) + torch.rand(models, generator=generator, dtype=torch.float64)
        members_Mn[fewest.argsort()[:k], text] = True
    return members_Mn


def parted(scores_Mn: Tensor, members_Mn: Tensor) -> tuple[Tensor, Tensor]:
    """`([k, n], [k', n])`: the scores of every text under the models with it, and under those without."""
    k = int(members_Mn[:, 0].sum())
    order_Mn = members_Mn.long().argsort(dim=0, descending=True, stable=True)
    sorted_Mn = scores_Mn.gather(0, order_Mn)
    return sorted_Mn[:k], sorted_Mn[k:]


@dataclass
class Shadows:
    """What all shadow models share."""

    make_model: MakeModel
    tokenizer: Any
    texts: Any
    retain: Any
    config: TrainingConfig | None
    seed: int
    max_length: int | None
    batch_size: int
    workspace: Workspace | None

    def __post_init__(self) -> None:
        self.rows, retain = rows_of(self.texts), rows_of(self.retain, "retain")
        if not self.rows:
            raise InputError("there are no texts to train shadow models on; give at least two")
        length = sequence_length(self.make_model(), self.tokenizer, self.max_length)
        self.encoded = encode(self.rows, self.tokenizer, length, long_texts="split")
        kept = encode(retain, self.tokenizer, length, long_texts="split") if retain else Encoded()
        self.retained = kept.examples
        _check_different(self.encoded.texts, kept.texts)

    def trained(self, number: int, own_n: Tensor) -> Any:
        """A shadow model that was trained on these of the texts and on the retained ones."""
        model, config = working_copy(self.make_model()), self.config or TrainingConfig()
        examples = [*self.encoded.of(own_n.nonzero().flatten().tolist()), *self.retained]
        seed = int(np.random.SeedSequence([self.seed % 2**64, number]).generate_state(1)[0])
        place = self.workspace or Workspace()
        key = "" if place.folder is None else _key(model, examples, config, seed)
        fit(model, examples, config, seed=seed, checkpoint=place.checkpoint(f"shadow-{number}", key))
        return model

    def scores(self, model: Any) -> Tensor:
        """`[n]`: the scores of all texts under a model."""
        examples = self.encoded.examples
        with evaluating(model):
            losses_N = evaluate(model, make_batches(examples, self.batch_size, model.device))
        return logit_score(text_means(losses_N, examples))


def _check_different(texts: Sequence[Example], retained: Sequence[Example]) -> None:
    """Refuse a text that a model would have been trained on although it counts as one without it."""
    seen: dict[tuple[int, ...], str] = {text.input_ids: "a retained text" for text in retained}
    for number, text in enumerate(texts):
        if text.input_ids in seen:
            raise InputError(
                f"text {number} is the same as {seen[text.input_ids]}, so a model that lacks one may know it from the other; remove it"
            )
        seen[text.input_ids] = f"text {number}"


def _key(model: Any, examples: Sequence[Example], config: TrainingConfig, seed: int) -> str:
    """A hash of all that a training depends on: start, texts, settings and seed."""
    found = hashlib.sha256(json.dumps([[(e.input_ids, e.labels) for e in examples], asdict(config), seed]).encode())
    for name, p in model.named_parameters():
        found.update(name.encode())
        found.update(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
