"""Clip (Gao et al. 2024, "On Designing Effective RL Reward at Training Time", arXiv 2410.15115).

    r_k <- min(r_k - eta, 0)

A step that is good enough earns nothing, a poor one costs: more steps can't earn more. r_k is the source's own number:
its weight (the paper's alpha) comes on top. Where several sources judge steps, it is their weighted mean. The paper
chooses eta so that most steps get 0; here it is a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewards.shaping.chain import with_steps
from rewards.types import Group, Verdict


@dataclass(frozen=True)
class Clip:
    """Step rewards above eta become 0, those below what they lack.

    eta  the step's score that is good enough
    """

    eta: float = 0.5

    def shape(self, group: Group, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """See `Shaper.shape`."""
        return [v if v.steps is None else with_steps(v, clip(v.steps, self.eta, step_weight(v))) for v in verdicts]


def clip(steps: np.ndarray, eta: float, weight: float = 1.0) -> np.ndarray:
    """Weighted step rewards f[K] -> f64[K]: weight times min(step / weight - eta, 0)."""
    return weight * np.minimum(steps.astype(np.float64) / weight - eta, 0.0) if weight else np.zeros(len(steps))


def step_weight(verdict: Verdict) -> float:
    """The summed weight of the sources that judged the steps."""
    return sum(score.weight for score in verdict.scores.values() if score.steps is not None)
