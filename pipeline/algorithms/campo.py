"""CAMPO's repetition critic (MiroMind-M1, arXiv 2507.14683): a response that ends in a loop is worth less by its share.

    f(o) = share of the response's tokens inside the loop that it ends in, 0 to 1
    A_i  = (R_i - f(o_i) - mean(R - f)) / (std(R - f) + 1e-6)

What differs from the paper: its stages of growing length are stages of the config here, each with its own `rollout` and
`start`; groups without signal are left out (drawing others instead is the stage's `resample`). The critic
(`rewards.repetition`) is asked about every response, as in the paper (its script asks about truncated ones only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.algorithms.estimators import group_relative
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded
from rewards.repetition import loop_share


@dataclass(frozen=True, slots=True)
class Campo(PolicyGradient):
    """GRPO with a penalty on responses that end in a loop."""

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        looped = np.array([loop_share(sample.ids[sample.mask].tolist()) for sample in step.samples])
        return step.in_groups(step.totals - looped, lambda rewards: group_relative(rewards, scale=True))
