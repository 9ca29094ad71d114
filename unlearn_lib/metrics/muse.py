r"""PrivLeak of MUSE (Shi et al., arXiv 2407.06460): whether unlearned texts are told from held-out ones as after retraining.

    PrivLeak = 100 (AUC_unlearned - AUC_retrained) / AUC_retrained

The AUC is that of telling held-out texts, the positive class, from forget texts by their Min-40 % score. So the AUC of a model that
knows the forget texts by heart is near 0, and its PrivLeak near -100; 0 is as after retraining, and above 0 the forget texts have
become less likely than texts that were never seen. There is no upper bound: the smaller AUC_retrained, the larger it gets.
"""

from __future__ import annotations

from collections.abc import Sequence

from unlearn_lib.errors import InputError
from unlearn_lib.metrics.likelihood import TokenScores
from unlearn_lib.metrics.membership import min_k
from unlearn_lib.metrics.roc import auc

K = 0.4
"""The share of tokens in MUSE's Min-K %."""


def privleak(auc_unlearned: float, auc_retrained: float | None) -> float:
    """PrivLeak in percent, from -100 upwards; 0 is as after retraining.

    Args:
        auc_unlearned: The AUC of telling held-out from forget texts under the unlearned model, between 0 and 1, with the orientation
            above: 1 minus the AUC of an attack that says "member" of forget texts.
        auc_retrained: The same under a model that was retrained without the forget texts. It is measured and not assumed: texts that
            were chosen differently can be told apart by a model that saw neither, and then it is not one half.

    Raises:
        InputError: No AUC of a retrained model, an AUC outside of [0, 1], or a retrained AUC of 0, relative to which nothing
            can be measured.
    """
    if auc_retrained is None:
        raise InputError(
            "PrivLeak compares with a retrained model, whose AUC is missing; retrain a model without the forget texts and measure it "
            "(one half is only right where forget and held-out texts are alike)"
        )
    for name, value in (("unlearned", auc_unlearned), ("retrained", auc_retrained)):
        if not 0 <= value <= 1:
            raise InputError(f"the AUC of the {name} model is {value}; an AUC is between 0 and 1, not a percentage")
    if auc_retrained == 0:
        raise InputError(
            "the AUC of the retrained model is 0, so that PrivLeak is not defined; forget and held-out texts differ without any "
            "training, so choose held-out texts that are like the forget texts"
        )
    return 100 * (auc_unlearned - auc_retrained) / auc_retrained


def privleak_of(
    forget_scores: Sequence[TokenScores],
    holdout_scores: Sequence[TokenScores],
    forget_retrained: Sequence[TokenScores],
    holdout_retrained: Sequence[TokenScores],
) -> float:
    """PrivLeak in percent, from what `score_texts` gives.

    Args:
        forget_scores, holdout_scores: Of the forget and of the held-out texts under the unlearned model.
        forget_retrained, holdout_retrained: Of the same texts under the retrained model.

    Raises:
        InputError: No texts, or a retrained AUC of 0.
    """
    return privleak(holdout_auc(forget_scores, holdout_scores), holdout_auc(forget_retrained, holdout_retrained))


def holdout_auc(forget_scores: Sequence[TokenScores], holdout_scores: Sequence[TokenScores]) -> float:
    """The AUC that `privleak` takes: the chance that a held-out text has the higher Min-40 % score, ties counting half.

    Raises:
        InputError: No texts of either kind.
    """
    return float(auc(min_k(holdout_scores, K), min_k(forget_scores, K)))
