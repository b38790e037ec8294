"""PPO with a critic (arXiv 1707.06347), as RLHF runs it (InstructGPT, arXiv 2203.02155).

    reward     r_t = - kl_coefficient KL_t + [t is the last own token] R         (the coefficient: `kl_control.py`)
                   + r_k where t is the last token of step k, if steps are judged
    advantage  A_t by GAE (`gae.py`) on the critic's values before the step, whitened over the step's own tokens
    policy     - sum_t w_t min(rho_t A_t, clip(rho_t, 1 - clip_low, 1 + clip_high) A_t)       (`policy_gradient.py`)
    critic     c max((V - R)^2, (V_clip - R)^2) towards the returns A_t + V_t before whitening         (`critic.py`)

The critic stands beside the policy in the learner, with an optimizer of its own; where they share a trunk, the trunk
moves with the sum of both losses, at the policy's rate. A group needs no second rollout here, and a group of equal
rewards is signal.

What differs from the paper: no entropy bonus; each sample is learned from once per step (`updates_per_step` splits a
step, it does not repeat it); gamma and lam are 1, as Open-Reasoner-Zero (arXiv 2503.24290) has them for
verifiable rewards; advantages are whitened as in verl's masked_whiten. `correction` weighs the critic's loss as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from pipeline.algorithms.critic import Critic
from pipeline.algorithms.estimators import KlEstimator, kl, whiten
from pipeline.algorithms.gae import gae
from pipeline.algorithms.kl_control import KlControl
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded
from workers.types import Credit, Needs, Sample, Signals


@dataclass(frozen=True, slots=True)
class Ppo(PolicyGradient):
    """Proximal policy optimization with a critic.

    gamma   what a token later is worth
    lam     GAE's lambda: 1 trusts the rewards that came, 0 the critic's next value
    critic  the value model
    kl_control  how kl_coefficient moves from step to step
    """

    group_size: Annotated[int, Ge(1)] = 1
    kl_estimator: KlEstimator = "k1"
    kl_in: Literal["loss", "reward"] = "reward"
    gamma: Annotated[float, Ge(0), Le(1)] = 1.0
    lam: Annotated[float, Ge(0), Le(1)] = 1.0
    critic: Critic = field(default_factory=Critic)
    kl_control: KlControl = field(default_factory=KlControl)

    def __post_init__(self) -> None:
        """See `PolicyGradient`; and a KL that is held at a target has to be in the reward."""
        super(Ppo, self).__post_init__()
        if self.kl_control.target is not None and not self._kl_in_reward:
            found = f"kl_coefficient {self.kl_coefficient:g}, kl_in {self.kl_in}"
            raise ValueError(f"kl_control.target: with {found}; expected a start above 0, and kl_in: reward")

    @property
    def needs(self) -> Needs:
        return replace(super(Ppo, self).needs, critic=self.critic.scalar)

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Credit for every sample, and what there is to log of values and returns."""
        credits_, metrics = super(Ppo, self).credit(samples, signals)
        return credits_, metrics | _told(credits_) | self._told_kl(signals)

    def _told_kl(self, signals: Sequence[Signals]) -> dict[str, float]:
        if not self._kl_in_reward or not signals:
            return {}
        found = [kl(signal.logp_old, signal.logp_ref, self.kl_estimator).astype(np.float64) for signal in signals]
        by_response = np.mean([one.sum() for one in found])
        return {"policy/kl_ref": float(np.concatenate(found).mean()), "policy/kl_response": float(by_response)}

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        found = [self._gae(sample, signals)[0] for sample, signals in zip(step.samples, step.signals, strict=True)]
        # Nothing for the policy where all advantages are equal; the critic learns all the same.
        return [0.0 if advantage is None else advantage for advantage in whiten(found)]

    def _gae(self, sample: Sample, signals: Signals) -> tuple[np.ndarray, np.ndarray]:
        assert signals.value is not None, "PPO needs the critic's values"
        rewards = -self._penalty(sample, signals)
        rewards[-1] += self._reward(sample)
        if sample.steps is not None and sample.step_ends is not None:  # in their places, not at the end
            rewards[-1] -= sample.steps.sum(dtype=np.float64)
            np.add.at(rewards, sample.step_ends, sample.steps)
        return gae(rewards, signals.value, self.gamma, self.lam)

    def _credit(self, sample: Sample, signals: Signals, advantage: float | np.ndarray) -> Credit:
        target = self._gae(sample, signals)[1].astype(np.float32)
        return replace(super(Ppo, self)._credit(sample, signals, advantage), target=target)


def _told(credits_: Sequence[Credit]) -> dict[str, float]:
    """Over the step's own tokens. The variance explained is 1 - var(R - V) / var(R), left out where R has none."""
    if not credits_:
        return {}
    returns = np.concatenate([credit.target for credit in credits_ if credit.target is not None])
    values = np.concatenate([credit.signals.value for credit in credits_ if credit.signals.value is not None])
    out = {"critic/value_mean": float(values.mean()), "critic/return_mean": float(returns.mean())}
    if spread := float(returns.var()):
        out["critic/explained_variance"] = 1 - float((returns - values).var()) / spread
    return out
