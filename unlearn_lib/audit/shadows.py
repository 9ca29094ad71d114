r"""Shadow models for `lira` and `u_lira`: many models that are trained like the attacked one, each with another half of the texts.

Every text is in the training of exactly the same number of models, which are drawn at random (Carlini et al., arXiv 2112.03570), and
every model has the same number of texts but for one. Scores are those of `logit_score`. Those of the attacked model, to be judged by
the shadow models, are

    logit_score(text_losses(model, tokenizer, texts))

Shape suffixes: M shadow models, of which k are trained with a text and k' are not; n texts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from unlearn_lib.audit.shadow_training import MakeModel, Shadows, drawn_members, parted
from unlearn_lib.checkpoints import Workspace
from unlearn_lib.data.rows import Row
from unlearn_lib.errors import InputError, unknown
from unlearn_lib.training.config import TrainingConfig

Unlearn = Callable[[Any, list[Row]], Any]
Against = Literal["held out", "retrained"]


class ShadowScores(NamedTuple):
    """What `lira` and `u_lira` take of shadow models, on the CPU.

    Attributes:
        in_scores: `[k, n]`, float64: the scores of every text under the models that were trained with it, in the models' order.
        out_scores: `[k', n]`, float64: those under models that were not.
        members: `[M, n]`, bool: which model was trained with which text.
    """

    in_scores: Tensor
    out_scores: Tensor
    members: Tensor


def shadow_scores(
    make_model: MakeModel,
    tokenizer: Any,
    texts: Any,
    *,
    models: int = 8,
    share: float = 0.5,
    config: TrainingConfig | None = None,
    seed: int = 0,
    retain: Any = (),
    max_length: int | None = None,
    batch_size: int = 32,
    workspace: Workspace | None = None,
) -> ShadowScores:
    """Train shadow models and score all texts under each of them.

    The ratio is right where shadow models are trained as the attacked model was: from the same start, with the same settings, on as
    many texts of the same kind. With few models, give `fixed_variance=True` to `lira`.

    Args:
        make_model: Called for every shadow model; gives the model from which training starts. It is copied, and left as it is.
        tokenizer: Its tokenizer.
        texts: The texts to judge, of which the attacked model was trained on some, as `rows_of` takes them. No two may be the same.
        models: M, the number of shadow models.
        share: The share of them that is trained with a text; `share` M is a whole number, and at least two models are with and two
            without each text.
        config: How each is trained; by default as `train` does.
        seed: Of the halves and of all trainings; the same seed gives the same scores, on a CPU bit for bit.
        retain: Texts that every model is trained on, because it is known that the attacked one was.
        max_length: Of a sequence, in tokens; default: the model's context.
        batch_size: Sequences in a forward pass when texts are scored; it changes no result.
        workspace: A folder, in which trained models are kept until its `clear`, and a deadline; the same call goes on from there.

    Raises:
        InputError: No texts, equal ones, or too few for the models; a number of models or a share out of range; checkpoints in the
            folder of other texts, models or settings.
        NumericsError: A training diverged, or a text has a loss of zero.
        OutOfTimeError: The workspace's deadline has passed.

    Cost: M trainings on `share` of the texts, one after the other, and M forward passes over all texts. Memory for two models (the one
    given and its copy), a training, and 8 M n bytes. A workspace holds 4 bytes for each parameter of each model, and of the one that
    is being trained 12.
    """
    shadows = Shadows(make_model, tokenizer, texts, retain, config, seed, max_length, batch_size, workspace)
    members_Mn = drawn_members(len(shadows.rows), models, share, seed)
    scores_Mn = torch.stack([shadows.scores(shadows.trained(number, own_n)) for number, own_n in enumerate(members_Mn)])
    return ShadowScores(*parted(scores_Mn, members_Mn), members_Mn)


def unlearned_shadow_scores(
    make_model: MakeModel,
    tokenizer: Any,
    texts: Any,
    unlearn: Unlearn,
    *,
    retain: Any,
    against: Against,
    models: int = 8,
    share: float = 0.5,
    config: TrainingConfig | None = None,
    seed: int = 0,
    max_length: int | None = None,
    batch_size: int = 32,
    workspace: Workspace | None = None,
) -> ShadowScores:
    """Train shadow models on the retained and on a random half of the other texts, unlearn that half, and score all of these texts.

    `in_scores` are those of texts that a model was trained on and unlearned. There are two questions, with `out_scores` of their own:

        "retrained"    Was this model unlearned, or retrained? Under models that were trained on the retained texts alone (U-LiRA, arXiv
                       2403.01218). The answer is the ratio of a forgotten text: it is above 0 where the model looks unlearned.
        "held out"     Was this text unlearned, or never seen? Under the unlearned models that were not trained on the text (the privacy
                       game of RULI, arXiv 2506.13009). The answer is the ratio of a forgotten text beside those of held-out ones.

    What unlearning does to texts that a model never saw counts in the first, but not in the second: of an unlearned model the ratios
    against "retrained" do not tell forgotten texts from held-out ones.

    Args:
        make_model, tokenizer, models, share, config, seed, max_length, batch_size: As of `shadow_scores`.
        texts: Those to judge: what the attacked model unlearned, and as many that it never saw. No two may be the same.
        unlearn: From a trained model and the rows that it is to forget to the model without them, by the method and the settings of the
            attacked model, such as `lambda model, rows: unlearn(model, tokenizer, forget=rows, retain=retain).model`.
        retain: The texts that are retained, on which every model is trained.
        against: "retrained" or "held out", whose scores the `out_scores` are; the first takes further trainings.
        workspace: As of `shadow_scores`; unlearning is not kept, and is repeated.

    Returns:
        As of `shadow_scores`; `members` says which text was unlearned by which model.

    Raises:
        InputError: As of `shadow_scores`; no retained texts, one that is among the others, or an unknown `against`.
        NumericsError, OutOfTimeError: As of `shadow_scores`.

    Cost: M trainings on all retained and `share` of the other texts, M times `unlearn`, and M forward passes over the other texts;
    against "retrained" further (1 - `share`) M trainings on the retained texts. Memory as of `shadow_scores` and `unlearn` together.
    """
    if against not in get_args(Against):
        raise unknown("value of against", against, get_args(Against))
    shadows = Shadows(make_model, tokenizer, texts, retain, config, seed, max_length, batch_size, workspace)
    if not shadows.retained:
        raise InputError("there are no retained texts, so a model that unlearns is left with none; give them as retain")
    members_Mn = drawn_members(len(shadows.rows), models, share, seed)
    scores = []
    for number, own_n in enumerate(members_Mn):
        forget = [shadows.rows[i] for i in own_n.nonzero().flatten().tolist()]
        scores.append(shadows.scores(unlearn(shadows.trained(number, own_n), forget)))
    in_kn, out_kn = parted(torch.stack(scores), members_Mn)
    if against == "retrained":
        none_n = torch.zeros(len(shadows.rows), dtype=torch.bool)
        out_kn = torch.stack([shadows.scores(shadows.trained(models + i, none_n)) for i in range(len(out_kn))])
    return ShadowScores(in_kn, out_kn, members_Mn)
