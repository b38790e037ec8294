"""Pairwise advantages (Think-RM, arXiv 2505.16265): what a judge of pairs says, without a detour over one number each.

    d_ij = how much rollout i was preferred to rollout j; d_ji = -d_ij; a pair without a verdict is 0
    A_i  = mean_j d_ij / sqrt(sum_ab d_ab^2 / (2 G (G - 1)) + 1e-6)

A source that compares says so in `Score.parts` of rollout i, under "over_J", J being the other's index: the pair may be
judged once, under either, or in both orders, which are averaged, and a judge's liking for the first place with them. Of
a source that says nothing of the kind, d_ij is the difference of its values, and A is GRPO's: preferences need not be
transitive, scalars always are. Several sources add up by their weights.

What differs from the paper: only the names. Groups without any preference are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.algorithms.estimators import pairwise
from pipeline.algorithms.policy_gradient import Advantage, PolicyGradient, Rewarded
from workers.types import Sample

OVER = "over_"


@dataclass(frozen=True, slots=True)
class Pairwise(PolicyGradient):
    """GRPO from preferences between a group's rollouts."""

    def advantages(self, step: Rewarded) -> Sequence[Advantage]:
        """See `PolicyGradient.advantages`."""
        out: list[Advantage] = []
        sources, totals = step.sources(), step.totals
        for members in step.groups:
            samples = step.samples[members]
            taken = totals[members] - [sample.reward for sample in samples]
            wins = taken[:, None] - taken[None, :]
            for name, weight, values in sources:
                judged, own = preferences(samples, name), values[members]
                wins += weight * (own[:, None] - own[None, :] if judged is None else judged)
            out += pairwise(wins).tolist() if wins.any() else [None] * len(samples)
        return out


def preferences(group: Sequence[Sample], source: str) -> np.ndarray | None:
    """d f64[G, G] as the source told it, antisymmetric; None where it compared nothing.

    Of a pair judged in both orders the mean; of one judged once that; of one never judged 0.
    """
    said = np.full((len(group), len(group)), np.nan)
    for i, sample in enumerate(group):
        for j, other in enumerate(group):
            said[i, j] = sample.scores[source].parts.get(f"{OVER}{other.index}", np.nan)
    np.fill_diagonal(said, np.nan)
    if np.isnan(said).all():
        return None
    both = np.stack([said, -said.T])
    told = ~np.isnan(both)
    return np.where(told, both, 0).sum(axis=0) / np.maximum(told.sum(axis=0), 1)
