"""GDPO: reward-decoupled normalisation (arXiv 2601.05242): each source's scores are normalised before they add up.

    A_ik  = (r_ik - mean_i r_ik) / (std_i r_ik + 1e-6)        for source k, within the group
    A_i   = sum_k weight_k A_ik
    A_i  := (A_i - mean A) / sqrt(var A + 1e-8)               over all own tokens of the step

Summed first, sources of different spread, or rollouts of different mixtures with the same sum, are one signal; here
each source keeps its own. `weight_k` is the source's weight in `rewards`; a source of weight 0 only watches. What
`overlong_buffer` or a KL in the reward take counts as one more source, of weight 1.

What differs from the paper: the last mean and variance are over tokens, as in verl, whose estimator this is. Only a
step whose advantages are all equal has no signal. A rollout that is left alone in its group is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.algorithms.estimators import group_relative
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded


@dataclass(frozen=True, slots=True)
class Gdpo(PolicyGradient):
    """GRPO with each reward source normalised apart."""

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        summed = np.zeros(len(step.samples))
        taken = step.totals - [sample.reward for sample in step.samples]
        parts = [*((weight, values) for _, weight, values in step.sources()), (1.0, taken)]
        for members in step.groups:
            for weight, values in parts:
                summed[members] += weight * group_relative(values[members], scale=True)
        return step.whitened(summed)
