"""Delta (Gao et al. 2024, "On Designing Effective RL Reward at Training Time", arXiv 2410.15115).

    r_k <- r_k - r_k+1    for k < K - 1
    r_K-1 stays, and r_K becomes 0: the last step is the answer, which the outcome rewards

What is still to come from step k on sums up to r_k itself, so the return is bounded however many steps there are.
After `clip` it is the paper's Clip-Delta. A single step earns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewards.shaping.chain import with_steps
from rewards.types import Group, Verdict


@dataclass(frozen=True)
class Delta:
    """A step's reward less the next one's; the last step earns nothing."""

    def shape(self, group: Group, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """See `Shaper.shape`."""
        return [v if v.steps is None else with_steps(v, delta(v.steps)) for v in verdicts]


def delta(steps: np.ndarray) -> np.ndarray:
    """f[K] -> f64[K]."""
    kept = np.append(steps[:-1].astype(np.float64), 0.0)
    return np.append(kept[:-1] - kept[1:], 0.0)
