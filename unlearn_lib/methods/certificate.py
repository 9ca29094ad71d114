r"""How far a Newton step of a softmax head misses the minimum, and what that is worth in (epsilon, delta).

**The constant gamma.** Along d in R^V, the second derivative of log sum exp at z is Var_p(d) under p = softmax(z), and the third is the
third central moment kappa_p(d) = E_p[(d - E_p d)^3]. The trilinear form behind it is symmetric, so its largest value on unit vectors is
taken where all three are the same (Banach 1938), and gamma = max |kappa_p(d)| over |d| = 1 and all p. Given its mean, a third central
moment is largest for two values a < b (two linear constraints on p, so an extreme point has at most two atoms), where it is
(b - a)^3 q (1 - q)(1 - 2q) <= (b - a)^3 / (6 sqrt 3); and b - a <= sqrt 2 |d|. Hence

    gamma = 2 sqrt 2 / (6 sqrt 3) = sqrt 6 / 9 = 0.2722,    |C(z + u) - C(z)| <= gamma |u|  (spectral norm),

and it is attained, by two tokens with q = 1/2 -+ 1/(2 sqrt 3) and d = (1, -1) / sqrt 2. (The source has 1/4 for the second derivative of
the logistic loss, a constant for one margin that says nothing of V logits.)

**The step.** Texts S leave n, and n' = n - |S| stay; the penalty is Lambda / 2 |W - W_0|^2 before and Lambda' / 2 |W - W_0|^2 after (see
`Certificate`). With H = sum_{i not in S} H_i + Lambda' I at W, v = sum_{i in S} grad l_i(W) + (Lambda - Lambda')(W - W_0), and
H D = v - r (r: what the solver leaves), the new objective has at W + D the gradient

    grad L_{-S}(W + D) = grad L(W) - v + H D + R = grad L(W) - r + R,
    R = sum_{t not in S} w_t e_t x_t^T,    e_t = p(z_t + d_t) - p(z_t) - C(z_t) d_t,    d_t = D x_t

because the penalty's gradient and B are linear in W. By the integral form of Taylor's theorem |e_t| <= gamma/2 |d_t|^2. With A the
matrix of the rows sqrt(w_t) x_t, |R|_F is at most the smaller of two bounds,

    data:    gamma/2 |A|_2 (sum_t w_t |d_t|^4)^(1/2),    gamma/2 sum_t w_t |d_t|^2 |x_t|

(R = E^T A with rows sqrt(w_t) e_t; and the triangle inequality). As |d_t| <= |D|_2 C with C the largest |x_t|, the first is at most

    source:  gamma/2 C |D|_2 |A D^T|_F |A|_2

which is corollary 1 of the source, where C = 1, with the half that its mean value form leaves out. And as sum_t w_t = n',
|grad l_i| <= sqrt 2 C and Lambda (W - W_0) = grad L(W) - B - sum_i grad l_i(W), neither the data nor D are needed for

    worst:   gamma/2 n' C^3 |D|^2,    |D| <= (1 + |r|/|v|) (sqrt 2 |S| C + (1 - Lambda'/Lambda)(sqrt 2 n C + |B| + |grad L(W)|)) / Lambda'

which for Lambda = lambda n, Lambda' = lambda (n - 1), B = grad L(W) = r = 0 and |S| = C = 1 is 4 gamma / (lambda^2 (n - 1)), the form of
theorem 1 of the source; and for Lambda' = Lambda = lambda n about a quarter of it.

**The certificate.** If |grad L_{-S}| <= beta, W minimises L_{-S} with B replaced by B - u for some |u| <= beta, and a shift of beta of
Gaussian noise with deviation sigma is worth (theorem 3 of the source, c = sqrt(2 log(1.5 / delta)))

    classical:  epsilon = c beta / sigma, proved for epsilon <= 1;
    exact:      delta = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu),  mu = beta / sigma  (arXiv 1805.06530).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from unlearn_lib.curvature.softmax_head import HeadRisk

GAMMA = math.sqrt(6) / 9
"""The largest third derivative of log sum exp along a unit vector: the Lipschitz constant of its Hessian."""
Accounting = Literal["classical", "exact"]


def data_bound(risk: HeadRisk, D_Vd: Tensor) -> float:
    """A bound of |R|_F from the step and the features of the texts that stay. Cost: 2 N (V + d) d FLOPs.

    Args:
        risk: The texts that stay.
        D_Vd: The step.
    """
    square, cubic = 0.0, 0.0
    for x_Md, _, w_M in risk.pieces(len(D_Vd)):
        d2_M = (x_Md @ D_Vd.T).square().sum(-1)
        square += float(w_M @ d2_M.square())
        cubic += float(w_M @ (d2_M * x_Md.norm(dim=1)))
    return GAMMA / 2 * min(risk.spectral_norm() * math.sqrt(square), cubic)


def source_bound(risk: HeadRisk, D_Vd: Tensor) -> float:
    """The bound of the source's corollary 1, with this loss's gamma; never below `data_bound`. Cost as that of it."""
    moved = sum(float(w_M @ (x_Md @ D_Vd.T).square().sum(-1)) for x_Md, _, w_M in risk.pieces(len(D_Vd)))
    longest = risk.largest_norm() * float(torch.linalg.matrix_norm(D_Vd, 2))
    return GAMMA / 2 * longest * math.sqrt(moved) * risk.spectral_norm()


def worst_bound(
    n: int, removed: int, radius: float, before: float, after: float, *, rest: float = 0.0, solver: float = 0.0
) -> float:
    """A bound of |R|_F that holds whatever the texts are.

    Args:
        n: Texts before the removal.
        removed: How many leave, fewer than n.
        radius: C, the largest norm of a token's features.
        before, after: Lambda and Lambda', what the penalty has before and after the removal.
        rest: |B|_F and a bound of |grad L(W)| before the removal, together.
        solver: The relative residual |r| / |v| of the linear solve.
    """
    largest = math.sqrt(2) * radius  # of a text's gradient
    pull = removed * largest + (1 - after / before) * (n * largest + rest)
    step = (1 + solver) * pull / after
    return GAMMA / 2 * (n - removed) * radius**3 * step**2


def allowed_residual(sigma: float, epsilon: float, delta: float, accounting: Accounting = "classical") -> float:
    """The largest bound on the gradient, beta, at which (epsilon, delta) holds.

    Args:
        sigma: The standard deviation of B's entries.
        epsilon: Above 0; at most 1 with "classical".
        delta: Between 0 and 1.
        accounting: The source's theorem, or the exact statement on Gaussian noise, which allows more.
    """
    if accounting == "classical":
        return sigma * epsilon / _classical(delta)
    from scipy.optimize import brentq

    # the shift at which the exact delta is reached, which grows with the shift from 0 to 1
    return sigma * float(brentq(lambda mu: _exact_delta(mu, epsilon) - delta, 1e-9, 2 * (epsilon + 40) ** 0.5 + 40, xtol=1e-14))


def epsilon_spent(spent: float, sigma: float, delta: float, accounting: Accounting = "classical") -> float:
    """The epsilon at which a bound on the gradient of `spent` is certified at this delta; infinite without noise."""
    if sigma == 0:
        return math.inf
    mu = spent / sigma
    if accounting == "classical":
        return mu * _classical(delta)
    from scipy.optimize import brentq

    if mu == 0 or _exact_delta(mu, 0.0) <= delta:
        return 0.0
    largest = mu * (mu / 2 + math.sqrt(2 * math.log(1 / delta)) + 1)  # there Phi(mu/2 - epsilon/mu) alone is below delta
    return float(brentq(lambda epsilon: _exact_delta(mu, epsilon) - delta, 0.0, largest, xtol=1e-14))


def _classical(delta: float) -> float:
    return math.sqrt(2 * math.log(1.5 / delta))


def _exact_delta(mu: float, epsilon: float) -> float:
    from scipy.special import log_ndtr

    # in logarithms, because exp(epsilon) may overflow where the product is small
    return math.exp(log_ndtr(mu / 2 - epsilon / mu)) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))
