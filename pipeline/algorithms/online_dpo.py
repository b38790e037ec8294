"""Online DPO (arXiv 2402.04792): pairs drawn from the policy's own rollouts, by any reward source.

The best and the worst rollout of a group are a pair, labelled with their rewards; groups whose rewards are all equal
have none and are left out. The loss is DPO's, against the policy that the stage started from. What differs from the
paper: groups of any size (it draws two), and rewards of any source (it asks a language model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from pipeline.algorithms.dpo import Dpo
from pipeline.algorithms.pairs import by_group, rating
from workers.ports import LossFn
from workers.types import Credit, Needs, Sample, Signals


@dataclass(frozen=True, slots=True)
class OnlineDpo:
    """Online direct preference optimization.

    group_size  rollouts per task, of which the best and the worst are a pair
    loss        how pairs become gradients
    """

    group_size: Annotated[int, Ge(2)] = 8
    loss: Dpo = field(default_factory=Dpo)

    @property
    def needs(self) -> Needs:
        return self.loss.needs

    @property
    def losses(self) -> Sequence[LossFn]:
        return self.loss.losses

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """The first of the best and the first of the worst of every group."""
        chosen = []
        for members in by_group(samples, signals):
            rewards = [rating(sample) for sample, _ in members]
            chosen += [members[rewards.index(pick(rewards))] for pick in (max, min)]
        return self.loss.credit([sample for sample, _ in chosen], [signal for _, signal in chosen])
