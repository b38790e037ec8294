"""Hybrid: a verdict of right or wrong, with a score beside it (SWE-RM, arXiv 2512.21919).

    R = s + 1 where the answer is right; s - `unfinished` where it is not and was cut off; else s

s is the weighted sum of the other sources, in the paper a reward model's probability. Unlike `hierarchical` a wrong
answer may come out above a right one, where their scores are more than 1 apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from rewards.compose.weighted import known, weighted_sum
from rewards.ports import Row
from rewards.types import Group, Rollout


@dataclass(frozen=True)
class Hybrid:
    """1 for what is right, less for what was cut off, and the other sources' sum beside it.

    right       the source that knows right from wrong
    at          its value from which an answer is right
    unfinished  what an answer that is not right costs when the token limit cut it off
    """

    right: str
    at: float = 0.5
    unfinished: Annotated[float, Ge(0)] = 0.5

    def check(self, weights: Mapping[str, float]) -> None:
        """See `Combiner.check`."""
        known("right", self.right, weights)

    def combine(self, group: Group, rows: Sequence[Row]) -> Sequence[float]:
        """See `Combiner.combine`."""
        return [self._one(rollout, row) for rollout, row in zip(group.rollouts, rows, strict=True)]

    def _one(self, rollout: Rollout, row: Row) -> float:
        score = weighted_sum(row, without=(self.right,))
        if (row[self.right].value or 0.0) >= self.at:
            return 1.0 + score
        cut_off = bool(rollout.turns) and rollout.turns[-1].stop == "length"
        return score - self.unfinished if cut_off else score
