"""ReMax (arXiv 2310.10505): REINFORCE whose baseline is the reward of the policy's own greedy answer.

    A_i = R_i - R_greedy

The last rollout of each group is the greedy one: it takes the likeliest token at every step, is judged like the others,
and nothing is learned from it. `group_size: 2` is the paper's: one drawn, one greedy.

What differs from the paper: PPO's clip (nothing in the first update of rollouts that are not stale) and a mean over all
tokens by default, see `rloo.py`; the KL, which the paper takes from the reward, is off by default, and where it is on
the greedy answer's is taken off its own reward. Groups whose greedy answer could not be judged are left out, and drawn
rollouts that are worth exactly as much as all the group. A step's `reward/mean` counts the greedy rollouts, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded


@dataclass(frozen=True, slots=True)
class ReMax(PolicyGradient):
    """REINFORCE with the greedy answer's reward as the baseline.

    group_size  rollouts per task, the greedy one included
    """

    group_size: Annotated[int, Ge(2)] = 2

    greedy: ClassVar[bool] = True

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        out: list[Advantage] = []
        totals = step.totals
        for members in step.groups:
            indices = [sample.index for sample in step.samples[members]]
            if self.group_size - 1 not in indices or np.ptp(totals[members]) == 0:
                out += [None] * len(indices)
                continue
            baseline = totals[members][indices.index(self.group_size - 1)]
            drawn = [i != self.group_size - 1 for i in indices]
            out += [float(r - baseline) if d else None for r, d in zip(totals[members], drawn, strict=True)]
        return out
