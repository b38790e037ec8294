"""Ensembles of sources that judge the same thing (Coste et al., arXiv 2310.02743), against overoptimization.

    mean         R = mean_i w_i v_i
    min          R = min_i w_i v_i                    worst-case optimisation
    uncertainty  R = mean_i w_i v_i - k std_i w_i v_i

The weights are there to bring the members to one scale. What differs from the paper: the standard deviation, not the
variance, so that the penalty is in the reward's own unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from rewards.ports import Row
from rewards.types import Group


@dataclass(frozen=True)
class Ensemble:
    """One reward of sources that judge the same thing.

    by  their mean, the least of them, or their mean less k standard deviations
    k   how many
    """

    by: Literal["mean", "min", "uncertainty"] = "mean"
    k: Annotated[float, Ge(0)] = 1.0

    def check(self, weights: Mapping[str, float]) -> None:
        """See `Combiner.check`."""
        members = {name: weight for name, weight in weights.items() if weight}
        if len(members) < 2:
            raise ValueError(f"kind: ensemble of {len(members)} source, expected two or more that count")
        turned = next((name for name, weight in members.items() if weight < 0), None)
        if turned is not None:
            raise ValueError(f"kind: ensemble with {turned!r} of weight {members[turned]:g}, expected above 0")

    def combine(self, group: Group, rows: Sequence[Row]) -> Sequence[float]:
        """See `Combiner.combine`."""
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> float:
        values = np.array([s.weight * (s.value or 0.0) for s in row.values() if s.steps is None], np.float64)
        if not len(values):
            return 0.0
        if self.by == "min":
            return float(values.min())
        return float(values.mean() - (self.k * values.std() if self.by == "uncertainty" else 0.0))
