"""Gated: some sources count only where another says yes (the consistency reward of R1-Reward, arXiv 2505.02835).

    R = g (1 + sum_i w_i v_i) + sum_j w_j v_j      g = w_g v_g the gate, i the sources `inside`, j all others

The paper's is result (1 + 0.5 consistency) + 0.5 format: a product, so that a wrong answer earns nothing by being
consistent with its reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Len

from rewards.compose.weighted import known, weighted_sum
from rewards.ports import Row
from rewards.types import Group


@dataclass(frozen=True)
class Gated:
    """Sources that count only as far as another one, the gate, says yes.

    gate    the source that is multiplied in
    inside  the sources that it lets through; all others are added
    """

    gate: str
    inside: Annotated[tuple[str, ...], Len(1)]

    def check(self, weights: Mapping[str, float]) -> None:
        """See `Combiner.check`."""
        known("gate", self.gate, weights)
        for name in self.inside:
            known("inside", name, weights)
        if self.gate in self.inside:
            raise ValueError(f"inside: {self.gate!r} is the gate itself")

    def combine(self, group: Group, rows: Sequence[Row]) -> Sequence[float]:
        """See `Combiner.combine`."""
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> float:
        gate = weighted_sum({self.gate: row[self.gate]})
        inside = weighted_sum({name: row[name] for name in self.inside})
        return gate * (1 + inside) + weighted_sum(row, without=(self.gate, *self.inside))
