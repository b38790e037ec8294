"""GRPO: group-relative policy optimization (DeepSeekMath, arXiv 2402.03300), after R1's recipe.

    A_i = (R_i - mean R) / (std R + 1e-6)        the same for every token of rollout i
    L   = - sum_t w_t min(rho_t A_i, clip(rho_t, 1 - clip_low, 1 + clip_high) A_i) + kl term

Where steps are judged, each step's tokens get what is still to come, less what others get from that step on:

    A_it = (R_i - mean R + A_ik) / (s + 1e-6)    A_ik = G_ik - mean_j G_jk,  G_ik = r_ik + r_i,k+1 + ...
    s    = sqrt(var R + mean of all A_ik^2)      which is std R where no steps are judged

for a token t of step k; the mean is over the responses j that have a step k. Tokens after the last step keep the first
part alone, those before the first step (earlier turns') count as its own.
The paper's process supervision (section 4.1.3) normalises all step rewards of a group together instead: then a response
gains by having more steps than others, or fewer, whatever they are worth.

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

import numpy as np

from pipeline.algorithms.estimators import by_token, group_relative, step_relative
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded
from workers.types import Sample


@dataclass(frozen=True, slots=True)
class Grpo(PolicyGradient):
    """Group-relative policy optimization.

    scale  divide by the group's standard deviation (off: Dr.GRPO's advantage)
    """

    scale: bool = True

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        if all(sample.steps is None for sample in step.samples):
            return step.in_groups(step.totals, lambda rewards: group_relative(rewards, self.scale))
        outcomes = step.totals - step.step_sums
        return [a for members in step.groups for a in self._by_step(step.samples[members], outcomes[members])]

    def _by_step(self, samples: Sequence[Sample], outcomes: np.ndarray) -> Sequence[Advantage]:
        """One group's advantages by token, from its outcomes f64[G] and the samples' step rewards."""
        none = np.zeros(0)
        by_step = step_relative([none if sample.steps is None else sample.steps for sample in samples])
        found = np.concatenate(by_step)
        if np.ptp(outcomes) == 0 and not found.any():
            return [None] * len(samples)
        spread = outcomes.var(ddof=1) if len(samples) > 1 else 0.0
        of_steps = np.square(found).mean() if len(found) else 0.0
        scale = np.sqrt(spread + of_steps) + 1e-6 if self.scale else 1.0
        centred = outcomes - outcomes.mean()
        return [
            float(outcome / scale)
            if sample.step_ends is None
            else (outcome + by_token(steps, sample.step_ends, int(sample.mask.sum()))) / scale
            for outcome, steps, sample in zip(centred, by_step, samples, strict=True)
        ]
