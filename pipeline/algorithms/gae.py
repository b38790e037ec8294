"""Generalised advantage estimation: what a critic makes of a reward per token."""

from __future__ import annotations

import numpy as np


def gae(rewards: np.ndarray, values: np.ndarray, gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns of one response's own tokens, f64[own] each, from rewards and values f[own].

        delta_t = r_t + gamma V_t+1 - V_t        V is 0 after the last token: a response that was cut off has ended, too
        A_t     = delta_t + gamma lam A_t+1      R_t = A_t + V_t, what the critic is to say

    Schulman et al. 2016 (arXiv 1506.02438), eq. 11, 12 and 16. Tokens that the policy did not write (of a tool, of a
    further prompt) take no time: the next own token follows at once, as in verl.
    """
    from scipy.signal import lfilter

    rewards, values = rewards.astype(np.float64), values.astype(np.float64)
    deltas = rewards + gamma * np.append(values[1:], 0.0) - values
    advantages = np.asarray(lfilter([1.0], [1.0, -gamma * lam], deltas[::-1]))[::-1]
    return advantages, advantages + values
