"""StableReinforce (R1-Reward, arXiv 2505.02835, section 3): REINFORCE++ that two kinds of outliers can't upset.

    pre-clip          log rho_t is held to [-ln 1000, ln 1000] before exp, then PPO's clip: no overflow, at any ratio
    advantage filter  z_i = (R_i - mean R) / std R over the step's responses; A_i = z_i, and 0 where abs(z_i) > 3
                      (one 0 among 255 rewards of 1 has z = -15.97 and would drown the rest)

What differs from the paper: the consistency reward (does the reasoning support the answer?) is a judge's matter, not
the algorithm's. std is the population's, as in the paper's example; a step whose rewards are all equal has no signal.
The released code has no advantage filter: this one is the paper's. Filtered responses stay in the loss's mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from pipeline.algorithms.estimators import without_outliers
from pipeline.algorithms.losses import ClippedSurrogate
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded
from workers.ports import LossFn

# The paper's.
RATIO_BOUND, OUTLIER = 1000.0, 3.0


@dataclass(frozen=True, slots=True)
class StableReinforce(PolicyGradient):
    """REINFORCE++ with bounded ratios and without outlying advantages."""

    group_size: Annotated[int, Ge(1)] = 8

    @property
    def surrogate(self) -> LossFn:
        """See `PolicyGradient.surrogate`."""
        return ClippedSurrogate(self.clip_low, self.clip_high, RATIO_BOUND)

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        return without_outliers(step.totals, OUTLIER)
