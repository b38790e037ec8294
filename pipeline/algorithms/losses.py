"""The losses that algorithms hand to the learner: frozen values that map own tokens to a weighted sum.

They use tensor methods only, so that reading a config never imports torch.
"""

from __future__ import annotations

import math
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
    `Correction` in the weights, this is the decoupled PPO loss. `bound` is StableReinforce's pre-clip (arXiv
    2505.02835): rho is held to 1 / bound to bound before it is used, so that no exponent overflows.
    """

    low: float
    high: float
    bound: float | None = None

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        log_ratio = logp - batch.logp_old
        if self.bound is not None:
            log_ratio = log_ratio.clamp(-math.log(self.bound), math.log(self.bound))
        return _clipped(log_ratio.exp(), batch, self.low, self.high)


@dataclass(frozen=True, slots=True)
class SequenceSurrogate:
    """`ClippedSurrogate` with the ratio of the whole response: GSPO (arXiv 2507.18071), eq. 13 to 15.

    s_t = sg[s] pi_t / sg[pi_t], with s = exp(mean over the response's own tokens of log rho): each token has the
    response's ratio as its value, and its own log-prob's gradient. A micro-batch holds whole responses.
    """

    low: float
    high: float

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        fixed = logp.detach()
        per_response = fixed.new_zeros(len(batch.lengths))
        tokens = per_response.index_add(0, batch.owner, fixed.new_ones(len(fixed))).clamp(min=1)
        mean = per_response.index_add(0, batch.owner, fixed - batch.logp_old) / tokens
        return _clipped((logp - fixed + mean[batch.owner]).exp(), batch, self.low, self.high)


@dataclass(frozen=True, slots=True)
class WeightedLogProb:
    """-sg[clip(rho, 1 - low, 1 + high)] A log pi: CISPO (MiniMax-M1, arXiv 2506.13585), eq. 4."""

    low: float
    high: float

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        ratio = (logp.detach() - batch.logp_old).exp()
        bounded = ratio.clamp(1 - self.low, 1 + self.high)
        loss = -(bounded * batch.advantage * logp * batch.weight).sum()
        return loss, {"policy/clipped": ((bounded != ratio).sum(), len(logp)), "policy/ratio": (ratio.sum(), len(logp))}


def _clipped(ratio: Any, batch: MicroBatch, low: float, high: float) -> tuple[Any, Metrics]:
    free = ratio * batch.advantage
    clipped = ratio.clamp(1 - low, 1 + high) * batch.advantage
    loss = -(free.minimum(clipped) * batch.weight).sum()
    cut = (clipped < free).sum()
    return loss, {"policy/clipped": (cut, len(ratio)), "policy/ratio": (ratio.detach().sum(), len(ratio))}


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
