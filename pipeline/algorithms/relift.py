"""ReLIFT: reinforcement learning, and fine-tuning on the hardest questions (Ma et al., arXiv 2506.07527).

    A_i = R_i - mean R                                              for groups in which something came out right
    L   = PPO's clipped surrogate on rollouts (`policy_gradient.py`), -log pi on demonstrations

A task none of whose rollouts came out right waits for its demonstration to be learned from; as soon as `demonstrations`
tasks wait, the newest so many of them are learned from in an update of their own, right after the step's others, and
forgotten (`pipeline/hardest.py`). What differs from the published code: PPO's clip stays, which at one update per
step cuts nothing off; the mean is over all tokens by default (theirs divides by a constant: `aggregate: constant`); no
entropy bonus in the updates on demonstrations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge

from pipeline.algorithms.estimators import group_relative
from pipeline.algorithms.losses import Metrics, NegativeLogLikelihood
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded
from pipeline.algorithms.sft import Sft
from workers.ports import LossFn
from workers.types import Credit, MicroBatch, Sample, Signals


@dataclass(frozen=True, slots=True)
class ByOrigin:
    """One loss for micro-batches of rollouts, another for those of demonstrations."""

    rollouts: LossFn
    demonstrations: LossFn

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        return (self.demonstrations if batch.logp_rollout is None else self.rollouts)(batch, logp, entropy)


@dataclass(frozen=True, slots=True)
class Relift(PolicyGradient):
    """GRPO without its standard deviation, and fine-tuning on the hardest questions.

    demonstrations  how many hardest tasks are learned from at a time
    failure         the reward of a rollout that failed; a task all of whose rollouts got no more is one of the hardest
    """

    demonstrations: Annotated[int, Ge(1)] = 128
    failure: float = 0.0

    @property
    def surrogate(self) -> LossFn:
        return ByOrigin(super(Relift, self).surrogate, NegativeLogLikelihood())

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        return step.in_groups(step.totals, lambda rewards: group_relative(rewards, False))

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Rollouts by their advantages; demonstrations, which nothing judged, apart."""
        both = list(zip(samples, signals, strict=True))
        rollouts = [one for one in both if one[0].reward is not None]
        shown = [one for one in both if one[0].reward is None]
        credits_, metrics = super(Relift, self).credit([s for s, _ in rollouts], [signal for _, signal in rollouts])
        apart, _ = Sft().credit([s for s, _ in shown], [signal for _, signal in shown])
        told = {"learner/demonstrations": float(len(apart))}
        return [*credits_, *(replace(credit, apart=True) for credit in apart)], metrics | told
