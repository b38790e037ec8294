"""How rewards become advantages, and log-probs become divergences: the formulas that algorithms share.

Notation: R_i the rewards of one group, G its size; n responses of a step; d = log pi_ref - log pi_theta at a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

KlEstimator = Literal["k1", "k2", "k3"]


def group_relative(rewards: np.ndarray, scale: bool) -> np.ndarray:
    """A_i = R_i - mean(R), divided by (std(R) + 1e-6) where `scale`. f64[G] -> f64[G].

    DeepSeekMath (arXiv 2402.03300), eq. 3, with the sample standard deviation (G - 1), as verl and TRL take it.
    A single rollout has nothing to be compared with: its advantage is 0.
    """
    if len(rewards) < 2 or np.ptp(rewards) == 0:
        return np.zeros_like(rewards)
    centred = rewards - rewards.mean()
    return centred / (rewards.std(ddof=1) + 1e-6) if scale else centred


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """A_i = R_i - the mean of the other R. f64[G] -> f64[G].

    RLOO (arXiv 2402.14740). A single rollout has nothing to be compared with: its advantage is 0 (verl: R).
    """
    n = len(rewards)
    return (rewards - rewards.mean()) * n / (n - 1) if n > 1 else np.zeros_like(rewards)


def whiten(values: Sequence[np.ndarray]) -> list[np.ndarray] | list[None]:
    """(x - mean) / sqrt(var + 1e-8) over all tokens of the n responses. f64[own] each -> f64[own] each.

    REINFORCE++ (arXiv 2501.03262), with the sample variance and the epsilon of verl's masked_whiten. Nones where all
    tokens have the same value: nothing is better than anything else.
    """
    flat = np.concatenate(values) if values else np.zeros(0)
    if not len(flat) or np.ptp(flat) == 0:
        return [None] * len(values)
    scale = np.sqrt(flat.var(ddof=1) + 1e-8)
    return [(x - flat.mean()) / scale for x in values]


def without_outliers(rewards: np.ndarray, limit: float) -> list[float] | list[None]:
    """z_i = (R_i - mean) / std over the step; 0 where abs(z_i) > limit. f64[n] -> n numbers.

    StableReinforce (arXiv 2505.02835), with the population's standard deviation. Nones where all are equal.
    """
    if np.ptp(rewards) == 0:
        return [None] * len(rewards)
    z = (rewards - rewards.mean()) / rewards.std()
    return np.where(np.abs(z) > limit, 0.0, z).tolist()


def step_relative(steps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A_ik = G_ik - mean of G_jk over the responses j that have a step k, where G_ik = r_ik + r_i,k+1 + ...

    A group's step rewards, f[K_i] each -> f64[K_i] each. What one response alone has counts 0.
    """
    to_come = [np.cumsum(one[::-1].astype(np.float64))[::-1] for one in steps]
    longest = max((len(one) for one in to_come), default=0)
    means = [_mean([one[k] for one in to_come if len(one) > k]) for k in range(longest)]
    return [one - means[: len(one)] for one in to_come]


def _mean(values: Sequence[float]) -> float:
    """The mean; of equal values exactly theirs, so that what all have in common is 0 and not a rounding."""
    return values[0] if min(values) == max(values) else float(np.mean(values))


def by_token(per_step: np.ndarray, step_ends: np.ndarray, own: int) -> np.ndarray:
    """Each token has its step's number: f64[K], i32[K] -> f64[own]. Tokens after the last step have 0."""
    return np.append(per_step, 0.0)[np.searchsorted(step_ends, np.arange(own), side="left")]


def pairwise(wins: np.ndarray) -> np.ndarray:
    """A_i = mean_j d_ij / sqrt(sum_ab d_ab^2 / (2 G (G - 1)) + 1e-6), d_ij by how much i was preferred to j.

    f64[G, G], antisymmetric -> f64[G]. Think-RM (arXiv 2505.16265). With d_ij = R_i - R_j the root is the
    sample standard deviation, and A is `group_relative`'s. A single rollout's advantage is 0.
    """
    n = len(wins)
    spread = np.square(wins).sum() / (2 * n * (n - 1)) if n > 1 else 0.0
    return wins.sum(axis=1) / n / np.sqrt(spread + 1e-6)


def kl(logp: Any, logp_ref: Any, estimator: KlEstimator) -> Any:
    """Per-token estimate of KL(pi || pi_ref) from tokens drawn from pi; arrays or tensors alike.

    Schulman, "Approximating KL divergence" (2020): k1 = -d; k2 = d^2 / 2; k3 = exp(d) - d - 1.
    """
    d = logp_ref - logp
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d * d / 2
    return (np.exp(d) if isinstance(d, np.ndarray) else d.exp()) - d - 1
