r"""Noisy labels, each with a weight that is learnt from a few trusted ones (Ren et al., arXiv 1803.09050, as LLMaAA, 2310.19596, uses it).

A logistic regression p = sigma(theta . x) is trained on noisy labels with the loss sum_i w_i l_i. One step with all weights at epsilon
moves theta by -rate sum_i epsilon_i g_i, where g_i = (p_i - y_i) x_i is the gradient of l_i. The loss on the trusted texts then has, at
epsilon = 0, the derivative

    d L_trusted / d epsilon_i = - rate  g_trusted . g_i        g_trusted: the mean gradient on the trusted texts

so that weight on a label lowers it as far as the two gradients agree. The weights of a step are w_i proportional to
max(0, g_trusted . g_i): a label whose gradient points against the trusted ones has weight zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlearn_lib.errors import InputError
from unlearn_lib.metrics.optional import sklearn

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]


def with_constant(features_ND: Floats) -> Floats:
    """`[N, D + 1]`: the features with a one at the end, whose coefficient is the intercept."""
    return np.column_stack([np.asarray(features_ND, dtype=np.float64), np.ones(len(features_ND))])


def gradients(coefficients_D: Floats, features_ND: Floats, labels_N: Labels) -> Floats:
    """`[N, D]`: the gradient of the cross-entropy (nats) of every label, (sigma(theta . x) - y) x."""
    residual_N = 0.5 * (1 + np.tanh(features_ND @ coefficients_D / 2)) - labels_N
    found: Floats = residual_N[:, None] * features_ND
    return found


def step_weights(
    coefficients_D: Floats, features_ND: Floats, labels_N: Labels, trusted_MD: Floats, trusted_labels_M: Labels
) -> Floats:
    """`[N]`: the weights of one step, max(0, g_trusted . g_i), scaled to a mean of 1; all zero where no label helps.

    Args:
        coefficients_D: `[D]`, theta, the classifier as it stands.
        features_ND, labels_N: The texts with noisy labels (`with_constant`), and which of them are said to leak.
        trusted_MD, trusted_labels_M: The texts with trusted labels, and which of them leak.

    Raises:
        InputError: No text of one of the two kinds, or not a label for every text.
    """
    if min(len(features_ND), len(trusted_MD)) < 1 or (len(features_ND), len(trusted_MD)) != (
        len(labels_N),
        len(trusted_labels_M),
    ):
        raise InputError(
            f"weights need texts with noisy labels and texts with trusted ones, a label for each; got {len(features_ND)} texts with "
            f"{len(labels_N)} labels and {len(trusted_MD)} trusted texts with {len(trusted_labels_M)}"
        )
    trusted_D = gradients(coefficients_D, trusted_MD, trusted_labels_M).mean(0)
    agreement_N: Floats = np.maximum(gradients(coefficients_D, features_ND, labels_N) @ trusted_D, 0)
    total = agreement_N.sum()
    weights_N: Floats = agreement_N * (len(agreement_N) / total) if total > 0 else agreement_N
    return weights_N


def learnt_weights(
    features_ND: Floats,
    labels_N: Labels,
    trusted_MD: Floats,
    trusted_labels_M: Labels,
    *,
    steps: int = 100,
    rate: float = 0.5,
) -> Floats:
    """`[N]`: the mean of the weights over so many steps of training from theta = 0, every step with the weights of `step_weights`.

    Args:
        features_ND, labels_N: The texts with noisy labels, their features scaled to about 1, and which of them are said to leak.
        trusted_MD, trusted_labels_M: The texts with trusted labels, and which of them leak.
        steps: How many; with one alone, weights say only which side of theta = 0 a label pulls to.
        rate: Of the gradient descent on the mean of w_i l_i.

    Returns:
        Weights, at least 0, of mean 1 (less where no label helped in a step).

    Raises:
        InputError: As of `step_weights`; no steps, or a rate that is not positive.

    Cost: `steps` products of the features with a vector.
    """
    if steps < 1 or not rate > 0:
        raise InputError(f"weights are learnt in at least one step at a positive rate; got steps={steps} and rate={rate}")
    noisy_ND, known_MD = with_constant(features_ND), with_constant(trusted_MD)
    labels_N, trusted_labels_M = np.asarray(labels_N, dtype=bool), np.asarray(trusted_labels_M, dtype=bool)
    coefficients_D, mean_N = np.zeros(noisy_ND.shape[1]), np.zeros(len(noisy_ND))
    for _ in range(steps):
        weights_N = step_weights(coefficients_D, noisy_ND, labels_N, known_MD, trusted_labels_M)
        coefficients_D = coefficients_D - rate * (weights_N @ gradients(coefficients_D, noisy_ND, labels_N)) / len(noisy_ND)
        mean_N += weights_N / steps
    return mean_N


def leak_probabilities(
    features_ND: Floats, labels_N: Labels, weights_N: Floats | None, texts_MD: Floats, *, ridge: float = 1.0
) -> Floats:
    """`[M]`: how probably other texts leak, by a logistic regression on labelled ones that minimises
    sum_i w_i l_i + ridge theta^T theta / 2, the intercept free.

    Where all labels with a weight above zero say the same, nothing can be told apart, and every text has the probability
    (leaks + 1) / (labels + 2), counted without weights.

    Args:
        features_ND, labels_N: The labelled texts, their features scaled to about 1, and which of them are said to leak.
        weights_N: `[N]`, at least 0; None: 1 each.
        texts_MD: The texts to judge.
        ridge: How strongly coefficients are held at zero.

    Raises:
        InputError: No labels, or other numbers of texts, labels and weights; negative weights; a ridge that is not positive;
            scikit-learn is not installed.

    Cost: some tens of gradients of the labelled texts.
    """
    labels_N = np.asarray(labels_N, dtype=bool)
    weights_N = np.ones(len(labels_N)) if weights_N is None else np.asarray(weights_N, dtype=np.float64)
    if (
        not len(labels_N)
        or not len(features_ND) == len(labels_N) == len(weights_N)
        or not (weights_N >= 0).all()
        or not ridge > 0
    ):
        raise InputError(
            f"a classifier takes at least one labelled text, a label and a weight of at least 0 for each, and a positive ridge; got "
            f"{len(features_ND)} texts, {len(labels_N)} labels, {len(weights_N)} weights, and ridge={ridge}"
        )
    told = labels_N[weights_N > 0]
    if not told.any() or told.all():
        return np.full(len(texts_MD), (told.sum() + 1) / (len(told) + 2), dtype=np.float64)
    model = sklearn("linear_model").LogisticRegression(C=1 / ridge, max_iter=1000)
    model.fit(features_ND, labels_N, sample_weight=weights_N)
    found: Floats = model.predict_proba(texts_MD)[:, 1]
    return found
