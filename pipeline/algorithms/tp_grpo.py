"""TP-GRPO: right and wrong thoughts inside right and wrong answers (arXiv 2507.23317).

    A^o_i  the outcome's advantage, GRPO's; acc the share of the group's answers that are right; r_c = alpha acc
    right answer   a step that is right keeps A^o, one that is wrong gets A^o - r_c
    wrong answer   a step that is wrong keeps A^o, one that is not gets 0: the blame is not its own

So exploring is punished only once the policy can do the task. Steps are judged by a source; a step is right from
`step_right` on. Tokens outside any step keep A^o. What differs from the paper: this is the credit that its two
propositions state, in one update per step and not off-policy; merging like steps into thoughts changes nothing then, as
each token's credit is its own step's; its alpha is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from pipeline.algorithms.estimators import group_relative
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded


@dataclass(frozen=True, slots=True)
class TpGrpo(PolicyGradient):
    """GRPO whose credit goes by right and wrong steps.

    alpha       how much a wrong step in a right answer costs, where the group is always right
    right       the reward, steps aside, from which an answer is right
    step_right  the step's reward from which it is right
    """

    alpha: Annotated[float, Ge(0)] = 1.0
    right: float = 0.5
    step_right: float = 0.5

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        outcomes, out = step.totals - step.step_sums, []
        for members in step.groups:
            samples, own = step.samples[members], outcomes[members]
            advantages = group_relative(own, scale=True)
            right = np.array([(sample.reward or 0.0) >= self.right for sample in samples])
            cost = self.alpha * float(right.mean())
            found = [
                self._by_token(float(a), bool(r), cost, sample.steps, sample.step_ends, int(sample.mask.sum()))
                for a, r, sample in zip(advantages, right, samples, strict=True)
            ]
            out += found if any(one.any() for one in found) else [None] * len(samples)
        return out

    def _by_token(
        self, a: float, right: bool, cost: float, steps: np.ndarray | None, ends: np.ndarray | None, own: int
    ) -> np.ndarray:
        if steps is None or ends is None:
            return np.full(own, a)
        good = steps >= self.step_right
        per_step = np.where(good, a, a - cost) if right else np.where(good, 0.0, a)
        return np.append(per_step, a)[np.searchsorted(ends, np.arange(own), side="left")]
