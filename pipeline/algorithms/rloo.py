"""RLOO: REINFORCE with a leave-one-out baseline ("Back to Basics", arXiv 2402.14740; Kool et al. 2019).

    A_i = R_i - mean of the others' R = G / (G - 1) * (R_i - mean R)

What differs from the paper: PPO's clip, which does nothing in the first update of rollouts that are not stale, and lets
the algorithm take several updates (as verl and TRL do). The paper takes a response for one action, whose log-prob is
the sum over its tokens: that is `aggregate: constant`, up to a factor; the default is the mean over all tokens. The
paper's KL (`kl_in: reward`, k1, 0.03 to 0.1) is off by default. Groups whose rewards are all equal are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.algorithms.estimators import leave_one_out
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded


@dataclass(frozen=True, slots=True)
class Rloo(PolicyGradient):
    """REINFORCE with the mean of the group's other rewards as the baseline."""

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        return step.in_groups(step.totals, leave_one_out)
