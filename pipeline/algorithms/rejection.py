"""Rejection sampling: SFT on the best rollout of each group (RAFT, arXiv 2304.06767; Llama 2, arXiv 2307.09288).

The first of the best is taken. A group whose rewards are all equal has no best one and is left out: all may be wrong.
The mean is taken over all tokens of the update, as in SFT. What differs from the papers: the policy that draws is the
newest, one step's updates behind at most, where they draw a large set, learn from it, and draw again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from pipeline.algorithms.pairs import by_group, rating
from pipeline.algorithms.sft import Sft
from workers.ports import LossFn
from workers.types import Credit, Needs, Sample, Signals


@dataclass(frozen=True, slots=True)
class Rejection:
    """Supervised fine-tuning on the best of each group.

    group_size  rollouts per task
    """

    group_size: Annotated[int, Ge(2)] = 8

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def losses(self) -> Sequence[LossFn]:
        return Sft().losses

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every own token of the chosen rollouts counts the same."""
        best = []
        for members in by_group(samples, signals):
            rewards = [rating(sample) for sample, _ in members]
            if min(rewards) < max(rewards):
                best.append(members[rewards.index(max(rewards))])
        return Sft().credit([sample for sample, _ in best], [signal for _, signal in best])
