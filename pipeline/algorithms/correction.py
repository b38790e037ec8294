"""Importance weights for tokens that another policy wrote than the one that learns from them.

    w_t = pi_old(t) / pi_rollout(t)     pi_old: the learner's policy before the step's first update, recomputed by it;
                                        pi_rollout: what the engine reported as it drew the token

Engines round differently, and a stale rollout is an older policy's; w corrects for both.

`truncate` is truncated importance sampling (TIS; Yao et al. 2025, "Your efficient RL framework secretly brings you
off-policy RL training"), `mask` is IcePop (Ring-1T, arXiv 2510.18855), both as verl's rollout correction has them:
`level: sequence` takes the product over the response, and cut tokens still count in the loss's denominator.

The decoupled PPO loss (Hilton et al., arXiv 2110.00641; AReaL, arXiv 2505.24298) is no loss of its own here: with a
correction, pi_old is its proximal policy, w its pi_prox / pi_behav, and `ClippedSurrogate` the rest. Its w has no
bound: `truncate` with a `high` that nothing reaches; `mask` with `low: 0` is AReaL's code, which drops w over a cap.

What differs from verl: no limit on the exponent (float64 needs none), and the weights multiply every term of the
loss. A KL penalty in the loss is a mean over the same tokens, and is corrected with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from workers.types import Credit


@dataclass(frozen=True, slots=True)
class Correction:
    """Importance weights for tokens of another policy: stale rollouts, engines that round differently.

    kind   none, truncate (the weight at most `high`), or mask (0 for weights outside `low` to `high`)
    level  each token its own weight, or all the product over their response (no bias, but much more variance)
    low    the smallest weight that `mask` keeps
    high   the largest weight; a number out of reach leaves weights as they are (AReaL's decoupled PPO)
    """

    kind: Literal["none", "truncate", "mask"] = "none"
    level: Literal["token", "sequence"] = "token"
    low: Annotated[float, Ge(0), Le(1)] = 0.5
    high: Annotated[float, Ge(1)] = 2.0

    def __bool__(self) -> bool:
        return self.kind != "none"

    def apply(self, credits_: Sequence[Credit]) -> tuple[list[Credit], dict[str, float]]:
        """Multiply the credits' weights; their mass stays. Needs `logp_old`. Also what there is to log of it."""
        if not self or not credits_:
            return list(credits_), {}
        out, weights, cut = [], [], []
        for credit in credits_:
            ratio = self._ratio(credit)
            weight = self._bounded(ratio)
            out.append(replace(credit, weight=(credit.weight * weight).astype(np.float32)))
            weights.append(weight)
            cut.append(weight != ratio)
        w = np.concatenate(weights)
        metrics = {
            "policy/correction_mean": float(w.mean()),
            "policy/correction_cut": float(np.concatenate(cut).mean()),
            "policy/correction_ess": float(w.mean() ** 2 / np.square(w).mean()) if w.any() else 0.0,
        }
        return out, metrics

    def _ratio(self, credit: Credit) -> np.ndarray:
        """w before it is bounded, f64[own]; inf where that is too much for a float64."""
        sample, old = credit.sample, credit.signals.logp_old
        assert old is not None and sample.logp_rollout is not None, "a correction needs both log-probs"
        log_ratio = old.astype(np.float64) - sample.logp_rollout[sample.mask]
        if self.level == "sequence":
            log_ratio = np.full_like(log_ratio, log_ratio.sum())
        with np.errstate(over="ignore"):
            return np.exp(log_ratio)

    def _bounded(self, ratio: np.ndarray) -> np.ndarray:
        if self.kind == "truncate":
            return np.minimum(ratio, self.high)
        return np.where((self.low <= ratio) & (ratio <= self.high), ratio, 0.0)
