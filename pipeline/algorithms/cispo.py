"""CISPO: clipped importance-sampling policy optimization (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5).

    L   = - mean over tokens of sg[clip(rho_t, 1 - clip_low, 1 + clip_high)] A_i log pi_t
    A_i = GRPO's

The clip bounds a weight and stops no gradient: rare tokens that turn a chain of thought ("However", "wait") have large
ratios, and PPO's clip drops them after the first update.

The paper bounds from above only, by a value it does not tell: `clip_low: 1` is no bound from below, and the default
upper bound, 1 + clip_high = 5, is that of TRL's recipe and ScaleRL (arXiv 2510.13786). Groups whose rewards are all
equal are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from pipeline.algorithms.estimators import group_relative
from pipeline.algorithms.losses import WeightedLogProb
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded
from workers.ports import LossFn


@dataclass(frozen=True, slots=True)
class Cispo(PolicyGradient):
    """REINFORCE with clipped importance weights, through which no gradient flows."""

    clip_low: Annotated[float, Ge(0)] = 1.0
    clip_high: Annotated[float, Ge(0)] = 4.0

    @property
    def surrogate(self) -> LossFn:
        """See `PolicyGradient.surrogate`."""
        return WeightedLogProb(self.clip_low, self.clip_high)

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        return step.in_groups(step.totals, lambda rewards: group_relative(rewards, scale=True))
