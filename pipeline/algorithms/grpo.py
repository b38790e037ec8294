"""GRPO: group-relative policy optimization (DeepSeekMath, arXiv 2402.03300), after R1's recipe.

    A_i = (R_i - mean R) / (std R + 1e-6)        the same for every token of rollout i
    L   = - sum_t w_t min(rho_t A_i, clip(rho_t, 1 - clip_low, 1 + clip_high) A_i) + kl term

What differs from the paper: the mean is taken over all tokens of the update (`aggregate: token`, as DAPO, TRL and
verl default to) unless `aggregate: sequence` asks for the paper's mean over each response first; the KL term is off
by default; groups whose rewards are all equal carry no signal and are left out of the update.
rho_t is taken against the rollout's own log-probs, so stale rollouts are corrected, within the clip, without a further
forward pass. With several updates per step the learner recomputes them, because engines round differently; rho_t then
holds those updates alone, and neither rounding nor staleness. `correction` puts that back as a weight on each token,
and recomputes them at one update per step, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from pipeline.algorithms.correction import Correction
from pipeline.algorithms.estimators import KlEstimator, group_relative, kl
from pipeline.algorithms.losses import ClippedSurrogate, KlPenalty
from workers.ports import LossFn
from workers.types import Credit, Needs, Sample, Signals


@dataclass(frozen=True, slots=True)
class Grpo:
    """Group-relative policy optimization.

    group_size        rollouts per task
    updates_per_step  optimizer updates that share one step's rollouts
    clip_low          how far below 1 the probability ratio may push
    clip_high         how far above 1
    scale             divide by the group's standard deviation (off: Dr.GRPO's advantage)
    aggregate         mean over all tokens, or over each response's tokens first
    kl_coefficient    weight of the KL to the policy that the stage started from; 0 needs no reference
    kl_estimator      k1, k2 or k3 (in the loss, k1 pulls nowhere on average: see `KlPenalty`)
    kl_in             add it to the loss, or subtract it from the reward (per response, before the group's mean)
    correction        importance weights for tokens of another policy: stale rollouts, engines that round differently
    """

    group_size: Annotated[int, Ge(2)] = 8
    updates_per_step: Annotated[int, Ge(1)] = 1
    clip_low: Annotated[float, Ge(0)] = 0.2
    clip_high: Annotated[float, Ge(0)] = 0.2
    scale: bool = True
    aggregate: Literal["token", "sequence"] = "token"
    kl_coefficient: Annotated[float, Ge(0)] = 0.0
    kl_estimator: KlEstimator = "k3"
    kl_in: Literal["loss", "reward"] = "loss"
    correction: Correction = field(default_factory=Correction)

    @property
    def needs(self) -> Needs:
        in_reward = self.kl_coefficient > 0 and self.kl_in == "reward"
        recomputed = self.updates_per_step > 1 or in_reward or bool(self.correction)
        return Needs(logp_old=recomputed, logp_ref=self.kl_coefficient > 0)

    @property
    def losses(self) -> Sequence[LossFn]:
        surrogate = ClippedSurrogate(self.clip_low, self.clip_high)
        if self.kl_coefficient > 0 and self.kl_in == "loss":
            return surrogate, KlPenalty(self.kl_coefficient, self.kl_estimator)
        return (surrogate,)

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Credit for the samples of every group whose rewards differ, and the correction's metrics."""
        out: list[Credit] = []
        for _, members in groupby(zip(samples, signals, strict=True), key=lambda pair: pair[0].group):
            pairs = list(members)
            rewards = np.array([self._reward(sample, signal) for sample, signal in pairs])
            if np.ptp(rewards) == 0:
                continue
            for advantage, (sample, signal) in zip(group_relative(rewards, self.scale), pairs, strict=True):
                out.append(self._credit(sample, signal, advantage))
        return self.correction.apply(out)

    def _reward(self, sample: Sample, signals: Signals) -> float:
        assert sample.reward is not None
        if self.kl_coefficient == 0 or self.kl_in == "loss":
            return sample.reward
        return sample.reward - self.kl_coefficient * float(
            kl(signals.logp_old, signals.logp_ref, self.kl_estimator).sum()
        )

    def _credit(self, sample: Sample, signals: Signals, advantage: float) -> Credit:
        own = int(sample.mask.sum())
        by_token = self.aggregate == "token"
        return Credit(
            sample=sample,
            signals=signals,
            advantage=np.full(own, advantage, np.float32),
            weight=np.full(own, 1.0 if by_token else 1.0 / own, np.float32),
            mass=float(own) if by_token else 1.0,
        )
