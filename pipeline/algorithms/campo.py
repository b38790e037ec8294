"""CAMPO's repetition critic (MiroMind-M1, arXiv 2507.14683): a response that ends in a loop is worth less by its share.

    f(o) = share of the response's tokens inside the loop that it ends in, 0 to 1
    A_i  = (R_i - f(o_i) - mean(R - f)) / (std(R - f) + 1e-6)

What differs from the paper: its stages of growing length are stages of the config here, each with its own `rollout` and
`start`; groups without signal are left out (drawing others instead is the stage's `resample`). A loop is whole repeats
of one phrase, two or more, up to the last token; of all phrases the one whose loop is longest counts, and the critic is
asked about every response, as in the paper (its script asks about truncated ones only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.algorithms.estimators import group_relative
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded


@dataclass(frozen=True, slots=True)
class Campo(PolicyGradient):
    """GRPO with a penalty on responses that end in a loop."""

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        looped = np.array([repetition(sample.ids[sample.mask]) for sample in step.samples])
        return step.in_groups(step.totals - looped, lambda rewards: group_relative(rewards, scale=True))


def repetition(ids: np.ndarray) -> float:
    """f(o) of token ids i32[C], C at least 1. Linear in C.

    Read backwards, a loop of phrases of p tokens is a text that agrees with itself p tokens later: `agree[p]` is for
    how long, found for all p at once as in Gusfield's Z algorithm.
    """
    text = ids[::-1].tolist()
    n = len(text)
    agree, left, right = [0] * n, 0, 0
    for i in range(1, n):
        k = min(right - i, agree[i - left]) if i < right else 0
        while i + k < n and text[k] == text[i + k]:
            k += 1
        agree[i] = k
        if i + k > right:
            left, right = i, i + k
    return max(((agree[p] // p + 1) * p for p in range(1, n // 2 + 1) if agree[p] >= p), default=0) / n
