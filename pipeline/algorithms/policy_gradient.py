"""What the policy-gradient algorithms without a critic share: one step from rewards to credit.

    reward     R_i = the judges', with all step rewards - what `overlong_buffer` takes [- its KL, where `kl_in: reward`]
    advantage  A_i, or A_it by token: each algorithm's own page
    loss       - sum_t w_t min(rho_t A, clip(rho_t, 1 - clip_low, 1 + clip_high) A) [+ KL, where `kl_in: loss`]

rho_t is taken against the rollout's own log-probs, so stale rollouts are corrected, within the clip, without a further
forward pass. With several updates per step the learner recomputes them, because engines round differently; rho_t then
holds those updates alone, and neither rounding nor staleness. `correction` puts that back as a weight on each token,
and recomputes them at one update per step, too.

w_t is the sample's part in the mean: `token` is one mean over all tokens of the update (DAPO, arXiv 2503.14476);
`sequence` a mean over each response's tokens, then over responses (DeepSeekMath, arXiv 2402.03300, eq. 3); `constant` a
sum over each response's tokens over `max_tokens`, then a mean over responses (Dr.GRPO, arXiv 2503.20783:
no response's tokens count less because it is long).

`overlong_buffer` is DAPO's soft overlong punishment (eq. 13): nothing up to max_tokens - overlong_buffer own tokens,
from there a line down to -overlong_penalty at `max_tokens`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge

from pipeline.algorithms.correction import Correction
from pipeline.algorithms.estimators import KlEstimator, kl, whiten
from pipeline.algorithms.losses import ClippedSurrogate, KlPenalty
from rewards.shaping.overlong import overlong
from workers.ports import LossFn
from workers.types import Credit, Needs, Sample, Signals

# Of a response, of each of its own tokens (f64[own]), or None: nothing is to be learned from it.
Advantage = float | np.ndarray | None


@dataclass(frozen=True, slots=True)
class Rewarded:
    """One step's n samples, groups one after the other, and what each was rewarded.

    rewards    f64[n]: the judges' less what `overlong_buffer` takes
    penalties  f64[own] each: the KL taken from the reward of each own token; zeros where it is not taken there
    signals    what the learner said of each
    """

    samples: Sequence[Sample]
    rewards: np.ndarray
    penalties: Sequence[np.ndarray]
    signals: Sequence[Signals]

    @property
    def totals(self) -> np.ndarray:
        """f64[n]: each response's reward, its KL taken off."""
        return self.rewards - np.array([penalty.sum() for penalty in self.penalties])

    @property
    def step_sums(self) -> np.ndarray:
        """f64[n]: what each response's steps were rewarded in all."""
        return np.array([sample.total - (sample.reward or 0.0) for sample in self.samples])

    @property
    def groups(self) -> list[slice]:
        """Where each group's samples stand."""
        numbers = np.array([sample.group for sample in self.samples])
        ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]

    def in_groups(self, values: np.ndarray, estimator: Callable[[np.ndarray], np.ndarray]) -> list[Advantage]:
        """`estimator` on the values f64[G] of each group; None for a group whose values are all equal: no signal."""
        out: list[Advantage] = []
        for members in self.groups:
            own = values[members]
            out += [None] * len(own) if np.ptp(own) == 0 else estimator(own).tolist()
        return out

    def whitened(self, values: np.ndarray) -> list[Advantage]:
        """The values f64[n] over all own tokens of the step, see `whiten`; None for a response alone in its group."""
        alone = [members.stop - members.start == 1 for members in self.groups for _ in self.samples[members]]
        kept = [i for i, lone in enumerate(alone) if not lone]
        found = dict(zip(kept, whiten([np.full(len(self.penalties[i]), values[i]) for i in kept]), strict=True))
        return [found.get(i) for i in range(len(alone))]

    def sources(self) -> list[tuple[str, float, np.ndarray]]:
        """Name, weight and values f64[n] of each source that counts, its weight not yet multiplied in.

        A source that judges steps is none of them: what it gave is in the totals.
        """
        scores = [sample.scores for sample in self.samples]
        of_steps = {name for row in scores for name, score in row.items() if score.steps is not None}
        weights = {n: score.weight for n, score in scores[0].items() if score.weight and n not in of_steps}
        return [
            (name, weight, np.array([row[name].value for row in scores], np.float64))
            for name, weight in weights.items()
        ]


@dataclass(frozen=True, slots=True)
class PolicyGradient(ABC):
    """What every policy gradient without a critic can be told.

    group_size        rollouts per task
    updates_per_step  optimizer updates that share one step's rollouts
    clip_low          how far below 1 the probability ratio may push
    clip_high         how far above 1 (DAPO's clip-higher: more than clip_low)
    aggregate         a mean over all tokens, over each response's tokens first, or of each response's sum over the
                      constant `max_tokens` (Dr.GRPO)
    max_tokens        own tokens that a response can have (rollout.max_new_tokens), for `aggregate: constant` and
                      `overlong_buffer`
    overlong_buffer   the last tokens before max_tokens, over which a penalty on length grows; 0: no penalty
    overlong_penalty  what is taken from the reward of a response of `max_tokens` tokens
    kl_coefficient    weight of the KL to the policy that the stage started from; 0 needs no reference
    kl_estimator      k1, k2 or k3 (in the loss, k1 pulls nowhere on average: see `KlPenalty`)
    kl_in             add it to the loss, or subtract it from the reward
    correction        importance weights for tokens of another policy: stale rollouts, engines that round differently
    """

    group_size: Annotated[int, Ge(2)] = 8
    updates_per_step: Annotated[int, Ge(1)] = 1
    clip_low: Annotated[float, Ge(0)] = 0.2
    clip_high: Annotated[float, Ge(0)] = 0.2
    aggregate: Literal["token", "sequence", "constant"] = "token"
    max_tokens: Annotated[int, Ge(0)] = 0
    overlong_buffer: Annotated[int, Ge(0)] = 0
    overlong_penalty: Annotated[float, Ge(0)] = 1.0
    kl_coefficient: Annotated[float, Ge(0)] = 0.0
    kl_estimator: KlEstimator = "k3"
    kl_in: Literal["loss", "reward"] = "loss"
    correction: Correction = field(default_factory=Correction)

    greedy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raises `ValueError` for keys that contradict each other."""
        if self.aggregate == "constant" and not self.max_tokens:
            raise ValueError("aggregate: constant divides by max_tokens, found 0, expected rollout.max_new_tokens")
        if self.overlong_buffer > self.max_tokens:
            found = f"{self.overlong_buffer} with max_tokens {self.max_tokens}"
            raise ValueError(f"overlong_buffer: {found}, expected at most max_tokens, which is rollout.max_new_tokens")

    @property
    def needs(self) -> Needs:
        recomputed = self.updates_per_step > 1 or self._kl_in_reward or bool(self.correction)
        return Needs(logp_old=recomputed, logp_ref=self.kl_coefficient > 0, greedy=self.greedy)

    @property
    def losses(self) -> Sequence[LossFn]:
        if self.kl_coefficient > 0 and self.kl_in == "loss":
            return self.surrogate, KlPenalty(self.kl_coefficient, self.kl_estimator)
        return (self.surrogate,)

    @property
    def surrogate(self) -> LossFn:
        """The loss whose gradient is the policy gradient."""
        return ClippedSurrogate(self.clip_low, self.clip_high)

    @abstractmethod
    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """One for each of the step's n samples."""

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Credit for all samples that have an advantage, and the correction's metrics."""
        rewards = np.array([self._reward(sample) for sample in samples])
        penalties = [self._penalty(sample, signal) for sample, signal in zip(samples, signals, strict=True)]
        advantages = self.advantages(Rewarded(samples, rewards, penalties, signals)) if samples else []
        return self.correction.apply(
            [
                self._credit(sample, signal, advantage)
                for sample, signal, advantage in zip(samples, signals, advantages, strict=True)
                if advantage is not None
            ]
        )

    @property
    def _kl_in_reward(self) -> bool:
        return self.kl_coefficient > 0 and self.kl_in == "reward"

    def _reward(self, sample: Sample) -> float:
        assert sample.reward is not None, "a policy gradient learns from judged rollouts"
        if not self.overlong_buffer:
            return sample.total
        taken = overlong(int(sample.mask.sum()), self.max_tokens, self.overlong_buffer)
        return sample.total - self.overlong_penalty * taken

    def _penalty(self, sample: Sample, signals: Signals) -> np.ndarray:
        if not self._kl_in_reward:
            return np.zeros(int(sample.mask.sum()))
        return self.kl_coefficient * kl(signals.logp_old, signals.logp_ref, self.kl_estimator).astype(np.float64)

    def _credit(self, sample: Sample, signals: Signals, advantage: float | np.ndarray) -> Credit:
        own = int(sample.mask.sum())
        weight, mass = {
            "token": (1.0, float(own)),
            "sequence": (1.0 / max(1, own), 1.0),
            "constant": (1.0 / max(1, self.max_tokens), 1.0),
        }[self.aggregate]
        return Credit(
            sample=sample,
            signals=signals,
            advantage=np.broadcast_to(np.asarray(advantage, np.float32), own),
            weight=np.full(own, weight, np.float32),
            mass=mass,
        )
