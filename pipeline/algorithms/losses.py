"""The losses that algorithms hand to the learner: frozen values that map own tokens to a weighted sum.

They use tensor methods only, so that reading a config never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.algorithms.estimators import KlEstimator, kl
from workers.types import MicroBatch

Metrics = Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class ClippedSurrogate:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) with rho = pi / pi_old: PPO (arXiv 1707.06347), eq. 7.

    `low` and `high` differ in DAPO's clip-higher (arXiv 2503.14476), eq. 10. With the learner's own pi_old, and a
    `Correction` in the weights, this is the decoupled PPO loss.
    """

    low: float
    high: float

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        ratio = (logp - batch.logp_old).exp()
        free = ratio * batch.advantage
        clipped = ratio.clamp(1 - self.low, 1 + self.high) * batch.advantage
        loss = -(free.minimum(clipped) * batch.weight).sum()
        cut = (clipped < free).sum()
        return loss, {"policy/clipped": (cut, len(logp)), "policy/ratio": (ratio.detach().sum(), len(logp))}


@dataclass(frozen=True, slots=True)
class KlPenalty:
    """coefficient * KL(pi || pi_ref), estimated per token.

    As a loss only k2 has the gradient of that KL on the policy's own draws; k3 has that of KL(pi_ref || pi), and k1
    none but noise: the mean of grad log pi is zero.
    """

    coefficient: float
    estimator: KlEstimator

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        divergence = kl(logp, batch.logp_ref, self.estimator)
        loss = self.coefficient * (divergence * batch.weight).sum()
        return loss, {"policy/kl_ref": (divergence.detach().sum(), len(logp))}


@dataclass(frozen=True, slots=True)
class NegativeLogLikelihood:
    """-log pi(token): maximum likelihood of the demonstrations."""

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        return -(logp * batch.weight).sum(), {"learner/nll": (-logp.detach().sum(), len(logp))}
