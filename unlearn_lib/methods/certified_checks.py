"""What certified removal assumes of a model, checked as far as that can be done."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.softmax_head import HeadTexts
from unlearn_lib.data.examples import by_text
from unlearn_lib.errors import InputError
from unlearn_lib.methods.base import Inputs
from unlearn_lib.models.certified import Certificate, CertifiedModel
from unlearn_lib.models.head_features import head_texts, is_tied, text_key

SAME = 0.02
"""How far the head, and the features of a text, may be from those of training, relatively: above what rounding to bfloat16 makes of
them. It finds models that were trained on, and is no proof that a body was left as it was."""
ANEW = "the certificate does not hold for such a model: train the head anew with train_certified_head"


def certificate_of(model: Any) -> Certificate:
    """The state of a model's head.

    Raises:
        InputError: The model has none.
    """
    if not isinstance(model, CertifiedModel):
        raise InputError(
            "the model has no head that texts can be removed from with a certificate; train one on its body with "
            "unlearn_lib.train_certified_head, on texts that the body never saw, and give the model that it returns "
            "(save_model and load_model keep its state)"
        )
    return model.certificate


def checked(model: Any, inputs: Inputs) -> Certificate:
    """The state of a model's head, after what can be checked of what the certificate assumes. Cost: a forward pass of the forget texts.

    Raises:
        InputError: An assumption does not hold; it says which.
    """
    state = certificate_of(model)
    if not state.sigma > 0:
        raise InputError("the head was trained with sigma=0, and no noise hides what a removal leaves; train it with sigma > 0")
    if not state.body_public:
        raise InputError(
            "nobody has stated that all but the head never saw the texts; train the head again with body_public=True if so"
        )
    if is_tied(model):
        raise InputError(
            "the head is the input embedding again, which the features depend on; give the model as train_certified_head returned it, "
            "without tie_weights()"
        )
    W_Vd = model.get_output_embeddings().weight.double().cpu()
    if not torch.allclose(W_Vd, state.head_Vd, rtol=SAME, atol=SAME * float(state.head_Vd.abs().mean())):
        raise InputError("the head was changed since its last certified removal, by another method or by hand; " + ANEW)
    gone = state.numbers(asked_keys(inputs))
    if len(gone) == len(state.texts):
        raise InputError(
            "the request removes every text that the head was trained on; use the model from before its training instead"
        )
    now = head_texts(model, inputs.forget, inputs.grouping)
    inputs.passes.forward += len(inputs.forget)
    if _differ(now, state.texts.only(gone)):
        raise InputError("the model computes other features than when its head was trained, so its body was changed; " + ANEW)
    return state


def _differ(now: HeadTexts, then: HeadTexts) -> bool:
    """Whether the features of texts are not those of training, beyond the rounding of weights."""
    place = {key: number for number, key in enumerate(then.keys)}
    for number, key in enumerate(now.keys):
        new_Nd, old_Nd = (texts.only([at]).features_Nd.double() for texts, at in ((now, number), (then, place[key])))
        if new_Nd.shape != old_Nd.shape or not _close(new_Nd, old_Nd):
            return True
    return False


def _close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).norm()) <= SAME * float(b.norm())


def asked_keys(inputs: Inputs) -> list[str]:
    """What identifies each text to forget, in order, the same text once."""
    groups = by_text(inputs.forget)
    return list(dict.fromkeys(text_key([inputs.forget[position] for position in group]) for group in groups))
