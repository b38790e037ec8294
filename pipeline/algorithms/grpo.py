"""GRPO: group-relative policy optimization (DeepSeekMath, arXiv 2402.03300), after R1's recipe.

    A_i = (R_i - mean R) / (std R + 1e-6)        the same for every token of rollout i
    L   = - sum_t w_t min(rho_t A_i, clip(rho_t, 1 - clip_low, 1 + clip_high) A_i) + kl term

What differs from the paper: the mean is taken over all tokens of the update (`aggregate: token`, as DAPO, TRL and
verl default to) unless `aggregate: sequence` asks for the paper's mean over each response first; the KL term is off
by default; groups whose rewards are all equal carry no signal and are left out of the update, tokens and all, so a
step's mean is over what is learned from (verl counts their tokens in the denominator); no dual clip (verl's
clip_ratio_c). `policy_gradient.py` says what rho_t and w_t are.

Dr.GRPO (arXiv 2503.20783) is `scale: false, aggregate: constant`: no group counts more because its rewards are close
together, no response less because it is long.
DAPO (arXiv 2503.14476) is `clip_high: 0.28, aggregate: token`, with `overlong_buffer`; for its dynamic sampling see the
stage's `resample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.algorithms.estimators import group_relative
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded


@dataclass(frozen=True, slots=True)
class Grpo(PolicyGradient):
    """Group-relative policy optimization.

    scale  divide by the group's standard deviation (off: Dr.GRPO's advantage)
    """

    scale: bool = True

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        return step.in_groups(step.totals, lambda rewards: group_relative(rewards, self.scale))
