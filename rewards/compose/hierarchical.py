"""Hierarchical: any right answer above any wrong one, whatever else is said (Qwen2.5-Math, arXiv 2409.12122).

    R = sigmoid(alpha s) + (r - 1)      r is 1 where `right` accepts the answer, else 0; s the others' weighted sum

So right answers lie between 0 and 1, wrong ones between -1 and 0, and the order by s is kept inside each. What differs
from the paper: the sigmoid stays 1e-6 away from its ends, where rounding would make a right answer equal a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from rewards.compose.weighted import known, weighted_sum
from rewards.ports import Row
from rewards.types import Group

END = 1e-6


@dataclass(frozen=True)
class Hierarchical:
    """Any right answer above any wrong one; the other sources order them among their own.

    right  the source that knows right from wrong
    at     its value from which an answer is right
    alpha  how steep the other sources' sum counts
    """

    right: str
    at: float = 0.5
    alpha: Annotated[float, Gt(0)] = 0.5

    def check(self, weights: Mapping[str, float]) -> None:
        """See `Combiner.check`."""
        known("right", self.right, weights)
        if not any(weight for name, weight in weights.items() if name != self.right):
            raise ValueError(f"right: {self.right!r} is the only source that counts, expected another to order by")

    def combine(self, group: Group, rows: Sequence[Row]) -> Sequence[float]:
        """See `Combiner.combine`."""
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> float:
        inside = sigmoid(self.alpha * weighted_sum(row, without=(self.right,)))
        right = (row[self.right].value or 0.0) >= self.at
        return min(max(inside, END), 1 - END) - (not right)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
