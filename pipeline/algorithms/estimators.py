"""How rewards become advantages, and log-probs become divergences: the formulas that algorithms share.

Notation: R_i the rewards of one group, G its size; d = log pi_ref - log pi_theta at a token.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

KlEstimator = Literal["k1", "k2", "k3"]


def group_relative(rewards: np.ndarray, scale: bool) -> np.ndarray:
    """A_i = R_i - mean(R), divided by (std(R) + 1e-6) where `scale`. f64[G] -> f64[G].

    DeepSeekMath (arXiv 2402.03300), eq. 3, with the sample standard deviation (G - 1), as verl and TRL take it.
    A single rollout has nothing to be compared with: its advantage is 0.
    """
    if len(rewards) < 2:
        return np.zeros_like(rewards)
    centred = rewards - rewards.mean()
    return centred / (rewards.std(ddof=1) + 1e-6) if scale else centred


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
