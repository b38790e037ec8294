"""Rewards on a common scale: less their mean, over their standard deviation.

    R <- (R - mean) / (std + 1e-6)        over a group, over the step, or over all rewards of the stage so far

Step rewards are divided by the same number and not shifted. std is the population's; running mean and variance are
Welford's, merged batch by batch (Chan et al. 1979), and a step's own rewards count before they are normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rewards.ports import StepOf
from rewards.types import Group, ScoredGroup, Verdict


@dataclass(frozen=True)
class GroupNormalise:
    """Each group's rewards on one scale.

    scale  divide by the standard deviation
    """

    scale: bool = True

    def shape(self, group: Group, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """See `Shaper.shape`."""
        rewards = rewards_of(verdicts)
        return [normalised(v, float(rewards.mean()), float(rewards.std()), self.scale) for v in verdicts]


@dataclass(frozen=True)
class BatchNormalise:
    """Each step's rewards on one scale.

    scale  divide by the standard deviation
    """

    scale: bool = True

    def over_steps(
        self, groups: Sequence[ScoredGroup], memory: dict[str, float], at: StepOf
    ) -> tuple[list[ScoredGroup], dict[str, float]]:
        """See `OverSteps.over_steps`."""
        rewards = rewards_of([verdict for scored in groups for verdict in scored.verdicts])
        if not len(rewards):
            return list(groups), {}
        return normalise(groups, float(rewards.mean()), float(rewards.std()), self.scale), {}


@dataclass(frozen=True)
class RunningNormalise:
    """All of a stage's rewards on one scale, that of what it has seen so far.

    scale  divide by the standard deviation
    """

    scale: bool = True

    def over_steps(
        self, groups: Sequence[ScoredGroup], memory: dict[str, float], at: StepOf
    ) -> tuple[list[ScoredGroup], dict[str, float]]:
        """See `OverSteps.over_steps`. The memory: how many rewards, their mean, their summed squared deviations."""
        rewards = rewards_of([verdict for scored in groups for verdict in scored.verdicts])
        if not len(rewards):
            return list(groups), {}
        seen, mean, squares = (memory.get(key, 0.0) for key in ("seen", "mean", "squares"))
        n, own = len(rewards), float(rewards.mean())
        total, shift = seen + n, own - mean
        memory["seen"] = total
        memory["mean"] = mean = mean + shift * n / total
        memory["squares"] = squares = squares + float(np.square(rewards - own).sum()) + shift**2 * seen * n / total
        return normalise(groups, mean, (squares / total) ** 0.5, self.scale), {}


def normalise(groups: Sequence[ScoredGroup], mean: float, std: float, scale: bool) -> list[ScoredGroup]:
    """Every verdict with its reward on that scale."""
    return [
        ScoredGroup(scored.group, tuple(normalised(v, mean, std, scale) for v in scored.verdicts)) for scored in groups
    ]


def normalised(verdict: Verdict, mean: float, std: float, scale: bool) -> Verdict:
    """One of them."""
    if verdict.reward is None:
        return verdict
    by = std + 1e-6 if scale else 1.0
    steps = None if verdict.steps is None else (verdict.steps / by).astype(np.float32)
    return replace(verdict, reward=(verdict.reward - mean) / by, steps=steps)


def rewards_of(verdicts: Sequence[Verdict]) -> np.ndarray:
    """f64[n]: the rewards of those that have one."""
    return np.array([verdict.reward for verdict in verdicts if verdict.reward is not None], np.float64)
