"""Labels for the steps of an answer, from what became of it when it was gone on with from the end of each step.

hard   1 where at least one rollout came out right, else 0    (Math-Shepherd, arXiv 2312.08935, eq. 3)
soft   the share of the rollouts that came out right          (the same, eq. 4)
value  how far the answer is on its way                       (ReST-MCTS*, arXiv 2406.03816, eq. 1 and 2):

    v_k = max(v_k-1 + w_k, 0),   w_k = (1 - v_k-1) / (m_k + 1) (1 - 2 r_k),   v_0 = 0

r_k is 0 where a rollout from step k came out right, else 1; m_k the fewest steps that a right one took from there. An
answer right at every step rises evenly, to 1. What differs: where no rollout came out right the paper's tree search
knows no nearest answer either; m_k is then what the answer itself still takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

# Of one step: (came out right, further steps it took) of every rollout from there that was judged, at least one.
Outcomes = Sequence[tuple[bool, int]]


def step_labels(outcomes: Sequence[Outcomes], by: Literal["hard", "soft", "value"]) -> np.ndarray:
    """f32[K], one for each step of an answer of K steps."""
    shares = np.array([np.mean([right for right, _ in one]) for one in outcomes])
    if by == "soft":
        return shares.astype(np.float32)
    reached = shares > 0
    if by == "hard":
        return reached.astype(np.float32)
    value, values = 0.0, []
    for k, one in enumerate(outcomes):
        left = min((steps for right, steps in one if right), default=len(outcomes) - 1 - k)
        value = max(value + (1 - value) / (left + 1) * (1 if reached[k] else -1), 0.0)
        values.append(value)
    return np.array(values, np.float32)
