"""REINFORCE++ (arXiv 2501.03262): no critic, no baseline of the task's own; advantages normalised over the whole step.

    return     G_it = R_i - sum over s >= t of the KL at token s          (`baseline: batch`)
               G_i  = R_i - mean R of the group                           (`baseline: group`: REINFORCE++-baseline)
    advantage  A_it = (G_it - mean G) / sqrt(var G + 1e-8)                over all own tokens of the step

The batch's baseline needs no group: `group_size: 1` spends every rollout on another task.

What differs from the paper: nothing of the estimator (it is verl's, token by token); the KL is off by default, and k1
in the reward where it is on, token by token with `baseline: batch` (the paper's baseline variant has k2 in the loss).
Without a group's own mean, a group of equal rewards is signal, too; only a step whose returns are all equal has none. A
rollout that is left alone in its group has no group's baseline and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from pipeline.algorithms.estimators import KlEstimator, group_relative, whiten
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded


@dataclass(frozen=True, slots=True)
class ReinforcePlusPlus(PolicyGradient):
    """REINFORCE++: advantages normalised over the step.

    baseline  batch: the step's mean alone; group: the group's mean first
    """

    group_size: Annotated[int, Ge(1)] = 8
    kl_estimator: KlEstimator = "k1"
    kl_in: Literal["loss", "reward"] = "reward"
    baseline: Literal["batch", "group"] = "batch"

    def __post_init__(self) -> None:
        """See `PolicyGradient`; and a group's mean needs a group."""
        PolicyGradient.__post_init__(self)
        if self.baseline == "group" and self.group_size < 2:
            raise ValueError("group_size: found 1, expected 2 or more for baseline: group; or baseline: batch")

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        if self.baseline == "batch":
            to_come = [np.cumsum(penalty[::-1])[::-1] for penalty in step.penalties]
            return whiten([reward - rest for reward, rest in zip(step.rewards, to_come, strict=True)])
        totals = step.totals
        centred = [group_relative(totals[members], scale=False) for members in step.groups]
        return step.whitened(np.concatenate(centred))
