"""Models with a certified head: a plain causal language model, and the state that later removals and their certificate need.

A saved folder holds `model/`, a plain transformers checkpoint that may be published, and `certificate.safetensors`, which may not: who
knows the noise that was drawn at training, or the features of the texts, has no use for a certificate. It also holds the tokens of the
texts that are in the objective, as what the features predict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from unlearn_lib.curvature.softmax_head import HeadRisk, HeadTexts
from unlearn_lib.errors import InputError, wrong_in
from unlearn_lib.models.forms import LoadModel, named, relative, write_form
from unlearn_lib.models.suited import refused

FORM = "certified"
FILE = "certificate.safetensors"
INNER = "model"
TENSORS = ("head", "noise", "center", "features", "labels", "text")
Penalty = Literal["fixed", "per-text"]


class Stated(BaseModel):
    """What the form's file says of a certificate, see `Certificate`; `texts` are the keys of the texts."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    weight_decay: float = Field(gt=0)
    penalty: Penalty
    trained: int = Field(ge=1)
    sigma: float = Field(ge=0)
    spent: float = Field(ge=0)
    removed: int = Field(ge=0)
    body_public: bool
    products: int = Field(ge=0)
    texts: list[str]

    @property
    def numbers(self) -> dict[str, Any]:
        """All but the texts."""
        return self.model_dump(exclude={"texts"})


@dataclass(frozen=True)
class Certificate:
    r"""What is known of a head that minimises sum_i l_i(W) + Lambda / 2 |W - W_0|^2 + <B, W> up to a small gradient. Never changed in
    place; a removal makes a new one.

    Attributes:
        head_Vd: W, float64. The model's own head is this, rounded to its number format.
        noise_Vd: B, float64, drawn once at training. To be kept secret.
        center_Vd: W_0, float64: zero, or the head from before.
        texts: The texts that are still in the objective, as the head sees them.
        weight_decay: lambda.
        penalty: Whether Lambda is lambda times the number of texts at training, "fixed", or that of the texts that are left, "per-text".
        trained: The number of texts at training.
        sigma: The standard deviation of every entry of B.
        spent: An upper bound on the norm of the objective's gradient at W.
        removed: How many texts were removed since training.
        body_public: Whether the caller has stated that all but the head never saw the texts.
        products: Hessian products that training took, for what training again would cost.
        tokenizer: The model's tokenizer, written beside the plain checkpoint.
    """

    head_Vd: Tensor
    noise_Vd: Tensor
    center_Vd: Tensor
    texts: HeadTexts
    weight_decay: float
    penalty: Penalty
    trained: int
    sigma: float
    spent: float
    removed: int
    body_public: bool
    products: int
    tokenizer: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # nothing of it is ever changed

    def convexity(self, n: int) -> float:
        """Lambda for n texts: the objective over them is that strongly convex."""
        return self.weight_decay * (self.trained if self.penalty == "fixed" else n)

    def gradient(self, risk: HeadRisk) -> Tensor:
        """`[V, d]`: the gradient of the objective over the texts of a risk, at W, with all its terms."""
        W_Vd, center_Vd, noise_Vd = (t_Vd.to(risk.features_Nd.device) for t_Vd in (self.head_Vd, self.center_Vd, self.noise_Vd))
        return risk.gradient(W_Vd) + self.convexity(risk.texts) * (W_Vd - center_Vd) + noise_Vd

    def numbers(self, keys: Sequence[str]) -> list[int]:
        """The places, in order, of all texts with one of these keys: a text that was trained on twice has two.

        Raises:
            InputError: Some key is none of this head's.
        """
        asked = set(keys)
        if missing := len(asked - set(self.texts.keys)):
            raise InputError(
                f"{missing} of the {len(asked)} texts to forget are not among the {len(self.texts)} that the head was trained on (and that "
                "were not removed before), so there is nothing of them to remove; a text is found by its tokens: give it as it was in "
                "training, with the same max_length, long_texts and assistant_only"
            )
        return [place for place, key in enumerate(self.texts.keys) if key in asked]


class CertifiedModel:
    """What a causal language model gains by a certified head: `certificate`, and that `save_pretrained` writes the form's folder.

    It is mixed into the model's own class by `certify`; in all else the model is what it was.
    """

    certificate: Certificate

    form, holds_texts = FORM, True

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the plain checkpoint with its tokenizer to `model/`, and the state beside it. Options are those of transformers.

        Raises:
            OSError: It cannot be written.
        """
        from safetensors.torch import save_file

        folder, state = Path(save_directory), self.certificate
        super().save_pretrained(folder / INNER, **options)  # type: ignore[misc]
        state.tokenizer.save_pretrained(folder / INNER)
        texts = state.texts
        values = (state.head_Vd, state.noise_Vd, state.center_Vd, texts.features_Nd, texts.labels_N, texts.text_N)
        save_file({name: tensor.contiguous() for name, tensor in zip(TENSORS, values, strict=True)}, folder / FILE)
        settings = {name: getattr(state, name) for name in Stated.model_fields if name != "texts"}
        inner = relative(folder, folder / INNER)
        write_form(folder, FORM, {"model": inner, **settings, "texts": list(texts.keys)})


def certify(model: Any, certificate: Certificate) -> Any:
    """Make a plain model, in place, one with a certified head, or give one that has it already another state. Returns the model."""
    if not isinstance(model, CertifiedModel):
        kind: Any = type(model)
        model.__class__ = _certified_class(kind)
    model.certificate = certificate
    return model


def load(folder: Path, settings: Mapping[str, Any], load_model: LoadModel) -> tuple[Any, Any]:
    """`(model, tokenizer)` of a folder that `CertifiedModel.save_pretrained` has written.

    Raises:
        InputError: A file is missing or damaged, or a setting is.
    """
    from safetensors.torch import load_file

    model, tokenizer = load_model(named(folder, settings.get("model", f"./{INNER}")))
    with refused(f"the certificate in {folder} cannot be read"):
        tensors = load_file(folder / FILE)
        head_Vd, noise_Vd, center_Vd, features_Nd, labels_N, text_N = (tensors[name] for name in TENSORS)
        stated = _stated(settings)
        texts = HeadTexts(features_Nd, labels_N, text_N, tuple(stated.texts))
        shapes = {tuple(tensor.shape) for tensor in (head_Vd, noise_Vd, center_Vd, model.get_output_embeddings().weight)}
        if len(shapes) > 1 or int(text_N.max()) + 1 != len(texts) or not len(features_Nd) == len(labels_N) == len(text_N):
            raise ValueError("its tensors do not belong to this model, or to as many texts as are named")
    return certify(model, Certificate(head_Vd, noise_Vd, center_Vd, texts, tokenizer=tokenizer, **stated.numbers)), tokenizer


def _stated(settings: Mapping[str, Any]) -> Stated:
    try:
        return Stated.model_validate(dict(settings))
    except ValidationError as error:
        raise InputError(wrong_in(error)) from error


@cache
def _certified_class(kind: type) -> type:
    # under its own name, which transformers writes into config.json as the architecture to load
    return type(kind.__name__, (CertifiedModel, kind), {"__module__": kind.__module__})


@torch.no_grad()
def set_head(model: Any, W_Vd: Tensor) -> None:
    """Write a head into the model, in place, rounded to the model's number format."""
    model.get_output_embeddings().weight.copy_(W_Vd)
