"""A token budget that shrinks while the stage goes on (Reinforcement Mid-Training, arXiv 2509.24375).

    B_t = max(least, floor(start decay^(t / T)))        step t of T
    r   = n / B_t up to n = B_t, then 2 - n / B_t, 0 from 2 B_t on        n tokens that the policy wrote
    R   <- (1 - weight) R + weight r

The paper tells the policy its budget in the prompt and does not tell its weight. Since it needs to know the step, it
works in the driver, with all shaping steps that follow it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Gt, Le

from rewards.ports import StepOf
from rewards.shaping.overlong import written
from rewards.types import Rollout, ScoredGroup, Verdict


@dataclass(frozen=True)
class Budget:
    """Part of the reward for answers as long as a budget that shrinks from step to step.

    start   tokens at the stage's start
    decay   what is left of it at the end
    least   no fewer tokens than this
    weight  its part of the reward
    """

    start: Annotated[int, Ge(1)] = 800
    decay: Annotated[float, Gt(0), Le(1)] = 0.2
    least: Annotated[int, Ge(1)] = 1
    weight: Annotated[float, Ge(0), Le(1)] = 0.1

    def over_steps(
        self, groups: Sequence[ScoredGroup], memory: dict[str, float], at: StepOf
    ) -> tuple[list[ScoredGroup], dict[str, float]]:
        """See `OverSteps.over_steps`."""
        budget = self.at(at.step, at.steps)
        out = [
            ScoredGroup(
                scored.group,
                tuple(self._one(*pair, budget) for pair in zip(scored.group.rollouts, scored.verdicts, strict=True)),
            )
            for scored in groups
        ]
        return out, {"reward/budget": float(budget)}

    def at(self, step: int, steps: int) -> int:
        """B_t in tokens."""
        return max(self.least, math.floor(self.start * self.decay ** (step / steps)))

    def _one(self, rollout: Rollout, verdict: Verdict, budget: int) -> Verdict:
        if verdict.reward is None:
            return verdict
        kept = (1 - self.weight) * verdict.reward
        return replace(verdict, reward=kept + self.weight * triangle(written(rollout), budget))


def triangle(tokens: int, budget: int) -> float:
    """From 0 at no token up to 1 at the budget, and down to 0 at twice that."""
    return max(0.0, min(tokens / budget, 2 - tokens / budget))
