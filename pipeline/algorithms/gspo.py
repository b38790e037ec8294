"""GSPO: group sequence policy optimization (Qwen, arXiv 2507.18071): the ratio is the response's, as the reward is.

    s_i  = (pi(y_i) / pi_old(y_i)) ^ (1 / |y_i|) = exp(mean over t of log rho_it)
    L    = - mean over responses of min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)        eq. 5
    A_i  = GRPO's

The loss is written by token, as in the paper's GSPO-token (eq. 13 to 15): s_it = sg[s_i] * pi_t / sg[pi_t], with the
same value and, for one advantage per response, the same gradient. Clips are the paper's, and a thousand times narrower
than a token's.

Such a clip is narrower than the rounding in which engine and learner differ, so the learner always recomputes pi_old;
stale rollouts are for `correction`.

What differs from the paper: groups whose rewards are all equal are left out. What differs from verl: no bound on the
exponent (10 there), which a ratio that is clipped at all never comes near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge

from pipeline.algorithms.estimators import group_relative
from pipeline.algorithms.losses import SequenceSurrogate
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded
from workers.ports import LossFn
from workers.types import Needs


@dataclass(frozen=True, slots=True)
class Gspo(PolicyGradient):
    """Group sequence policy optimization: one clipped ratio per response."""

    clip_low: Annotated[float, Ge(0)] = 3e-4
    clip_high: Annotated[float, Ge(0)] = 4e-4
    aggregate: Literal["token", "sequence", "constant"] = "sequence"

    @property
    def needs(self) -> Needs:
        return replace(super(Gspo, self).needs, logp_old=True)

    @property
    def surrogate(self) -> LossFn:
        """See `PolicyGradient.surrogate`."""
        return SequenceSurrogate(self.clip_low, self.clip_high)

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        return step.in_groups(step.totals, lambda rewards: group_relative(rewards, scale=True))
