"""Constrained: sources held at their proxy points by Lagrange multipliers (Moskovitz et al., arXiv 2310.04373).

    proxy point  theta_i: the value of source i from which on the gold score falls when it rises
    multiplier   m_i = sigmoid(l_i): at least theta_i; or tanh(l_i): theta_i, it pushes back where the mean is above
    reward       R = sum_j w_j v_j + sum_i m_i z_i / (N - sum_i m_i)     z_i = (v_i - mean v_i) / std v_i over the step
    dual step    l <- l - rate times the gradient of sum_i m_i(l) (mean v_i - theta_i), with momentum, its norm bounded

j are the sources without a proxy point, N is the number of those with one. The paper mixes advantages, with the factor
N - sum_i m_i on the one that is to be kept (its KL); divided by it, that one stays as it is and so does the algorithm's
`kl_coefficient`. What differs: rewards are mixed, which the algorithm then compares as it does any; no value head per
constraint; multipliers start at l = 0 (the paper: drawn around it); mean v_i is that of the step's rollouts.

The judges' own reward (for `resample` and evaluations) is the weighted sum; the multipliers' state is the stage's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Len

from rewards.compose.hierarchical import sigmoid
from rewards.compose.weighted import known, weighted_sum
from rewards.ports import Row, StepOf
from rewards.types import Group, ScoredGroup, Verdict

Memory = dict[str, float]


@dataclass(frozen=True)
class Constrained:
    """Sources that are pushed up to their proxy points, and no further, by multipliers that are learned.

    points      the proxy point of each constrained source, before its weight
    multiplier  sigmoid (hold it at the point at least) or tanh (hold it there)
    rate        step size of the multipliers
    momentum    of their steps
    clip        the largest norm of their gradient
    """

    points: Annotated[dict[str, float], Len(1)]
    multiplier: Literal["sigmoid", "tanh"] = "tanh"
    rate: Annotated[float, Gt(0)] = 0.1
    momentum: Annotated[float, Ge(0), Le(1)] = 0.1
    clip: Annotated[float, Gt(0)] = 0.5

    def check(self, weights: Mapping[str, float]) -> None:
        """See `Combiner.check`."""
        for name in self.points:
            known(f"points.{name}", name, weights)

    def combine(self, group: Group, rows: Sequence[Row]) -> Sequence[float]:
        """See `Combiner.combine`: before the multipliers are known, the weighted sum."""
        return [weighted_sum(row) for row in rows]

    def over_steps(
        self, groups: Sequence[ScoredGroup], memory: Memory, at: StepOf
    ) -> tuple[list[ScoredGroup], dict[str, float]]:
        """The rewards under the multipliers as they stand, which then move. See `OverSteps.over_steps`."""
        judged = [verdict for scored in groups for verdict in scored.verdicts if verdict.reward is not None]
        if not judged:
            return list(groups), {}
        values = {name: np.array([v.scores[name].value for v in judged], np.float64) for name in self.points}
        multipliers = {name: self._multiplier(memory.get(f"l/{name}", 0.0)) for name in self.points}
        rewards = iter(self._rewards(judged, values, multipliers))
        out = [
            ScoredGroup(
                scored.group,
                tuple(v if v.reward is None else replace(v, reward=float(next(rewards))) for v in scored.verdicts),
            )
            for scored in groups
        ]
        means = {name: float(found.mean()) for name, found in values.items()}
        self.step(memory, means)
        metrics = {f"reward/multiplier/{name}": value for name, value in multipliers.items()}
        return out, metrics | {f"reward/constraint/{name}": means[name] - self.points[name] for name in self.points}

    def step(self, memory: Memory, means: Mapping[str, float]) -> None:
        """One dual step, in place: l and its velocity, SGD with momentum as torch has it."""
        gradient = {
            name: self._slope(memory.get(f"l/{name}", 0.0)) * (means[name] - point)
            for name, point in self.points.items()
        }
        norm = math.sqrt(sum(g * g for g in gradient.values()))
        scale = min(1.0, self.clip / norm) if norm else 1.0
        for name, g in gradient.items():
            velocity = self.momentum * memory.get(f"velocity/{name}", 0.0) + scale * g
            memory[f"velocity/{name}"] = velocity
            memory[f"l/{name}"] = memory.get(f"l/{name}", 0.0) - self.rate * velocity

    def _rewards(
        self, judged: Sequence[Verdict], values: Mapping[str, np.ndarray], multipliers: Mapping[str, float]
    ) -> np.ndarray:
        counted = ({n: s for n, s in v.scores.items() if s.weight and n not in self.points} for v in judged)
        rewards = np.array([weighted_sum(row) for row in counted], np.float64)
        kept = len(self.points) - sum(multipliers.values())
        for name, found in values.items():
            spread = found.std()
            if spread > 0:
                rewards += multipliers[name] * (found - found.mean()) / spread / kept
        return rewards

    def _multiplier(self, level: float) -> float:
        return sigmoid(level) if self.multiplier == "sigmoid" else math.tanh(level)

    def _slope(self, level: float) -> float:
        m = self._multiplier(level)
        return m * (1 - m) if self.multiplier == "sigmoid" else 1 - m * m
